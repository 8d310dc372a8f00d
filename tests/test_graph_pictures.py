"""Pictures of captured graphs: geometry by brute force, structure by what the programs are."""

from __future__ import annotations

import base64
import cProfile
import hashlib
import itertools
import json
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
import minigrad_rnn as rnn
from minigrad.graph import capture
from minigrad.pictures import Box, Edge, Group, Picture, draw
from tests.test_pictures import (
    HOSTILE,
    NAMESPACE,
    check_labels_lie_within_boxes,
    meeting_point,
    parse,
    run,
)

T, B, D, H, V = 20, 2, 3, 4, 2
F8 = {"dtype": "float64"}


def inputs(steps=T):
    return mg.Tensor(np.linspace(-1, 1, steps * B * D).reshape(steps, B, D))


# -- the programs ------------------------------------------------------------------------------


def unrolled(cell):
    return lambda xs: rnn.unroll(cell, xs)


def attention():
    """Additive attention over a memory (M, B, H), whose keys are made before the loop."""
    cell = rnn.GRUCell(D + H, H, **F8)
    memory, W, U, v = (
        mg.Tensor(np.full(shape, 0.1)) for shape in ((5, B, H), (H, H), (H, H), (H, 1))
    )

    def decode(ys):
        keys = memory @ U

        def step(y, s):
            scores = mg.tanh(s @ W + keys) @ v
            context = mg.sum(mg.functional.softmax(scores, axis=0) * memory, axis=0)
            return cell(mg.concatenate([y, context], axis=-1), s)

        return rnn.unroll(step, ys, mg.zeros((B, H), dtype="float64"))

    return decode


def bidirectional():
    pairs = [[rnn.LSTMCell(size, H, **F8) for _ in range(2)] for size in (D, 2 * H)]
    net = rnn.Layers([rnn.Bidirectional(*pair) for pair in pairs])
    return lambda xs: net(xs)


def perceptron():
    first, second = mg.nn.Linear(D, H, **F8), mg.nn.Linear(H, V, **F8)
    return lambda xs: second(mg.tanh(first(xs)))


def feedback():
    cell = rnn.HiddenLayer(D + V, H, **F8)
    return unrolled(rnn.OutputFeedback(cell, mg.nn.Linear(H, V, **F8)))


PROGRAMS = {
    "rnn": lambda: unrolled(rnn.RNNCell(D, H, **F8)),
    "lstm": lambda: unrolled(rnn.LSTMCell(D, H, **F8)),
    "peephole": lambda: unrolled(rnn.PeepholeLSTMCell(D, H, **F8)),
    "gru": lambda: unrolled(rnn.GRUCell(D, H, **F8)),
    "attention": attention,
    "bidirectional": bidirectional,
    "clockwork": lambda: unrolled(rnn.ClockworkCell(D, H, (1, 2), **F8)),
    "output": feedback,
    "perceptron": perceptron,
}
# How many crossings a picture may have: folded, unfolded, by modules.
CROSSINGS = {
    "rnn": (0, 0, 0),
    "lstm": (0, 5, 0),
    "peephole": (4, 34, 0),
    "gru": (3, 7, 0),
    "attention": (7, 19, 0),
    "bidirectional": (12, 24, 0),
    "clockwork": (0, 7, 0),
    "output": (0, 0, 0),
    "perceptron": (0, 0, 0),
}
# Delays: what the state of each cell is. (The clockwork's state counts its steps.)
DELAYS = {
    "rnn": ["h"],
    "lstm": ["c", "h"],
    "peephole": ["c", "h"],
    "gru": ["h"],
    "attention": ["h"],
    "bidirectional": ["c", "h"] * 4,
    "clockwork": ["h", "t"],
    "output": ["o"],
    "perceptron": [],
}


# -- geometry ----------------------------------------------------------------------------------


def check_frame(picture, frame) -> int:
    """Nothing of a frame overlaps or leaves it, no line runs through a box; counts crossings."""
    areas = {}
    for key, (x, y) in frame.boxes.items():
        if key in picture.boxes:
            w, h = (14, 14) if picture.boxes[key].kind == "delay" else picture.sizes[key]
            areas[key] = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
    for key, (inner, (x, y)) in frame.frames.items():
        w, h = inner.width, inner.height
        areas["frame", key] = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
    for left, top, right, bottom in areas.values():
        assert left >= -0.01 and top >= -0.01
        assert right <= frame.width + 0.01 and bottom <= frame.height + 0.01
    for a, b in itertools.combinations(areas.values(), 2):
        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        assert apart, "two boxes overlap"
    for line in frame.lines:
        for key, (left, top, right, bottom) in areas.items():
            if line.square and isinstance(key, tuple) and key[0] == "frame":
                continue  # from step to step: these run over the frames that they begin and end in
            left, top, right, bottom = left + 0.1, top + 0.1, right - 0.1, bottom - 0.1
            corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
            for piece in itertools.pairwise(line.points):
                for side in zip(corners, corners[1:] + corners[:1]):
                    assert meeting_point(*piece, *side) is None, "a line runs through a box"
    pieces = {(x.source, *p) for x in frame.lines for p in itertools.pairwise(x.points)}
    found = set()
    for (s, a, b), (t, c, d) in itertools.combinations(pieces, 2):
        if s != t and (point := meeting_point(a, b, c, d)):
            found.add((frozenset((str(s), str(t))), point))
    return len(found) + sum(check_frame(picture, inner) for inner, _ in frame.frames.values())


def texts(root, left=0.0, top=0.0):
    """All texts as rectangles on the page: places from the transforms around them."""
    for element in root:
        x, y = left, top
        if moved := re.match(r"translate\((\S+) (\S+)\)", element.get("transform", "")):
            x, y = left + float(moved[1]), top + float(moved[2])
        if element.tag == NAMESPACE + "text" and element.text:
            size = float(element.get("font-size", root.get("font-size", "9")))
            width = len(element.text) * size * 1233 / 2048
            start = x + float(element.get("x"))
            start -= {"middle": width / 2, "end": width}.get(element.get("text-anchor"), 0.0)
            line = y + float(element.get("y"))
            yield (start, line - 0.76 * size, start + width, line + 0.2 * size), element.text
        yield from texts(element, x, y)


def check_texts(picture) -> None:
    found = list(texts(parse(picture)))
    for (a, one), (b, other) in itertools.combinations(found, 2):
        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        assert apart, f"{one!r} lies over {other!r}"


SLOW = ("peephole", "attention", "bidirectional")  # all pairs of lines are tried


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in PROGRAMS]
)
def test_every_view_is_laid_out_soundly_and_with_few_crossings(name):
    program = PROGRAMS[name]()
    counts = []
    for view in ("folded", "unfolded", "modules"):
        picture = draw(program, inputs(), view=view, values=False, gradients=False)
        drawn = check_frame(picture, picture.frame)
        assert drawn <= picture.crossings
        counts.append(picture.crossings)
        check_texts(picture)
        check_labels_lie_within_boxes(parse(picture))
    print(name, counts)
    allowed = CROSSINGS[name]
    assert all(count <= most for count, most in zip(counts, allowed)), (counts, allowed)


@st.composite
def programs_in_frames(choose):
    """Steps in an order, each in one of the calls that are open; later ones use earlier ones."""
    count = choose(st.integers(2, 14))
    groups, boxes, edges = {}, {}, []
    open_groups = [None]
    for i in range(count):
        for _ in range(choose(st.integers(0, 2))):
            if len(open_groups) > 1 and choose(st.booleans()):
                open_groups.pop()
            elif len(groups) < 5:
                key = ("group", len(groups))
                kind = choose(st.sampled_from(["module", "loop"]))
                groups[key] = Group(f"frame {len(groups)}", kind, open_groups[-1])
                open_groups.append(key)
        label = "x" * choose(st.sampled_from([1, 4, 12]))
        boxes[i] = Box((label,), group=open_groups[-1], wire="(2, 4)")
        for j in choose(st.lists(st.integers(0, i - 1), max_size=3)) if i else []:
            edges.append(Edge(j, i, choose(st.sampled_from(["", "a", "x[t]"]))))
    used = {box.group for box in boxes.values()}
    while any(
        g.parent is not None and g.parent not in used for k, g in groups.items() if k in used
    ):
        used |= {groups[k].parent for k in used if k is not None}
    groups = {key: group for key, group in groups.items() if key in used}
    for key, group in list(groups.items()):
        inside = [i for i, box in boxes.items() if box.group == key]
        if group.kind == "loop" and inside and choose(st.booleans()):
            boxes["square", key] = Box(("h",), "delay", group=key)
            edges.append(Edge(("square", key), inside[0]))
            edges.append(Edge(inside[-1], ("square", key), "", "back"))
    return boxes, edges, groups


@given(programs_in_frames(), st.sampled_from(["down", "up"]))
@settings(max_examples=8)
def test_any_frames_within_frames_are_laid_out_soundly(drawn, direction):
    boxes, edges, groups = drawn
    picture = Picture(boxes, edges, groups=groups, direction=direction)
    assert check_frame(picture, picture.frame) <= picture.crossings
    check_texts(picture)
    again = Picture(boxes, edges, groups=groups, direction=direction)
    assert again.svg == picture.svg


# -- what the views say ------------------------------------------------------------------------


def title(picture, key):
    return picture.boxes[key].lines[0]


def delays(picture):
    """(name beside the square, title of the op that it delays) of each black square."""
    back = {edge.target: edge.source for edge in picture.edges if edge.kind == "back"}
    squares = [key for key, box in picture.boxes.items() if box.kind == "delay"]
    assert set(squares) == set(back)
    return sorted((title(picture, key), title(picture, back[key])) for key in squares)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW[1:] else []) for n in PROGRAMS]
)
def test_a_folded_picture_has_a_black_square_for_each_part_of_the_state(name):
    picture = draw(PROGRAMS[name](), inputs(6), values=False, gradients=False)
    found = delays(picture)
    assert sorted(square for square, _ in found) == sorted(DELAYS[name])
    for square, delayed in found:
        assert not square or delayed.startswith(f"{square} = ")


def test_folded_and_unfolded_come_from_one_graph_object():
    cell = rnn.RNNCell(D, H, **F8)
    graph = mg.fold(unrolled(cell), inputs())
    folded, unfolded = draw(graph), draw(graph, view="unfolded", T=3)
    assert len(delays(folded)) == len(graph.delay_edges()) == 1
    steps = [group.title for group in unfolded.groups.values() if group.kind == "step"]
    assert steps == ["t = 0", "t = 1", "", "t = 19"]
    assert [b.lines[0] for b in unfolded.boxes.values() if b.kind == "more"] == ["… 17 more steps"]
    every = draw(graph, view="unfolded", T=T)
    assert sum(group.kind == "step" for group in every.groups.values()) == T
    assert sum(box.kind == "more" for box in every.boxes.values()) == 0


def test_an_unfolded_picture_hands_the_state_from_step_to_step():
    cell = rnn.RNNCell(D, H, **F8)
    picture = draw(lambda xs: rnn.unroll(cell, xs), inputs(4), view="unfolded")

    def column(key):
        group = picture.boxes[key].group
        while picture.groups[group].kind != "step":
            group = picture.groups[group].parent
        return picture.groups[group].title

    across = [edge for edge in picture.edges if edge.kind == "step"]
    assert [(column(e.source), column(e.target)) for e in across] == [
        ("t = 0", "t = 1"),
        ("t = 1", "t = 2"),
        ("t = 2", "t = 3"),
    ]
    assert {title(picture, e.source) for e in across} == {"h = tanh"}
    assert {title(picture, e.target) for e in across} == {"matmul"}
    places = [picture.frame.frames[next(iter(picture.frame.frames))][0].frames]
    xs = [at[0] for frames in places for _, at in frames.values()]
    assert xs == sorted(xs), "iterations run from left to right"
    weights = {b.lines[0]: b.lines[1:] for b in picture.boxes.values() if b.kind == "parameter"}
    assert {name: lines for name, lines in weights.items() if name.startswith("cell.")} == {
        "cell.Wx": ("used 4 times",),
        "cell.Wh": ("used 4 times",),
        "cell.b": ("used 4 times",),
    }
    tags = [(title(picture, e.source), column(e.target)) for e in picture.edges if e.kind == "tag"]
    assert sorted(tags) == sorted(
        (name, f"t = {t}") for name in ("cell.Wx", "cell.Wh", "cell.b") for t in range(4)
    )


def test_a_longer_delay_has_its_number_beside_it():
    def program(xs):
        back, before = mg.zeros((B, D), dtype="float64"), mg.zeros((B, D), dtype="float64")
        ys = []
        for x in xs:
            y = mg.tanh(x + back)
            back, before = before, y
            ys.append(y)
        return mg.stack(ys)

    assert [square.split()[-1] for square, _ in delays(draw(program, inputs()))] == ["2"]


def test_layers_stand_bottom_to_top_in_their_modules():
    cells = rnn.Stack([rnn.RNNCell(D, H, **F8), rnn.RNNCell(H, H, **F8)])
    picture = draw(lambda xs: rnn.unroll(cells, xs), inputs(3), view="unfolded")

    def heights(frame, top=0.0):
        for key, (inner, (_, y)) in frame.frames.items():
            yield picture.groups[key].title, top + y
            yield from heights(inner, top + y - inner.height / 2)

    levels = {}
    for name, y in heights(picture.frame):
        levels.setdefault(name, set()).add(round(y))
    first, second = (levels[f"cells.{i}: RNNCell"] for i in range(2))
    assert min(first) > max(second), "the second layer stands above the first"


def test_modules_are_boxes_and_their_parameters_stand_in_them():
    picture = draw(PROGRAMS["bidirectional"](), inputs(), view="modules")
    boxes = [box.lines for box in picture.boxes.values() if box.kind == "module"]
    assert sorted(boxes) == [
        ("backward: LSTMCell", "Wx, Wh, b"),
        ("backward: LSTMCell", "Wx, Wh, b"),
        ("forward: LSTMCell", "Wx, Wh, b"),
        ("forward: LSTMCell", "Wx, Wh, b"),
    ]
    frames = [group.title for group in picture.groups.values() if group.kind == "module"]
    assert frames == ["net: Layers", "layers.0: Bidirectional", "layers.1: Bidirectional"]
    flat = draw(PROGRAMS["perceptron"](), inputs(), view="modules")
    named = {key: box.lines[0] for key, box in flat.boxes.items()}
    assert {(named[e.source], named[e.target]) for e in flat.edges} == {
        ("xs", "first: Linear"),
        ("first: Linear", "tanh"),
        ("tanh", "second: Linear"),
        ("second: Linear", "output"),
    }


def test_names_are_those_of_variables_and_of_state_dict_paths():
    net = rnn.Layers([rnn.LSTMCell(D, H, **F8)])
    picture = draw(lambda xs: net(xs), inputs())
    inputs_drawn = [b.lines[0] for b in picture.boxes.values() if b.kind in ("parameter", "input")]
    assert sorted(inputs_drawn) == sorted(["xs", *(f"net.{name}" for name in net.state_dict())])
    labels = {edge.label for edge in picture.edges}
    assert {"i", "f", "g", "o"} <= labels
    assert {"c = add", "h = multiply"} <= {box.lines[0] for box in picture.boxes.values()}


def test_buffers_have_names_and_what_comes_from_elided_steps_says_what_it_is():
    cell = rnn.ClockworkCell(D, H, (1, 2), **F8)
    picture = draw(lambda xs: rnn.unroll(cell, xs), inputs(), view="unfolded")
    tensors = {box.lines[0] for box in picture.boxes.values() if box.kind == "parameter"}
    assert tensors == {f"cell.{name}" for name in cell.state_dict()}
    more = [key for key, box in picture.boxes.items() if box.kind == "more"]
    said = {e.label for e in picture.edges if e.source in more and e.kind == "step"}
    assert said == {"h[18]", "t[18]"}


def test_drawing_a_function_leaves_everything_as_it_was():
    cell = rnn.RNNCell(D, H, **F8)
    cell.Wx.grad = None
    before = [value.numpy().copy() for value in cell.state_dict().values()]
    seen = []
    sys.setprofile(hook := lambda *event: seen.append(event[1]))
    try:
        draw(lambda xs: rnn.unroll(cell, xs)[0].sum(), inputs())
        assert sys.getprofile() is hook
    finally:
        sys.setprofile(None)
    assert all(p.grad is None for p in cell.parameters())
    for was, now in zip(before, cell.state_dict().values()):
        assert (was == now.numpy()).all()


def test_the_recorded_graph_of_a_tensor_folds_too(backend):
    cell = rnn.RNNCell(D, H, **F8)
    ys, _ = rnn.unroll(cell, inputs(6))
    y = (ys**2).sum()
    cell.parameters()
    assert len(delays(draw(y, view="folded"))) == 1
    unfolded = draw(y, view="unfolded", T=2)
    assert [b.lines[0] for b in unfolded.boxes.values() if b.kind == "more"] == ["… 4 more steps"]
    titles = {box.lines[0] for box in unfolded.boxes.values()}
    assert {"Wx", "Wh", "b"} <= titles
    assert draw(y, view="ops").svg == draw(y).svg


def test_all_ops_one_by_one():
    cell = rnn.RNNCell(D, H, **F8)
    program = unrolled(cell)
    flat = capture(program, inputs(3)).graph
    picture = draw(program, inputs(3), view="ops")
    ops = sorted(box.lines[0].split(" = ")[-1] for box in picture.boxes.values()
                 if box.kind in ("op", "output") and "[" not in box.lines[0])  # fmt: skip
    assert [op for op in ops if op != "h"] == sorted(step.op.name for step in flat.steps)
    assert not any(group.kind == "loop" for group in picture.groups.values())
    cut = draw(program, inputs(3), view="ops", limit=4)
    assert f"… {len(flat.steps) - 4} more" in [box.lines[0] for box in cut.boxes.values()]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: draw(x, view="tree"), ValueError, "write one of 'ops', 'modules', 'folded'"),
        (lambda x: draw(x, view="modules"), ValueError, r"write draw\(function"),
        (lambda x: draw(x, T=0), ValueError, "write T=1"),
        (lambda x: draw(3), TypeError, "a tensor, a function or a graph, not int"),
        (lambda x: draw(mg.fold(mg.tanh, x), x), TypeError, "no arguments after a graph"),
        (lambda x: draw(x, 3), TypeError, "draw takes tensors after a tensor"),
        (lambda x: draw(x, view="folded"), ValueError, "no recorded graph"),
        (
            lambda x: draw(mg.nn.Linear(2, 2, dtype="float64"), x, direction="right"),
            ValueError,
            'write "down", "up"',
        ),
        (lambda x: draw(mg.tanh(mg.Tensor(1.0)), direction="left"), ValueError, 'or "right"'),
    ],
)
def test_wrong_requests_are_refused_with_their_fix(call, error, message):
    with pytest.raises(error, match=message):
        call(mg.Tensor(np.ones((2, 2))))


# -- values and gradients ----------------------------------------------------------------------


def test_ranges_and_gradient_norms_are_those_of_the_values():
    """The gradient of sum(tanh(x W)^2) from central differences in float64."""
    W = mg.Tensor(np.array([[0.3, -0.7], [0.2, 0.5]]), requires_grad=True)
    W.name = "W"
    x = np.array([[1.0, -2.0], [0.5, 0.25], [3.0, 1.0]])

    def loss(values):
        return (np.tanh(x @ values) ** 2).sum()

    slope = np.zeros((2, 2))
    for index in np.ndindex(2, 2):
        ends = []
        for sign in (1, -1):
            moved = W.numpy().copy()
            moved[index] += sign * 1e-6
            ends.append(loss(moved))
        slope[index] = (ends[0] - ends[1]) / 2e-6
    picture = draw(lambda xs: (mg.tanh(xs @ W) ** 2).sum(), x)
    tips = {box.lines[0]: box.tip for box in picture.boxes.values()}
    norm = float(re.search(r"gradient norm (\S+)", tips["W"])[1])
    assert norm == pytest.approx(float((slope**2).sum() ** 0.5), rel=1e-3)
    low, high = re.search(r"values (\S+) … (\S+)", tips["tanh"]).groups()
    values = np.tanh(x @ W.numpy())
    assert float(low) == pytest.approx(values.min(), rel=1e-3)
    assert float(high) == pytest.approx(values.max(), rel=1e-3)
    assert W.grad is None


def test_backward_is_told_in_the_order_of_the_traversal():
    a, b = (mg.Tensor(v, requires_grad=True, dtype="float64") for v in (2.0, -3.0))
    a.name, b.name = "a", "b"
    y = a * b * a
    picture = draw(y)
    assert [text for _, text in picture.steps] == [
        "multiply: a cotangent of norm 1 arrives; sends multiply 2, a 6",
        "multiply: a cotangent of norm 2 arrives; sends a 6, b 4",
        "b: a cotangent of norm 4 arrives; stays in its .grad",
        "a: a cotangent of norm 12 arrives; stays in its .grad",
    ]
    assert [picture.boxes[key].lines[0] for key, _ in picture.steps] == [
        "multiply", "multiply", "b", "a"]  # fmt: skip
    y.backward()
    assert draw(y).steps == [] and a.grad.item() == -12


def test_backward_through_a_folded_loop_says_which_iteration():
    cell = rnn.RNNCell(D, H, **F8)
    picture = draw(lambda xs: rnn.unroll(cell, xs)[1].sum(), inputs(5))
    told = [text for key, text in picture.steps if key and title(picture, key) == "h = tanh"]
    assert [re.search(r"iteration (\d)", text)[1] for text in told] == list("43210")


# -- files -------------------------------------------------------------------------------------


def hostile_picture(direction="up"):
    groups = {i: Group(name, "loop" if i % 2 else "module", None, name)
              for i, name in enumerate(HOSTILE)}  # fmt: skip
    boxes = {
        i: Box((name, name), group=i, tip=name, wire=name[:20]) for i, name in enumerate(HOSTILE)
    }
    edges = [Edge(i, i + 1, name[:20]) for i, name in enumerate(HOSTILE[1:])]
    steps = [(i, name) for i, name in enumerate(HOSTILE)]
    return Picture(boxes, edges, groups=groups, title=HOSTILE[0], direction=direction, steps=steps)


class Page(HTMLParser):
    """Tags, and the text of the scripts, as a browser's parser would see them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.policy, self.inside = [], [], "", False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.tags.append((tag, named))
        self.inside = tag == "script"
        self.scripts += [""] if self.inside else []
        if named.get("http-equiv") == "Content-Security-Policy":
            self.policy = named["content"]

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.scripts[-1] += data


def test_a_page_is_one_file_whose_policy_allows_its_script_alone():
    page = Page(hostile_picture().html)
    data, script = page.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page.policy and "default-src 'none'" in page.policy
    assert not re.search(r"\beval\b|new Function|innerHTML|fetch\(|import\(", script)
    for tag, attributes in page.tags:
        assert tag not in ("link", "img", "iframe", "object", "base")
        assert not any(
            name.startswith("on") or "href" in name or name == "src" for name in attributes
        )
    said = json.loads(data)
    assert said["steps"][0][1] == HOSTILE[0]
    assert sum(tag == "svg" for tag, _ in page.tags) == 1
    assert len(re.findall(r"https?:", hostile_picture().html)) == 1  # the name space of SVG


def test_hostile_names_are_text_in_svg_and_page():
    root = ElementTree.fromstring(hostile_picture().svg.encode())
    assert {e.tag.removeprefix(NAMESPACE) for e in root.iter()} <= {
        "svg", "g", "title", "rect", "path", "text"}  # fmt: skip
    page = Page(hostile_picture().html)
    assert [tag for tag, _ in page.tags].count("script") == 2


TOKEN = re.compile(r'\s*("(?:[^"\\]|\\.)*"|->|[{}\[\];=,]|[A-Za-z_0-9.]+)')


def tokens(dot):
    """The words of a DOT text; anything that is none is an error."""
    found, at = [], 0
    while dot[at:].strip():
        match = TOKEN.match(dot, at)
        assert match, dot[at : at + 40]
        found.append(match[1])
        at = match.end()
    return found


def test_dot_has_the_same_graph_and_nothing_escapes_its_quotes():
    picture = hostile_picture()
    words = tokens(picture.dot)
    assert words.count("{") == words.count("}") == 1 + len(picture.groups)
    assert words.count("->") == len(picture.edges)
    assert sum(word == "subgraph" for word in words) == len(picture.groups)
    plain = [word for word in words if not word.startswith('"')]
    assert not any("script" in word or "svg" in word for word in plain)
    cell = rnn.LSTMCell(D, H, **F8)
    lstm = draw(lambda xs: rnn.unroll(cell, xs), inputs())
    assert tokens(lstm.dot).count("->") == len(lstm.edges)


def test_a_hostile_variable_is_only_a_name():
    name = '"]; <script>alert(1)</script>'
    W = mg.Tensor(np.ones((2, 2)), requires_grad=True)
    W.name = name
    picture = draw(lambda x: mg.tanh(x @ W), np.ones((1, 2)))
    assert name in [box.lines[0] for box in picture.boxes.values()]
    assert Page(picture.html).scripts[0].count("<") == 0
    assert "<script>alert" not in picture.svg + picture.html
    assert tokens(picture.dot).count("->") == 3


def test_save_writes_what_the_name_ends_in(tmp_path):
    picture = draw(mg.tanh, np.ones(2))
    for name, text in (("g.svg", picture.svg), ("g.html", picture.html), ("G.DOT", picture.dot)):
        picture.save(tmp_path / name)
        assert (tmp_path / name).read_text(encoding="utf-8") == text
    with pytest.raises(ValueError, match=r"saved as \.svg, \.html or \.dot"):
        picture.save(tmp_path / "g.png")


DETERMINISTIC = """
import sys, hashlib
sys.path.insert(0, sys.argv[1])
import numpy as np, minigrad as mg, minigrad_rnn as rnn
cell = rnn.LSTMCell(3, 4, dtype="float64")
for p in cell.parameters():
    p.assign(np.full(p.shape, 0.1))
for view in ("ops", "folded", "unfolded", "modules"):
    picture = mg.draw(lambda xs: rnn.unroll(cell, xs)[0].sum(), np.ones((3, 2, 3)), view=view)
    for text in (picture.svg, picture.html, picture.dot):
        print(hashlib.sha256(text.encode()).hexdigest())
"""


def test_the_same_bytes_in_every_process():
    one = run(DETERMINISTIC, hash_seed="1")
    assert one == run(DETERMINISTIC, hash_seed="2") and len(set(one.split())) == 12


def test_importing_minigrad_loads_neither_graph_nor_pictures():
    code = (
        "import minigrad, sys; print([m for m in sys.modules if 'pictures' in m or '.graph' in m])"
    )
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


# -- programs that once failed -----------------------------------------------------------------


def two_loops(xs):
    h = mg.zeros((B, D), dtype="float64")
    for x in xs:
        h = mg.tanh(h + x)
    for _ in range(3):
        h = mg.tanh(h * 2 + 1)
    return h


def test_two_loops_in_sequence_are_two_strips():
    picture = draw(two_loops, inputs(4), view="unfolded")
    strips = [key for key, group in picture.groups.items() if group.kind == "steps"]
    assert [picture.groups[key].title for key in strips] == ["4 steps", "3 steps"]

    def strip(key):
        group = picture.boxes[key].group
        while picture.groups[group].kind != "steps":
            group = picture.groups[group].parent
        return group

    across = [strip(e.source) for e in picture.edges if e.kind == "step"]
    assert [across.count(key) for key in strips] == [3, 2]
    assert all(strip(e.source) == strip(e.target) for e in picture.edges if e.kind == "step")
    check_frame(picture, picture.frame)


def test_a_training_step_is_unfolded():
    cell = rnn.RNNCell(D, H, **F8)
    loss = mg.grad(lambda xs: (rnn.unroll(cell, xs)[0] ** 2).sum())
    picture = draw(loss, inputs(3), view="unfolded", values=False, gradients=False)
    assert sum(group.kind == "steps" for group in picture.groups.values()) == 2


def test_a_loop_in_an_unfolded_loop_may_start_from_a_number():
    def program(xs):
        h = mg.zeros(H, dtype="float64")
        for x in xs:
            for _ in range(3):
                h = mg.tanh(h * 2 + x)
        return h

    picture = draw(program, np.ones((4, H)), view="unfolded")
    squares = [key for key, box in picture.boxes.items() if box.kind == "delay"]
    assert len(squares) == 4
    assert ["first 0" in picture.boxes[key].tip for key in squares] == [True, False, False, False]
    given = [e.target for e in picture.edges if e.kind == "step"]
    assert given == squares[1:]


def test_an_argument_that_is_a_nest_with_one_leaf():
    x = np.ones(2)
    for nest, pick, name in (
        ([x], lambda xs: xs[0] * 2, "xs[0]"),
        ((x,), lambda xs: xs[0] * 2, "xs[0]"),
        ({"a": x}, lambda xs: xs["a"] * 2, "xs[0]"),
        (x, lambda xs: xs * 2, "xs"),
        ([mg.Tensor(x)], lambda xs: xs[0] * 2, "xs[0]"),
    ):
        picture = draw(pick, nest)
        assert [b.lines[0] for b in picture.boxes.values() if b.kind == "input"] == [name]


def test_drawing_within_a_profiler_leaves_it_on_and_lets_errors_through():
    def wrong(x):
        raise RuntimeError("the user's own")

    profile = cProfile.Profile()
    profile.enable()
    try:
        draw(mg.tanh, np.ones(2))
        with pytest.raises(RuntimeError, match="the user's own"):
            draw(wrong, np.ones(2))
        sorted([3, 1, 2])
    finally:
        profile.disable()
    assert any("sorted" in str(entry.code) for entry in profile.getstats())


def test_containers_that_hold_themselves_and_large_ones_are_searched_for_names_within_bounds():
    weight = mg.Tensor(np.ones(2))
    circular = {"w": weight}
    circular["self"] = circular
    deep = []
    for _ in range(5000):
        deep = [deep]
    large = [weight] * 1_000_000

    def program(x):
        return x * circular["w"] if deep and large else x

    start = time.process_time()
    picture = draw(program, np.ones(2))
    assert time.process_time() - start < 1
    assert "circular.w" in [box.lines[0] for box in picture.boxes.values()]


def test_variables_without_a_value_and_functions_without_a_module():
    W = mg.Tensor(np.ones(2))
    scope = {"__name__": None, "mg": mg}
    exec("def helper(x):\n    y = mg.tanh(x)\n    return y * 2", scope)
    helper = scope["helper"]
    helper.__module__ = None

    def program(x):
        return helper(x * W) if x is not None else later

    picture = draw(program, np.ones(2))
    titles = [box.lines[0] for box in picture.boxes.values()]
    assert "W" in titles and "y = tanh" in titles
    later = None


def test_the_line_from_step_to_step_goes_on_to_all_its_users():
    W = mg.Tensor(np.full((H, H), 0.1))

    def program(h):
        for _ in range(5):
            h = mg.tanh(h @ W) + 0.1 * h
        return h

    picture = draw(program, np.ones((B, H)), view="unfolded")
    (strip, _), = picture.frame.frames.values()  # fmt: skip
    links = [line for line in strip.lines if line.square]
    assert len(links) == 4
    for link in links:
        ends = []
        for column, (x, y) in strip.frames.values():
            left, top = x - column.width / 2, y - column.height / 2
            ends += [(left + line.points[0][0], top + line.points[0][1])
                     for line in column.lines if line.start == link.end]  # fmt: skip
        assert len(ends) == 2
        assert ends == [pytest.approx(link.points[-1])] * 2


def test_results_that_are_arguments_or_constants_are_drawn():
    W = mg.Tensor(np.arange(4.0))

    def program(a):
        return a, a * 2, W, mg.zeros(3), mg.Tensor(np.arange(3.0))

    for view in ("folded", "unfolded", "modules", "ops"):
        (edge,) = draw(lambda a: a, np.ones(2), view=view).edges
        assert (edge.source, edge.target) == (("input", 0), ("output", 0))
        picture = draw(program, np.ones(4), view=view)
        results = {k: b.lines for k, b in picture.boxes.items() if b.kind == "output"}
        assert sorted(results.values()) == [
            ("multiply", "2"), ("output 0",), ("output 2",), ("output 3", "0"), ("output 4",)
        ]  # fmt: skip
        into = {(title(picture, e.source), title(picture, e.target)) for e in picture.edges}
        assert into == {
            ("a", "multiply"), ("a", "output 0"), ("W", "output 2"), ("constant", "output 4")
        }  # fmt: skip


@pytest.mark.parametrize("values", [True, False])
@pytest.mark.parametrize("gradients", [True, False])
def test_values_and_gradients_are_asked_for_one_by_one(values, gradients):
    picture = draw(lambda x: mg.tanh(x).sum(), np.ones(2), values=values, gradients=gradients)
    tips = [box.tip for box in picture.boxes.values()]
    assert any("values" in tip for tip in tips) == values
    assert any("gradient norm" in tip for tip in tips) == gradients
    assert bool(picture.steps) == gradients


class Doubled(mg.nn.Linear):
    def __call__(self, x):
        return super().__call__(x) * 2


class Countdown(mg.nn.Module):
    def __call__(self, x, n):
        return mg.tanh(self(mg.exp(x), n - 1) if n else x)


def test_a_call_of_super_is_the_same_call():
    net = Doubled(D, H, **F8)
    picture = draw(lambda xs: mg.tanh(net(xs)), np.ones((B, D)))
    assert [g.title for g in picture.groups.values()] == ["net: Doubled"]
    inside = [b.lines[0] for b in picture.boxes.values() if b.group is not None]
    assert sorted(inside) == ["add", "matmul", "multiply"]
    recursive = Countdown()
    nested = draw(lambda x: recursive(x, 2), np.ones(2))
    assert [g.title for g in nested.groups.values()] == ["recursive: Countdown"] * 3
    twice = draw(lambda xs: net(xs) + net(xs), np.ones((B, D)))
    assert [g.title for g in twice.groups.values()] == ["net: Doubled"] * 2


def test_operands_are_first_and_second_so_that_none_has_the_name_of_another_value():
    b = mg.Tensor(np.ones((2, 2)), requires_grad=True)
    b.name = "b"
    for picture in (draw(lambda x: x @ b, np.ones((2, 2))), draw(mg.Tensor(np.ones((2, 2))) @ b)):
        into = {title(picture, e.source): e.label for e in picture.edges}
        assert into.pop("b") == "2nd" and list(into.values()) == ["1st"]
    picture = draw(lambda x: mg.where(x > 0, x + 1, x - 1), np.ones(2))
    assert sorted(e.label for e in picture.edges) == ["", "1st", "1st", "a", "b", "condition"]


def test_an_arrow_to_nothing_is_refused():
    with pytest.raises(ValueError, match=r"names 'q', and there is no box .* known are 'a'"):
        Picture({"a": Box(("a",))}, [Edge("a", "q")])
    with pytest.raises(ValueError, match=r"names 'q', and there is no box .* known are none"):
        Picture({}, [Edge("q", "a", kind="back")])
