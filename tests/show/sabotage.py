"""Print for every wrong edit of tests/sabotage.py whether its row's tests caught it.

`python tests/show/sabotage.py [ROW ...]`; minutes for all, two edits at a time.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.sabotage import EDITS, ROOT, check, run_row


def main() -> int:
    rows = sys.argv[1:]
    edits = [edit for edit in EDITS if not rows or edit.row in rows]
    missed = []
    print(f"{'row':4} {'edit':64} {'untouched':12} sabotaged")
    with ThreadPoolExecutor(2) as pool:
        untouched = pool.map(lambda edit: run_row(edit.row, ROOT), edits)
        sabotaged = pool.map(check, edits)
        for edit, (code, _), verdict in zip(edits, untouched, sabotaged, strict=True):
            green = "green" if code == 0 else "RED"
            red = "red" if verdict.caught else "NOT CAUGHT"
            if code != 0 or not verdict.caught:
                missed.append(edit.row)
            what = f"{edit.path}: {edit.what}"
            print(f"{edit.row:4} {what:64} {green:12} {red}: {verdict.summary}", flush=True)
    if missed:
        print(f"FAIL not caught, or red without the edit: {', '.join(missed)}")
        return 1
    print(f"PASS {len(edits)} wrong edits, all caught")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
