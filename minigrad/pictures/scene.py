"""A captured graph as boxes, edges and frames: loops folded, or written out from left to right."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from minigrad.graph import Affine, Graph, Instruction, Loop, Value
from minigrad.graph.ir import Operand, Step, map_static
from minigrad.op import Op
from minigrad.pictures.compound import Edge, Group
from minigrad.pictures.naming import Call, Named, calls_of
from minigrad.pictures.svg import Box
from minigrad.spec import Spec

COMMUTATIVE = frozenset({"add", "multiply", "maximum", "minimum"})
Key = Hashable


@dataclass(frozen=True)
class Place:
    """Where a value comes from: its box, and which of the values that leave it there."""

    key: Key
    slot: int | None = None
    name: str = ""


@dataclass
class Scene:
    """What is drawn, and which value each box makes."""

    boxes: dict[Key, Box] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    groups: dict[Key, Group] = field(default_factory=dict)
    makers: dict[Key, Instruction | Value] = field(default_factory=dict)
    iteration: dict[Key, int] = field(default_factory=dict)  # of a box within a loop written out
    within: dict[Key, Key] = field(default_factory=dict)  # the box that is drawn in place of one


def scene(graph: Graph, view: str, shown: int, limit: int) -> Scene:
    """The scene of a graph's last `limit` steps, whose loops stand as they are or, unfolded, as
    `shown` iterations.
    """
    builder = _Builder(graph, shown if view == "unfolded" else None, limit)
    return _modules(builder.scene) if view == "modules" else builder.scene


class _Builder:
    def __init__(self, graph: Graph, shown: int | None, limit: int) -> None:
        self.scene = Scene()
        self.shown = shown
        self.places: dict[Operand, Place] = {}
        self.count = 0
        self.inputs, self.results = set(graph.inputs), graph.outputs
        self.within: list[Key] = []  # the columns that are open
        self.uses: dict[Value, int] = {}
        self.weight = 1  # how many iterations the one that is written out stands for in them
        self.constants: dict[tuple[Value, Key], Key] = {}
        floats = [v.spec.dtype for v in (*graph.outputs, *graph.inputs) if v.spec.dtype.kind == "f"]
        self.dtype = floats[0] if floats else None
        for i, value in enumerate(graph.inputs):
            key = ("input", i)
            named = value.name or f"x{i}"
            argument = isinstance(named, Named) or re.fullmatch(r"x\d+", named)
            kind = "input" if argument else "parameter"
            self.add(key, Box((named,), kind, wire=self.kind(value.spec)), value)
            self.places[value] = Place(key)
        before, after = graph.steps[:-limit], graph.steps[-limit:]
        if before:
            self.add(("more", 0), Box((f"… {len(before)} more",), "more"))
            self.places.update({v: Place(("more", 0)) for step in before for v in step.outputs})
        self.steps(after, None, ())
        for i, value in enumerate(graph.outputs):
            self.result(i, value)
        used = {key for e in self.scene.edges for key in (e.source, e.target)}
        for i, value in enumerate(graph.inputs):
            key = ("input", i)
            if key not in used:
                del self.scene.boxes[key], self.scene.makers[key]
            elif value in self.uses:
                box = self.scene.boxes[key]
                line = f"used {self.uses[value]} times"
                self.scene.boxes[key] = replace(box, lines=(*box.lines, line))

    def fresh(self, kind: str) -> Key:
        self.count += 1
        return kind, self.count

    def add(self, key: Key, box: Box, maker: Instruction | Value | None = None) -> None:
        self.scene.boxes[key] = box
        if maker is not None:
            self.scene.makers[key] = maker

    def kind(self, spec: Spec) -> str:
        shape = str(tuple(spec.shape))
        return shape if spec.dtype == self.dtype else f"{shape} {spec.dtype}"

    def result(self, i: int, value: Value) -> None:
        """An output of the graph: its op is marked, or a box of its own says what leaves."""
        place = self.find(value, None)
        box = self.scene.boxes.get(place.key)
        key, name = ("output", i), f"output {i}" if len(self.results) > 1 else "output"
        if box is None:
            self.add(key, Box((name, place.name), "output"))
        elif box.kind in ("input", "parameter", "constant"):
            self.add(key, Box((name,), "output"))
            self.edge(place, key)
        elif box.kind == "op" and box.group is None and place.slot is None:
            self.scene.boxes[place.key] = replace(box, kind="output")
        elif box.kind != "output":
            number = "" if place.slot is None else f"[{place.slot}]"
            self.add(key, Box(((value.name or place.name or name) + number,), "output"), value)
            self.edge(place, key)

    def edge(self, place: Place, target: Key, label: str = "") -> None:
        """To another column of the same strip an edge goes from step to step."""
        columns = [self.column(self.scene.boxes[key].group) for key in (place.key, target)]
        strips = [None if c is None else self.scene.groups[c].parent for c in columns]
        across = None not in columns and columns[0] != columns[1] and strips[0] == strips[1]
        self.scene.edges.append(Edge(place.key, target, label, "step" if across else ""))

    def column(self, group: Key) -> Key:
        while group is not None and self.scene.groups[group].kind != "step":
            group = self.scene.groups[group].parent
        return group

    # steps

    def steps(self, steps: Iterable[Step], group: Key, around: tuple[Call, ...]) -> None:
        """Steps within a group that stands for the module calls `around` them."""
        for step in steps:
            if isinstance(step, Instruction):
                self.instruction(step, self.modules(group, around, calls_of_step(step)))
            else:
                shared = _shared(step)
                inside = self.modules(group, around, shared)
                around_loop = shared if len(shared) > len(around) else around
                if self.shown is not None and not self.within:
                    self.strip(step, inside, around_loop)
                else:
                    self.loop(step, inside, around_loop)

    def modules(self, group: Key, around: tuple[Call, ...], calls: tuple[Call, ...]) -> Key:
        """The frame of the innermost call, made with those around it where they are not there."""
        before = around[-1][0] if around else ""
        for call in calls[len(around) :]:
            path, kind, _ = call
            key = ("module", group, call)
            short = path.removeprefix(f"{before}.") if before else path
            title = kind if short == kind else f"{short}: {kind}"
            self.scene.groups.setdefault(key, Group(title, "module", group, path))
            group, before = key, path
        return group

    def instruction(self, step: Instruction, group: Key) -> None:
        key = self.fresh("op")
        name = step.outputs[0].name if not step.op.outputs and step.outputs else ""
        specs = [v.spec for v in step.outputs]
        wire = self.kind(specs[0]) if specs else ""
        if step.op.outputs:
            same = all(spec == specs[0] for spec in specs)
            wire = f"{len(specs)} × {wire}" if same else ", ".join(map(self.kind, specs))
        said = [f"{k}={_said(v)}" for k, v in step.static.items()]
        said = [text for text in said if len(text) <= 28]
        title = f"{name} = {step.op.name}" if name else step.op.name
        self.add(key, Box((title,), "op", group=group, wire=wire), step)
        said += self.operands(step, key, group)
        box = self.scene.boxes[key]
        self.scene.boxes[key] = replace(box, lines=(title, *([", ".join(said)] if said else [])))
        for i, value in enumerate(step.outputs):
            several = i if step.op.outputs else None
            self.places[value] = Place(key, several, value.name or "")

    def operands(self, step: Instruction, key: Key, group: Key) -> list[str]:
        """Edges for operands; what is said in the box instead: numbers, and parameters shared by
        the iterations of a loop that is written out."""
        said = []
        places: dict[Key, list[Place]] = {}
        labels: dict[Key, str] = {}
        for i, x in enumerate(step.operands):
            which = "" if step.op.variadic else operand_label(step.op, i)
            if not isinstance(x, Value):
                said.append(f"{which}={x!r}" if which else repr(x))
            elif self.within and x in self.inputs:
                self.uses[x] = self.uses.get(x, 0) + self.weight
                name = self.scene.boxes[self.places[x].key].lines[0]
                said.append(f"{which}={name}" if which else name)
                self.scene.edges.append(Edge(self.places[x].key, key, which, "tag"))
            else:
                place = self.find(x, group)
                if place.key is None:
                    said.append(f"{which}={place.name}" if which else place.name)
                    continue
                if step.op.variadic and place.key in places:
                    places[place.key].append(place)
                    continue
                at = place.key if step.op.variadic else (place.key, i)
                places[at] = [place]
                labels[at] = which
        for at, found in places.items():
            self.edge(found[0], key, _span(found) or labels[at])
        return said

    def constant(self, value: Value, group: Key) -> Place:
        """A box for a constant; one value in all places is said instead, and has no box."""
        number = _shown(value)
        if number:
            return Place(None, name=number)
        key = self.constants.setdefault((value, group), ("constant", len(self.constants)))
        box = Box((value.name or "constant",), "constant", group=group, wire=self.kind(value.spec))
        self.add(key, box, value)
        return Place(key)

    # loops

    def loop(self, loop: Loop, group: Key, around: tuple[Call, ...]) -> None:
        """A loop as a frame, its carries through black squares."""
        frame = self.fresh("loop")
        self.scene.groups[frame] = Group(f"{loop.trips} times", "loop", group)
        for indexed in loop.indexed:
            self.places[indexed.parameter] = self.items(indexed.items, frame, indexed.parameter)
        squares = []
        for carry in loop.carries:
            key = self.fresh("delay")
            name = carry.parameter.name or ""
            number = str(carry.delay) if carry.delay > 1 else ""
            tip = f"delay {carry.delay} of {name or 'a value'}, {self.kind(carry.parameter.spec)}"
            start = [self.find(x, group) for x in carry.initial]
            given = start[0].name if start[0].key is None else ""
            first = f"; first {given}" if given else ""
            text = " ".join(filter(None, (name, number)))
            self.add(key, Box((text,), "delay", tip + first, frame), carry.parameter)
            for place in start:
                if place.key is not None:
                    self.edge(place, key)
            self.places[carry.parameter] = Place(key)
            squares.append(key)
        self.steps(loop.body, frame, around)
        for carry, key in zip(loop.carries, squares, strict=True):
            place = self.find(carry.result, frame)
            if place.key is not None:
                self.scene.edges.append(Edge(place.key, key, "", "back"))
        for collected in loop.collected:
            place = self.find(collected.result, frame)
            for t, value in collected.outputs.items():
                self.places[value] = Place(place.key, t, collected.result.name or "")

    def find(self, x: Operand, group: Key) -> Place:
        """Where a value comes from; a number has no box."""
        if not isinstance(x, Value):
            return self.places.get(x) or Place(None, name=repr(x))
        return self.places[x] if x.constant is None else self.constant(x, group)

    def items(self, items: Sequence[Operand], group: Key, value: Value) -> Place:
        """Where the items of an indexed input come from: one box, or a box that takes turns."""
        found = [self.find(x, group) for x in items]
        keys = {place.key for place in found}
        first, last = found[0], found[-1]
        if len(keys) == 1 and first.key is not None:
            backwards = (first.slot or 0) > (last.slot or 0)
            return Place(first.key, None, f"{first.name}[{'-t' if backwards else 't'}]")
        if all(isinstance(x, Value) and x.constant is not None for x in items):
            key = self.fresh("constants")
            box = Box((f"{value.name or 'constants'}[t]",), "constant", group=group)
            self.add(key, replace(box, wire=self.kind(value.spec)))
            return Place(key)
        key = self.fresh("op")
        self.add(key, Box(("item t",), "op", group=group, wire=self.kind(value.spec)))
        for place in dict.fromkeys(place for place in found if place.key is not None):
            self.edge(place, key, _slot(place))
        return Place(key)

    def strip(self, loop: Loop, group: Key, around: tuple[Call, ...]) -> None:
        """A loop as its first iterations and the last one, side by side."""
        shown = self.shown or 1
        frame = self.fresh("loop")
        self.scene.groups[frame] = Group(f"{loop.trips} steps", "steps", group)
        few = loop.trips if loop.trips <= shown + 1 else max(shown - 1, 1)
        drawn = [*range(few), *([loop.trips - 1] if few < loop.trips else [])]
        past: list[list[Place | Operand]] = [list(carry.initial) for carry in loop.carries]
        results: dict[int, dict[Operand, Place]] = {}
        for t in drawn:
            if t - 1 not in results and t:
                results[t - 1] = self.elided(loop, frame, few, past)
                for before, carry in zip(past, loop.carries, strict=True):
                    before += [results[t - 1][carry.result]] * (t + carry.delay - len(before))
            column = ("column", frame, t)
            self.scene.groups[column] = Group(f"t = {t}", "step", frame)
            self.within.append(column)
            for indexed in loop.indexed:
                x = indexed.items[t]
                self.places[indexed.parameter] = self.find(x, column)
            for before, carry in zip(past, loop.carries, strict=True):
                x0 = before[t]
                here = x0 if isinstance(x0, Place) else self.find(x0, column)
                self.places[carry.parameter] = here
            known = len(self.scene.boxes)
            self.weight = 0 if t else loop.trips
            self.steps(loop.body, column, around)
            for key in list(self.scene.boxes)[known:]:
                self.scene.iteration[key] = t
            self.within.pop()
            self.weight = 1
            results[t] = {}
            for x in [*(c.result for c in loop.carries), *(c.result for c in loop.collected)]:
                results[t][x] = self.find(x, column)
            for before, carry in zip(past, loop.carries, strict=True):
                before.append(results[t][carry.result])
        for collected in loop.collected:
            for t, value in collected.outputs.items():
                place = results.get(t, results.get(loop.trips - 2, results[drawn[-1]]))
                name = collected.result.name or ""
                several = t if t not in drawn else None
                self.places[value] = replace(place[collected.result], slot=several, name=name)

    def elided(
        self, loop: Loop, frame: Key, few: int, past: list[list[Place | Operand]]
    ) -> dict[Operand, Place]:
        """One box in place of the iterations from `few` to the one before the last."""
        column, key = ("column", frame, "more"), self.fresh("more")
        hidden = loop.trips - 1 - few
        self.scene.groups[column] = Group("", "step", frame)
        text = f"… {hidden} more step{'s' if hidden > 1 else ''}"
        self.add(key, Box((text,), "more", group=column))
        for before, carry in zip(past, loop.carries, strict=True):
            for x in dict.fromkeys(before[few : few + carry.delay]):
                place = x if isinstance(x, Place) else self.find(x, column)
                if place.key is not None:
                    self.edge(place, key)
        for indexed in loop.indexed:
            found = [self.find(x, column) for x in indexed.items[few : loop.trips - 1]]
            for source in dict.fromkeys(place.key for place in found if place.key is not None):
                of = [place for place in found if place.key == source]
                self.edge(of[0], key, _span(of))
        free = [x for x in loop.operands if isinstance(x, Value) and x in self.places]
        free = [x for x in free if x not in self.inputs]
        items = {x for i in loop.indexed for x in i.items}
        items |= {x for c in loop.carries for x in c.initial}
        for source in dict.fromkeys(self.places[x].key for x in free if x not in items):
            self.edge(Place(source), key)
        results = [*(c.result for c in loop.carries), *(c.result for c in loop.collected)]
        last = f"[{loop.trips - 2}]"
        names = {x: x.name or "" if isinstance(x, Value) else "" for x in results}
        return {x: Place(key, name=name + last if name else "") for x, name in names.items()}


def operand_label(op: Op, place: int) -> str:
    """Which operand, where that matters: `b` may be the name of what stands there, so not that."""
    if len(op.operands) == 1 or op.name in COMMUTATIVE:
        return ""
    return ("1st", "2nd")[place] if op.operands == ("a", "b") else op.operand(place)


def calls_of_step(step: Step) -> tuple[Call, ...]:
    return calls_of(step.outputs[0]) if step.outputs else ()


def _shared(loop: Loop) -> tuple[Call, ...]:
    """The module calls around a loop: those that all its steps, in all iterations, are within."""
    inner = [step for step in Graph((), (loop,), ()).walk() if isinstance(step, Instruction)]
    every = [calls_of_step(step) for step in inner]
    # The body's names are those of its first iteration; what is collected knows later ones.
    every += [calls_of(v) for c in loop.collected for t, v in c.outputs.items() if t]
    shared = []
    for column in zip(*every):  # as long as the shortest
        if any(call != column[0] for call in column):
            break
        shared.append(column[0])
    return tuple(shared)


def _shown(value: Value) -> str:
    """The number that a constant is in all places, or nothing."""
    array = value.constant.numpy() if value.constant is not None else np.zeros(0)
    first = array.reshape(-1)[0].item() if array.size else None
    if first is None or not bool((array == first).all()):
        return ""
    return f"{first:.4g}" if isinstance(first, float) else str(first)


def _said(static: object) -> str:
    def leaf(x: object) -> object:
        return f"{x.start} + {x.step} t" if isinstance(x, Affine) else x

    return str(map_static(leaf, static))


def _slot(place: Place) -> str:
    if place.slot is None:
        return place.name if place.name.endswith("]") else ""
    return f"{place.name}[{place.slot}]" if not place.name else place.name


def _span(places: Sequence[Place]) -> str:
    """Which of the values of one box: by name, by number, or from which to which."""
    slots = [place.slot for place in places]
    if len(places) == 1 or None in slots:
        return _slot(places[0])
    return f"{places[0].name}[{slots[0]}…{slots[-1]}]"


# --- modules -------------------------------------------------------------------------------------


def _modules(full: Scene) -> Scene:
    """One box for each module call that has no frame within it, with the names it owns."""
    parents = {group.parent for group in full.groups.values()}
    closed = {
        key for key, group in full.groups.items() if group.kind == "module" and key not in parents
    }
    inside = {key: box.group for key, box in full.boxes.items() if box.group in closed}
    users: dict[Key, set[Key]] = {}
    for edge in full.edges:
        users.setdefault(edge.source, set()).add(inside.get(edge.target, edge.target))
    owned = {key for key, box in full.boxes.items()
             if box.kind == "parameter" and users.get(key) and users[key] <= closed}  # fmt: skip
    made = Scene(groups={k: g for k, g in full.groups.items() if k not in closed})
    made.within, made.makers = inside, full.makers
    wires: dict[Key, str] = {}
    for edge in full.edges:
        if edge.source in inside and inside[edge.source] != inside.get(edge.target):
            wires.setdefault(inside[edge.source], full.boxes[edge.source].wire)
    for key, box in full.boxes.items():
        group = inside.get(key)
        if group is not None and group not in made.boxes:
            one = full.groups[group]
            names = [full.boxes[k].lines[0] for k in full.boxes if k in owned and group in users[k]]
            short = ", ".join(name.removeprefix(f"{one.tip}.") for name in names)
            lines = (one.title, *([short] if short else []))
            made.boxes[group] = Box(lines, "module", group=one.parent, wire=wires.get(group, ""))
        elif group is None and key not in owned:
            made.boxes[key] = box
        if group is not None and box.kind == "output":
            made.boxes[group] = replace(made.boxes[group], kind="output")
    kept: dict[Edge, None] = {}
    for edge in full.edges:
        source, target = (inside.get(key, key) for key in (edge.source, edge.target))
        if source != target and edge.source not in owned:
            kept[replace(edge, source=source, target=target,
                         label="" if target in closed else edge.label)] = None  # fmt: skip
    made.edges = list(kept)
    return made
