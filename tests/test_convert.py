"""Weights of other frameworks: loaded, exported, and what they then compute.

Expected values come from literal transcriptions of the frameworks (tests/oracles/frameworks.py) on
random weights whose shapes are written out here, and from torch and onnxruntime where they are.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
import minigrad_rnn as rnn
from minigrad import tree
from minigrad_rnn import convert, unroll
from tests.oracles import frameworks as theirs
from tests.oracles import onnx_lstm
from tests.recurrent import close, randomise, same_bits

T, B, D, H = 5, 3, 2, 4
LENGTHS = [2, 5, 4]

CELLS = {
    "rnn": rnn.RNNCell,
    "lstm": rnn.LSTMCell,
    "peephole lstm": rnn.PeepholeLSTMCell,
    "gru": rnn.GRUCell,
    "gru, reset before": lambda D, H, **kw: rnn.GRUCell(D, H, reset="before", **kw),
}


def torch_shapes(G, D, H):
    return {
        "weight_ih_l0": (G * H, D), "weight_hh_l0": (G * H, H),
        "bias_ih_l0": (G * H,), "bias_hh_l0": (G * H,),
    }  # fmt: skip


def keras_shapes(G, D, H, two=False):
    bias = (2, G * H) if two else (G * H,)
    return {"kernel": (D, G * H), "recurrent_kernel": (H, G * H), "bias": bias}


def onnx_shapes(G, D, H, P=False):
    shapes = {"W": (1, G * H, D), "R": (1, G * H, H), "B": (1, 2 * G * H)}
    return {**shapes, "P": (1, 3 * H)} if P else shapes


def flax_shapes(gates, biased, D, H):
    shapes = {f"i{k}/kernel": (D, H) for k in gates} | {f"h{k}/kernel": (H, H) for k in gates}
    return shapes | {f"{name}/bias": (H,) for name in biased}


def chainer_shapes(D, H):
    return {"upward/W": (4 * H, D), "lateral/W": (4 * H, H), "upward/b": (4 * H,)}


def haste_gru_shapes(D, H):
    return {**keras_shapes(3, D, H), "recurrent_bias": (3 * H,)}


# framework, kind of cell, the framework's own step, the shapes of its weights
CASES = [
    ("torch", "rnn", theirs.torch_rnn, lambda D, H: torch_shapes(1, D, H)),
    ("torch", "lstm", theirs.torch_lstm, lambda D, H: torch_shapes(4, D, H)),
    ("torch", "gru", theirs.torch_gru, lambda D, H: torch_shapes(3, D, H)),
    ("keras", "rnn", theirs.keras_rnn, lambda D, H: keras_shapes(1, D, H)),
    ("keras", "lstm", theirs.keras_lstm, lambda D, H: keras_shapes(4, D, H)),
    ("keras", "gru", theirs.keras_gru, lambda D, H: keras_shapes(3, D, H, two=True)),
    ("keras", "gru, reset before", theirs.keras_gru, lambda D, H: keras_shapes(3, D, H)),
    ("onnx", "rnn", theirs.onnx_rnn, lambda D, H: onnx_shapes(1, D, H)),
    ("onnx", "lstm", theirs.onnx_lstm, lambda D, H: onnx_shapes(4, D, H)),
    ("onnx", "peephole lstm", theirs.onnx_lstm, lambda D, H: onnx_shapes(4, D, H, P=True)),
    ("onnx", "gru", theirs.onnx_gru, lambda D, H: onnx_shapes(3, D, H)),
    ("onnx", "gru, reset before", theirs.onnx_gru_before, lambda D, H: onnx_shapes(3, D, H)),
    ("flax", "rnn", theirs.flax_rnn, lambda D, H: flax_shapes([""], ["i"], D, H)),
    ("flax", "lstm", theirs.flax_lstm,
     lambda D, H: flax_shapes("ifgo", ["hi", "hf", "hg", "ho"], D, H)),
    ("flax", "gru", theirs.flax_gru,
     lambda D, H: flax_shapes("rzn", ["ir", "iz", "in", "hn"], D, H)),
    ("chainer", "lstm", theirs.chainer_lstm, chainer_shapes),
    ("haste", "lstm", theirs.haste_lstm, lambda D, H: keras_shapes(4, D, H)),
    ("haste", "gru", theirs.haste_gru, haste_gru_shapes),
]  # fmt: skip
ALL = pytest.mark.parametrize(
    ("framework", "kind", "step", "shapes"), CASES, ids=[f"{case[0]} {case[1]}" for case in CASES]
)


def random_weights(shapes, rng):
    return {name: 0.5 * rng.normal(size=shape) for name, shape in shapes.items()}


def cell_like(kind, D, H, rng):
    return randomise(CELLS[kind](D, H, dtype="float64"), rng)


def same_arrays(ours, others):
    """Demand equal names, and equal bits under them."""
    assert ours.keys() == others.keys()
    for name, value in ours.items():
        assert value.shape == others[name].shape
        assert value.dtype == others[name].dtype
        assert value.tobytes() == others[name].tobytes(), name


# --- one cell, every framework -------------------------------------------------------------------


@ALL
def test_loaded_weights_compute_what_the_framework_computes(backend, framework, kind, step, shapes):
    rng = np.random.default_rng(1)
    cell, weights = CELLS[kind](D, H, dtype="float64"), random_weights(shapes(D, H), rng)
    convert.load(cell, weights, framework)
    x = rng.normal(size=(T, B, D))
    close(unroll(cell, mg.Tensor(x))[0], theirs.run(step, weights, x, H))


@ALL
@settings(max_examples=6)
@given(sizes=st.tuples(*(st.integers(1, 4) for _ in range(4))), seed=st.integers(0, 99))
def test_both_ways_at_any_size(framework, kind, step, shapes, sizes, seed):
    """Exported weights compute the same there; back here, and there again, no bit differs."""
    T, B, D, H = sizes
    rng = np.random.default_rng(seed)
    cell, x = cell_like(kind, D, H, rng), rng.normal(size=(T, B, D))
    weights = convert.export(cell, framework)
    assert {name: value.shape for name, value in weights.items()} == shapes(D, H)
    close(unroll(cell, mg.Tensor(x))[0], theirs.run(step, weights, x, H))
    back = CELLS[kind](D, H, dtype="float64")
    convert.load(back, weights, framework)
    same_bits(back.state_dict(), cell.state_dict())
    same_arrays(convert.export(back, framework), weights)


def test_a_bias_of_minus_zero_comes_back_with_its_sign():
    cell = rnn.LSTMCell(D, H, dtype="float64")
    cell.b.assign(np.full(4 * H, -0.0))
    back = rnn.LSTMCell(D, H, dtype="float64")
    convert.load(back, convert.export(cell, "torch"), "torch")
    same_bits(back.b, cell.b)


@pytest.mark.parametrize("framework", ["torch", "keras", "onnx"])
@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_without_biases(framework, kind):
    cell = CELLS[kind](D, H, bias=False, dtype="float64")
    weights = convert.export(cell, framework)
    assert not any("bias" in name or name == "B" for name in weights)
    back = CELLS[kind](D, H, bias=False, dtype="float64")
    convert.load(back, weights, framework)
    same_bits(back.state_dict(), cell.state_dict())


# --- layers and directions -----------------------------------------------------------------------


def layers_of(kind, depth, rng=None):
    """A network of `depth` bidirectional layers, with random weights where there is an rng."""
    sizes = [D, *(2 * H for _ in range(depth - 1))]
    make = CELLS[kind]
    net = rnn.Layers(
        [rnn.Bidirectional(*(make(n, H, dtype="float64") for _ in range(2))) for n in sizes]
    )
    return net if rng is None else randomise(net, rng)


SEVERAL = [case for case in CASES if case[0] != "onnx"]


@pytest.mark.parametrize(
    ("framework", "kind", "step", "shapes"), SEVERAL, ids=[f"{c[0]} {c[1]}" for c in SEVERAL]
)
def test_two_layers_in_both_directions(framework, kind, step, shapes):
    rng = np.random.default_rng(3)
    net, x = layers_of(kind, 2, rng), rng.normal(size=(T, B, D))
    weights = convert.export(net, framework)
    ys = x
    for number in range(2):
        hs = []
        for reverse in (False, True):
            if framework == "torch":
                end = f"_l{number}" + "_reverse" * reverse
                one = {k.removesuffix(end) + "_l0": v for k, v in weights.items()
                       if k.endswith(end)}  # fmt: skip
            else:
                start = f"{number}/{'backward' if reverse else 'forward'}/"
                one = {k.removeprefix(start): v for k, v in weights.items() if k.startswith(start)}
            hs.append(theirs.run(step, one, ys, H, reverse))
        ys = np.concatenate(hs, axis=-1)
    close(net(mg.Tensor(x))[0], ys)
    back = layers_of(kind, 2)
    convert.load(back, weights, framework)
    same_bits(back.state_dict(), net.state_dict())


@pytest.mark.parametrize("lengths", [[T] * B, LENGTHS])
def test_both_directions_with_peepholes_by_onnxs_specification(backend, lengths):
    rng = np.random.default_rng(4)
    shapes = {"W": (2, 4 * H, D), "R": (2, 4 * H, H), "B": (2, 8 * H), "P": (2, 3 * H)}
    weights, x = random_weights(shapes, rng), rng.normal(size=(T, B, D))
    layer = rnn.Bidirectional(*(rnn.PeepholeLSTMCell(D, H, dtype="float64") for _ in range(2)))
    convert.load(layer, weights, "onnx")
    Y, _, _ = onnx_lstm.lstm(x, *weights.values(), np.array(lengths))
    ys, _ = layer(mg.Tensor(x), lengths=lengths)
    close(ys, np.concatenate([Y[:, 0], Y[:, 1]], axis=-1))


def test_several_layers_of_onnx_are_numbered():
    net = layers_of("gru", 2, np.random.default_rng(5))
    weights = convert.export(net, "onnx")
    assert {name: value.shape for name, value in weights.items()} == {
        "0/W": (2, 3 * H, D), "0/R": (2, 3 * H, H), "0/B": (2, 6 * H),
        "1/W": (2, 3 * H, 2 * H), "1/R": (2, 3 * H, H), "1/B": (2, 6 * H),
    }  # fmt: skip
    back = layers_of("gru", 2)
    convert.load(back, weights, "onnx")
    same_bits(back.state_dict(), net.state_dict())


def test_wrappers_around_a_cell_keep_its_weights():
    """Wiring and regularisers are no weights: a Stack, a Residual and a Zoneout look through."""
    rng = np.random.default_rng(6)
    net = rnn.Stack([rnn.LSTMCell(D, H, dtype="float64"), rnn.LSTMCell(H, H, dtype="float64")])
    weights = convert.export(randomise(net, rng), "torch")
    wrapped = rnn.Stack(
        [
            rnn.Zoneout(rnn.RecurrentDropoutLSTMCell(D, H, dtype="float64")),
            rnn.Residual(rnn.VariationalDropout(rnn.LSTMCell(H, H, dtype="float64"))),
        ]
    )
    convert.load(wrapped, weights, "torch")
    same_arrays(convert.export(wrapped, "torch"), weights)


# --- against the frameworks that are installed ---------------------------------------------------


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_state_dict_of_torch_as_it_is(backend, kind, bias):
    """Two bidirectional layers, ragged lengths, within a larger state dict; and the way back."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(7)
    make = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[kind]
    net = make(D, H, num_layers=2, bidirectional=True, bias=bias).double()
    model = torch.nn.ModuleDict({"encoder": net, "out": torch.nn.Linear(2, 2)})
    sizes = (D, 2 * H)
    ours = rnn.Layers(
        [
            rnn.Bidirectional(*(CELLS[kind](n, H, bias=bias, dtype="float64") for _ in range(2)))
            for n in sizes
        ]
    )
    convert.load(ours, model.state_dict(), "torch", prefix="encoder.")
    x = np.random.default_rng(8).normal(size=(T, B, D))
    ys, _ = ours(mg.Tensor(x), lengths=LENGTHS)
    close(ys, packed_run(torch, net, x))
    randomise(ours, np.random.default_rng(9))
    exported = {name: torch.tensor(v) for name, v in convert.export(ours, "torch").items()}
    net.load_state_dict(exported)
    close(ours(mg.Tensor(x), lengths=LENGTHS)[0], packed_run(torch, net, x))


def packed_run(torch, net, x):
    utilities = torch.nn.utils.rnn
    packed = utilities.pack_padded_sequence(torch.tensor(x), LENGTHS, enforce_sorted=False)
    return utilities.pad_packed_sequence(net(packed)[0], total_length=T)[0].detach().numpy()


@pytest.mark.parametrize("bias", [True, False])
def test_a_projection_of_torch(backend, bias):
    torch = pytest.importorskip("torch")
    torch.manual_seed(10)
    net = torch.nn.LSTM(D, H, proj_size=3, bias=bias).double()
    ours = rnn.ProjectedLSTMCell(D, H, 3, bias=bias, dtype="float64")
    convert.load(ours, net.state_dict(), "torch")
    x = np.random.default_rng(11).normal(size=(T, B, D))
    close(unroll(ours, mg.Tensor(x))[0], net(torch.tensor(x))[0].detach().numpy())


def test_a_projection_in_the_layout_of_torch():
    rng = np.random.default_rng(12)
    cell = randomise(rnn.ProjectedLSTMCell(D, H, 3, dtype="float64"), rng)
    weights, x = convert.export(cell, "torch"), rng.normal(size=(T, B, D))
    assert weights["weight_hr_l0"].shape == (3, H)
    h, c, expected = np.zeros((B, 3)), np.zeros((B, H)), []
    for x_t in x:
        h, c = theirs.torch_lstm(weights, x_t, h, c)
        expected.append(h)
    close(unroll(cell, mg.Tensor(x))[0], np.array(expected))


def onnx_model(operator, weights, **attributes):
    """A model of one recurrent operator with inputs X, lens and the weights, in float32."""
    onnx = pytest.importorskip("onnx")
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    inputs = ["X", "W", "R", "B", "lens"] + (["", "", "P"] if "P" in weights else [])
    node = helper.make_node(operator, inputs, ["Y"], hidden_size=H, **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("X", float32, (T, B, D))]
        + [helper.make_tensor_value_info("lens", onnx.TensorProto.INT32, (B,))]
        + [helper.make_tensor_value_info(k, float32, v.shape) for k, v in weights.items()],
        [helper.make_tensor_value_info("Y", float32, None)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)


ONNX = {
    "rnn": ("RNN", {}),
    "lstm": ("LSTM", {}),
    "peephole lstm": ("LSTM", {}),
    "gru": ("GRU", {"linear_before_reset": 1}),
    "gru, reset before": ("GRU", {"linear_before_reset": 0}),
}


@pytest.mark.parametrize("kind", ONNX)
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("lengths", [[T] * B, LENGTHS])
def test_what_onnxruntime_makes_of_exported_weights(kind, directions, lengths):
    runtime = pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(13)
    cells = [cell_like(kind, D, H, rng) for _ in range(directions)]
    layer = rnn.Bidirectional(*cells) if directions == 2 else rnn.Recurrent(*cells)
    weights, x = convert.export(layer, "onnx"), rng.normal(size=(T, B, D))
    operator, attributes = ONNX[kind]
    direction = ("forward", "bidirectional")[directions - 1]
    model = onnx_model(operator, weights, direction=direction, **attributes)
    values = {name: v.astype("float32") for name, v in {"X": x, **weights}.items()}
    session = runtime.InferenceSession(model.SerializeToString())
    [Y] = session.run(None, {**values, "lens": np.array(lengths, "int32")})
    expected = np.concatenate([Y[:, d] for d in range(directions)], axis=-1)
    close(layer(mg.Tensor(x), lengths=lengths)[0], expected, 2e-6)


@pytest.mark.parametrize("kind", ["lstm", "peephole lstm", "gru", "gru, reset before"])
def test_what_onnxs_reference_makes_of_exported_weights(kind):
    pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    rng = np.random.default_rng(14)
    cell, x = cell_like(kind, D, H, rng), rng.normal(size=(T, B, D))
    weights = convert.export(cell, "onnx")
    operator, attributes = ONNX[kind]
    values = {name: v.astype("float32") for name, v in {"X": x, **weights}.items()}
    run = ReferenceEvaluator(onnx_model(operator, weights, **attributes)).run
    [Y] = run(None, {**values, "lens": np.full(B, T, "int32")})
    close(unroll(cell, mg.Tensor(x))[0], Y[:, 0], 1e-6)


# --- what does not fit ---------------------------------------------------------------------------


def test_one_error_lists_everything_that_does_not_fit():
    rng = np.random.default_rng(15)
    net = layers_of("lstm", 2, rng)
    before = {name: value.numpy().copy() for name, value in net.state_dict().items()}
    weights = convert.export(layers_of("lstm", 2, rng), "torch")
    weights["weight_ih_l1"] = weights["weight_ih_l1"][:-1]
    weights["bias_ih_l0_revers"] = weights.pop("bias_ih_l0_reverse")
    weights["weight_hh_l2"] = weights["weight_hh_l1"]
    weights["bias_hh_l0"] = weights["bias_hh_l0"].astype("float32")
    with pytest.raises(mg.StateDictError) as caught:
        convert.load(net, weights, "torch")
    for part in (
        "the weights do not fit Layers and torch",
        "missing: bias_ih_l0_reverse",
        "unexpected: bias_ih_l0_revers (did you mean bias_ih_l0_reverse?)",
        "unexpected: weight_hh_l2",
        "weight_ih_l1: shape (15, 8) instead of (16, 8)",
        "bias_hh_l0: dtype float32 instead of float64",
    ):
        assert part in str(caught.value)
    same_arrays({name: value.numpy() for name, value in net.state_dict().items()}, before)


def test_weights_come_by_name():
    with pytest.raises(mg.StateDictError, match="a dict of arrays by name, not a list"):
        convert.load(rnn.LSTMCell(D, H), list(convert.export(rnn.LSTMCell(D, H), "keras")), "keras")


def test_kerass_bias_shows_where_it_resets():
    weights = convert.export(rnn.GRUCell(D, H, reset="before"), "keras")
    with pytest.raises(mg.StateDictError, match=r"bias: shape \(12,\) instead of \(2, 12\)"):
        convert.load(rnn.GRUCell(D, H), weights, "keras")


@pytest.mark.parametrize(
    ("cell", "framework", "message"),
    [
        (rnn.GRUCell(D, H, reset="before"), "torch", "torch has no gru, reset before"),
        (rnn.GRUCell(D, H, reset="before"), "flax", "flax has no gru, reset before"),
        (rnn.PeepholeLSTMCell(D, H), "keras", "keras has no peephole lstm"),
        (rnn.PeepholeLSTMCell(D, H, peephole="full"), "onnx", "onnx has no full peephole lstm"),
        (rnn.ProjectedLSTMCell(D, H, 2), "onnx", "onnx has no projected lstm"),
        (rnn.BookLSTMCell(D, H), "torch", "torch has no BookLSTMCell"),
        (rnn.GRUCell(D, H), "chainer", "chainer has no gru"),
        (rnn.LSTMCell(D, H, bias=False), "flax", "flax's lstm always has biases"),
        (rnn.LSTMCell(D, H), "pytorch", "framework='pytorch': give one of 'torch', 'keras'"),
    ],
)
def test_what_a_framework_cannot_express_is_refused(cell, framework, message):
    with pytest.raises(ValueError, match=message):
        convert.export(cell, framework)
    with pytest.raises(ValueError, match=message):
        convert.load(cell, {}, framework)


@pytest.mark.parametrize("framework", ["torch", "keras", "onnx"])
@pytest.mark.parametrize(
    ("ahead", "behind", "message"),
    [
        (rnn.LSTMCell(D, H), rnn.LSTMCell(D, H, bias=False), r"lstm .*, b \(16,\) and lstm "),
        (rnn.LSTMCell(D, H, bias=False), rnn.LSTMCell(D, H), r" and lstm .*, b \(16,\)"),
        (rnn.LSTMCell(D, H), rnn.GRUCell(D, H), "lstm .* and gru"),
        (rnn.LSTMCell(D, H), rnn.LSTMCell(D, H + 1), r"Wh \(4, 16\).* and .*Wh \(5, 20\)"),
    ],
    ids=["bias ahead", "bias behind", "kind", "size"],
)
def test_two_directions_that_are_not_alike(framework, ahead, behind, message):
    model = rnn.Bidirectional(ahead, behind)
    with pytest.raises(ValueError, match=f"two directions are to be of one kind, not .*{message}"):
        convert.export(model, framework)
    before = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="two directions"):
        convert.load(model, {}, framework)
    same_arrays({name: value.numpy() for name, value in model.state_dict().items()}, before)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (rnn.LearnedState(rnn.LSTMCell(D, H)), "start.0"),
        (rnn.OutputFeedback(rnn.RNNCell(D, H), mg.nn.Linear(H, D)), "readout.W"),
        (rnn.Stack([rnn.LSTMCell(D, H), rnn.LearnedState(rnn.LSTMCell(H, H))]), "cells.1.start.0"),
    ],
)
def test_what_is_no_cells_is_not_dropped(model, name):
    with pytest.raises(ValueError, match=f"{name} is no cell's, and would be lost"):
        convert.export(model, "torch")
    with pytest.raises(ValueError, match=f"{name} is no cell's"):
        convert.load(model, {}, "torch")


def test_names_that_are_no_text():
    with pytest.raises(mg.StateDictError, match="the names of weights are text, not 0"):
        convert.load(rnn.LSTMCell(D, H), {0: np.ones(1)}, "torch")


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
@pytest.mark.parametrize("framework", ["torch", "keras", "onnx", "flax", "haste"])
def test_exported_weights_go_through_a_file(tmp_path, framework, suffix):
    net, path = layers_of("gru", 2, np.random.default_rng(16)), tmp_path / f"weights.{suffix}"
    mg.save(path, convert.export(net, framework))
    back = layers_of("gru", 2)
    convert.load(back, mg.load(path)[0], framework)
    same_bits(back.state_dict(), net.state_dict())


def test_exported_arrays_are_copies():
    cell = rnn.RNNCell(D, H)
    convert.export(cell, "keras")["kernel"][:] = 0
    assert cell.Wx.numpy().any()
    assert all(a.flags.c_contiguous for a in convert.export(cell, "torch").values())
    assert tree.flatten(convert.export(cell, "flax"))[0][0].flags.writeable
