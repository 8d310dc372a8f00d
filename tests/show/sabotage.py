"""Print for every wrong edit of tests/sabotage.py whether its row's tests caught it.

`python tests/show/sabotage.py [ROW ...]`; minutes for all, two edits at a time.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.sabotage import EDITS, ROOT, Edit, check, run_rows


def verdict(edit: Edit) -> tuple[bool, str]:
    """Return whether an edit was caught, and what to print."""
    try:
        found = check(edit)
    except (ValueError, RuntimeError) as error:
        return False, str(error)
    return found.caught, f"{'red' if found.caught else 'NOT CAUGHT'}: {found.summary}"


def main() -> int:
    rows = sys.argv[1:]
    edits = [edit for edit in EDITS if not rows or edit.row in rows]
    code, summary = run_rows([edit.row for edit in edits], ROOT)
    print(f"{'PASS' if code == 0 else 'FAIL'} without an edit: {summary}", flush=True)
    missed = []
    with ThreadPoolExecutor(2) as pool:
        for edit, (caught, line) in zip(edits, pool.map(verdict, edits), strict=True):
            print(f"{edit.row:3} {f'{edit.path}: {edit.what}':82} {line}", flush=True)
            if not caught:
                missed.append(edit.row)
    print(f"FAIL missed: {', '.join(missed)}" if missed else f"PASS caught: {len(edits)} edits")
    return int(bool(missed) or code != 0)


if __name__ == "__main__":
    raise SystemExit(main())
