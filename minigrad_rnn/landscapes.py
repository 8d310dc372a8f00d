"""Two landscapes of composed functions: the cliff of Fig 10.17, the folds of Fig 10.15."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import minigrad as mg
from minigrad.nn import Module, Parameter
from minigrad_rnn.plots import saved

LEVEL = 0.7  # what the last unit should be


class Unit(Module):
    """One recurrent unit without input, x' = w sigmoid(x) + b, for w and b of any one shape.

    A cell of (None, x), which is also its output; in float64, for the sake of the cliff.
    """

    def __init__(self, w: Any, b: Any) -> None:
        self.w, self.b = (Parameter(mg.Tensor(p, dtype="float64")) for p in (w, b))

    def initial_state(self, batch: int) -> mg.Tensor:
        """x(0) = 0."""
        return mg.zeros_like(self.w)

    def __call__(self, x: None, state: mg.Tensor) -> tuple[mg.Tensor, mg.Tensor]:
        # w (sigmoid(x) - 1/2) + (b + w/2): near the cliff, b = -w/2, both are small and exact
        new = 0.5 * self.w * mg.tanh(0.5 * state) + (self.b + 0.5 * self.w)
        return new, new


def cliff(unit: Any, T: int = 20) -> mg.Tensor:
    """E = (sigmoid(x(T)) - 0.7)² of a unit, at every w and b at once (Fig 10.17).

    unit is a Unit, or a cell around one. Along b = -w/2, for w > 4, E is a step that is w/4 times
    as steep after every further time step.
    """
    x = unit.initial_state(1)
    for _ in range(T):
        _, x = unit(None, x)
    return mg.square(mg.sigmoid(x) - LEVEL)


def cliff_grid(n: int = 300, T: int = 20) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """w in [-2, 8] and b in [-4, 2], (n,) each, and E (n, n): row b, column w, in one batch."""
    w, b = np.linspace(-2, 8, n), np.linspace(-4, 2, n)
    with mg.no_grad():
        grid = np.meshgrid(w, b)
        return w, b, cliff(Unit(*grid), T).numpy()


def composed(
    x: mg.Tensor,
    W: mg.Tensor,
    direction: mg.Tensor,
    projection: mg.Tensor,
    k: int,
) -> mg.Tensor:
    """y(x) after 0, ..., k compositions of h -> tanh(h W) with itself (Fig 10.15): (k + 1, P).

    x (P,), h(0) = x * direction, y(i) = projection . h(i + 1), W (H, H), the vectors (H,).
    """
    h, ys = x.reshape(-1, 1) * direction, []
    for _ in range(k + 1):
        h = mg.tanh(h @ W)
        ys.append(h @ projection)
    return mg.stack(ys)


def extrema(y: np.ndarray) -> int:
    """How often a sampled curve turns."""
    slope = np.sign(np.diff(y))
    slope = slope[slope != 0]
    return int((slope[1:] != slope[:-1]).sum())


def flat_share(slopes: np.ndarray, part: float = 0.1) -> float:
    """The share of points whose slope is less than a part of the steepest."""
    size = np.abs(slopes)
    return float((size < part * size.max()).mean())


# --- pictures ------------------------------------------------------------------------------------


def draw_cliff(path: Any = None, n: int = 300, T: int = 20, runs: Sequence[np.ndarray] = ()) -> Any:
    """Fig 10.17 as a matplotlib figure, saved where a path is given; runs (steps, 2) of (w, b)."""
    from matplotlib.figure import Figure

    w, b, E = cliff_grid(n, T)
    figure = Figure(figsize=(7, 5))
    axes = figure.add_subplot(projection="3d")
    axes.plot_surface(*np.meshgrid(w, b), E, cmap="viridis", rcount=100, ccount=100)
    for run in runs:
        inside = run[(run[:, 0] >= -2) & (run[:, 0] <= 8) & (run[:, 1] >= -4) & (run[:, 1] <= 2)]
        with mg.no_grad():
            heights = cliff(Unit(*inside.T.copy()), T).numpy()
        axes.plot(inside[:, 0], inside[:, 1], heights, "r.-")
    axes.set(xlabel="w", ylabel="b", zlabel="E")
    return saved(figure, path)


def draw_norms(curves: dict[str, np.ndarray], path: Any = None) -> Any:
    """|ds(T)/ds(t)| over T - t, one curve (T + 1,) a name, as vanishing.jacobian_norms has them."""
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.add_subplot()
    for name, norms in curves.items():
        axes.semilogy(np.arange(len(norms))[::-1], norms, label=name)
    axes.set(xlabel="T - t", ylabel="|ds(T)/ds(t)|")
    axes.legend()
    return saved(figure, path)
