"""Print which clauses of the lectures are proven, on every backend that runs here.

`python tests/show/clauses.py` runs the tests marked as proofs; `--slow` those marked slow as well.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    selection = "lecture" if "--slow" in sys.argv[1:] else "lecture and not slow"
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-m", selection]
    code = subprocess.run(command, cwd=ROOT).returncode
    print("PASS every clause that is due is proven" if code == 0 else "FAIL clauses are missing")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
