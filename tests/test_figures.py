"""Figures: their edges, read from the SVG, against lists written down from the lectures and papers.

The geometry is read from the SVG too: an edge counts where an arrow is drawn from spot to spot.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import math
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg
import minigrad_rnn as rnn
from minigrad.graph import capture, contract, inside
from minigrad.pictures import Arrow, Diagram, Panel, Spot
from minigrad_rnn import cli
from minigrad_rnn.figures import FIGURES

ROOT = Path(__file__).resolve().parent.parent
SVG = "{http://www.w3.org/2000/svg}"
PLOTS = ("10.15", "10.17")

# --- the edges, written down ----------------------------------------------------------------------
# `x>h:U` is an edge with its weight, `h>h:W@1` one through a delay; `(…1)` is a step left out.

THREE = ("t-1", "t", "t+1")
FIVE = ("…1", *THREE, "…5")


def each(pattern, names=THREE):
    """The pattern for every step, which stands for `*`."""
    return [pattern.replace("*", name) for name in names]


def along(pattern, names=FIVE):
    """The pattern for every two neighbouring steps, `*` and `+`."""
    return [pattern.replace("*", a).replace("#", b) for a, b in itertools.pairwise(names)]


def lstm_step(cell, before, hidden):
    """Products, sum and gates of one LSTM step (Hochreiter and Schmidhuber; Gers et al.)."""
    return [
        "x>a", hidden, "a>i", "a>f", "a>g", "a>o", "i>× i", "g>× i", "f>× f", before,
        f"× i>+ {cell}", f"× f>+ {cell}", f"+ {cell}>{cell}", f"{cell}>× h", "o>× h", "× h>h",
    ]  # fmt: skip


LOSS = ["o>L", "y>L"]
LOSSES = [*each("o(*)>L(*)"), *each("y(*)>L(*)")]
FIGURE_3 = [*each("x(*)>h(*):U"), *along("h(*)>h(#):W"), *each("h(*)>o(*):V"), *LOSSES]
LSTMS = [
    *each("x(*)>LSTM(*)"), *each("x(*)>LSTM'(*)"), *along("LSTM(*)>LSTM(#)"),
    *along("LSTM'(#)>LSTM'(*)"), *each("LSTM(*)>y(*)"), *each("LSTM'(*)>y(*)"),
]  # fmt: skip
ONE, TWO = ("1", "2", "3"), ("1", "2")
STEPS = [
    *each("W>f(*)", ONE), *each("f(*)>h(*)", ONE), *along("h(*)>f(#)", ONE), "h0>f(1)"
]  # fmt: skip


def chunk(steps, last=3):
    """A stream of steps, and gradients in its last ones alone."""
    names = [str(t) for t in range(1, steps + 1)]
    ahead = [*each("x(*)>h(*)", names), *along("h(*)>h(#)", names), *each("h(*)>L(*)", names)]
    return [*ahead, *along("h(#)>h(*)", names[-last:]), *each("L(*)>h(*)", names[-last:])]


EDGES = {
    "10.1": [along("s(*)>s(#):f")],
    "10.2": [["x>h", "h>h@1"], [*each("x(*)>h(*)"), *along("h(*)>h(#)")]],
    "10.3": [["x>h:U", "h>h:W@1", "h>o:V", *LOSS], FIGURE_3],
    "10.4": [
        ["x>h:U", "o>h:W@1", "h>o:V", *LOSS],
        [*each("x(*)>h(*):U"), *along("o(*)>h(#):W"), *each("h(*)>o(*):V"), *LOSSES],
    ],
    "10.5": [
        [*each("x(*)>h(*):U", (*THREE, "τ")), *along("h(*)>h(#):W", (*FIVE, "τ")), "h(τ)>o:V",
         *LOSS]
    ],
    "10.6": [
        [*each("x(*)>h(*):U", THREE[:2]), "y(t-1)>h(t):W", *each("h(*)>o(*):V", THREE[:2]),
         *each("o(*)>L(*)", THREE[:2]), *each("y(*)>L(*)", THREE[:2])],
        [*each("x(*)>h(*):U", THREE[:2]), "o(t-1)>h(t):W", *each("h(*)>o(*):V", THREE[:2])],
    ],
    "10.7": [[f"y({a})>y({b})" for a, b in itertools.combinations((*"12345", "…6"), 2)]],
    "10.8": [
        [*along("h(*)>h(#)", (*"12345", "…6")), *along("y(*)>h(#)", (*"12345", "…6")),
         *each("h(*)>y(*)", "12345")]
    ],
    "10.9": [
        [*each("x>h(*):R", FIVE), *each("y(*)>h(*):U", FIVE[1:]), *along("h(*)>h(#):W"),
         *each("h(*)>o(*):V"), *each("o(*)>L(*)"), *along("y(#)>L(*)")]
    ],
    "10.10": [[*FIGURE_3, *along("y(*)>h(#):R")]],
    "10.11": [
        [*each("x(*)>h(*)"), *each("x(*)>g(*)"), *along("h(*)>h(#)"), *along("g(#)>g(*)"),
         *each("h(*)>o(*)"), *each("g(*)>o(*)"), *LOSSES]
    ],
    "10.12": [
        [*each("x(*)>h(*)", "12n"), *along("h(*)>h(#)", ("1", "2", "…3", "n")), "h(n)>C",
         *each("C>g(*)", ("1", "…2", "m")), *along("g(*)>g(#)", ("1", "…2", "m")),
         *along("y(*)>g(#)", ("1", "…2", "m")), *each("g(*)>y(*)", ("1", "…2", "m"))]
    ],
    "10.13": [
        ["x>h", "h>h@1", "h>z", "z>z@1", "z>y"],
        ["x>a", "a>h", "h>b@1", "b>h", "h>c", "c>y"],
        ["x>a", "a>h", "h>b@1", "b>h", "h>h@1", "h>c", "c>y"],
    ],
    "10.14": [
        [*each("x(*)>leaf(*):V", "1234"), "leaf(1)>node(1):U", "leaf(2)>node(1):W",
         "leaf(3)>node(2):U", "leaf(4)>node(2):W", "node(1)>o:U", "node(2)>o:W", *LOSS]
    ],
    "10.16": [lstm_step("s", "s>× f@1", "h>a@1")],
    # Graves et al. 2014, eq 1-9: a head goes by the task network, the memory and where it was.
    "10.18": [
        ["x>h", "h>h@1", "r>h@1", "h>write head", "memory>write head@1",
         "write head>write head@1", "write head>memory", "h>memory", "memory>memory@1",
         "h>read head", "memory>read head", "read head>read head@1", "read head>r", "memory>r"]
    ],
    "lstm": [lstm_step("c", "c before>× f", "h before>a")],
    "peephole-lstm": [[*lstm_step("s", "s>× f@1", "h>a@1"), "s>i@1", "s>f@1", "s>o"]],
    "gru": [
        ["x>r", "x>z", "x>n", "h before>r", "h before>z", "h before>n", "r>n", "z>h", "n>h",
         "h before>h"]
    ],
    "bidirectional-lstm": [LSTMS],
    "feed-forward": [["x>h1", "h1>h2", "h2>y"]],
    "rnn": [
        ["x>h", "h>h@1", "h>y"],
        [*each("x(*)>h(*)", ONE), "h0>h(1)", *along("h(*)>h(#)", ONE), *each("h(*)>y(*)", ONE)],
    ],
    "residual": [
        [*along("x(*)>x(#)", "0123"), *along("x(*)>F(#)", "0123"), *each("F(*)>x(*)", "123")]
    ],
    "kinds": [
        ["x(1)>h(1)", "h(1)>y(1)"],
        ["x(1)>h(1)", *along("h(*)>h(#)", ONE), *each("h(*)>y(*)", ONE)],
        [*each("x(*)>h(*)", ONE), *along("h(*)>h(#)", ONE), "h(3)>y"],
        [*each("x(*)>h(*)", ONE), *along("h(*)>h(#)", "12345"), "h(4)>y(1)", "h(5)>y(2)"],
        [*each("x(*)>h(*)", ONE), *along("h(*)>h(#)", ONE), *each("h(*)>y(*)", ONE)],
    ],
    "computational-graph": [[*STEPS, *each("x(*)>f(*)", ONE)]],
    "many-to-many": [
        [*STEPS, *each("x(*)>f(*)", ONE), *each("h(*)>y(*)", ONE), *each("y(*)>L(*)", ONE),
         *each("L(*)>loss", ONE)]
    ],
    "many-to-one": [[*STEPS, *each("x(*)>f(*)", ONE), "h(3)>y(3)"]],
    "one-to-many": [[*STEPS, "x(1)>f(1)", *each("h(*)>y(*)", ONE)]],
    "sequence-to-sequence": [
        [*each("W1>f(*)", ONE), *each("f(*)>h(*)", ONE), *along("h(*)>f(#)", ONE), "h0>f(1)",
         *each("x(*)>f(*)", ONE), "h(3)>g(1)", *each("W2>g(*)", TWO), *each("g(*)>s(*)", TWO),
         "s(1)>g(2)", *each("s(*)>y(*)", TWO)]
    ],
    # Bahdanau et al. 2015, eq 4-6 and section 3.1: s = f(s before, y before, c).
    "attention": [
        [*each("x(*)>h(*)", "1234"), *along("h(*)>h(#)", "1234"), *each("h(*)>memory", "1234"),
         "memory>α", "s before>α", "memory>c", "α>c", "c>s", "y>s", "s before>s"]
    ],
    "bptt": [chunk(6, 6)],
    "tbptt": [chunk(3), chunk(6), chunk(9)],
}  # fmt: skip

# Arrows that cross, at most. Six nodes of which every two are joined cannot do with fewer than 3
# on two sides of a line. Between the chains of h and g lies what comes from x and goes to o: two
# crossings a step. The peepholes of input and forget gate cross what closes the cell's loop.
CROSSINGS = {"10.7": 3, "10.11": 6, "bidirectional-lstm": 6, "peephole-lstm": 2}


# --- reading an SVG -------------------------------------------------------------------------------


@functools.cache
def document(name):
    return ElementTree.fromstring(FIGURES[name].diagram().svg)


def panels(name):
    return groups(document(name), "data-panel")


def groups(panel, attribute):
    return [g for g in panel.iter(f"{SVG}g") if attribute in g.attrib]


def edge(g):
    text = f"{g.get('data-source')}>{g.get('data-target')}"
    text += f":{g.get('data-label')}" if g.get("data-label") else ""
    return text + (f"@{g.get('data-delay')}" if g.get("data-delay") != "0" else "")


def edges(name):
    return [sorted(edge(g) for g in groups(panel, "data-source")) for panel in panels(name)]


def ends(text):
    """source, target, delay."""
    source, target, _, delay = re.fullmatch(
        r"(.+?)>([^:@]+)(?::([^@]+))?(?:@(\d+))?", text
    ).groups()
    return source, target, int(delay or 0)


def numbers(text):
    return [float(x) for x in re.findall(r"-?\d+(?:\.\d+)?", text)]


@functools.cache
def curve(g):
    """Points along an arrow, the tip of its head last."""
    way, head = (path.get("d") for path in g.findall(f"{SVG}path")[:2])
    control = np.array(numbers(way)).reshape(-1, 2)
    n = len(control) - 1
    assert {1: "L", 2: "Q", 3: "C"}[n] in way
    t = np.linspace(0, 1, 61)[:, None] ** 1.013  # no two polylines share a corner
    points = sum(math.comb(n, k) * t**k * (1 - t) ** (n - k) * control[k] for k in range(n + 1))
    return np.concatenate([points, [numbers(head)[:2]]])


class Shape:
    """The outline of a spot."""

    def __init__(self, g):
        circle, rect = g.find(f"{SVG}circle"), g.find(f"{SVG}rect")
        self.round = circle is not None
        if self.round:
            x, y, r = (float(circle.get(key)) for key in ("cx", "cy", "r"))
            self.centre, self.half = np.array([x, y]), np.array([r, r])
        else:
            x, y, w, h = (float(rect.get(key)) for key in ("x", "y", "width", "height"))
            self.centre, self.half = np.array([x + w / 2, y + h / 2]), np.array([w / 2, h / 2])

    def outside(self, points):
        """How far points are outside of it, negative within."""
        apart = np.abs(points - self.centre)
        if self.round:
            return np.hypot(*apart.T) - self.half[0]
        return (apart - self.half).max(-1)


def shapes(panel):
    return {g.get("data-spot"): Shape(g) for g in groups(panel, "data-spot")}


@functools.cache
def width_of(text, size):
    """In DejaVu Serif, the widest of the fonts that the pictures ask for."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    return text_to_path.get_text_width_height_descent(
        text, FontProperties(family="DejaVu Serif", size=size), False
    )[0]


def text_box(text):
    """left, top, right, bottom of a text element, letters without much above or below the line."""
    size, x, y = (float(text.get(key)) for key in ("font-size", "x", "y"))
    spans = text.findall(f"{SVG}tspan")
    wide = sum(width_of(s.text or "", float(s.get("font-size", size))) for s in spans)
    left = x - wide / 2
    return left, y - 0.72 * size, left + wide, y + 0.1 * size


def overlap(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


# --- what is drawn --------------------------------------------------------------------------------


def test_every_figure_is_written_down():
    assert set(EDGES) == set(FIGURES) - set(PLOTS)
    assert [name for name in FIGURES if name[0] == "1"] == [f"10.{n}" for n in range(1, 19)]
    assert set(PLOTS) == {name for name, figure in FIGURES.items() if figure.plot}


@pytest.mark.parametrize("name", EDGES)
def test_the_edges_drawn_are_those_written_down(name):
    assert edges(name) == [sorted(panel) for panel in EDGES[name]]


@pytest.mark.parametrize("name", EDGES)
def test_arrows_lead_from_spot_to_spot_and_around_the_others(name):
    for panel in panels(name):
        spots = shapes(panel)
        for g in groups(panel, "data-source"):
            points = curve(g)
            source, target = g.get("data-source"), g.get("data-target")
            assert abs(spots[source].outside(points[:1])[0]) < 1.5, edge(g)
            assert abs(spots[target].outside(points[-1:])[0]) < 1.5, edge(g)
            for key, shape in spots.items():
                margin = -1.5 if key in (source, target) else 1.5
                assert (shape.outside(points) > margin).all(), f"{edge(g)} meets {key}"
            assert len(g.findall(f"{SVG}rect")) == (g.get("data-delay") != "0")


@pytest.mark.parametrize("name", EDGES)
def test_spots_stand_apart(name):
    for panel in panels(name):
        for a, b in itertools.combinations(shapes(panel).values(), 2):
            assert (np.abs(a.centre - b.centre) > a.half + b.half).any()


def crossings(panel):
    curves = [curve(g)[::3] for g in groups(panel, "data-source")]
    frames = [(*c.min(axis=0), *c.max(axis=0)) for c in curves]
    pairs = itertools.combinations(range(len(curves)), 2)
    near = [(a, b) for a, b in pairs if overlap(frames[a], frames[b])]
    return sum(len(meetings(curves[a], curves[b])) for a, b in near)


def meetings(a, b):
    """Where two polylines properly cross."""
    p, q, r, s = a[:-1, None], a[1:, None], b[None, :-1], b[None, 1:]

    def side(u, v, w):
        return (v - u)[..., 0] * (w - u)[..., 1] - (v - u)[..., 1] * (w - u)[..., 0]

    cross = (side(p, q, r) * side(p, q, s) < 0) & (side(r, s, p) * side(r, s, q) < 0)
    return np.argwhere(cross)


@pytest.mark.parametrize("name", EDGES)
def test_arrows_cross_no_more_than_they_must(name):
    assert sum(map(crossings, panels(name))) <= CROSSINGS.get(name, 0)


@pytest.mark.parametrize("name", EDGES)
def test_labels_are_within_their_spots_and_overlap_nothing(name):
    pytest.importorskip("matplotlib")
    for panel in panels(name):
        spots, boxes = shapes(panel), []
        for g in groups(panel, "data-spot"):
            left, top, right, bottom = text_box(g.find(f"{SVG}text"))
            corners = [(x, y) for x in (left, right) for y in (top, bottom)]
            if right > left:
                found = spots[g.get("data-spot")].outside(np.array(corners))
                assert (found < 0).all(), g.get("data-spot")
        for g in groups(panel, "data-source"):
            if g.get("data-label"):
                boxes.append((edge(g), text_box(g.find(f"{SVG}text"))))
        for (a, one), (b, other) in itertools.combinations(boxes, 2):
            assert not overlap(one, other), f"{a} and {b}"
        outlines = [(*(s.centre - s.half), *(s.centre + s.half)) for s in spots.values()]
        squares = [
            (float(r.get("x")), float(r.get("y")), float(r.get("x")) + 9, float(r.get("y")) + 9)
            for g in groups(panel, "data-source")
            for r in g.findall(f"{SVG}rect")
        ]
        for label, box in boxes:
            assert not any(overlap(box, other) for other in outlines + squares), label


@pytest.mark.parametrize("name", EDGES)
def test_all_is_within_the_picture(name):
    pytest.importorskip("matplotlib")
    root = document(name)
    width, height = numbers(root.get("viewBox"))[2:]
    for panel in panels(name):
        dx, dy = np.array(numbers(panel.get("transform"))) + 14  # the margin
        places = [curve(g) for g in groups(panel, "data-source")]
        places += [s.centre + sign * s.half for s in shapes(panel).values() for sign in (-1, 1)]
        places += [np.array(text_box(text)).reshape(2, 2) for text in panel.iter(f"{SVG}text")]
        points = np.concatenate([np.atleast_2d(p) for p in places]) + np.array([dx, dy])
        assert (points > 2).all() and (points < [width - 2, height - 2]).all()
    captions = [t for t in root.iter(f"{SVG}text") if t.get("text-anchor") is None]
    assert captions
    for text in captions:
        assert 14 + width_of(text.text, 12.0) < width, text.text


# --- what the figures are about -------------------------------------------------------------------


def graph_of(name, panel=0):
    return [ends(text) for text in edges(name)[panel]]


def test_10_4_has_delays_from_o_alone():
    assert {source for source, _, delay in graph_of("10.4") if delay} == {"o"}
    assert not any(s[0] == t[0] == "h" for s, t, _ in graph_of("10.4", 1))


def test_10_8_leads_from_every_y_to_all_later_ones_and_without_h_is_10_7():
    after = {}
    for source, target, _ in graph_of("10.8"):
        after.setdefault(source, set()).add(target)

    def reached(node, found):
        for target in after.get(node, ()):
            if target[0] == "y":
                found.add(target)
            else:
                reached(target, found)  # through h alone
        return found

    contracted = {(f"y({i})", y) for i in range(1, 6) for y in reached(f"y({i})", set())}
    complete = {(f"y({i})", f"y({j})") for i in range(1, 6) for j in range(i + 1, 6)}
    assert contracted == complete
    assert complete == {(s, t) for s, t, _ in graph_of("10.7") if "…" not in s + t}


def test_10_10_is_10_3_and_the_edges_from_outputs():
    extra = set(edges("10.10")[0]) - set(edges("10.3")[1])
    assert set(edges("10.3")[1]) < set(edges("10.10")[0])
    assert extra == set(along("y(*)>h(#):R"))


@pytest.mark.parametrize(("panel", "shortest"), [(0, 1), (1, 2), (2, 1)])
def test_10_13_has_paths_of_these_lengths_from_a_state_to_the_next(panel, shortest):
    links, reached, length = graph_of("10.13", panel), {("h", 0)}, 0
    while ("h", 1) not in reached:
        length += 1
        reached = {(t, delay + d) for node, delay in reached for s, t, d in links if s == node}
        assert length < 9
    assert length == shortest


def test_10_14_has_a_depth_of_log_tau_and_its_weights_as_often_as_there_are_edges():
    found = edges("10.14")[0]
    assert [sum(f":{w}" in text for text in found) for w in "VUW"] == [4, 3, 3]
    above = {s: t for s, t, _ in map(ends, found)}
    for leaf in ("leaf(1)", "leaf(2)", "leaf(3)", "leaf(4)"):
        depth = 0
        while leaf != "o":
            leaf, depth = above[leaf], depth + 1
        assert depth == math.ceil(math.log2(4))


def test_10_18_leads_from_the_task_network_by_heads_and_memory_back():
    links = {(s, t) for s, t, _ in graph_of("10.18")}
    for way in (["h", "write head", "memory", "r", "h"], ["h", "read head", "r", "h"]):
        assert set(itertools.pairwise(way)) <= links


def test_drawings_of_feed_forward_graphs_have_no_delay():
    for name in set(EDGES) - {"10.2", "10.3", "10.4", "10.13", "10.16", "10.18", "rnn"}:
        if name != "peephole-lstm":
            assert not any(delay for panel in edges(name) for *_, delay in map(ends, panel)), name


@pytest.mark.parametrize("name", ["10.4", "peephole-lstm"])
def test_a_figure_is_the_same_on_every_backend(backend, name):
    assert (
        ElementTree.tostring(document(name)).decode()
        == ElementTree.tostring(ElementTree.fromstring(FIGURES[name].diagram().svg)).decode()
    )


def test_a_figure_is_the_same_in_every_process():
    program = "from minigrad_rnn.figures import FIGURES; print(FIGURES['10.9'].diagram().svg)"
    path = f"{ROOT}{os.pathsep}{ROOT / 'backends'}"
    changes = {"PYTHONPATH": path, "PYTHONHASHSEED": "1", "PYTHONUTF8": "1"}
    command, environment = [sys.executable, "-c", program], {**os.environ, **changes}
    done = subprocess.run(command, check=True, capture_output=True, env=environment)
    assert done.stdout.decode().strip() == FIGURES["10.9"].diagram().svg.strip()


# --- contraction ----------------------------------------------------------------------------------


def stepwise(cell, parts, T=5):
    """Every step's input, output and, where parts of the state are new, these."""

    def program(xs):
        state, found = cell.initial_state(2), {"x": [], "y": []}
        for x in xs:
            y, state = cell(x, state)
            found["x"].append(x)
            found["y"].append(y)
            for i, part in enumerate(mg.tree.flatten(state)[0] if parts else []):
                found.setdefault(f"s{i}", []).append(part)
        return found

    captured = capture(program, mg.zeros((T, 2, 3)))

    def named(graph):
        return {
            value: (name, t)
            for name, values in captured.rebuild(graph.outputs).items()
            for t, value in enumerate(values)
        }

    return captured.graph, named


def paths_by_hand(graph, named):
    """Pairs of named values with a path between that has no other on it, by plain recursion."""
    made = {value: step for step in graph.steps for value in step.outputs}
    found = set()

    def back(value, target):
        for x in made[value].operands if value in made else ():
            if x in named:
                found.add((named[x], target))
            elif not isinstance(x, (int, float)):
                back(x, target)

    for value, name in named.items():
        back(value, name)
    return found


CELLS = {
    "rnn": lambda: rnn.RNNCell(3, 4),
    "lstm": lambda: rnn.LSTMCell(3, 4),
    "gru": lambda: rnn.GRUCell(3, 4),
    "stack": lambda: rnn.Stack([rnn.RNNCell(3, 4), rnn.LSTMCell(4, 2)]),
    "delays 1 and 3": lambda: rnn.DelayCell(3, 4, (1, 3)),
}


@pytest.mark.parametrize("kind", CELLS)
def test_contracted_edges_are_paths_folded_or_not(kind):
    graph, named = stepwise(CELLS[kind](), parts=not kind.startswith("delays"))
    flat = mg.unfold(mg.fold(graph))
    links = {link[:2] for link in contract(flat, named(flat))}
    assert links == {pair for pair in paths_by_hand(flat, named(flat)) if pair[0] != pair[1]}
    folded = mg.fold(graph)
    [loop] = folded.loops()
    assert loop.trips == 5
    by_name = inside(folded, {v: name for v, (name, _) in named(folded).items()})
    # Of the last step alone: there an edge of any delay has its beginning.
    last = {(a, b, 4 - t) for (a, t), (b, u) in links if u == 4}
    assert {(link.source, link.target, link.delay) for link in contract(folded, by_name)} == last


def test_weights_are_those_that_paths_multiply_by():
    U, W, b = (mg.nn.Parameter(mg.zeros(shape)) for shape in ((2, 3), (3, 3), (3,)))

    def program(x, h):
        joined = mg.concatenate([x, h], axis=-1) @ mg.concatenate([U, W])
        return {"x": x, "h": h, "sum": joined + b, "both": (x @ U) @ W, "scaled": h * W[0]}

    captured = capture(program, mg.zeros((1, 2)), mg.zeros((1, 3)))
    graph = captured.graph
    held = {id(s.tensor): v for s, v in zip(captured.sources, graph.inputs) if hasattr(s, "tensor")}
    weights = {held[id(p)]: name for p, name in ((U, "U"), (W, "W"), (b, "b"))}
    names = {value: name for name, value in captured.rebuild(graph.outputs).items()}
    assert set(contract(graph, names, weights)) == {
        ("x", "sum", ("U",), 0), ("h", "sum", ("W",), 0), ("x", "both", ("U", "W"), 0),
        ("h", "scaled", ("W",), 0),
    }  # fmt: skip


# --- diagrams of any kind -------------------------------------------------------------------------


def test_text_is_escaped_and_read_back():
    label = "<&\"'>_a^b\x07"
    spots = {"<a>": Spot(0, 0, label), '"b"': Spot(1, 0, "box & more", "box")}
    made = Diagram([Panel(spots, [Arrow("<a>", '"b"', "<W>")], "t < u")], title="a & b")
    root = ElementTree.fromstring(made.svg)
    [found] = groups(root, "data-source")
    assert edge(found) == '<a>>"b":<W>'
    assert "box & more" in "".join(root.itertext())
    assert repr(made) == "<Diagram a & b: 2 spots, 1 arrows; .save('name.svg') writes it>"


@pytest.mark.parametrize("seed", range(4))
def test_arrows_go_round_what_stands_in_the_way(seed):
    """A random net on half of a grid: no arrow runs through a spot."""
    rng = np.random.default_rng(seed)
    places = [divmod(int(place), 3) for place in rng.choice(12, 6, replace=False)]
    spots = {f"{i}{j}": Spot(i, j, "v") for i, j in places}
    pairs = {tuple(rng.choice(sorted(spots), 2, replace=False)) for _ in range(7)}
    drawn = Diagram([Panel(spots, [Arrow(*pair) for pair in sorted(pairs)])], title="net")
    [panel] = groups(ElementTree.fromstring(drawn.svg), "data-panel")
    outlines = shapes(panel)
    for g in groups(panel, "data-source"):
        for key, shape in outlines.items():
            if key not in (g.get("data-source"), g.get("data-target")):
                assert (shape.outside(curve(g)) > 0).all(), f"{edge(g)} meets {key}"


# --- the command ----------------------------------------------------------------------------------


def test_the_command_lists_and_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["figure"]) == 0
    listed = capsys.readouterr().out
    assert cli.main(["figure", "--list"]) == 0
    assert capsys.readouterr().out == listed
    assert [line.split()[0] for line in listed.splitlines()] == list(FIGURES)
    assert cli.main(["figure", "10.13"]) == 0
    out = capsys.readouterr().out
    assert "Deep RNNs: Depth in a recurrent network." in out
    assert out.endswith("wrote figure-10.13.svg\n")
    text = (tmp_path / "figure-10.13.svg").read_text(encoding="utf-8")
    assert text == FIGURES["10.13"].diagram().svg
    assert cli.main(["figure", "lstm", "--save", "mine.svg"]) == 0
    assert (tmp_path / "mine.svg").exists()


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["10.31"], "there is no figure 10.31; did you mean 10.3"),
        (["nonsense"], "there is no figure nonsense; `minigrad-rnn figure` lists them"),
        (["10.1", "--save", "a.png"], "--save a.png: figure 10.1 is saved as .svg"),
        (["10.15", "--save", "a.txt"], "is saved as .png or .svg or .pdf"),
        (["10.1", "--all", "here"], "--all writes every figure: give it no name and no --save"),
        (["10.1", "--save", "no/where.svg"], "No such file or directory"),
    ],
)
def test_mistakes_are_one_line(words, hint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["figure", *words]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and hint in err


def test_plots_without_matplotlib_say_so(tmp_path, monkeypatch, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "matplotlib" else found(name)
    )
    monkeypatch.chdir(tmp_path)
    assert cli.main(["figure", "10.17"]) == 2
    err = capsys.readouterr().err
    assert err == (
        "minigrad-rnn figure: figure 10.17 is a plot, and matplotlib is not installed: "
        "pip install matplotlib\n"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["10.15", pytest.param("10.17", marks=pytest.mark.slow)])
def test_plots_are_drawn(name, tmp_path):
    pytest.importorskip("matplotlib")
    assert cli.main(["figure", name, "--save", str(tmp_path / "plot.png")]) == 0
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("ending", ["svg", "SVG", "pdf"])
def test_a_plot_is_the_same_file_every_time(ending, tmp_path, monkeypatch):
    """On another day, too: matplotlib takes the date from this variable."""
    pytest.importorskip("matplotlib")
    files = []
    for seconds in ("100000000", "200000000"):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", seconds)
        path = tmp_path / f"{seconds}.{ending}"
        assert cli.main(["figure", "10.15", "--save", str(path)]) == 0
        files.append(path.read_bytes())
    assert len(files[0]) > 5000 and files[0] == files[1]


def test_the_curves_of_10_15_are_the_compositions():
    """By NumPy alone, from the same numbers."""
    pytest.importorskip("matplotlib")
    [axes] = FIGURES["10.15"].build().axes
    rng = np.random.default_rng(0)
    x, direction = np.linspace(-20, 20, 2001), rng.normal(size=100)
    W, projection = 3.0 * rng.normal(size=(100, 100)) / 10, rng.normal(size=100)
    h = np.outer(x, direction / np.linalg.norm(direction))
    assert len(axes.lines) == 6
    for line in axes.lines:
        h = np.tanh(h @ W)
        np.testing.assert_allclose(line.get_ydata(), h @ projection, rtol=0, atol=1e-8)


def test_the_descents_of_10_17_leave_the_axes_unless_clipped():
    pytest.importorskip("matplotlib")
    without, clipped = (axes.lines[0].get_data_3d() for axes in FIGURES["10.17"].build().axes)
    steps = np.hypot(np.diff(clipped[0]), np.diff(clipped[1]))
    assert len(without[0]) < 20 and (steps <= 0.3 + 1e-9).all() and len(clipped[0]) == 26
    edge_of_axes = [np.isclose(without[0][-1], (-2, 8)), np.isclose(without[1][-1], (-4, 2))]
    assert np.any(edge_of_axes)


@pytest.mark.slow
def test_all_of_them_into_a_folder(tmp_path):
    pytest.importorskip("matplotlib")
    assert cli.main(["figure", "--all", str(tmp_path / "made")]) == 0
    made = {path.name for path in (tmp_path / "made").iterdir()}
    assert made == {f"figure-{n}{'.png' if n in PLOTS else '.svg'}" for n in FIGURES}


def test_a_diagram_of_nothing_and_an_arrow_to_nothing_are_refused():
    for panels in ([], [Panel({}, [])], [Panel({"a": Spot(0, 0, "a")}, []), Panel({}, [])]):
        with pytest.raises(ValueError, match="nothing to draw; a diagram has panels"):
            Diagram(panels, title="empty")
    for arrow in (Arrow("a", "q"), Arrow("q", "a")):
        with pytest.raises(ValueError, match=r"names 'q', and there is no spot .* known are 'a'"):
            Diagram([Panel({"a": Spot(0, 0, "a")}, [arrow])], title="lost")
