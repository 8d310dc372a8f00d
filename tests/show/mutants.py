"""Print for every op made wrong on purpose whether its own row of the op table caught it.

`python tests/show/mutants.py`; every forward and kernel is off by 1e-3, every rule by 0.1 %.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(1, str(Path(__file__).resolve().parents[2] / "backends"))

from tests.mutants import all_mutants, caught


def main() -> int:
    survivors, counts = [], Counter()
    for mutant in all_mutants():
        kind = mutant.part if mutant.part in ("forward", "kernel") else "rule"
        counts[kind] += 1
        if not caught(mutant):
            survivors.append(str(mutant))
            print(f"survived: {mutant}", flush=True)
    made = ", ".join(f"{n} {kind}s" for kind, n in counts.items())
    if survivors:
        print(f"FAIL {len(survivors)} of {sum(counts.values())} mutants survive ({made})")
        return 1
    print(f"PASS {sum(counts.values())} mutants, survivors: 0 ({made})")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
