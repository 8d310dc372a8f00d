"""Translate between one matrix per gate, (out, in), and gates side by side, (in, out)."""

from collections.abc import Sequence

import numpy as np

Arrays = dict[str, np.ndarray]


def _suffix(gate: str) -> str:
    return f"_{gate}" if gate else ""


def unpack(Wx: np.ndarray, Wh: np.ndarray, b: np.ndarray, gates: Sequence[str] = ("",)) -> Arrays:
    """Split Wx (D, G*H), Wh (H, G*H), b (G*H,) into U_k (H, D), W_k (H, H), b_k (H,).

    `gates` names the blocks in their order; the default, one nameless gate, gives U, W, b.
    """
    hidden = Wh.shape[0]
    parameters = {}
    for position, gate in enumerate(gates):
        block = slice(position * hidden, (position + 1) * hidden)
        parameters[f"U{_suffix(gate)}"] = Wx[:, block].T.copy()
        parameters[f"W{_suffix(gate)}"] = Wh[:, block].T.copy()
        parameters[f"b{_suffix(gate)}"] = b[block].copy()
    return parameters


def pack(
    parameters: Arrays, gates: Sequence[str] = ("",)
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return Wx (D, G*H), Wh (H, G*H), b (G*H,): the inverse of unpack, for gradients as well."""
    Wx = np.concatenate([parameters[f"U{_suffix(gate)}"].T for gate in gates], axis=1)
    Wh = np.concatenate([parameters[f"W{_suffix(gate)}"].T for gate in gates], axis=1)
    b = np.concatenate([parameters[f"b{_suffix(gate)}"] for gate in gates])
    return Wx, Wh, b
