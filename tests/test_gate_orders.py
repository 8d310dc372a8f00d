"""No wrong order of an LSTM's gates passes, in the cell or in a framework's weights."""

from __future__ import annotations

import pytest

from tests.gate_orders import PLACES, survivors, wrong_orders


@pytest.mark.parametrize("place", PLACES)
def test_each_of_the_23_wrong_orders_is_noticed(place):
    assert len(wrong_orders()) == 23
    assert survivors(place) == []
