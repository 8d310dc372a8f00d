"""What unrolling means with lengths, a mask, resets and reverse: one row at a time, plain loops.

Row b visits its real steps alone, from the first to the last, or from the last to the first.
A step that is not real is not run: its y is zero and the state passes. A reset before a real
step puts the row's initial state in place of its state; at a padded step it does nothing, since
the state passes there unchanged. The state returned is the one after the last visited step.
"""

from collections.abc import Callable, Sequence

import numpy as np

State = tuple[np.ndarray, ...]
Step = Callable[..., tuple[np.ndarray, State]]


def unroll(
    step: Step,
    xs: np.ndarray | Sequence[np.ndarray] | None,
    state: State,
    *,
    initial: State | None = None,
    steps: int | None = None,
    lengths: Sequence[int] | np.ndarray | None = None,
    mask: np.ndarray | None = None,
    resets: np.ndarray | None = None,
    reverse: bool = False,
) -> tuple[np.ndarray, State]:
    """Return ys (T, B, ...) and the final state, a tuple of arrays (B, ...).

    `step(x, state) -> (y, state)` works on one row without a batch axis: x is (D,), a tuple of
    such for a tuple of xs, or None when xs is None and `steps` says how long to run. `initial`
    (B, ...) is what resets put back; it is not `state` when the caller carries a state in.
    """
    if lengths is not None and mask is not None:
        raise ValueError("give lengths or mask, not both")
    if resets is not None and initial is None:
        raise ValueError("resets need initial, the state that they put back")
    inputs = () if xs is None else (xs,) if isinstance(xs, np.ndarray) else tuple(xs)
    total = len(inputs[0]) if inputs else steps
    if total is None:
        raise ValueError("without xs, give steps")
    batch = len(state[0])

    def x_at(t: int, b: int) -> np.ndarray | tuple[np.ndarray, ...] | None:
        row = tuple(array[t, b] for array in inputs)
        return None if xs is None else row[0] if isinstance(xs, np.ndarray) else row

    def is_real(t: int, b: int) -> bool:
        if lengths is not None:
            return t < lengths[b]
        return mask is None or bool(mask[t, b])

    outputs: dict[tuple[int, int], np.ndarray] = {}
    finals: list[State] = []
    for b in range(batch):
        row_state = tuple(part[b] for part in state)
        order = [t for t in range(total) if is_real(t, b)]
        if reverse:
            order.reverse()
        for t in order:
            if resets is not None and initial is not None and resets[t, b]:
                row_state = tuple(part[b] for part in initial)
            y, row_state = step(x_at(t, b), row_state)
            outputs[t, b] = np.asarray(y)
        finals.append(row_state)

    if outputs:
        y_shape = next(iter(outputs.values())).shape
    else:  # nothing is real: one run on zeros tells the shape of y
        zeros = tuple(np.zeros(array.shape[2:]) for array in inputs)
        x = None if xs is None else zeros[0] if isinstance(xs, np.ndarray) else zeros
        y_shape = np.shape(step(x, tuple(part[0] for part in state))[0])
    ys = np.zeros((total, batch, *y_shape))
    for (t, b), y in outputs.items():
        ys[t, b] = y
    return ys, tuple(np.stack(parts) for parts in zip(*finals, strict=True))
