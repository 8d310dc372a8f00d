"""Where the gradient of a shared weight comes from: G[t, s], what the loss of step t sends to the
weight's use at step s, of a tanh network, an LSTM and, against the closed form, a linear network.

`python tests/show/gradient_matrix.py [PICTURE]` prints the mean norms at lags 1 to 50 and whether
what must hold does; a picture is drawn where a file (.png, .svg) is named. Exit status 1 if not.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "backends")]

import numpy as np  # noqa: E402

import minigrad as mg  # noqa: E402
import minigrad_rnn as rnn  # noqa: E402
from minigrad_rnn import instruments, vanishing  # noqa: E402

T, H = 52, 16  # the use at step 0 gets nothing, because the state is zero: lag 50 needs step 51
LAGS = (1, 2, 5, 10, 20, 30, 40, 50)
failed = False


def check(what: str, holds: bool) -> None:
    global failed
    failed |= not holds
    print(f"{'PASS' if holds else 'FAIL'}  {what}")


def rotation(n: int, seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0]


def linear() -> tuple[rnn.RNNCell, np.ndarray, np.ndarray]:
    Q, values = rotation(H, 1), np.linspace(-0.95, 0.95, H)
    cell = rnn.RNNCell(1, H, activation=lambda a: a, dtype="float64")
    cell.Wh.assign(Q @ np.diag(values) @ Q.T)
    return cell, Q, values


def tanh_network() -> rnn.RNNCell:
    """Its recurrent weight has the spectral radius 0.9."""
    cell = rnn.RNNCell(1, H, dtype="float64")
    cell.Wh.assign(0.9 * rotation(H, 2))
    return cell


def lstm() -> rnn.LSTMCell:
    """As it is made, but for a forget gate whose bias is 5: open."""
    cell = rnn.LSTMCell(1, H, dtype="float64")
    cell.b.assign(np.repeat([0.0, 5.0, 0.0, 0.0], H))  # i, f, g, o
    return cell


def losses(cell: object, xs: mg.Tensor) -> list[mg.Tensor]:
    """The sum of the outputs of each step, a number a step."""
    ys, _ = rnn.unroll(cell, xs)
    return [y.sum() for y in ys]


def main(path: str | None) -> int:
    mg.random.seed(0)
    xs = mg.random.normal(mg.random.key(1), (T, 1, 1), dtype="float64")
    curves, matrices = {}, {}
    for name, cell in (("RNN", tanh_network()), ("LSTM", lstm())):
        steps = losses(cell, xs)
        G = instruments.gradient_matrix(steps, cell.Wh)
        norms = instruments.gradient_matrix(steps, cell.Wh, norms=True)
        total = mg.stack(steps).sum()
        whole = mg.pullback(total, cell.Wh).numpy()
        error = np.abs(G.sum(axis=(0, 1)) - whole).max() / np.abs(whole).max()
        check(f"{name}: all {G.shape[0]} x {G.shape[1]} shares add up to the gradient, "
              f"to {error:.0e}", error <= 1e-12)  # fmt: skip
        uses = mg.pullback(total, cell.Wh, split="use").numpy()
        check(f"{name}: a column adds up to what that use gives", np.allclose(
            G.sum(axis=0), uses, rtol=0, atol=1e-12 * np.abs(uses).max()))  # fmt: skip
        check(f"{name}: no loss sends anything to a later use", not np.triu(norms, 1).any())
        check(f"{name}: norms alone are the norms", np.allclose(
            norms, np.linalg.norm(G, axis=(2, 3)), rtol=1e-12))  # fmt: skip
        sent = total.backward_norms(cell.Wh).numpy()
        check(f"{name}: a backward with norms gives those of the columns", np.allclose(
            sent, np.linalg.norm(uses, axis=(1, 2)), rtol=1e-12))  # fmt: skip
        matrices[name], curves[name] = norms, instruments.by_lag(norms)
    print("\nmean norm by lag" + "".join(f"{lag:>10}" for lag in LAGS))
    for name, curve in curves.items():
        print(f"{name:<16}" + "".join(f"{curve[lag]:>10.1e}" for lag in LAGS))
    print()
    left = {name: curve[50] / curve[1] for name, curve in curves.items()}
    check(f"RNN: at lag 50 there is {left['RNN']:.1e} of lag 1, at most 0.9^49 = {0.9**49:.1e}",
          left["RNN"] <= 0.9**49)  # fmt: skip
    check(f"LSTM: at lag 50 there is {left['LSTM']:.2f} of lag 1, at least a tenth",
          left["LSTM"] >= 0.1)  # fmt: skip

    cell, Q, values = linear()
    jacobians = vanishing.state_jacobians(cell, xs).numpy()[:, 0]
    exact = np.array([Q @ np.diag(values**k) @ Q.T for k in range(T, -1, -1)])
    error = np.abs(jacobians - exact).max()
    check(f"linear network: dh(T)/dh(t) is Q Lambda^(T-t) Q^T, to {error:.0e}", error <= 1e-12)
    singular = instruments.singular_values(cell, xs)[:, 0]
    error = np.abs(singular - np.sort(np.abs(values[None, :]) ** np.arange(T, -1, -1)[:, None])
                   [:, ::-1]).max()  # fmt: skip
    check(f"linear network: its singular values are |lambda|^(T-t), to {error:.0e}", error <= 1e-12)
    ys, _ = rnn.unroll(cell, xs)
    before = np.concatenate([np.zeros((1, H)), ys.numpy()[:-1, 0]])
    G = instruments.gradient_matrix([y.sum() for y in ys], cell.Wh)
    error = max(
        np.abs(G[t, s] - np.outer(before[s], exact[T - (t - s)] @ np.ones(H))).max()
        for t in range(T)
        for s in range(t + 1)
    )
    check(f"linear network: G[t, s] is h(s-1) (Q Lambda^(t-s) Q^T 1)^T, to {error:.0e}",
          error <= 1e-12)  # fmt: skip
    if path is not None:
        instruments.draw_matrices(matrices, path)
        print(f"\nwrote {path}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(*(sys.argv[1:2] or [None])))
