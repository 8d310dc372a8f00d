"""Every tolerance of the op tests, by dtype and class of op.

|got - want| <= absolute + relative |want|.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Tolerance(NamedTuple):
    relative: float
    absolute: float


TOLERANCES = {
    # moves values, compares or counts: not a bit may differ
    ("float64", "exact"): Tolerance(0, 0),
    ("float32", "exact"): Tolerance(0, 0),
    # one rounding of a library function (a few units in the last place: 2.2e-16, 1.2e-7)
    ("float64", "elementwise"): Tolerance(1e-14, 1e-15),
    ("float32", "elementwise"): Tolerance(1e-6, 1e-7),
    # sums, means and products of up to a hundred values
    ("float64", "reduction"): Tolerance(1e-13, 1e-14),
    ("float32", "reduction"): Tolerance(5e-6, 2e-6),
    # matrix products of up to a hundred terms
    ("float64", "product"): Tolerance(1e-13, 1e-13),
    ("float32", "product"): Tolerance(5e-6, 5e-6),
    # gradients against a complex step, which has no truncation error ...
    ("float64", "complex step"): Tolerance(1e-11, 1e-12),
    # ... and against central differences, which have (step 1e-6)
    ("float64", "difference"): Tolerance(1e-6, 1e-7),
    # gradients of the same rules on two backends, or of a float32 run against a float64 one
    ("float64", "gradient"): Tolerance(1e-12, 1e-13),
    ("float32", "gradient"): Tolerance(2e-5, 2e-5),
}


def close(got: np.ndarray, want: np.ndarray, dtype: str, kind: str, what: str) -> None:
    """Raise AssertionError unless got is want within the table's tolerance; NaN agrees with NaN."""
    relative, absolute = TOLERANCES[dtype, kind]
    np.testing.assert_allclose(
        got, want, rtol=relative, atol=absolute, equal_nan=True, err_msg=f"{what} ({dtype}, {kind})"
    )
