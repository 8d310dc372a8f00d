"""Figures that are plots, with matplotlib: the folds of Figure 10.15, the cliff of Figure 10.17."""

from __future__ import annotations

from typing import Any

import numpy as np

import minigrad as mg
from minigrad import optim
from minigrad_rnn.figures.registry import figure
from minigrad_rnn.landscapes import Unit, cliff, composed

UNITS, GAIN = 100, 3.0  # of Figure 10.15
STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))  # told apart in grey too
START, RATE, LIMIT, T = (6.0, -2.9), 0.3, 1.0, 20  # of the descents of Figure 10.17


@figure("10.15", "Exploding Gradients from Function Composition", plot=True)
def composition() -> Any:
    """A layer of 100 tanh units composed with itself, up to 5 times; along the axis a point moves
    on a line through its 100 inputs, and its outputs are projected onto a line. With every
    composition the curve has more parts that are nearly flat, and more that are steep."""
    from matplotlib.figure import Figure

    rng = np.random.default_rng(0)
    x, direction = np.linspace(-20, 20, 2001), rng.normal(size=UNITS)
    W = GAIN * rng.normal(size=(UNITS, UNITS)) / np.sqrt(UNITS)
    given = (x, W, direction / np.linalg.norm(direction), rng.normal(size=UNITS))
    with mg.no_grad():
        curves = composed(*map(mg.Tensor, given), 5).numpy()
    drawn = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = drawn.add_subplot(xlabel="input coordinate", ylabel="projection of output")
    for k, (curve, style) in enumerate(zip(curves, STYLES, strict=True)):
        axes.plot(x, curve, linestyle=style, linewidth=1.3, label=f"{k}")
    axes.legend(title="compositions", fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    return drawn


def descend(clip: bool, steps: int = 25) -> np.ndarray:
    """The points (w, b) of a gradient descent on the cliff, until it leaves the axes."""
    unit = Unit(*map(np.array, START))
    path = [START]
    for _ in range(steps):
        for p, g in zip(unit.parameters(), mg.pullback(cliff(unit, T), unit.parameters())):
            p.grad = g
        if clip:
            optim.clip_by_global_norm(unit.parameters(), LIMIT)
        for p in unit.parameters():
            p.assign(p - RATE * p.grad)
        path.append((unit.w.item(), unit.b.item()))
        if not (-2 <= path[-1][0] <= 8 and -4 <= path[-1][1] <= 2):
            break
    return np.array(path)


@figure("10.17", "Gradient Clipping", plot=True)
def clipping() -> Any:
    """The loss of one recurrent unit over its weight w and bias b, and gradient descent on it.
    Left, a step at the cliff throws the parameters far off the axes. Right, with the norm of the
    gradient clipped, descent stays near the cliff."""
    from matplotlib.figure import Figure

    w = np.linspace(-2, 8, 61)
    # Lines of the mesh along the cliff, b = -w/2, and dense there: others would cut it to a fence.
    near = np.concatenate([[0.0], np.geomspace(1e-5, 1, 40)])
    b = np.concatenate([np.outer(-near[::-1], 4 - w / 2), np.outer(near, 2 + w / 2)]) - w / 2
    W = np.broadcast_to(w, b.shape)
    with mg.no_grad():
        E = cliff(Unit(W.copy(), b), T).numpy()
    drawn = Figure(figsize=(10, 4.4), layout="constrained")
    for place, clip in enumerate((False, True)):
        axes = drawn.add_subplot(1, 2, place + 1, projection="3d", computed_zorder=False)
        axes.plot_surface(W, b, E, cmap="cividis", rcount=90, ccount=61, alpha=0.85)
        path = descend(clip)
        with mg.no_grad():
            heights = cliff(Unit(*path.T.copy()), T).numpy()
        ends = np.clip(path, (-2, -4), (8, 2))  # what leaves the axes ends at their edge
        axes.plot(*ends.T, heights, "o-", color="#d55e00", markersize=3, linewidth=1.2, zorder=5)
        axes.set(xlabel="w", ylabel="b", zlabel="E", zlim=(0, 0.5), xlim=(-2, 8), ylim=(-4, 2),
                 title="With clipping" if clip else "Without clipping")  # fmt: skip
        axes.view_init(elev=28, azim=-52)
    return drawn
