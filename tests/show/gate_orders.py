"""Print for the LSTM and for each layout of its weights how many wrong gate orders are caught.

`python tests/show/gate_orders.py`; each of the 23 wrong orders must fail the place's own test.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(1, str(Path(__file__).resolve().parents[2] / "backends"))

from tests.gate_orders import PLACES, survivors, wrong_orders


def main() -> int:
    total, failed = len(wrong_orders()), False
    for place in PLACES:
        left = survivors(place)
        failed |= bool(left)
        print(f"{'FAIL' if left else 'PASS'} {total - len(left)} of {total}  {place}", flush=True)
        for order in left:
            print(f"     survived: {order}")
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
