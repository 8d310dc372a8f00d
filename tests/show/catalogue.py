"""Print the catalogue: lines per cell, shapes of its state, parameters, source of its oracle.

`python tests/show/catalogue.py`; D = H = 16.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from minigrad import tree
from minigrad_rnn.catalogue import CATALOGUE
from tests.catalogue import ORACLES
from tests.test_layout import count_lines


def main() -> None:
    print(
        f"{'cell':20}{'lines':>6}  {'state of one row':36}{'parameters':>11}  source of its oracle"
    )
    for name, make in CATALOGUE.items():
        cell = make(16, 16)
        lines = count_lines(inspect.getsource(type(cell)))
        parts = tree.flatten(cell.initial_state(1))[0]
        shapes = " ".join("x".join(map(str, s.shape[1:])) or "1" for s in parts)
        count = sum(p.size for p in cell.parameters())
        source = (ORACLES[name].step.__doc__ or "").splitlines()[0]
        print(f"{name:20}{lines:6}  {shapes:36}{count:11,}  {source}")
    print(f"{len(CATALOGUE)} cells")


if __name__ == "__main__":
    main()
