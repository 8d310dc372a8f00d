"""Cells side by side with their oracles, and with PyTorch's layers: random weights on both.

Shapes: T time, B batch, D input, H hidden, G gates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import minigrad as mg
import minigrad_rnn as rnn
from minigrad import tree
from tests.oracles import gru, lstm, packing
from tests.oracles import rnn as plain
from tests.oracles.batch import over_batch

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Kind:
    """A cell and the literal transcription of its equations."""

    make: Callable[..., Any]  # (D, H, dtype=) -> cell
    gates: tuple[str, ...]
    parts: tuple[str, ...]  # of the state
    step: Callable[..., Any]
    forward: Callable[..., Arrays]
    backward: Callable[..., Arrays]


KINDS = {
    "rnn": Kind(rnn.RNNCell, ("",), ("h",), plain.step, plain.forward, plain.backward),
    "lstm": Kind(rnn.LSTMCell, lstm.GATES, ("h", "c"), lstm.step, lstm.forward, lstm.backward),
    "gru": Kind(
        rnn.GRUCell, gru.GATES, ("h",), gru.step_after, gru.forward_after, gru.backward_after
    ),
    "gru before": Kind(
        lambda D, H, dtype: rnn.GRUCell(D, H, reset="before", dtype=dtype),
        gru.GATES,
        ("h",),
        gru.step_before,
        gru.forward_before,
        gru.backward_before,
    ),
}


def randomise(module: Any, rng: np.random.Generator, scale: float = 0.5) -> Any:
    """Give every parameter, biases included, normal values."""
    for parameter in module.parameters():
        parameter.assign(scale * rng.normal(size=parameter.shape))
    return module


def random_cell(kind: str, D: int, H: int, rng: np.random.Generator, dtype: str = "float64") -> Any:
    """A cell with random weights and biases."""
    return randomise(KINDS[kind].make(D, H, dtype=dtype), rng)


def random_state(cell: Any, B: int, rng: np.random.Generator) -> Any:
    """Random leaves in the shape of the cell's state, which require gradients."""
    return tree.map(lambda s: leaf(rng.normal(size=s.shape), s.dtype), cell.initial_state(B))


def leaf(values: Any, dtype: Any = "float64") -> mg.Tensor:
    """A tensor that requires a gradient."""
    return mg.Tensor(values, requires_grad=True, dtype=dtype)


def oracle_parameters(kind: str, cell: Any) -> Arrays:
    """The cell's weights as the oracle names them, in float64."""
    host = {name: value.numpy().astype("float64") for name, value in cell.state_dict().items()}
    parameters = packing.unpack(host["Wx"], host["Wh"], host["b"], KINDS[kind].gates)
    if "bh" in host:
        parameters["bh_n"] = host["bh"]
    return parameters


def packed(kind: str, result: Arrays) -> Arrays:
    """An oracle's gradients under the cell's own names, Wx, Wh, b and bh."""
    Wx, Wh, b = packing.pack(result, KINDS[kind].gates)
    bh = {"bh": result["bh_n"]} if "bh_n" in result else {}
    return {"Wx": Wx, "Wh": Wh, "b": b, **bh}


def plain_for(cell: Any, xs: Any, state: Any) -> tuple[list[Any], list[Any]]:
    """The y and the state of every step, by the loop that a user would write."""
    ys, states = [], []
    for x in xs:
        y, state = cell(x, state)
        ys.append(y)
        states.append(state)
    return ys, states


def chain_forward(kinds: Sequence[str], weights: Sequence[Arrays], x: Any, states: Any) -> list:
    """Each layer's trace over a batch x (T, B, D); states: per layer the parts, each (B, H)."""
    traces = []
    for kind, parameters, parts in zip(kinds, weights, states, strict=True):
        traces.append(over_batch(KINDS[kind].forward, parameters, [x], parts))
        x = traces[-1]["h"]
    return traces


def chain_backward(
    kinds: Sequence[str], weights: Sequence[Arrays], x: Any, grad_y: Any, states: Any
) -> list:
    """Each layer's gradients of sum(y * grad_y), y the top layer's h; the lowest one's x is x's."""
    traces = chain_forward(kinds, weights, x, states)
    inputs = [x, *(trace["h"] for trace in traces[:-1])]
    results: list[Arrays] = []
    for kind, parameters, below, parts in reversed(
        list(zip(kinds, weights, inputs, states, strict=True))
    ):
        direct = [grad_y, *(np.zeros_like(grad_y) for _ in parts[1:])]
        result = over_batch(KINDS[kind].backward, parameters, [below, *direct], parts)
        results.insert(0, result)
        grad_y = result["x"]
    return results


def close(ours: Any, expected: Any, tolerance: float = 1e-12) -> None:
    """Demand agreement to `tolerance`, relative to the largest entry where that is above 1."""
    ours = ours.numpy() if isinstance(ours, mg.Tensor) else np.asarray(ours)
    expected = np.asarray(expected)
    assert ours.shape == expected.shape
    bound = tolerance * max(1.0, np.abs(expected).max(initial=0.0))
    np.testing.assert_allclose(ours, expected, rtol=0, atol=bound)


def same_bits(a: Any, b: Any) -> None:
    """Demand equal bits in all leaves."""
    for left, right in zip(tree.flatten(a)[0], tree.flatten(b)[0], strict=True):
        assert left.shape == right.shape
        assert left.dtype == right.dtype
        assert left.numpy().tobytes() == right.numpy().tobytes()


def gradients(loss: mg.Tensor, *nests: Any) -> list[np.ndarray]:
    """The gradients of the leaves of nests, after one backward from zero; 0 where none arrived."""
    leaves = tree.flatten(nests)[0]
    for x in leaves:
        x.grad = None
    loss.backward()
    return [np.zeros(x.shape) if x.grad is None else x.grad.numpy() for x in leaves]


def complex_step(f: Callable[[dict[str, Any]], Any], values: Arrays, name: str) -> np.ndarray:
    """df/dvalues[name] of an analytic f: the imaginary part of f(x + 1e-30 i) / 1e-30, exact."""
    gradient = np.zeros(values[name].shape)
    for index in np.ndindex(gradient.shape):
        moved = values[name].astype(complex)
        moved[index] += 1e-30j
        gradient[index] = f({**values, name: moved}).imag / 1e-30
    return gradient


# --- PyTorch's layers ----------------------------------------------------------------------------


def torch_layers(
    torch: Any, kind: str, D: int, H: int, layers: int, bidirectional: bool, seed: int
) -> tuple[Any, list[list[Any]]]:
    """A float64 net of torch with random weights and biases, and our cells: [layer][direction]."""
    torch.manual_seed(seed)
    make = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[kind]
    net = make(D, H, num_layers=layers, bidirectional=bidirectional).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(std=0.5)
    cells = []
    for layer in range(layers):
        size = D if layer == 0 else H * (1 + bidirectional)
        cells.append([KINDS[kind].make(size, H, dtype="float64") for _ in range(1 + bidirectional)])
        for direction, cell in enumerate(cells[-1]):
            w = torch_weights(net, layer, direction)
            cell.load_state_dict(folded(kind, H, **{k: v.detach().numpy() for k, v in w.items()}))
    return net, cells


def torch_weights(net: Any, layer: int, direction: int) -> dict[str, Any]:
    """w_ih (G*H, D), w_hh (G*H, H), b_ih and b_hh (G*H,) of one direction of one layer."""
    suffix = f"_l{layer}" + ("_reverse" if direction else "")
    names = {"w_ih": "weight_ih", "w_hh": "weight_hh", "b_ih": "bias_ih", "b_hh": "bias_hh"}
    return {short: getattr(net, name + suffix) for short, name in names.items()}


def folded(kind: str, H: int, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any) -> Arrays:
    """Torch's layout in ours: matrices (in, out), both biases in one but for the GRU's new gate."""
    if kind != "gru":
        return {"Wx": w_ih.T, "Wh": w_hh.T, "b": b_ih + b_hh}
    inside = b_hh.copy()
    inside[2 * H :] = 0
    return {"Wx": w_ih.T, "Wh": w_hh.T, "b": b_ih + inside, "bh": b_hh[2 * H :]}


def compare_with_torch(kind: str, net: Any, cells: list[list[Any]]) -> None:
    """Demand that every weight's gradient agrees with torch's, of both of its biases too."""
    for layer, pair in enumerate(cells):
        for direction, cell in enumerate(pair):
            w = {k: v.grad.numpy() for k, v in torch_weights(net, layer, direction).items()}
            close(cell.Wx.grad, w["w_ih"].T)
            close(cell.Wh.grad, w["w_hh"].T)
            close(cell.b.grad, w["b_ih"])
            if kind == "gru":
                both = np.concatenate([cell.b.grad.numpy()[: 2 * cell.H], cell.bh.grad.numpy()])
                close(both, w["b_hh"])
            else:
                close(cell.b.grad, w["b_hh"])
