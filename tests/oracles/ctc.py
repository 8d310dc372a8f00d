"""Connectionist temporal classification by its definition (Graves et al. 2006, eq 2 and 3).

p(l | x) is the sum, over all paths that collapse to l, of the product of the path's probabilities.
Shapes: y (T, V), each row a distribution; a labelling is a tuple of symbols other than the blank.
"""

import itertools

import numpy as np


def collapse(path: tuple[int, ...], blank: int) -> tuple[int, ...]:
    """The labelling B(path): repeated symbols become one, then the blanks go."""
    merged = [s for t, s in enumerate(path) if t == 0 or s != path[t - 1]]
    return tuple(s for s in merged if s != blank)


def labellings(y: np.ndarray, blank: int) -> dict[tuple[int, ...], float]:
    """p(l | x) of every labelling that has any: all V^T paths, one by one."""
    T, V = y.shape
    total: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(V), repeat=T):
        p = float(np.prod([y[t, s] for t, s in enumerate(path)]))  # 2
        label = collapse(path, blank)
        total[label] = total.get(label, 0.0) + p  # 3
    return total
