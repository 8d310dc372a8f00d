"""What the passes make of six programs is what tests/ir holds: whoever changes it sees how."""

import pytest

from tests.ir import FOLDER, PROGRAMS, listing, path


@pytest.mark.parametrize("name", PROGRAMS)
def test_listings(name):
    assert listing(name) == path(name).read_text("utf-8"), "see tests/ir.py"


def test_every_listing_is_of_a_program():
    assert {file.stem for file in FOLDER.iterdir()} == set(PROGRAMS)
