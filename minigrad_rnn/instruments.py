"""Instruments: what a network's gradients, gates and hidden units do, as arrays and as pictures.

Where a shared weight's gradient comes from is the engine's to tell: `mg.pullback(loss, W,
split="use")` keeps the share of each use apart, and `loss.backward_norms(W)` is a backward that
returns the norms of these shares, at hardly more than its own time. Here is what asks for time.
Letters: T time, B batch, D input, N all units of a state side by side. Pictures need matplotlib.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

import minigrad as mg
from minigrad import arguments, tree
from minigrad_rnn.plots import saved
from minigrad_rnn.unrolling import first_state, float_parts
from minigrad_rnn.vanishing import state_jacobians

# --- gradients -----------------------------------------------------------------------------------


def gradient_matrix(losses: Sequence[mg.Tensor], weight: mg.Tensor, norms: bool = False) -> Any:
    """G[t, s]: what loss t sends to use s of a weight, an array (losses, uses, *weight.shape).

    norms=True keeps the norm of each alone: (losses, uses). The losses are numbers on one recorded
    graph, one a step, say; a use is an op that takes the weight. In order of creation, so that s is
    the time step where a cell uses the weight once a step. Nothing is added to `.grad`; one
    traversal a loss. Raises GradientError where the losses do not depend on the weight.
    """
    own = weight.node if weight.is_leaf else None
    users = [{n for n in _reached([loss]) if own and own in n.parents} for loss in losses]
    column = {node: s for s, node in enumerate(sorted(set().union(*users), key=lambda n: n.id))}
    if not column:
        raise mg.GradientError(
            "gradient_matrix: the weight is a leaf that requires a gradient and that a loss used"
        )
    shape = (len(losses), len(column)) + (() if norms else weight.shape)
    G = np.zeros(shape, weight.dtype)
    for row, loss, found in zip(G, losses, users, strict=True):
        if found:
            for node, g in _shares(loss, own):
                row[column[node]] = np.linalg.norm(g) if norms else g
    return G


def _reached(ys: Iterable[mg.Tensor]) -> set[Any]:
    """The nodes that tensors depend on, their own among them."""
    seen = {y.node for y in ys if y.node is not None}
    waiting = list(seen)
    while waiting:
        for parent in waiting.pop().parents:
            if parent is not None and parent not in seen:
                seen.add(parent)
                waiting.append(parent)
    return seen


def _shares(loss: mg.Tensor, leaf: Any) -> list[tuple[Any, np.ndarray]]:
    """Of each node that takes the leaf, what it sends there, in one traversal that ends there."""
    shares = []
    with contextlib.closing(loss.backward_steps(retain_graph=True)) as steps:
        for step in steps:
            if step.node is leaf:  # all its users came before; going on would add to .grad
                break
            sent = [g.numpy() for parent, g in step.outgoing if parent is leaf]
            if sent:
                shares.append((step.node, sum(sent[1:], start=sent[0])))
    return shares


def by_lag(G: np.ndarray) -> np.ndarray:
    """The mean of G[t, t - lag] over t, for lag 0, ..., T - 1, of a matrix (T, T, ...)."""
    if G.ndim < 2 or G.shape[0] != G.shape[1]:
        raise mg.ShapeError(
            f"by_lag: a matrix of losses by uses, (T, T), not {G.shape}; give one loss a step, and "
            f"a weight that is used once a step"
        )
    return np.stack([np.diagonal(G, -lag).mean(axis=-1) for lag in range(len(G))])


def state_gradients(
    cell: Any, loss: Callable[[Any], mg.Tensor], xs: mg.Tensor, state: Any = None
) -> list[np.ndarray]:
    """dL/ds(t) for t = 0, ..., T, one array (T + 1, B, ...) a part of the state (eq 10.20, 10.21).

    loss(ys) is a number, from the outputs (T, B, ...). All that a part of s(t) acts on counts: for
    an LSTM, dL/dc(t) has what goes by way of h(t). Parts that hold no floats are left out.
    """
    start = _first(cell, xs, state, "state_gradients")
    start = tree.map(lambda s: mg.Tensor(s, requires_grad=s.dtype.kind == "f"), start)
    with mg.enable_grad():
        ys, states = _run(cell, xs, start)
        value = loss(tree.map(lambda *parts: mg.stack(parts), *ys))
    places = [float_parts(s) for s in (start, *states)]
    with mg.no_grad():
        found = mg.pullback(value, places, allow_unused=True)
    return [
        np.stack([np.zeros(s.shape, s.dtype) if g is None else g.numpy() for s, g in pairs])
        for pairs in zip(*(zip(*both, strict=True) for both in zip(places, found)), strict=True)
    ]


def singular_values(cell: Any, xs: mg.Tensor, state: Any = None) -> np.ndarray:
    """Those of ds(T)/ds(t) for t = 0, ..., T, the largest first: (T + 1, B, N).

    The first is its norm: how much the most sensitive direction of s(t) counts at T (eq 10.39).
    """
    return np.linalg.svd(state_jacobians(cell, xs, state).numpy(), compute_uv=False)


class ClippedNorms:
    """Clipping by the global norm that remembers the norms: `record(parameters)` at every step.

    The norms (steps,), before clipping, and the factors min(1, max_norm / norm) (eq 10.48, 10.49).
    """

    def __init__(self, max_norm: float) -> None:
        self.max_norm = arguments.number("max_norm", max_norm, 0, open="low")
        self._norms: list[mg.Tensor] = []

    def __call__(self, parameters: Iterable[mg.Tensor]) -> mg.Tensor:
        """Clip the gradients as `mg.optim.clip_by_global_norm` does, and return their norm."""
        self._norms.append(mg.optim.clip_by_global_norm(parameters, self.max_norm))
        return self._norms[-1]

    @property
    def norms(self) -> np.ndarray:
        """The norm of all gradients together, before clipping, at each step."""
        return np.array([norm.item() for norm in self._norms])

    @property
    def factors(self) -> np.ndarray:
        """What the gradients were multiplied by; 1 where nothing was clipped."""
        return self.max_norm / np.maximum(self.norms, self.max_norm)

    def __str__(self) -> str:
        """Steps, share of them clipped, and the norm's median, 90th percentile and maximum."""
        if not self._norms:
            return "no step yet"
        middle, high, top = np.quantile(self.norms, [0.5, 0.9, 1])
        clipped = f"{np.mean(self.factors < 1):.1%} clipped at {self.max_norm:g}"
        norms = f"median {middle:.3g}, 90 % below {high:.3g}, maximum {top:.3g}"
        return f"{len(self._norms)} steps, {clipped}; norm: {norms}"


# --- gates and hidden units ----------------------------------------------------------------------


def gates(
    cell: Any,
    xs: mg.Tensor,
    names: Sequence[str] | None = None,
    state: Any = None,
    op: str = "sigmoid",
) -> dict[str, np.ndarray]:
    """The values of a cell's gates while it reads xs (T, B, D): by name, each (T, B, units).

    A gate is what comes of `op` at a step, whatever the cell; they stand in the order in which the
    cell computes them. names share all their units out evenly: f, i, o for an LSTMCell, r, z for a
    GRUCell, whose two are one sigmoid. Without names they are "sigmoid 0", ... as they come. They
    are read off what the op keeps for its derivative: its result, as sigmoid, tanh and exp do.
    Raises ValueError for a cell without that op, for an op that does not keep its result (maximum,
    relu's where) and where there is no step; ShapeError for names that do not share evenly.
    """
    state = _first(cell, xs, state, "gates")
    rows: list[list[np.ndarray]] = []
    for x in xs:
        with mg.enable_grad():  # what is recorded can be read
            entered = [tree.map(_leaf, part) for part in (x, state)]
            y, state = cell(*entered)
        made = _made(tree.flatten((y, state))[0], op)
        rows.append(_results(made, xs.shape[1]))
        state = tree.map(lambda s: s.detach(), state)
        if made and not rows[-1]:
            raise ValueError(f"gates: the rule of {op} does not keep its results to be read")
    if not rows[0] or len({len(row) for row in rows}) > 1:
        raise ValueError(f"gates: {type(cell).__name__} does not compute a {op} at every step")
    found = [np.stack(column) for column in zip(*rows, strict=True)]
    if names is None:
        return {f"{op} {i}": values for i, values in enumerate(found)}
    units = np.concatenate(found, axis=-1)
    if not names or units.shape[-1] % len(names):
        raise mg.ShapeError(
            f"gates: {len(names)} names do not share out the {units.shape[-1]} units of "
            f"{len(found)} results of {op}"
        )
    return dict(zip(names, np.split(units, len(names), axis=-1), strict=True))


def _leaf(x: mg.Tensor) -> mg.Tensor:
    return mg.Tensor(x.detach(), requires_grad=x.dtype.kind == "f")


def _made(ys: Sequence[mg.Tensor], op: str) -> list[Any]:
    """The nodes of an op on the way to ys, in order."""
    named = [n for n in _reached(ys) if n.op is not None and n.op.name == op]
    return sorted(named, key=lambda n: n.id)


def _results(made: Sequence[Any], rows: int) -> list[np.ndarray]:
    """What came of nodes whose rule has kept it for its derivative."""
    kept = ((n.backend, k, s) for n in made for (k, _), s in zip(n.plan.sources, n.saved))
    values = [np.asarray(backend.to_numpy(s)) for backend, kind, s in kept if kind == "y"]
    # A gate that looks at no row, a learned rate, say, is the same for all of them.
    by_row = [v if v.ndim > 1 and len(v) == rows else np.stack([v] * rows) for v in values]
    return [v.reshape(rows, -1) for v in by_row]


def saturation(
    values: np.ndarray, low: float = 0.1, high: float = 0.9, mask: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """The share of time that each unit of a gate (T, B, units) is below low, and above high.

    Two arrays (units,) (Karpathy, Johnson and Fei-Fei 2015). mask (T, B): the real steps alone.
    """
    counted = (
        values.reshape(-1, values.shape[-1]) if mask is None else values[np.asarray(mask, bool)]
    )
    return (counted < low).mean(axis=0), (counted > high).mean(axis=0)


def traces(cell: Any, xs: mg.Tensor, state: Any = None) -> np.ndarray:
    """The state after each step, parts side by side, (T, B, N), while a cell reads xs (T, B, D).

    For a CharacterModel: `traces(model.cells, model.embedding(model.here(ids[:, None])))[:, 0]`.
    """
    state = _first(cell, xs, state, "traces")
    with mg.no_grad():
        _, states = _run(cell, xs, state)
        rows = [
            mg.concatenate([p.reshape(p.shape[0], -1) for p in float_parts(s)], axis=-1).numpy()
            for s in states
        ]
    return np.stack(rows)


def _first(cell: Any, xs: mg.Tensor, state: Any, caller: str) -> Any:
    """The state before the first step, of which there must be one."""
    if not len(xs):
        raise ValueError(f"{caller}: xs (T, B, D) has no step: T = 0, in shape {tuple(xs.shape)}")
    return first_state(cell, xs.shape[1], caller) if state is None else state


def _run(cell: Any, xs: mg.Tensor, state: Any) -> tuple[list[Any], list[Any]]:
    """The outputs and the states of all steps."""
    ys, states = [], []
    for x in xs:
        y, state = cell(x, state)
        ys.append(y)
        states.append(state)
    return ys, states


def colored(text: str, values: np.ndarray, scale: float | None = None) -> str:
    """The text for a terminal, each character on its unit's colour: blue below 0, red above.

    values (len(text),); scale, by default the largest size, is the full colour.
    """
    values = _by_character(text, values, "colored")
    scale = float(np.abs(values).max(initial=0)) if scale is None else scale
    shown = ""
    for character, value in zip(text, values, strict=True):
        share = min(max(value / scale, -1), 1) if scale else 0
        rest = round(255 - 170 * abs(share))  # black letters stay readable
        colour = f"255;{rest};{rest}" if share > 0 else f"{rest};{rest};255"
        shown += f"\033[30;48;2;{colour}m{_visible(character)}"
        shown += "\033[0m\n" if character == "\n" else ""
    return shown + "\033[0m"


def _by_character(text: str, values: np.ndarray, caller: str) -> np.ndarray:
    """The values (len(text),) as floats; ValueError where one is not finite."""
    values = np.asarray(values, float)
    if values.shape != (len(text),):
        raise mg.ShapeError(f"{caller}: one value a character, ({len(text)},), not {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{caller}: values[{np.argmin(np.isfinite(values))}] is not finite")
    return values


def _visible(character: str) -> str:
    return character if character.isprintable() else repr(character)[1:-1]


# --- pictures: each a matplotlib figure, saved where a path is given ------------------------------


def draw_matrices(matrices: Mapping[str, np.ndarray], path: Any = None) -> Any:
    """Gradient matrices by name, norms (T, T), as maps on one scale, and their means by lag."""
    if not matrices:
        raise ValueError("draw_matrices: no matrix is given; one by name at least")
    figure = _figure(4 * (len(matrices) + 1))
    *maps, curves = figure.subplots(1, len(matrices) + 1)
    high = max(float(G.max()) for G in matrices.values())
    for axes, (name, G) in zip(maps, matrices.items(), strict=True):
        sizes = np.ma.log10(np.ma.masked_equal(G, 0))
        picture = axes.imshow(sizes, vmin=np.log10(high) - 6, vmax=np.log10(high))
        axes.set(title=name, xlabel="step of the use", ylabel="step of the loss")
        curves.semilogy(np.ma.masked_equal(by_lag(G), 0), label=name)
    figure.colorbar(picture, ax=maps, label="log10 of the norm", shrink=0.8)
    curves.set(title="mean by lag", xlabel="lag", ylabel="norm")
    curves.legend()
    return saved(figure, path)


def draw_singular_values(curves: Mapping[str, np.ndarray], path: Any = None) -> Any:
    """The singular values (T + 1, N) of ds(T)/ds(t) over T - t, one colour a name."""
    axes = _figure(5).subplots()
    for i, (name, values) in enumerate(curves.items()):
        lines = axes.semilogy(np.arange(len(values))[::-1], values, color=f"C{i}", lw=1)
        lines[0].set_label(name)
    axes.set(xlabel="T - t", ylabel="singular values of ds(T)/ds(t)")
    axes.legend()
    return saved(axes.figure, path)


def draw_clipping(record: ClippedNorms, path: Any = None) -> Any:
    """The norm of the gradients at each step, and where clipping begins."""
    axes = _figure(7.5).subplots()
    axes.semilogy(record.norms, lw=1)
    axes.axhline(record.max_norm, color="C3", ls="--", label=f"clipped at {record.max_norm:g}")
    axes.set(xlabel="step", ylabel="norm of the gradients")
    axes.set_title(str(record), fontsize="small")
    axes.legend()
    return saved(axes.figure, path)


def draw_saturation(gates: Mapping[str, np.ndarray], path: Any = None) -> Any:
    """Each unit of each gate (T, B, units): its share of time above 0.9 over that below 0.1."""
    axes = _figure(4.5).subplots()
    for name, values in gates.items():
        axes.scatter(*saturation(values), s=14, alpha=0.6, label=name)
    axes.plot([0, 1], [1, 0], color="0.7", lw=1)
    axes.set(xlabel="share below 0.1", ylabel="share above 0.9", aspect="equal")
    axes.legend(title="gate")
    return saved(axes.figure, path)


def draw_trace(text: str, values: np.ndarray, path: Any = None, width: int = 60) -> Any:
    """A unit's values (len(text),) as colours behind the characters: blue below 0, red above."""
    values = _by_character(text, values, "draw_trace")
    rows = -(-len(text) // width) or 1
    axes = _figure(width / 6, 0.6 + rows / 3).subplots()
    padded = np.pad(values, (0, rows * width - len(text)))
    high = np.abs(padded).max(initial=0) or 1.0
    shown = padded.reshape(rows, width)
    axes.imshow(shown, cmap="bwr", alpha=0.6, vmin=-high, vmax=high, aspect="auto")
    for i, c in enumerate(text):
        y, x = divmod(i, width)
        axes.text(x, y, _visible(c), ha="center", va="center", family="monospace", parse_math=False)
    axes.axis("off")
    return saved(axes.figure, path)


def _figure(width: float, height: float = 4) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
