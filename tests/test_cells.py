"""RNN, LSTM and GRU cells against literal transcriptions, PyTorch and bad input."""

import copy

import numpy as np
import pytest

import minigrad as mg
import minigrad_rnn as rnn
from minigrad import tree
from tests.oracles import packing
from tests.oracles import rnn as plain
from tests.oracles.batch import over_batch
from tests.recurrent import (
    KINDS,
    close,
    compare_with_torch,
    complex_step,
    gradients,
    leaf,
    oracle_parameters,
    packed,
    plain_for,
    random_cell,
    random_state,
    torch_layers,
)

T, B, D, H = 5, 3, 4, 6
ALL = pytest.mark.parametrize("kind", KINDS)


def run_both(kind, cell, rng, dtype):
    """Every value and gradient of sum over the states' parts times random arrays: ours, expected.

    The state h counts once as y and once as itself, so that both uses are seen.
    """
    parts = KINDS[kind].parts
    x = leaf(rng.normal(size=(T, B, D)), dtype)
    state = random_state(cell, B, rng)
    weights = [rng.normal(size=(T, B, H)).astype(dtype) for _ in parts]
    ys, states = plain_for(cell, x, state)
    traces = [mg.stack(part) for part in zip(*(tree.flatten(s)[0] for s in states), strict=True)]
    close(mg.stack(ys), traces[0].numpy(), 0)
    loss = mg.sum(mg.stack(ys) * mg.Tensor(weights[0]))
    for trace, weight in zip(traces[1:], weights[1:], strict=True):
        loss = loss + mg.sum(trace * mg.Tensor(weight))
    ours = dict(zip(parts, (trace.numpy() for trace in traces), strict=True))
    names = [*dict(cell.named_parameters()), "x", *(f"{part}0" for part in parts)]
    ours |= zip(names, gradients(loss, cell.parameters(), x, state), strict=True)

    parameters = oracle_parameters(kind, cell)
    exact = [s.numpy().astype("float64") for s in tree.flatten(state)[0]]
    timed = [a.astype("float64") for a in (x.numpy(), *weights)]
    expected = over_batch(KINDS[kind].forward, parameters, timed[:1], exact)
    result = over_batch(KINDS[kind].backward, parameters, timed, exact)
    expected |= packed(kind, result) | {n: result[n] for n in names if n.endswith("0") or n == "x"}
    return ours, {name: expected[name] for name in ours}


@ALL
def test_values_and_all_gradients_equal_the_transcription(backend, kind):
    rng = np.random.default_rng(1)
    cell = random_cell(kind, D, H, rng)
    ours, expected = run_both(kind, cell, rng, "float64")
    for name, value in expected.items():
        close(ours[name], value, 1e-12)


@ALL
def test_float32_keeps_its_dtype_and_stays_near_the_exact_result(backend, kind):
    rng = np.random.default_rng(2)
    cell = random_cell(kind, D, H, rng, "float32")
    ours, expected = run_both(kind, cell, rng, "float32")
    for name, value in expected.items():
        assert ours[name].dtype == "float32"
        close(ours[name], value, 1e-6 * T**0.5 if name in KINDS[kind].parts else 1e-5)


def test_an_activation_of_choice(backend):
    rng = np.random.default_rng(3)
    cell = rnn.RNNCell(D, H, activation=mg.functional.relu, dtype="float64")
    cell.load_state_dict(random_cell("rnn", D, H, rng).state_dict())
    x, h0, weight = (rng.normal(size=s) for s in ((T, B, D), (B, H), (T, B, H)))
    ys, _ = plain_for(cell, mg.Tensor(x), mg.Tensor(h0))
    found = gradients(mg.sum(mg.stack(ys) * mg.Tensor(weight)), cell.parameters())
    result = over_batch(
        lambda p, x, g, h: plain.backward(p, x, g, h, "relu"),
        oracle_parameters("rnn", cell),
        [x, weight],
        [h0],
    )
    for ours, expected in zip(found, packing.pack(result), strict=True):
        close(ours, expected)


@ALL
def test_without_biases_equals_biases_of_zero(backend, kind):
    rng = np.random.default_rng(4)
    options = {"reset": "before"} if kind == "gru before" else {}
    make = {"rnn": rnn.RNNCell, "lstm": rnn.LSTMCell}.get(kind, rnn.GRUCell)
    bare = make(D, H, bias=False, dtype="float64", **options)
    full = make(D, H, dtype="float64", **options)
    weights = full.state_dict()
    bare.load_state_dict({name: weights[name] for name in ("Wx", "Wh")})
    full.load_state_dict({n: v if n[0] == "W" else mg.zeros_like(v) for n, v in weights.items()})
    x, state = mg.Tensor(rng.normal(size=(B, D))), random_state(full, B, rng)
    close(bare(x, state)[0], full(x, state)[0].numpy(), 0)
    assert [name for name, _ in bare.named_parameters()] == ["Wx", "Wh"]


@ALL
def test_second_derivatives(backend, kind):
    rng = np.random.default_rng(5)
    cell = random_cell(kind, 2, 2, rng)
    values = [p.detach() for p in cell.parameters()]

    def two_steps(x, state, *weights):
        copied = copy.copy(cell)
        for (name, _), weight in zip(cell.named_parameters(), weights, strict=True):
            setattr(copied, name, weight)
        return plain_for(copied, x, state)[1][-1]

    x, state = mg.Tensor(rng.normal(size=(2, 1, 2))), random_state(cell, 1, rng)
    assert mg.gradcheck(two_steps, x, state, *values, order=2)


# --- initial values ------------------------------------------------------------------------------


@ALL
def test_default_initial_values(backend, kind):
    mg.random.seed(7)
    cell = KINDS[kind].make(D, H, dtype="float64")
    G = len(KINDS[kind].gates)
    weights = {name: p.numpy() for name, p in cell.named_parameters()}
    shapes = {"Wx": (D, G * H), "Wh": (H, G * H), "b": (G * H,)}
    assert {n: w.shape for n, w in weights.items()} == shapes | (
        {"bh": (H,)} if kind == "gru" else {}
    )
    bound = (6 / (D + H)) ** 0.5
    assert 0.8 * bound < np.abs(weights["Wx"]).max() <= bound
    for gate in np.split(weights["Wh"], G, axis=1):
        np.testing.assert_allclose(gate.T @ gate, np.eye(H), atol=1e-12)
    ones = np.zeros(G * H)
    if kind == "lstm":
        ones[H : 2 * H] = 1
    np.testing.assert_array_equal(weights["b"], ones)


@ALL
def test_torch_initial_values_are_uniform_within_one_over_root_h(backend, kind):
    mg.random.seed(8)
    options = {"reset": "before"} if kind == "gru before" else {}
    make = {"rnn": rnn.RNNCell, "lstm": rnn.LSTMCell}.get(kind, rnn.GRUCell)
    cell = make(40, 100, init="torch", **options)
    for parameter in cell.parameters():
        values = parameter.numpy()
        assert 0.095 < np.abs(values).max() <= 0.1
        assert abs(values.mean()) < 0.02


@ALL
def test_the_zero_state_has_the_weights_dtype_and_backend(backend, kind):
    cell = KINDS[kind].make(D, H, dtype="float64")
    parts = tree.flatten(cell.initial_state(B))[0]
    assert len(parts) == len(KINDS[kind].parts)
    with mg.use_backend("numpy"):
        parts += tree.flatten(cell.initial_state(B))[0]
    for part in parts:
        assert (part.shape, part.dtype, part.backend) == ((B, H), "float64", cell.Wh.backend)
        assert not part.numpy().any()


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: rnn.LSTMCell(0, 4), "D=0: give an integer >= 1"),
        (lambda: rnn.LSTMCell(3, 4.5), r"H=4\.5: give an integer >= 1"),
        (lambda: rnn.RNNCell(True, 4), "D=True: give an integer >= 1"),
        (lambda: rnn.GRUCell(3, -1), "H=-1: give an integer >= 1"),
        (lambda: rnn.GRUCell(3, 4, bias=1), "bias=1: give True or False"),
        (lambda: rnn.GRUCell(3, 4, reset="never"), "reset='never': give 'after' or 'before'"),
        (lambda: rnn.RNNCell(3, 4, init="he"), "init='he': give one of 'default', 'torch'"),
    ],
)
def test_bad_constructor_arguments_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@ALL
def test_shapes_and_dtypes_that_do_not_fit(backend, kind):
    cell = KINDS[kind].make(D, H, dtype="float64")
    x, state = mg.zeros((B, D), dtype="float64"), cell.initial_state(B)
    with pytest.raises(mg.ShapeError, match=r"x has shape \(3, 5\).* the 4 features"):
        cell(mg.zeros((B, 5), dtype="float64"), state)
    with pytest.raises(mg.ShapeError, match=r"a state of shape \(3, 6\), not \(1, 6\)"):
        cell(x, cell.initial_state(1))
    with pytest.raises(mg.DtypeError, match=r"float32.*float64"):
        cell(x.astype("float32"), state)


# --- PyTorch -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_equals_torch(backend, kind):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(11)
    net, [[cell]] = torch_layers(torch, kind, D, H, 1, False, seed=11)
    x, weight = rng.normal(size=(T, B, D)), rng.normal(size=(T, B, H))
    start = [rng.normal(size=(B, H)) for _ in KINDS[kind].parts]

    x_t = torch.tensor(x, requires_grad=True)
    start_t = [torch.tensor(s[None], requires_grad=True) for s in start]
    y_t, _ = net(x_t, tuple(start_t) if kind == "lstm" else start_t[0])
    (y_t * torch.tensor(weight)).sum().backward()

    x_m, start_m = leaf(x), [leaf(s) for s in start]
    ys, _ = plain_for(cell, x_m, tuple(start_m) if kind == "lstm" else start_m[0])
    close(mg.stack(ys), y_t.detach().numpy())
    mg.sum(mg.stack(ys) * mg.Tensor(weight)).backward()
    close(x_m.grad, x_t.grad.numpy())
    for ours, theirs in zip(start_m, start_t, strict=True):
        close(ours.grad, theirs.grad.numpy()[0])
    compare_with_torch(kind, net, [[cell]])


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_two_biases_in_the_layout_of_torch(backend, kind):
    """torch's equations written with its two biases, differentiated by complex step."""
    rng = np.random.default_rng(12)
    G, D, H = len(KINDS[kind].gates), 2, 2
    shapes = {"w_ih": (G * H, D), "w_hh": (G * H, H), "b_ih": (G * H,), "b_hh": (G * H,)}
    w = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    xs, weight = rng.normal(size=(3, D)), rng.normal(size=H)
    cell = KINDS[kind].make(D, H, dtype="float64")
    cell.load_state_dict(torch_folded(kind, H, w))
    ys, _ = plain_for(cell, mg.Tensor(xs[:, None]), cell.initial_state(1))
    close(ys[-1], torch_last(kind, H, w, xs)[None])
    mg.sum(ys[-1] * mg.Tensor(weight)).backward()
    grads = {n: complex_step(lambda w: weight @ torch_last(kind, H, w, xs), w, n) for n in w}
    close(cell.Wx.grad, grads["w_ih"].T)
    close(cell.Wh.grad, grads["w_hh"].T)
    close(cell.b.grad, grads["b_ih"])
    close((cell.bh if kind == "gru" else cell.b).grad, grads["b_hh"][-H if kind == "gru" else 0 :])


def torch_folded(kind, H, w):
    b = w["b_ih"] + w["b_hh"]
    if kind != "gru":
        return {"Wx": w["w_ih"].T, "Wh": w["w_hh"].T, "b": b}
    b[2 * H :] = w["b_ih"][2 * H :]
    return {"Wx": w["w_ih"].T, "Wh": w["w_hh"].T, "b": b, "bh": w["b_hh"][2 * H :]}


def torch_last(kind, H, w, xs):
    """h after the last step, as torch's documentation writes its RNN, LSTM and GRU."""
    sigmoid = lambda a: 1 / (1 + np.exp(-a))  # noqa: E731
    h, c = np.zeros(H), np.zeros(H)
    for x in xs:
        a, q = w["w_ih"] @ x + w["b_ih"], w["w_hh"] @ h + w["b_hh"]
        if kind == "rnn":
            h = np.tanh(a + q)
        elif kind == "lstm":
            i, f, g, o = np.split(a + q, 4)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        else:
            r, z = sigmoid(a[:H] + q[:H]), sigmoid(a[H : 2 * H] + q[H : 2 * H])
            n = np.tanh(a[2 * H :] + r * q[2 * H :])
            h = (1 - z) * n + z * h
    return h
