"""contract on the smallest graphs: equal steps with two names, signed zeros, cut constants."""

from __future__ import annotations

import numpy as np

import minigrad as mg
from minigrad.graph import capture, contract


def links(f, names):
    """The pairs that contract finds in f of one tensor x; f returns values, names is their names.

    A name left empty is none; what is not returned has none either.
    """
    graph = capture(f, mg.Tensor(np.arange(4.0))).graph
    called = {graph.inputs[0]: "x"} | {v: n for v, n in zip(graph.outputs, names, strict=True) if n}
    return {link[:2] for link in contract(graph, called)}


def test_equal_steps_with_two_names_are_two_nodes():
    assert links(lambda x: (x * 2.0, x * 2.0), "ab") == {("x", "a"), ("x", "b")}


def test_what_follows_equal_steps_is_told_apart():
    def f(x):
        a, b = x * 2.0, x * 2.0
        return a, b, mg.tanh(b)

    assert links(f, "abc") == {("x", "a"), ("x", "b"), ("b", "c")}
    assert links(f, "aac") == {("x", "a"), ("a", "c")}  # one name is one node
    assert links(f, ["a", "", "c"]) == {("x", "a"), ("a", "c")}  # computed again without a name
    assert links(f, ["", "b", "c"]) == {("x", "b"), ("b", "c")}


def test_three_equal_steps_of_which_the_first_has_no_name():
    def f(x):
        n, a, b = x * 2.0, x * 2.0, x * 2.0
        return n, a, b, mg.tanh(n), mg.exp(b)

    assert links(f, ["", "a", "b", "c", "d"]) == {("x", "a"), ("x", "b"), ("a", "c"), ("b", "d")}


def test_a_part_of_a_stack_under_a_name_of_its_own_comes_of_that_part_alone():
    def f(x):
        p, q = mg.tanh(x), mg.exp(x)
        first, second = mg.unstack(mg.stack([p, q]))
        return p, q, first, second

    assert links(f, "pqab") == {("x", "p"), ("x", "q"), ("p", "a"), ("q", "b")}
    assert links(f, ["p", "q", "", "b"]) == {("x", "p"), ("x", "q"), ("q", "b")}


def test_the_two_zeros_are_not_equal():
    def f(x):
        plus, minus = x * 0.0, x * -0.0
        return plus, mg.tanh(minus)

    assert links(f, "ac") == {("x", "a"), ("x", "c")}


def test_a_constant_may_be_split():
    def f(x):
        first, second = mg.split(mg.Tensor(np.arange(4.0)), 2)
        return first, x[:2] * second

    assert links(f, "ac") == {("x", "c")}
