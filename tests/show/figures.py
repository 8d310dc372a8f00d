"""Compare the edges in a folder of figures with the lists in tests/test_figures.py.

`python tests/show/figures.py DIR`; a line a figure, PASS or FAIL, with the arrows that cross.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.test_figures import CROSSINGS, EDGES, crossings, edge, groups


def main(folder: Path) -> int:
    failed = 0
    for name, expected in EDGES.items():
        found = groups(ElementTree.parse(folder / f"figure-{name}.svg").getroot(), "data-panel")
        drawn = [[edge(g) for g in groups(panel, "data-source")] for panel in found]
        crossed, allowed = sum(map(crossings, found)), CROSSINGS.get(name, 0)
        right = list(map(sorted, drawn)) == list(map(sorted, expected)) and crossed <= allowed
        failed += not right
        count = " + ".join(str(len(edges)) for edges in drawn)
        print(f"{'PASS' if right else 'FAIL'}  {name:21} {count} edges, {crossed} crossings")
        for one, other in zip(drawn, expected, strict=False):
            for text in sorted({*one} ^ {*other}):
                print(
                    f"      {'drawn, not written' if text in one else 'written, not drawn'}: {text}"
                )
    print(f"{len(EDGES) - failed} of {len(EDGES)} figures have the edges written down")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
