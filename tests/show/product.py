"""Print the axes of the product, what is left out and why, and how many combinations there are.

`python tests/show/product.py`; `--pairs` lists the combinations of the default run as well.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.product import AXES, MEANINGLESS, pairs, pairwise, whole


def main() -> None:
    for axis, values in AXES.items():
        print(f"{axis:13}{len(values):3}  {'; '.join(values)}")
    print("left out:")
    for values, reason in MEANINGLESS:
        print(f"  {' x '.join('|'.join(some) for some in values.values())}: {reason}")
    few, all_of_them = pairwise(), whole()
    covered = {pair for combination in few for pair in pairs(combination)}
    print(
        f"{len(all_of_them):,} combinations (pytest -m slow), {len(few)} of them in the default "
        f"run, with all {len(covered):,} pairs of values"
    )
    if "--pairs" in sys.argv[1:]:
        for combination in few:
            print("  " + "; ".join(combination))


if __name__ == "__main__":
    main()
