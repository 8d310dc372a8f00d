"""Run a one-sequence oracle over a batch, row by row."""

from collections.abc import Callable, Sequence

import numpy as np

Arrays = dict[str, np.ndarray]


def over_batch(
    function: Callable[..., Arrays],
    parameters: Arrays,
    timed: Sequence[np.ndarray],
    states: Sequence[np.ndarray] = (),
) -> Arrays:
    """Call `function(parameters, *timed rows, *state rows)` for each row, and join the results.

    timed are (T, B, ...), states (B, ...). In the result a parameter's gradient and a scalar are
    summed over rows, an initial state's gradient (h0, c0) is (B, ...), all else (T, B, ...).
    """
    rows = [
        function(parameters, *(a[:, row] for a in timed), *(s[row] for s in states))
        for row in range(timed[0].shape[1])
    ]
    joined = {}
    for name in rows[0]:
        parts = [row[name] for row in rows]
        if name in parameters or parts[0].ndim == 0:
            joined[name] = np.sum(parts, axis=0)
        else:
            joined[name] = np.stack(parts, axis=0 if name.endswith("0") else 1)
    return joined
