"""Weights from and to PyTorch, Keras, ONNX, Flax, Chainer and Haste, as dicts of NumPy arrays.

    load(model, network.state_dict(), "torch")      export(model, "torch")

A layout says which arrays a framework keeps, under which names, and in which order their gates
stand. All conversion goes gate by gate, through one pair of functions, `_taken_apart` and
`_put_together`, of which this project's own weights are the first case.

Each layout numbers layers and directions as its framework does. torch: `weight_ih_l1_reverse`.
The others have one object a layer, and names begin with the layer's number, from 0, and the
direction where there are several: `1/backward/kernel`. ONNX stacks directions along the first axis.
Both directions of a layer must be alike. minigrad.save takes what `export` gives.
Keras gives them as {v.name: v.numpy() for v in layer.weights}, Flax as
flax.traverse_util.flatten_dict(parameters of the cell, sep="/").
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import minigrad as mg
from minigrad_rnn.cells import GRUCell, LSTMCell, RNNCell
from minigrad_rnn.compose import Bidirectional, Layers, Stack
from minigrad_rnn.gated import PeepholeLSTMCell, ProjectedLSTMCell
from minigrad_rnn.regularize import RecurrentDropoutLSTMCell

Arrays = dict[str, np.ndarray]
Blocks = dict[tuple[str, str], np.ndarray]  # (what, gate): matrices (in, H), vectors (H,)


# --- the layouts ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Array:
    """One array of a framework: the blocks of `parts`, gate after gate, side by side.

    Parts: x and h, what multiplies the input and the state; b, the sum of the biases, or bx and bh
    beside either; p, the peepholes; y, the projection. gates: their order where it is not the
    layout's. rows: it is folded into so many. `{gate}` in a name: one array a gate.
    """

    name: str
    parts: tuple[str, ...]
    gates: str = ""
    rows: int = 0


@dataclass(frozen=True)
class Layout:
    """How a framework keeps weights: the order of gates, and the arrays of each kind of cell.

    Gates have this project's letters: i, f, g, o of an LSTM (Keras and ONNX call g c) and r, z, n
    of a GRU (n is their h). out_first: matrices are (out, in). interleaved: unit after unit, each
    with all its gates, not gate after gate.
    """

    orders: Mapping[str, str]
    arrays: Mapping[str, tuple[Array, ...]]
    out_first: bool = False
    interleaved: bool = False
    always_biased: bool = False

    def order(self, kind: str) -> Sequence[str]:
        """The gates of a kind of cell; the vanilla cell has one without a name."""
        return self.orders.get(kind, ("",))


def _arrays(x: str, h: str, *others: Array) -> tuple[Array, ...]:
    return (Array(x, ("x",)), Array(h, ("h",)), *others)


_OURS = _arrays("Wx", "Wh", Array("b", ("b",)))
_TORCH = _arrays(
    "weight_ih", "weight_hh", Array("bias_ih", ("bx",)), Array("bias_hh", ("bh",))
)  # fmt: skip
_KERAS = _arrays("kernel", "recurrent_kernel", Array("bias", ("b",)))
_ONNX = _arrays("W", "R", Array("B", ("bx", "bh")))
_HASTE_GRU = (Array("bias", ("bx",)), Array("recurrent_bias", ("bh",)))

LSTMS = ("lstm", "peephole lstm", "projected lstm")
GRUS = ("gru", "gru, reset before")


def _orders(lstm: str, gru: str) -> dict[str, str]:
    return dict.fromkeys(LSTMS, lstm) | dict.fromkeys(GRUS, gru)


OURS = Layout(
    _orders("ifgo", "rzn"),
    {
        "rnn": _OURS,
        "lstm": _OURS,
        "peephole lstm": (*_OURS, Array("p", ("p",), "ifo", rows=3)),
        "projected lstm": (*_OURS, Array("Wy", ("y",))),
        "gru": (*_OURS, Array("bh", ("bh",), "n")),
        "gru, reset before": _OURS,
    },
)
LAYOUTS = {
    "torch": Layout(  # torch/nn/modules/rnn.py
        _orders("ifgo", "rzn"),
        {
            **dict.fromkeys(("rnn", "lstm", "gru"), _TORCH),
            "projected lstm": (*_TORCH, Array("weight_hr", ("y",))),
        },
        out_first=True,
    ),
    "keras": Layout(  # keras/src/layers/rnn/lstm.py, gru.py
        _orders("ifgo", "zrn"),
        {
            **dict.fromkeys(("rnn", "lstm", "gru, reset before"), _KERAS),
            "gru": (*_KERAS[:2], Array("bias", ("bx", "bh"), rows=2)),
        },
    ),
    "onnx": Layout(  # operators RNN, LSTM, GRU; after the product is linear_before_reset = 1
        _orders("iofg", "zrn"),
        {
            **dict.fromkeys(("rnn", "lstm", *GRUS), _ONNX),
            "peephole lstm": (*_ONNX, Array("P", ("p",), "iof")),
        },
        out_first=True,
    ),
    "flax": Layout(  # flax/linen/recurrent.py
        _orders("ifgo", "rzn"),
        {
            "rnn": _arrays("i{gate}/kernel", "h{gate}/kernel", Array("i{gate}/bias", ("b",))),
            "lstm": _arrays("i{gate}/kernel", "h{gate}/kernel", Array("h{gate}/bias", ("b",))),
            "gru": _arrays(
                "i{gate}/kernel",
                "h{gate}/kernel",
                Array("i{gate}/bias", ("b",)),
                Array("h{gate}/bias", ("bh",), "n"),
            ),
        },
        always_biased=True,
    ),
    "chainer": Layout(  # chainer/links/rnn/lstm.py; F.lstm's gates a, i, f, o of each unit
        _orders("gifo", ""),
        {"lstm": _arrays("upward/W", "lateral/W", Array("upward/b", ("b",)))},
        out_first=True,
        interleaved=True,
        always_biased=True,
    ),
    "haste": Layout(  # haste/frameworks/pytorch/lstm.py, gru.py
        _orders("igfo", "zrn"),
        {"lstm": _KERAS, "gru": (*_KERAS[:2], *_HASTE_GRU)},
        always_biased=True,
    ),
}


# --- the two functions ---------------------------------------------------------------------------


def export(model: Any, framework: str) -> Arrays:
    """The weights of a cell, Stack, Layers or Bidirectional under a framework's names, copied.

    Where a framework has two biases, the second one is 0 but where it is a term of its own (inside
    the GRU's reset). What the cells compute does not change, and `load` gives the same bits back.
    Raises ValueError for a framework that is not known, for a cell that it does not have, for two
    directions that are not alike, and for a model with parameters that are no cell's.
    """
    layout = _layout(framework)
    found: Arrays = {}
    depth = len(layers := list(_layers(model)))
    for number, cells in enumerate(layers):
        parts = [_converted(cell, layout, framework) for cell in cells]
        if len(kinds := {_described(cell): None for cell in cells}) > 1:
            raise ValueError(f"two directions are to be of one kind, not {' and '.join(kinds)}")
        for name in parts[0]:
            for direction, arrays in zip(("forward", "backward"), parts):
                place = _place(framework, name, number, direction, depth, len(parts))
                if framework == "onnx":
                    found[place] = np.stack([arrays[name] for arrays in parts])
                else:
                    found[place] = arrays[name]
    _refuse_others(model)
    return found


def load(model: Any, weights: Mapping[str, Any], framework: str, prefix: str = "") -> None:
    """Give a cell, Stack, Layers or Bidirectional the weights of a framework's layers.

    weights: arrays, or whatever np.asarray takes, by the framework's names; with a prefix, those
    that begin with it. Where it has two biases they are added, if the cell has one for both.
    Raises StateDictError, which lists everything that does not fit, and then changes nothing.
    """
    if not isinstance(weights, Mapping):
        raise mg.StateDictError(
            f"the weights are a dict of arrays by name, not a {type(weights).__name__}"
        )
    if others := [name for name in weights if not isinstance(name, str)]:
        raise mg.StateDictError(f"the names of weights are text, not {others[0]!r}")
    given = {k[len(prefix) :]: np.asarray(v) for k, v in weights.items() if k.startswith(prefix)}
    layout = _layout(framework)
    _check(given, export(model, framework), f"{type(model).__name__} and {framework}")
    depth = len(layers := list(_layers(model)))
    ready = []
    for number, cells in enumerate(layers):
        for d, (cell, direction) in enumerate(zip(cells, ("forward", "backward"))):
            arrays = {}
            for name in _converted(cell, layout, framework):
                value = given[_place(framework, name, number, direction, depth, len(cells))]
                arrays[name] = value[d] if framework == "onnx" else value
            blocks = _taken_apart(arrays, layout, _kind(cell), _has_bias(cell))
            own = _put_together(_folded(blocks, _kind(cell)), OURS, _kind(cell), _has_bias(cell))
            ready.append((cell, own))
    for cell, own in ready:
        cell.load_state_dict(own)


def _check(given: Arrays, expected: Arrays, what: str) -> None:
    problems = [f"missing: {name}" for name in expected if name not in given]
    unused = [name for name in expected if name not in given]
    for name, value in given.items():
        if name not in expected:
            near = difflib.get_close_matches(name, unused, n=1)
            problems.append(f"unexpected: {name}" + (f" (did you mean {near[0]}?)" if near else ""))
            continue
        want = expected[name]
        if value.shape != want.shape:
            problems.append(f"{name}: shape {value.shape} instead of {want.shape}")
        if value.dtype != want.dtype:
            problems.append(f"{name}: dtype {value.dtype} instead of {want.dtype}")
    if problems:
        raise mg.StateDictError(f"the weights do not fit {what}: " + "; ".join(problems))


# --- which cells, and where their arrays stand ----------------------------------------------------


def _layout(framework: str) -> Layout:
    if framework not in LAYOUTS:
        raise ValueError(f"framework={framework!r}: give one of {', '.join(map(repr, LAYOUTS))}")
    return LAYOUTS[framework]


def _layers(model: Any) -> Iterator[tuple[Any, ...]]:
    """The cells of each layer, one a direction."""
    if isinstance(model, (Stack, Layers)):
        for part in model.cells if isinstance(model, Stack) else model.layers:
            yield from _layers(part)
    elif isinstance(model, Bidirectional):
        [ahead], [behind] = _layers(model.forward), _layers(model.backward)
        yield (*ahead, *behind)
    elif hasattr(model, "cell"):  # a wiring around one cell, which keeps its weights
        yield from _layers(model.cell)
    else:
        yield (model,)


def _refuse_others(model: Any) -> None:
    """Refuse what a framework's recurrent layer has no place for: a learned start, a readout."""
    cells = [cell for layer in _layers(model) for cell in layer]
    known = {id(p) for cell in cells for _, p in cell.named_parameters()}
    for name, parameter in model.named_parameters() if isinstance(model, mg.nn.Module) else ():
        if id(parameter) not in known:
            raise ValueError(f"{name} is no cell's, and would be lost; convert the cell alone")


_KINDS = {
    RNNCell: "rnn",
    LSTMCell: "lstm",
    RecurrentDropoutLSTMCell: "lstm",
    PeepholeLSTMCell: "peephole lstm",
    ProjectedLSTMCell: "projected lstm",
    GRUCell: "gru",
}


def _kind(cell: Any) -> str:
    kind = _KINDS.get(type(cell), type(cell).__name__)  # a class derived from one may differ
    if getattr(cell, "reset", "after") == "before":
        return "gru, reset before"
    return kind if getattr(cell, "peephole", "diagonal") == "diagonal" else "full peephole lstm"


def _has_bias(cell: Any) -> bool:
    return cell.b is not None


def _described(cell: Any) -> str:
    sizes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in cell.state_dict().items())
    return f"{_kind(cell)} of {sizes}"


def _place(
    framework: str, name: str, number: int, direction: str, depth: int, directions: int
) -> str:
    """The name of one array of one layer and direction."""
    if framework == "torch":
        return f"{name}_l{number}" + ("_reverse" if direction == "backward" else "")
    several = directions > 1 and framework != "onnx"
    return "/".join([str(number)] * (depth > 1) + [direction] * several + [name])


# --- conversion ----------------------------------------------------------------------------------


def _converted(cell: Any, layout: Layout, framework: str) -> Arrays:
    """One cell's weights in a layout."""
    kind = _kind(cell)
    if kind not in layout.arrays:
        raise ValueError(f"{framework} has no {kind}: it has {', '.join(layout.arrays)}")
    if layout.always_biased and not _has_bias(cell):
        raise ValueError(f"{framework}'s {kind} always has biases, and this cell has none")
    own = {name: value.numpy() for name, value in cell.state_dict().items()}
    blocks = _unfolded(_taken_apart(own, OURS, kind, _has_bias(cell)))
    return _put_together(blocks, layout, kind, _has_bias(cell))


def _spread(layout: Layout, kind: str, biased: bool) -> Iterator[tuple[str, Array, list[Any]]]:
    """Each array of a kind of cell: its name, and which blocks stand in it."""
    for array in layout.arrays[kind]:
        if array.parts[0].startswith("b") and not biased:
            continue
        gates = ("",) if array.parts == ("y",) else array.gates or layout.order(kind)
        if "{gate}" in array.name:
            for gate in gates:
                yield array.name.format(gate=gate), array, [(array.parts[0], gate)]
        else:
            yield array.name, array, [(part, gate) for part in array.parts for gate in gates]


def _put_together(blocks: Blocks, layout: Layout, kind: str, biased: bool) -> Arrays:
    """A layout's arrays out of the blocks of single gates."""
    arrays = {}
    for name, array, inside in _spread(layout, kind, biased):
        parts = [blocks[block] for block in inside]
        joined = np.stack(parts, axis=-1 if layout.interleaved else -2)
        joined = joined.reshape(*joined.shape[:-2], -1)
        if array.rows:
            joined = joined.reshape(array.rows, -1)
        elif layout.out_first:
            joined = joined.T
        arrays[name] = np.ascontiguousarray(joined)
    return arrays


def _taken_apart(arrays: Mapping[str, Any], layout: Layout, kind: str, biased: bool) -> Blocks:
    """The blocks of single gates out of a layout's arrays."""
    blocks = {}
    for name, array, inside in _spread(layout, kind, biased):
        value = arrays[name].reshape(-1) if array.rows else arrays[name]
        value = value.T if layout.out_first else value
        size = value.shape[-1] // len(inside)
        ends = (size, len(inside)) if layout.interleaved else (len(inside), size)
        parts = value.reshape(*value.shape[:-1], *ends)
        for n, block in enumerate(inside):
            blocks[block] = parts[..., n] if layout.interleaved else parts[..., n, :]
    return blocks


def _unfolded(blocks: Blocks) -> Blocks:
    """Our blocks with both biases beside their sum: b is the first one, the second one 0."""
    both = dict(blocks)
    for (what, gate), value in blocks.items():
        if what == "b":
            both["bx", gate] = value
            both.setdefault(("bh", gate), np.zeros_like(value))
    return both


def _folded(blocks: Blocks, kind: str) -> Blocks:
    """Blocks with one bias in two's place, but for that inside the GRU's reset."""
    one = dict(blocks)
    for (what, gate), value in blocks.items():
        if what == "bx":
            inner = blocks["bh", gate]
            apart = kind == "gru" and gate == "n"
            one["b", gate] = value if apart else np.where(inner == 0, value, value + inner)
    return one
