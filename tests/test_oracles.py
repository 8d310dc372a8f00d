"""The oracles themselves: finite differences, published vectors, values by hand, and torch."""

import math
from collections.abc import Callable
from fractions import Fraction
from functools import partial

import numpy as np
import pytest

from tests.oracles import gru, lstm, optim, packing, ragged, rnn, vanilla
from tests.oracles.batch import over_batch
from tests.oracles.differences import central
from tests.oracles.philox import philox4x32
from tests.oracles.witten_bell import WittenBell

T, B, D, H, V = 4, 3, 2, 3, 5
Arrays = dict[str, np.ndarray]


def close(actual: np.ndarray, expected: np.ndarray, tolerance: float = 1e-12) -> None:
    """Demand equal shapes and values; a NaN is a failure."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(
        actual, expected, rtol=tolerance, atol=tolerance, equal_nan=False, strict=True
    )


def gated(gates: tuple[str, ...], generator: np.random.Generator) -> Arrays:
    """Return random per-gate parameters."""
    shapes = {"U": (H, D), "W": (H, H), "b": (H,)}
    return {f"{n}_{k}": generator.normal(size=s) for n, s in shapes.items() for k in gates}


def vanilla_parameters(generator: np.random.Generator) -> Arrays:
    shapes = {"U": (H, D), "W": (H, H), "V": (V, H), "b": (H,), "c": (V,)}
    return {name: generator.normal(size=shape) for name, shape in shapes.items()}


def check_gradients(
    parameters: Arrays, others: Arrays, gradients: Arrays, loss: Callable[[], float]
) -> None:
    """Compare gradients by name with central differences of a loss that reads the arrays."""
    arrays = {**parameters, **others}
    assert arrays.keys() <= gradients.keys()
    for name, array in arrays.items():
        numeric = central(loss, array)
        assert np.abs(numeric).max() > 1e-3, name  # a flat loss would prove nothing
        close(gradients[name], numeric, 1e-8)


# The book's recurrent net


def test_vanilla_by_hand() -> None:
    """One unit, two steps, two classes, worked out with scalars."""
    p = {"U": [[0.5]], "W": [[2.0]], "V": [[1.0], [-1.0]], "b": [0.25], "c": [0.5, 0.0]}
    parameters = {name: np.array(value) for name, value in p.items()}
    h1 = math.tanh(0.25 + 2.0 * 0.1 + 0.5 * 1.0)
    h2 = math.tanh(0.25 + 2.0 * h1 + 0.5 * -2.0)
    # two classes: softmax is the logistic function of the difference, 0.5 + 2h
    p1, p2 = (1 / (1 + math.exp(-(0.5 + 2 * h))) for h in (h1, h2))
    trace = vanilla.forward(
        parameters, np.array([[1.0], [-2.0]]), np.array([0, 1]), np.array([0.1])
    )
    close(trace["h"], np.array([[h1], [h2]]))
    close(trace["yhat"], np.array([[p1, 1 - p1], [p2, 1 - p2]]))
    close(trace["loss"], np.array(-math.log(p1) - math.log(1 - p2)))


def test_vanilla_loss_stays_finite_for_large_logits() -> None:
    parameters = {n: np.zeros(s) for n, s in {"U": (1, 1), "W": (1, 1), "V": (2, 1)}.items()}
    parameters |= {"b": np.zeros(1), "c": np.array([1e4, -1e4])}
    trace = vanilla.forward(parameters, np.zeros((1, 1)), np.array([1]), np.zeros(1))
    assert trace["loss"] == 2e4


def test_vanilla_gradients_are_finite_differences() -> None:
    generator = np.random.default_rng(0)
    parameters = vanilla_parameters(generator)
    x, h0 = generator.normal(size=(T, D)), generator.normal(size=H)
    labels = np.array([1, 4, 0, 1])
    gradients = vanilla.backward(parameters, x, labels, h0)
    check_gradients(
        parameters,
        {"x": x, "h0": h0},
        gradients,
        lambda: float(vanilla.forward(parameters, x, labels, h0)["loss"]),
    )


def test_vanilla_nabla_h_is_the_derivative_by_each_state() -> None:
    """Shift h_t alone and run the rest: this also settles the order of factors in eq 10.21."""
    generator = np.random.default_rng(1)
    parameters = vanilla_parameters(generator)
    x, h0 = generator.normal(size=(T, D)), generator.normal(size=H)
    labels = np.array([1, 4, 0, 2])
    gradients = vanilla.backward(parameters, x, labels, h0)
    trace = vanilla.forward(parameters, x, labels, h0)
    for t in range(T):
        h = trace["h"][t].copy()

        def loss(t: int = t, h: np.ndarray = h) -> float:
            yhat = vanilla.softmax(parameters["c"] + parameters["V"] @ h)
            later = vanilla.forward(parameters, x[t + 1 :], labels[t + 1 :], h)["loss"]
            return float(later - np.log(yhat[labels[t]]))

        close(gradients["nabla_h"][t], central(loss, h), 1e-8)


def test_vanilla_uses_are_the_gradients_of_copies() -> None:
    """Eq 10.25: give each step its own copy of W, U, V and differentiate by one copy at a time."""
    generator = np.random.default_rng(2)
    parameters = vanilla_parameters(generator)
    x, h0 = generator.normal(size=(T, D)), generator.normal(size=H)
    labels = np.array([3, 3, 0, 2])
    copies = {n: np.repeat(parameters[n][None], T, axis=0) for n in ("U", "W", "V")}

    def loss() -> float:
        h, total = h0, 0.0
        for t in range(T):
            mine = parameters | {name: copies[name][t] for name in copies}
            step = vanilla.forward(mine, x[t : t + 1], labels[t : t + 1], h)
            h, total = step["h"][0], total + float(step["loss"])
        return total

    gradients = vanilla.backward(parameters, x, labels, h0)
    for name in copies:
        close(gradients[f"{name}_uses"], central(loss, copies[name]), 1e-8)
        close(gradients[f"{name}_uses"].sum(axis=0), gradients[name])


# LSTM, GRU, RNN

CASES = {
    "lstm": (lstm.forward, lstm.backward, lstm.GATES, ("h", "c")),
    "gru after": (gru.forward_after, gru.backward_after, gru.GATES, ("h",)),
    "gru before": (gru.forward_before, gru.backward_before, gru.GATES, ("h",)),
    "rnn tanh": (rnn.forward, rnn.backward, (), ("h",)),
    "rnn relu": (
        partial(rnn.forward, activation="relu"),
        partial(rnn.backward, activation="relu"),
        (),
        ("h",),
    ),
    "cs231n": (rnn.cs231n_forward, rnn.cs231n_backward, (), ("y",)),
}


def case_parameters(case: str, generator: np.random.Generator) -> Arrays:
    if case == "cs231n":
        shapes: dict[str, tuple[int, ...]] = {"W_xh": (H, D), "W_hh": (H, H), "W_hy": (V, H)}
        return {name: generator.normal(size=shape) for name, shape in shapes.items()}
    if case.startswith("rnn"):
        shapes = {"U": (H, D), "W": (H, H), "b": (H,)}
        return {name: generator.normal(size=shape) for name, shape in shapes.items()}
    extra = {"bh_n": generator.normal(size=H)} if case == "gru after" else {}
    return gated(CASES[case][2], generator) | extra


@pytest.mark.parametrize("case", CASES)
def test_gradients_of_cells_are_finite_differences(case: str) -> None:
    """loss = sum of weighted outputs of every step, for random weights, over a batch."""
    generator = np.random.default_rng(3)
    forward, backward, _, outputs = CASES[case]
    parameters = case_parameters(case, generator)
    x = generator.normal(size=(T, B, D))
    state_names = ("h0", "c0") if case == "lstm" else ("h0",)
    states = [generator.normal(size=(B, H)) for _ in state_names]
    weights = [generator.normal(size=(T, B, V if name == "y" else H)) for name in outputs]

    def loss() -> float:
        trace = over_batch(forward, parameters, [x], states)
        return float(sum((w * trace[n]).sum() for w, n in zip(weights, outputs, strict=True)))

    gradients = over_batch(backward, parameters, [x, *weights], states)
    others = {"x": x, **dict(zip(state_names, states, strict=True))}
    check_gradients(parameters, others, gradients, loss)


def test_lstm_by_hand() -> None:
    """One unit, one step: the equations with scalars."""
    gate_weights = {"i": 0.3, "f": -0.2, "g": 0.7, "o": 1.1}
    parameters = {}
    for k, w in gate_weights.items():
        parameters |= {f"U_{k}": np.array([[w]]), f"W_{k}": np.array([[2 * w]])}
        parameters[f"b_{k}"] = np.array([w / 2])
    a = {k: w * 0.5 + 2 * w * -0.4 + w / 2 for k, w in gate_weights.items()}
    logistic = {k: 1 / (1 + math.exp(-value)) for k, value in a.items()}
    c = logistic["f"] * 0.9 + logistic["i"] * math.tanh(a["g"])
    trace = lstm.forward(parameters, np.array([[0.5]]), np.array([-0.4]), np.array([0.9]))
    close(trace["c"], np.array([[c]]))
    close(trace["h"], np.array([[logistic["o"] * math.tanh(c)]]))


def test_gru_by_hand() -> None:
    """One unit, one step, both places of the reset: the equations with scalars."""
    gate_weights = {"r": 0.3, "z": -0.2, "n": 0.7}
    parameters = {}
    for k, w in gate_weights.items():
        parameters |= {f"U_{k}": np.array([[w]]), f"W_{k}": np.array([[2 * w]])}
        parameters[f"b_{k}"] = np.array([w / 2])
    x, h = 0.5, -0.4
    a = {k: w * x + 2 * w * h + w / 2 for k, w in gate_weights.items()}
    r, z = (1 / (1 + math.exp(-a[k])) for k in "rz")
    n_after = math.tanh(0.7 * x + 0.35 + r * (1.4 * h + 0.6))
    n_before = math.tanh(0.7 * x + 0.35 + 1.4 * (r * h))
    inputs = np.array([[x]]), np.array([h])
    before = gru.forward_before(parameters, *inputs)["h"]
    after = gru.forward_after(parameters | {"bh_n": np.array([0.6])}, *inputs)["h"]
    close(before, np.array([[(1 - z) * n_before + z * h]]))
    close(after, np.array([[(1 - z) * n_after + z * h]]))


def test_vanilla_and_plain_rnn_agree() -> None:
    generator = np.random.default_rng(4)
    parameters = vanilla_parameters(generator)
    x, h0 = generator.normal(size=(T, D)), generator.normal(size=H)
    trace = vanilla.forward(parameters, x, np.zeros(T, int), h0)
    cell = {name: parameters[name] for name in ("U", "W", "b")}
    close(rnn.forward(cell, x, h0)["h"], trace["h"])
    bare = {"W_hh": parameters["W"], "W_xh": parameters["U"], "W_hy": parameters["V"]}
    no_bias = parameters | {"b": np.zeros(H), "c": np.zeros(V)}
    close(
        rnn.cs231n_forward(bare, x, h0)["y"],
        vanilla.forward(no_bias, x, np.zeros(T, int), h0)["o"],
    )


def test_packing_places_every_gate() -> None:
    generator = np.random.default_rng(5)
    Wx, Wh, b = (generator.normal(size=s) for s in ((D, 4 * H), (H, 4 * H), (4 * H,)))
    parameters = packing.unpack(Wx, Wh, b, lstm.GATES)
    x, h = generator.normal(size=D), generator.normal(size=H)
    side_by_side = np.concatenate(
        [
            parameters[f"U_{k}"] @ x + parameters[f"W_{k}"] @ h + parameters[f"b_{k}"]
            for k in lstm.GATES
        ]
    )
    close(side_by_side, x @ Wx + h @ Wh + b)
    for again, original in zip(packing.pack(parameters, lstm.GATES), (Wx, Wh, b), strict=True):
        close(again, original, 0.0)
    assert packing.unpack(Wx[:, :H], Wh[:, :H], b[:H]).keys() == {"U", "W", "b"}


def test_sequences_without_steps() -> None:
    generator = np.random.default_rng(6)
    parameters, empty, h0 = gated(lstm.GATES, generator), np.zeros((0, D)), np.ones(H)
    assert lstm.forward(parameters, empty, h0, h0)["h"].shape == (0, H)
    nothing = np.zeros((0, H))
    gradients = lstm.backward(parameters, empty, nothing, nothing, h0, h0)
    assert not any(gradients[name].any() for name in gradients)


# Ragged sequences


def add_and_keep(x: np.ndarray, state: ragged.State) -> tuple[np.ndarray, ragged.State]:
    """y = 100 x + sum, sum' = sum + x, last' = x."""
    total, _ = state
    return 100 * x + total, (total + x, x)


XS = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, np.nan]])[..., None]  # (3, 3, 1)
START = (np.array([[10.0], [20.0], [30.0]]), np.zeros((3, 1)))
LENGTHS = [3, 0, 2]


def test_ragged_lengths_forward() -> None:
    ys, (total, last) = ragged.unroll(add_and_keep, XS, START, lengths=LENGTHS)
    close(ys[..., 0], np.array([[110.0, 0, 330], [411, 0, 633], [715, 0, 0]]))
    close(total[:, 0], np.array([22.0, 20, 39]))
    close(last[:, 0], np.array([7.0, 0, 6]))


def test_ragged_lengths_reverse() -> None:
    ys, (total, last) = ragged.unroll(add_and_keep, XS, START, lengths=LENGTHS, reverse=True)
    close(ys[..., 0], np.array([[121.0, 0, 336], [417, 0, 630], [710, 0, 0]]))
    close(total[:, 0], np.array([22.0, 20, 39]))
    close(last[:, 0], np.array([1.0, 0, 3]))


def test_ragged_mask_with_gaps() -> None:
    mask = np.array([[True, False, True], [False, True, True], [True, False, False]])
    ys, (total, last) = ragged.unroll(add_and_keep, XS, START, mask=mask)
    close(ys[..., 0], np.array([[110.0, 0, 330], [0, 520, 633], [711, 0, 0]]))
    close(total[:, 0], np.array([18.0, 25, 39]))
    close(last[:, 0], np.array([7.0, 5, 6]))


def test_ragged_resets() -> None:
    """A reset brings back `initial`, not the state carried in; in the padding it does nothing."""
    initial = (np.array([[1000.0], [2000.0], [3000.0]]), np.zeros((3, 1)))
    resets = np.array([[False, True, False], [True, False, False], [False, True, True]])
    run = partial(
        ragged.unroll, add_and_keep, XS, START, initial=initial, lengths=[3, 1, 2], resets=resets
    )
    ys, (total, _) = run()
    close(ys[..., 0], np.array([[110.0, 2200, 330], [1400, 0, 633], [1704, 0, 0]]))
    close(total[:, 0], np.array([1011.0, 2002, 39]))
    ys, (total, _) = run(reverse=True)
    close(ys[..., 0], np.array([[1104.0, 2200, 336], [1400, 0, 630], [710, 0, 0]]))
    close(total[:, 0], np.array([1005.0, 2002, 39]))


def test_ragged_without_inputs_and_without_steps() -> None:
    def double(x: None, state: ragged.State) -> tuple[np.ndarray, ragged.State]:
        return state[0], (2 * state[0],)

    start = (np.array([[1.0], [3.0]]),)
    ys, (final,) = ragged.unroll(double, None, start, steps=3, lengths=[3, 1])
    close(ys[..., 0], np.array([[1.0, 3], [2, 0], [4, 0]]))
    close(final[:, 0], np.array([8.0, 6]))
    ys, (final,) = ragged.unroll(double, None, start, steps=3, lengths=[0, 0])
    close(ys, np.zeros((3, 2, 1)))
    close(final, start[0])
    ys, _ = ragged.unroll(add_and_keep, np.zeros((0, 3, 1)), START)
    assert ys.shape == (0, 3, 1)


def test_ragged_several_inputs() -> None:
    def product(x: tuple[np.ndarray, ...], state: ragged.State) -> tuple[np.ndarray, ragged.State]:
        return x[0] * x[1], (state[0] + x[0],)

    xs = (np.arange(4.0).reshape(2, 2, 1), 10.0 + np.arange(2).repeat(2).reshape(2, 2, 1))
    ys, (final,) = ragged.unroll(product, xs, (np.zeros((2, 1)),), lengths=[2, 1])
    close(ys[..., 0], np.array([[0.0, 10.0], [22.0, 0.0]]))
    close(final[:, 0], np.array([2.0, 1.0]))


def test_ragged_refuses_what_is_not_defined() -> None:
    with pytest.raises(ValueError, match="not both"):
        ragged.unroll(add_and_keep, XS, START, lengths=LENGTHS, mask=np.ones((3, 3), bool))
    with pytest.raises(ValueError, match="initial"):
        ragged.unroll(add_and_keep, XS, START, resets=np.zeros((3, 3), bool))
    with pytest.raises(ValueError, match="steps"):
        ragged.unroll(add_and_keep, None, START)


# Witten-Bell


def test_witten_bell_by_hand() -> None:
    """Every count of "abab" over the vocabulary abc, worked out as fractions."""
    model = WittenBell("abab", "abc", order=3)
    expected = {
        ("", "a"): Fraction(4, 9),  # (2 + 2/3) / (4 + 2)
        ("", "c"): Fraction(1, 9),
        ("a", "b"): Fraction(22, 27),  # (2 + 4/9) / (2 + 1)
        ("a", "c"): Fraction(1, 27),
        ("b", "a"): Fraction(13, 18),  # (1 + 4/9) / (1 + 1): the last b has nothing after it
        ("ab", "a"): Fraction(31, 36),
        ("ba", "b"): Fraction(49, 54),
        ("aba", "b"): Fraction(103, 108),
        ("cba", "b"): Fraction(49, 54),  # cba never seen
        ("ca", "b"): Fraction(22, 27),
        ("c", "a"): Fraction(4, 9),
        ("bbbaba", "b"): Fraction(103, 108),  # only three characters of history count
    }
    for (history, character), value in expected.items():
        assert model.probability(character, history) == pytest.approx(float(value), rel=1e-14)
    # P(c|ab) = (0 + 1 P(c|b)) / (1 + 1), P(c|b) = (0 + 1/9) / (1 + 1)
    bits = -math.log2(4 / 9) - math.log2(22 / 27) - math.log2(1 / 36)
    assert model.bits_per_character("abc") == pytest.approx(bits / 3, rel=1e-14)
    one = WittenBell("abab", "abc", order=0)  # repeated characters count each time
    assert one.bits_per_character("aaac") == pytest.approx(
        (-3 * math.log2(4 / 9) - math.log2(1 / 9)) / 4, rel=1e-14
    )


def test_witten_bell_sums_to_one() -> None:
    text = "the cat sat on the mat; the hat that the cat sat on was flat"
    model = WittenBell(text, set(text) | set("xyz"), order=3)
    for history in ("", "t", "th", "the", "hat", "at ", "zzz", "zth", "xy", "e c"):
        total = sum(model.probability(character, history) for character in model.vocabulary)
        assert total == pytest.approx(1.0, abs=1e-12)


def test_witten_bell_of_a_uniform_and_of_a_repeated_text() -> None:
    assert WittenBell("", "abcd").bits_per_character("abba") == 2.0
    assert WittenBell("ab" * 1000).bits_per_character("ab" * 100) < 0.02


def test_witten_bell_names_unknown_characters() -> None:
    model = WittenBell("abab")
    with pytest.raises(ValueError, match="'q'"):
        model.bits_per_character("abq")
    with pytest.raises(ValueError, match="empty"):
        model.bits_per_character("")


# Philox


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000",
         "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
         "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
         "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)  # fmt: skip
def test_philox_known_answers(counter: str, key: str, expected: str) -> None:
    """kat_vectors of Random123, the authors' own implementation."""
    c, k = ([int(word, 16) for word in words.split()] for words in (counter, key))
    words = philox4x32((c[0], c[1], c[2], c[3]), (k[0], k[1]))
    assert " ".join(f"{word:08x}" for word in words) == expected


# Optimizers, schedules, clipping


def test_optimizers_by_hand() -> None:
    """Two steps on scalars, with numbers that come out even."""
    state: optim.State = {}
    p = optim.sgd(1.0, 2.0, state, lr=0.1, momentum=0.5)
    assert p == pytest.approx(0.8)
    assert optim.sgd(p, 4.0, state, lr=0.1, momentum=0.5) == pytest.approx(0.3)  # v = 5
    state = {}
    p = optim.sgd(1.0, 2.0, state, lr=0.1, momentum=0.5, nesterov=True)
    assert p == pytest.approx(0.7)  # g + 0.5 v = 3
    again = optim.sgd(p, 4.0, state, lr=0.1, momentum=0.5, nesterov=True)
    assert again == pytest.approx(0.05)  # v = 5, 4 + 2.5
    assert optim.rmsprop(1.0, 2.0, {}, lr=0.1, alpha=0.75, eps=1.0) == pytest.approx(0.9)
    # dampening leaves the first v alone: v = 2, then 0.5 * 2 + 0.75 * 4
    state = {}
    p = optim.sgd(1.0, 2.0, state, lr=0.1, momentum=0.5, dampening=0.25)
    again = optim.sgd(p, 4.0, state, lr=0.1, momentum=0.5, dampening=0.25)
    assert (p, again) == (pytest.approx(0.8), pytest.approx(0.4))
    # centered: s = 0.2 * 25 = 5, m = 1, so sqrt(5 - 1) = 2
    centered = optim.rmsprop(1.0, 5.0, {}, lr=0.1, alpha=0.8, eps=0.5, centered=True)
    assert centered == pytest.approx(0.8)
    assert optim.adam(1.0, 3.0, {}, lr=0.5, eps=3.0) == pytest.approx(0.75)  # 3 / (3 + 3)
    # Adam's first step is lr times the gradient's sign, whatever its size
    for gradient in (1e-3, 7.0):
        assert optim.adam(1.0, gradient, {}, lr=0.25, eps=0.0) == pytest.approx(0.75)
    assert optim.adamw(1.0, -3.0, {}, lr=0.5, eps=0.0, weight_decay=0.5) == pytest.approx(1.25)


def test_schedules_by_hand() -> None:
    assert [optim.step_lr(8.0, s, step_size=2, gamma=0.5) for s in range(5)] == [8, 8, 4, 4, 2]
    values = [optim.cosine_lr(3.0, s, total=4, minimum=1.0) for s in (0, 2, 4)]
    assert values == pytest.approx([3.0, 2.0, 1.0])
    assert optim.cosine_lr(1.0, 1, total=3) == pytest.approx(0.75)
    warm = [optim.warmup_lr(4.0, s, total=4, start=0.0) for s in range(6)]
    assert warm == [0, 1, 2, 3, 4, 4]


def test_clipping_by_hand() -> None:
    gradients = [np.array([3.0, 0.0]), np.array([[-4.0]])]
    assert optim.global_norm(gradients) == 5.0
    clipped = optim.clip_global_norm(gradients, 2.5)
    close(clipped[0], np.array([1.5, 0.0]))
    close(clipped[1], np.array([[-2.0]]))
    for limit in (5.0, 80.0):
        for kept, original in zip(optim.clip_global_norm(gradients, limit), gradients, strict=True):
            close(kept, original, 0.0)
    close(optim.clip_value(gradients, 3.5)[1], np.array([[-3.5]]))
    close(optim.clip_value(gradients, 3.5)[0], gradients[0], 0.0)


# PyTorch


def torch_weights(module: object, parameters: Arrays, gates: tuple[str, ...]) -> None:
    """Copy per-gate parameters into a one-layer torch module; torch's second bias gets bh_n."""
    torch = pytest.importorskip("torch")
    hidden_bias = [parameters.get(f"bh_{k}", np.zeros(H)) if k else np.zeros(H) for k in gates]
    names = [f"_{k}" if k else "" for k in gates]
    values = {
        "weight_ih_l0": np.concatenate([parameters[f"U{n}"] for n in names]),
        "weight_hh_l0": np.concatenate([parameters[f"W{n}"] for n in names]),
        "bias_ih_l0": np.concatenate([parameters[f"b{n}"] for n in names]),
        "bias_hh_l0": np.concatenate(hidden_bias),
    }
    with torch.no_grad():
        for name, value in values.items():
            getattr(module, name).copy_(torch.tensor(value))


TORCH = {
    "lstm": ("LSTM", {}, lstm.GATES),
    "gru after": ("GRU", {}, gru.GATES),
    "rnn tanh": ("RNN", {"nonlinearity": "tanh"}, ("",)),
    "rnn relu": ("RNN", {"nonlinearity": "relu"}, ("",)),
}


@pytest.mark.parametrize("case", TORCH)
def test_cells_equal_torch(case: str) -> None:
    torch = pytest.importorskip("torch")
    generator = np.random.default_rng(7)
    kind, options, gates = TORCH[case]
    forward, backward, _, _ = CASES[case]
    parameters = case_parameters(case, generator)
    module = getattr(torch.nn, kind)(D, H, dtype=torch.float64, **options)
    torch_weights(module, parameters, gates)
    arrays = [generator.normal(size=s) for s in ((T, B, D), (B, H), (B, H), (T, B, H), (B, H))]
    x, h0, c0, grad_h, grad_last_c = arrays
    states = [h0, c0] if case == "lstm" else [h0]
    tx, *tstates = (torch.tensor(a, requires_grad=True) for a in (x, *states))
    given = tuple(s[None] for s in tstates)
    ys, last = module(tx, given if case == "lstm" else given[0])
    loss = (ys * torch.tensor(grad_h)).sum()
    weights = [grad_h]
    if case == "lstm":  # torch shows the last c only
        loss = loss + (last[1][0] * torch.tensor(grad_last_c)).sum()
        weights.append(np.concatenate([np.zeros((T - 1, B, H)), grad_last_c[None]]))
    loss.backward()

    trace = over_batch(forward, parameters, [x], states)
    close(trace["h"], ys.detach().numpy())
    if case == "lstm":
        close(trace["c"][-1], last[1][0].detach().numpy())
    gradients = over_batch(backward, parameters, [x, *weights], states)
    close(gradients["x"], tx.grad.numpy())
    for name, state in zip(("h0", "c0"), tstates, strict=False):
        close(gradients[name], state.grad.numpy())
    suffixes = [f"_{k}" if k else "" for k in gates]
    for letter, name in (("U", "weight_ih_l0"), ("W", "weight_hh_l0"), ("b", "bias_ih_l0")):
        together = np.concatenate([gradients[letter + s] for s in suffixes])
        close(together, getattr(module, name).grad.numpy())
    if case == "gru after":
        close(gradients["bh_n"], module.bias_hh_l0.grad.numpy()[2 * H :])


def test_vanilla_equals_torch() -> None:
    torch = pytest.importorskip("torch")
    generator = np.random.default_rng(8)
    parameters = vanilla_parameters(generator)
    x, h0 = generator.normal(size=(T, B, D)), generator.normal(size=(B, H))
    labels = generator.integers(V, size=(T, B))
    p = {name: torch.tensor(value, requires_grad=True) for name, value in parameters.items()}
    tx, th0 = torch.tensor(x, requires_grad=True), torch.tensor(h0, requires_grad=True)
    h, hs = th0, []
    for t in range(T):
        h = torch.tanh(p["b"] + h @ p["W"].T + tx[t] @ p["U"].T)
        h.retain_grad()
        hs.append(h)
    o = p["c"] + torch.stack(hs) @ p["V"].T
    loss = torch.nn.functional.cross_entropy(
        o.reshape(-1, V), torch.tensor(labels).reshape(-1), reduction="sum"
    )
    loss.backward()
    trace = over_batch(vanilla.forward, parameters, [x, labels], [h0])
    close(trace["loss"], loss.detach().numpy())
    close(trace["yhat"], torch.softmax(o, dim=-1).detach().numpy())
    gradients = over_batch(vanilla.backward, parameters, [x, labels], [h0])
    for name in parameters:
        close(gradients[name], p[name].grad.numpy())
    close(gradients["x"], tx.grad.numpy())
    close(gradients["h0"], th0.grad.numpy())
    close(gradients["nabla_h"], torch.stack([h.grad for h in hs]).numpy())


@pytest.mark.parametrize("reverse", [False, True])
def test_ragged_equals_torch_packed_sequences(reverse: bool) -> None:
    torch = pytest.importorskip("torch")
    generator = np.random.default_rng(9)
    parameters = gated(lstm.GATES, generator)
    x, lengths = generator.normal(size=(T, B, D)), [2, 4, 1]
    module = torch.nn.LSTM(D, H, bidirectional=True, dtype=torch.float64)
    with torch.no_grad():
        for name, value in module.named_parameters():
            if name.endswith("_reverse"):
                value.zero_()
    torch_weights(module, parameters, lstm.GATES)
    if reverse:  # the direction under test is torch's second one
        with torch.no_grad():
            for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
                getattr(module, f"{name}_reverse").copy_(getattr(module, name))
    states = [generator.normal(size=(B, H)) for _ in range(2)]
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        torch.tensor(x), torch.tensor(lengths), enforce_sorted=False
    )
    both = tuple(torch.tensor(np.stack([s, s])) for s in states)
    ys, last = module(packed, both)
    ys, _ = torch.nn.utils.rnn.pad_packed_sequence(ys, total_length=T)
    direction = int(reverse)
    expected = ys[..., direction * H : (direction + 1) * H].detach().numpy()
    actual, final = ragged.unroll(
        partial(lstm.step, parameters), x, (states[0], states[1]), lengths=lengths, reverse=reverse
    )
    close(actual, expected)
    close(final[0], last[0][direction].detach().numpy())
    close(final[1], last[1][direction].detach().numpy())


OPTIMIZERS = [
    ("SGD", optim.sgd, {"lr": 0.1}),
    ("SGD", optim.sgd, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    ("SGD", optim.sgd, {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}),
    ("SGD", optim.sgd, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    ("RMSprop", optim.rmsprop, {"lr": 0.01, "weight_decay": 0.01}),
    ("RMSprop", optim.rmsprop, {"lr": 0.01, "alpha": 0.9, "momentum": 0.8}),
    ("RMSprop", optim.rmsprop, {"lr": 0.01, "alpha": 0.9, "centered": True, "eps": 1e-4}),
    ("Adam", optim.adam, {"lr": 0.03, "betas": (0.8, 0.95)}),
    ("Adam", optim.adam, {"lr": 0.03, "weight_decay": 0.1, "eps": 1e-3}),
    ("AdamW", optim.adamw, {"lr": 0.03}),
    ("AdamW", optim.adamw, {"lr": 0.03, "weight_decay": 0.2, "eps": 1e-3}),
]


@pytest.mark.parametrize(("name", "update", "options"), OPTIMIZERS)
def test_optimizers_equal_torch(name: str, update: Callable, options: dict) -> None:
    """50 steps on f(p) = sum(p^4 / 4 - p^2 / 2 + t p / 10), whose gradients change sign."""
    torch = pytest.importorskip("torch")
    start = np.random.default_rng(10).normal(size=6)
    parameter = torch.tensor(start, requires_grad=True)
    optimizer = getattr(torch.optim, name)([parameter], **options)
    p, state = start, {}
    for t in range(50):
        parameter.grad = parameter.detach() ** 3 - parameter.detach() + t / 10
        optimizer.step()
        p = update(p, p**3 - p + t / 10, state, **options)
        close(p, parameter.detach().numpy())


SCHEDULES = [
    ("StepLR", {"step_size": 7, "gamma": 0.3}, partial(optim.step_lr, step_size=7, gamma=0.3)),
    ("CosineAnnealingLR", {"T_max": 30, "eta_min": 0.01},
     partial(optim.cosine_lr, total=30, minimum=0.01)),
    ("LinearLR", {"start_factor": 0.25, "total_iters": 12},
     partial(optim.warmup_lr, total=12, start=0.25)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "schedule"), SCHEDULES)
def test_schedules_equal_torch(name: str, options: dict, schedule: Callable) -> None:
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    theirs = getattr(torch.optim.lr_scheduler, name)(optimizer, **options)
    for step in range(31):
        close(np.array(schedule(0.5, step)), np.array(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("maximum", [0.5, 100.0])
def test_clipping_equals_torch(maximum: float) -> None:
    torch = pytest.importorskip("torch")
    generator = np.random.default_rng(11)
    gradients = [generator.normal(size=s) for s in ((3, 4), (5,), ())]
    for clip, options, theirs in (
        (optim.clip_global_norm, {"eps": 1e-6}, torch.nn.utils.clip_grad_norm_),
        (optim.clip_value, {}, torch.nn.utils.clip_grad_value_),
    ):
        tensors = [torch.zeros(g.shape, dtype=torch.float64, requires_grad=True) for g in gradients]
        for tensor, g in zip(tensors, gradients, strict=True):
            tensor.grad = torch.tensor(g)
        theirs(tensors, maximum)
        for mine, tensor in zip(clip(gradients, maximum, **options), tensors, strict=True):
            close(mine, tensor.grad.numpy())
