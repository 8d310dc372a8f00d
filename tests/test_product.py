"""Any cell with any wiring, conditioning, schedule, reading and regulariser (tests/product.py)."""

import itertools

import pytest

from tests.product import AXES, MEANINGLESS, check, pairs, pairwise, reason_against, whole

PAIRWISE = pairwise()


@pytest.mark.long
@pytest.mark.parametrize("combination", PAIRWISE, ids="; ".join)
def test_pairs_of_all_axes(backend, combination):
    check(combination)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["numpy"], indirect=True)
@pytest.mark.parametrize("cell", AXES["cell"])
def test_the_whole_product(backend, cell):
    """A quarter of an hour; other backends, which networks reach through ops alone, have pairs."""
    done = set()
    for combination in whole():
        if combination[0] == cell:
            try:
                check(combination, done)
            except Exception as error:
                error.add_note("; ".join(combination))
                raise
    assert done


def test_all_pairs_that_mean_something_are_covered():
    """Two values of two axes stand together somewhere, unless a reason says why they do not."""
    covered = {pair for combination in PAIRWISE for pair in pairs(combination)}
    assert all(reason_against(combination) is None for combination in PAIRWISE)
    values = [[(i, value) for value in axis] for i, axis in enumerate(AXES.values())]
    every = {pair for a, b in itertools.combinations(values, 2) for pair in itertools.product(a, b)}
    names = list(AXES)
    refused = {
        tuple(sorted(((names.index(a), u), (names.index(b), v))))
        for excluded, _ in MEANINGLESS
        for (a, some), (b, others) in [excluded.items()]
        for u, v in itertools.product(some, others)
    }
    assert every - covered == refused
    assert len(PAIRWISE) < len(whole()) / 50


def test_the_covering_array_is_the_same_in_every_run():
    assert pairwise() == PAIRWISE
    assert pairwise(seed=1) != PAIRWISE
