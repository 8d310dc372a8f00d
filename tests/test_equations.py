"""Graphs as LaTeX, and the lectures' equations: what is printed is read back and evaluated.

`formula_values` reads LaTeX by rules of its own: the graphs' formulas must have the graphs' values,
and the lectures' formulas those that the package's NumPy references have.
"""

from __future__ import annotations

import operator
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad.graph import capture, equations, fold, label, unfold
from minigrad.graph.latex import symbol
from minigrad_rnn import cli
from minigrad_rnn.equations import EQUATIONS, Case, gated, lecture
from minigrad_rnn.equations.case import T, named
from minigrad_rnn.formulas import readable
from tests.formula_values import FormulaError, _Reader, assign

NAMES = sorted(EQUATIONS)
COLUMNS = {"dynamical", "driven", "tanh", "forcing", "likelihood", "length", "conditional", "bptt",
           "linear", "clip"}  # fmt: skip  # the others compute with rows


def case(name, seed=0):
    return EQUATIONS[name][1](np.random.default_rng(seed))


def given_values(made, turn):
    """The arrays of a case under the symbols of its formulas, each as `turn` makes it."""
    values = {}
    for name, array in [(n, x.numpy()) for n, x in made.inputs.items()] + [*made.constants.items()]:
        if name in ("x", "y") and array.ndim == 3:
            parts = {t: turn(part) if name == "x" else part for t, part in enumerate(array, 1)}
            values[name] = values.get(name, {}) | parts
        elif name.endswith("^{(0)}"):
            values.setdefault(name[:-6], {})[0] = turn(array)
        else:
            read = _Reader(symbol(name), set()).symbol()
            values[read.key(read.below, read.above)] = turn(array)
    return values


def found(values, name, t):
    """The value that a name has at t."""
    read = _Reader(symbol(name), set()).symbol()
    for key, place, _ in read.places():
        if place[1] or isinstance(values.get(key), dict):
            return values[key][t if place[1] else int(place[3])]
    key = read.key(read.below, read.above)
    if f"{key}()" in values:
        return values[f"{key}()"]
    return values[key][t] if isinstance(values[key], dict) else values[key]


def column(x):
    """A row as a column, a matrix for the other side of a product."""
    x = np.asarray(x)
    return x[:, None] if x.ndim == 1 else x.T


# --- the lectures' equations ----------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_what_a_graph_prints_has_the_graphs_values(name):
    made = case(name)
    graph_values = made.captured()[1]
    values = assign(map(str, made.printed()), given_values(made, lambda x: x), T)
    for key, expected in graph_values.items():
        for t, value in enumerate(expected, 1):
            np.testing.assert_allclose(found(values, key, t), value, rtol=1e-13, atol=1e-14)


def test_the_five_peephole_equations_round_trip():
    """As the slide has them: five lines, in i, f, c, o, h, that say the same when read."""
    made = case("peephole")
    lines = made.printed()
    assert [line.left for line in lines] == [f"{name}^{{(t)}}" for name in "ifcoh"]
    read = assign(map(str, lines), given_values(made, lambda x: x), T)
    slide = assign(lecture("peephole")[1], given_values(made, column), T)
    for name, values in made.captured()[1].items():
        for t, value in enumerate(values, 1):
            np.testing.assert_allclose(read[name][t], value, rtol=1e-13)
            np.testing.assert_allclose(slide[name][t].T, value, rtol=1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_the_lectures_own_formulas_have_the_values_of_the_reference(name):
    made = case(name)
    turn = (lambda x: x) if name in COLUMNS else column
    values = given_values(made, turn)
    functions = {
        "dynamical": lambda s, theta: np.tanh(theta @ s),
        "driven": lambda h, x, theta: 0.5 * h + 1 / (1 + np.exp(-theta @ x)),
    }
    values |= {"f": functions[name]} if name in functions else {}
    lines = [x for x in lecture(name)[1] if not x.startswith(("P(", r"\log p("))]
    if name == "tanh":
        _, *lines = lines[0].split("=")
        lines = [f"f_{i} = {line}" for i, line in enumerate(lines, 1)]
    expected = made.expected()
    if name in ("linear", "clip", "dynamical"):  # several formulas for the same
        results = [assign([line], values, T) for line in lines]
    else:
        results = [assign(lines, values, T)]
    for result in results:
        for key, steps in expected.items():
            for t, value in enumerate(steps, 1):
                if name == "dynamical" and t not in result.get("s", {}):
                    continue
                if name in COLUMNS:
                    np.testing.assert_allclose(found(result, key, t), value, rtol=1e-12, atol=1e-14)
                else:
                    np.testing.assert_allclose(
                        found(result, key, t), np.transpose(value), rtol=1e-12, atol=1e-14
                    )


@pytest.mark.parametrize("name", NAMES)
def test_the_captured_program_equals_the_reference(name, backend):
    assert case(name).difference() < 1e-12


def test_clipping_is_seen_on_both_sides_of_the_threshold():
    norms = [np.linalg.norm(case("clip", seed).inputs[r"\nabla L"].numpy()) for seed in range(4)]
    assert min(norms) < 1 < max(norms)


def test_the_equations_of_the_book_are_all_there():
    text = " ".join(lecture(name)[0] for name in EQUATIONS)
    spans = re.findall(r"10\.(\d+)(?:(?:-10\.|, 10\.)(\d+))?", text)
    numbers = {n for a, b in spans for n in range(int(a), int(b or a) + 1)}
    assert numbers >= {*range(1, 6), *range(8, 29), *range(31, 53)}


# --- the command ----------------------------------------------------------------------------------


def test_the_command_prints_both_formulas_and_the_check(capsys):
    assert cli.main(["equations", "peephole"]) == 0
    printed = capsys.readouterr().out
    assert (
        r"lecture  i_t = \sigma(W_{xi} x_t + W_{hi} h_{t-1} + W_{ci} \odot c_{t-1} + b_i)"
        in printed
    )
    assert r"graph    i^{(t)} = \sigma(x^{(t)} W_{xi} + h^{(t-1)} W_{hi} + b_{i}" in printed
    assert re.search(
        r"check    i, f, o, c, h: graph and the lecture's formula in NumPy differ by "
        r"\d\.\de-1\d: equal",
        printed,
    )
    assert printed.endswith("1 of 1 equations hold for 4 draws of weights and inputs\n")


def test_a_row_names_all_its_equations(capsys):
    assert cli.main(["equations", "E4"]) == 0
    printed = capsys.readouterr().out
    assert "gru (E4)" in printed and "book_gru (E4)" in printed and "2 of 2" in printed


@pytest.mark.parametrize(
    ("number", "names"),
    [
        ("10.25", ["bptt"]),  # of 10.17-10.28
        ("10.16", ["forcing"]),  # Fig 10.16 is the LSTM's, eq 10.16 is not
        ("10.5", ["driven"]),
        ("10.40", ["book_lstm"]),
        ("10.40-10.44", ["book_lstm"]),
        ("10.44-10.45", ["book_lstm", "book_gru"]),
    ],
)
def test_a_number_of_the_book_names_its_equations(number, names, capsys):
    assert cli.main(["equations", number]) == 0
    printed = capsys.readouterr().out
    assert re.findall(r"^(\w+) \([A-Z]", printed, re.MULTILINE) == names


@pytest.mark.parametrize("number", ["10.99", "10.250", "110.25", "10", "10.", "Fig 10.16"])
def test_a_number_that_no_equation_has(number, capsys):
    assert cli.main(["equations", number]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and repr(number) in message


def test_the_list_names_all(capsys):
    assert cli.main(["equations", "--list"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == list(EQUATIONS)


def test_an_unknown_name_is_an_error_of_one_line(capsys):
    assert cli.main(["equations", "Z9"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "--list" in message


def test_an_equation_that_does_not_hold_is_told_by_the_exit_status(capsys, monkeypatch):
    def wrong(rng):
        """Wrong.

        h_t = x
        """
        made = case("peephole")
        steps = made.reference

        def other(*arrays):
            for step in steps(*arrays):
                yield step | {"h": step["h"] + 1e-6}

        made.reference = other
        return made

    monkeypatch.setitem(EQUATIONS, "wrong", ("E3", wrong))
    assert cli.main(["equations", "wrong"]) == 1
    assert "NOT EQUAL" in capsys.readouterr().out


def test_a_missing_name_is_a_difference():
    made = case("gru")
    made.inside = {"tanh": "n"}
    assert made.difference() == np.inf


@pytest.mark.parametrize("side", ["graph", "reference"])
@pytest.mark.parametrize("name", ["first", "second"])
def test_nan_is_a_difference(name, side, capsys, monkeypatch):
    """Whichever of several names, and whichever draw, has it."""

    def wrong(rng):
        """Wrong.

        f = x
        """
        x = named("x", rng.normal(size=3))
        factor = dict.fromkeys(("first", "second"), 1.0)
        broken = factor | {name: np.nan if next(turn) else 1.0}
        in_graph, in_numpy = (broken, factor) if side == "graph" else (factor, broken)

        def program(x):
            for key, c in in_graph.items():
                label(x * c, key)

        return Case(program, lambda x: iter([{k: x * c for k, c in in_numpy.items()}]),
                             {"x": x})  # fmt: skip

    turn = iter([1])
    assert np.isnan(wrong(np.random.default_rng(0)).difference())
    turn = iter([0, 0, 0, 1, 0])  # for what is printed, then for each draw
    monkeypatch.setitem(EQUATIONS, "wrong", ("E3", wrong))
    assert cli.main(["equations", "wrong"]) == 1
    assert "differ by nan: NOT EQUAL" in capsys.readouterr().out


def test_a_case_that_names_nothing_does_not_hold():
    empty = Case(lambda: None, lambda: iter([]), {})
    assert empty.difference() == np.inf


def test_without_docstrings_the_command_says_so(capsys, monkeypatch):
    monkeypatch.setattr(gated.peephole, "__doc__", None)
    assert cli.main(["equations", "peephole"]) == 2
    assert "-OO" in capsys.readouterr().err


# --- graphs as LaTeX ------------------------------------------------------------------------------


def printed(f, *tensors, parts=None, folded=False):
    graph = capture(f, *tensors).graph
    return [str(line) for line in equations(fold(graph) if folded else graph, parts)]


def with_name(name, values):
    x = mg.Tensor(values, dtype="float64")
    x.name = name
    return x


A, B, C = (with_name(name, np.ones((2, 2))) for name in "ABC")
R, S = with_name("r", np.ones((1, 2))), with_name("s", 1.0)


@pytest.mark.parametrize(
    ("f", "expected"),
    [
        (lambda: A + B * C, r"A + B \odot C"),
        (lambda: (A + B) * C, r"(A + B) \odot C"),
        (lambda: A - (B - C), "A - (B - C)"),
        (lambda: A - B - C, "A - B - C"),
        (lambda: A + (B + C), "A + (B + C)"),
        (lambda: A @ B @ C, "A B C"),
        (lambda: A @ (B @ C), "A (B C)"),
        (lambda: A @ B * C, r"A B \odot C"),
        (lambda: A @ (B * C), r"A (B \odot C)"),
        (lambda: A * (B @ C), r"A \odot B C"),
        (lambda: -A + B, "-A + B"),
        (lambda: A * -B, r"A \odot (-B)"),
        (lambda: -(A + B), "-(A + B)"),
        (lambda: A / (B + C), r"\frac{A}{B + C}"),
        (lambda: (A / B) ** 3, r"(\frac{A}{B})^{\odot 3}"),
        (lambda: (A * A) @ B, r"(A \odot A) B"),
        (lambda: A * 2.5, "2.5 A"),
        (lambda: 1e-05 * A, r"1 \cdot 10^{-5} A"),
        (lambda: A * S, "s A"),
        (lambda: A * 1.0, "A"),
        (lambda: R * R, r"r^{2}"),
        (lambda: (R + R) ** 3, r"(r + r)^{3}"),
        (lambda: (A @ B).T, r"(A B)^{\top}"),
        (lambda: A.T @ B, r"A^{\top} B"),
        (lambda: mg.sigmoid(A) * mg.tanh(B), r"\sigma(A) \odot \tanh(B)"),
        (lambda: mg.exp(A) ** 2.0, r"(\exp(A))^{\odot 2}"),
        (lambda: mg.sqrt(mg.sum(A * A)), r"\sqrt{\sum(A \odot A)}"),
        (lambda: mg.sum(A, axis=0), r"\operatorname{sum}_{\text{axis=(0,), keepdims=False}}(A)"),
        (
            lambda: mg.where(A > B, A, 0),
            r"\begin{cases} A & A > B \\ 0 & \text{otherwise} \end{cases}",
        ),
        (lambda: mg.maximum(A, 0.5), r"\max(A, 0.5)"),
        (lambda: mg.concatenate([A, B]), r"\operatorname{concatenate}_{\text{axis=0}}(A, B)"),
    ],
)  # fmt: skip
def test_precedence(f, expected):
    assert printed(f) == [f"y = {expected}"]


def test_names_outputs_and_shared_values():
    def f():
        long = mg.tanh(A @ B + B @ C + C @ A - A)
        return label(long * A, "z_1"), long + B

    assert printed(f) == [
        r"v_{1} = \tanh(A B + B C + C A - A)",
        r"z_{1} = v_{1} \odot A",
        r"y = v_{1} + B",
    ]


def test_invented_names_are_none_that_the_user_gave():
    y, a1, a2, v1, u = (with_name(n, np.ones((2, 2))) for n in ("y", "a1", "a_2", "v_{1}", ""))
    u.name = None
    assert printed(lambda: mg.tanh(y)) == [r"y_{1} = \tanh(y)"]
    assert printed(lambda: u * a1) == [r"y = a_{2} \odot a_{1}"]
    assert printed(lambda: u * a1 + a2) == [r"y = a_{3} \odot a_{1} + a_{2}"]
    y1 = with_name("y_1", np.ones((2, 2)))
    lines = printed(lambda: (mg.tanh(y1), mg.exp(y1)))
    assert lines == [r"y_{2} = \tanh(y_{1})", r"y_{3} = \exp(y_{1})"]

    def shared():
        long = mg.tanh(A @ B + B @ C + C @ A - A)
        return long * v1 + long

    assert printed(shared)[1] == r"y = v_{2} \odot v_{1} + v_{2}"
    labelled = printed(lambda: (label(mg.exp(A), "y"), mg.tanh(A)))
    assert labelled == [r"y = \exp(A)", r"y_{1} = \tanh(A)"]
    W = with_name("W", np.ones((2, 4)))

    def halves():
        first, second = mg.split(W, 2, axis=-1)
        return first - second

    assert printed(halves, parts={"W": ["y", "z"]}) == ["y_{1} = y - z"]


def test_rows_have_numbers_and_columns_have_none():
    """Item i of an unstacked W is W^{(i)} along the first axis alone; its parts, too."""
    W = with_name("W", np.ones((2, 3)))
    assert printed(lambda: mg.unstack(W)[0] * 2.0, parts={"W": ["p", "q"]}) == ["y = 2 p"]
    assert printed(lambda: mg.unstack(W)[0] * 2.0) == ["y = 2 W^{(1)}"]
    text = printed(lambda: mg.unstack(W, axis=-1)[0] * 2.0, parts={"W": ["p", "q", "r"]})
    assert text == [r"y = 2 \operatorname{unstack}_{\text{axis=1}}(W)_{1}"]


@pytest.mark.parametrize(
    ("name", "latex"),
    [("W_50%", r"W_{50\%}"), ("x_a&b", r"x_{a\&b}"), ("W_a#", r"W_{a\#}"), ("%", r"\%"),
     ("#", r"\#"), ("_", r"\_"), ("a_b_c", r"\mathrm{a\_b\_c}"), ("x", "x"), ("x0", "x_{0}"),
     ("W_ab", "W_{ab}"), (r"h^{(0)}", r"h^{(0)}")],
)  # fmt: skip
def test_a_name_in_latex(name, latex):
    assert symbol(name) == latex


def test_a_label_outside_a_capture_does_nothing():
    x = mg.Tensor([1.0])
    assert label(x, "h") is x and x.name is None


def test_labels_survive_fold_and_unfold():
    xs = with_name("x", np.ones((4, 2, 2)))

    def f(xs):
        h = A
        for x in xs:
            h = label(mg.tanh(x @ h), "h")
        return h

    graph = capture(f, xs).graph
    flat = [r"h^{(1)} = \tanh(x^{(1)} A)"]
    flat += [rf"h^{{({t})}} = \tanh(x^{{({t})}} h^{{({t - 1})}})" for t in (2, 3, 4)]
    assert [str(line) for line in equations(graph)] == flat
    assert [str(line) for line in equations(unfold(fold(graph)))] == flat
    assert [str(line) for line in equations(fold(graph))] == [
        "h^{(0)} = A",
        r"h^{(t)} = \tanh(x^{(t)} h^{(t-1)}) \qquad t = 1, \dots, 4",
    ]


def test_delays_and_reversed_items():
    xs = with_name("x", np.ones((6, 2, 2)))

    def delayed(xs):
        past = [A, B]
        for x in xs:
            past.append(label(x @ past[-2] + past[-1], "h"))
        return past[-1]

    assert printed(delayed, xs, folded=True)[-1] == (
        r"h^{(t)} = x^{(t)} h^{(t-2)} + h^{(t-1)} \qquad t = 1, \dots, 6"
    )

    def backward(xs):
        h = A
        for t in reversed(range(6)):
            h = label(mg.tanh(xs[t] @ h), "h")
        return h

    assert printed(backward, xs, folded=True)[-1] == (
        r"h^{(t)} = \tanh(x^{(7-t)} h^{(t-1)}) \qquad t = 1, \dots, 6"
    )


def test_a_split_is_looked_through_to_the_parts_of_parameters():
    W, b = with_name("W", np.ones((2, 6))), with_name("b", np.ones(6))

    def f():
        i, f, o = mg.split(A @ W + b, 3, axis=-1)
        return mg.sigmoid(i) * f - o

    assert printed(f, parts={"W": ["W_i", "W_f", "W_o"], "b": ["b_i", "b_f", "b_o"]}) == [
        r"y = \sigma(A W_{i} + b_{i}) \odot (A W_{f} + b_{f}) - (A W_{o} + b_{o})"
    ]
    assert printed(f) == [
        r"y = \sigma(A (W)_{[0:2]} + (b)_{[0:2]}) \odot (A (W)_{[2:4]} + (b)_{[2:4]})"
        r" - (A (W)_{[4:6]} + (b)_{[4:6]})"
    ]


def test_a_sum_of_what_was_spread_is_not_looked_through():
    """sum(broadcast(s)) is not sum(s)."""
    text = printed(lambda: mg.sum(mg.broadcast_to(S, (3,))))[0]
    assert "broadcast" in text


BINARY = {"+": operator.add, "-": operator.sub, "*": operator.mul, "@": operator.matmul,
          "/": operator.truediv}  # fmt: skip


def test_a_long_chain_is_cut_into_lines_of_bounded_length():
    def f():
        h = A
        for i in range(1500):  # no period that fold would find, and no name
            h = mg.tanh(h + float(i % 7)) if i % 3 else mg.sigmoid(h)
        return h

    lines = printed(f)
    assert max(map(len, lines)) < 400 and len(lines) > 10
    assert lines[-1].startswith("y = ")


def test_values_of_around_a_loop_and_numbers_as_first_values():
    xs = with_name("x", np.ones((4, 2, 2)))

    def f(xs):
        total = 0.0
        for x in xs:
            total = label(x @ A + total, "s")
        return total

    lines = printed(f, xs, folded=True)
    assert lines[0].startswith("s^{(") and lines[-1].endswith(r"\dots, 4")


SQUARE = st.sampled_from(["A", "B", "C"])
TREES = st.recursive(
    SQUARE,
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(sorted(BINARY)), inner, inner),
        st.tuples(st.sampled_from(["neg", "T", "tanh", "sigmoid", "square", "half"]), inner),
    ),
    max_leaves=8,
)


def built(tree, values, tanh, sigmoid):
    """The tree's value, of tensors or arrays."""
    if isinstance(tree, str):
        return values[tree]
    op, *operands = tree
    x, *more = (built(operand, values, tanh, sigmoid) for operand in operands)
    if op in ("+", "-", "*", "@", "/"):
        names = {
            "+": "__add__",
            "-": "__sub__",
            "*": "__mul__",
            "@": "__matmul__",
            "/": "__truediv__",
        }
        return getattr(x, names[op])(more[0])
    unary = {"neg": lambda: -x, "T": lambda: x.T, "tanh": lambda: tanh(x), "half": lambda: 0.5 * x,
             "sigmoid": lambda: sigmoid(x), "square": lambda: x * x}  # fmt: skip
    return unary[op]()


@settings(max_examples=25)
@given(TREES)
def test_whatever_is_printed_reads_as_what_is_computed(tree):
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=(2, 2)) + 3 for name in "ABC"}
    tensors = {name: with_name(name, array) for name, array in arrays.items()}
    with np.errstate(all="ignore"):
        graph = capture(lambda: built(tree, tensors, mg.tanh, mg.sigmoid) + 0.0)
        lines = equations(graph.graph)
        read = assign(map(str, lines), arrays)["y"]
        expected = built(tree, arrays, np.tanh, lambda x: 1 / (1 + np.exp(-x))) + 0.0
        np.testing.assert_allclose(read, expected, rtol=1e-9)


def test_the_reader_itself():
    """By hand, so that two wrongs do not make a right."""
    a, b = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[0.5], [0.25]])
    read = assign(
        [r"p = a b + 2 b", r"q = a \odot a - \frac{a}{2}", r"r = |b|", r"s = \sum_{t=1}^{3} x_t",
         r"u = a^{\top} b", r"m = a^2 b", r"w_t = \max(w_{t-1}, x^{(t)}) \qquad t = 2, \dots, 3"],
        {"a": a, "b": b, "x": {1: 1.0, 2: 5.0, 3: 2.0}, "w": {1: 3.0}}, 3,
    )  # fmt: skip
    np.testing.assert_allclose(read["p"], [[2.0], [3.0]])
    np.testing.assert_allclose(read["q"], [[0.5, 3.0], [7.5, 14.0]])
    np.testing.assert_allclose(read["r"], np.sqrt(0.3125))
    np.testing.assert_allclose(read["u"], [[1.25], [2.0]])
    np.testing.assert_allclose(read["m"], [[6.0], [13.0]])
    assert read["s"] == 8.0 and read["w"] == {1: 3.0, 2: 5.0, 3: 5.0}
    with pytest.raises(FormulaError):
        assign(["y = q"], {})


@pytest.mark.parametrize(
    ("latex", "text"),
    [
        (r"\frac{1}{\sqrt{\sum(g^{2})}} \odot {h^{(t)}}^{\top}", "1/√(Σ(g²)) ⊙ h⁽ᵗ⁾ᵀ"),
        (r"\begin{cases} a & a > b \\ b & \text{otherwise} \end{cases}", "( a if a > b else b  )"),
        (r"\mathbf{x} + \foo{y}", r"\mathbf{x} + \foo{y}"),
    ],
)
def test_formulas_for_a_terminal(latex, text):
    assert readable(latex) == text
