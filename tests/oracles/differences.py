"""Central finite differences."""

from collections.abc import Callable

import numpy as np


def central(f: Callable[[], float], array: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """Return df/darray, f a function that reads `array`: each entry is moved in place and put back.

    df/dx = (f(x + e) - f(x - e)) / 2e, with an error of order e^2 and 1e-16 / e.
    """
    gradient = np.zeros(array.shape)
    for index in np.ndindex(array.shape):
        kept = array[index]
        array[index] = kept + step
        above = f()
        array[index] = kept - step
        below = f()
        array[index] = kept
        gradient[index] = (above - below) / (2 * step)
    return gradient
