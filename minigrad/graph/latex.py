"""equations: a graph as formulas in LaTeX, one for each named value, the rest within them.

What is printed is what the graph computes, in its order: sums and products are as they associate.
Only these are looked through: numbers that are spread over a shape, what leaves a shape as it is
(reshape, a change between floating dtypes), a factor 1, and a `split` of a sum or a product, which
is printed as the sum or product of split operands.
"""

from __future__ import annotations

import math
import re
from collections import Counter as Tally
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from minigrad.graph.ir import (
    Affine,
    Graph,
    Indexed,
    Instruction,
    Loop,
    Operand,
    Step,
    Value,
    map_static,
    spec_of,
)
from minigrad.graph.traced import Traced
from minigrad.op import bare
from minigrad.tensor import Tensor

RELATION, SUM, PRODUCT, TIMES, POWER, ATOM = range(6)  # how tightly the parts hold together
INFIX = {
    "add": ("+", SUM), "subtract": ("-", SUM), "equal": ("=", RELATION), "less": ("<", RELATION),
    "greater": (">", RELATION), "less_equal": (r"\le", RELATION), "not_equal": (r"\ne", RELATION),
    "greater_equal": (r"\ge", RELATION), "logical_and": (r"\land", RELATION),
}  # fmt: skip
CALLS = {"sigmoid": r"\sigma", "maximum": r"\max", "minimum": r"\min"} | {
    name: f"\\{name}" for name in ("tanh", "exp", "log", "sinh", "cosh", "sin", "cos", "tan")
}
REDUCING = {"sum": r"\sum", "max": r"\max", "min": r"\min", "logsumexp": r"\log\sum\exp"}
ELEMENTWISE = {*INFIX, *CALLS, "multiply", "divide", "negative", "power", "sqrt", "where"}
SAME = {"alias", "astype", "reshape", "concatenate"}  # where they change no shape
INDICES = "tsrqpnm"  # of loops within loops
UNNAMED = {"broadcast_to", "split", "unstack"}  # these stand where they are used
LONG, LONGEST = (
    24,
    200,
)  # characters above which an unnamed value gets a name, if used twice; if not
MANY = 4  # operands in a row, above which dots stand for the middle
Part = tuple[int, int] | None  # of the last axis
Text = tuple[str, int]  # LaTeX, and how tightly its parts hold together


class Equation(NamedTuple):
    r"""left = right, in LaTeX; of a loop's body `where` is its range, such as t = 1, \dots, 4."""

    left: str
    right: str
    where: str = ""

    def __str__(self) -> str:
        return f"{self.left} = {self.right}" + (rf" \qquad {self.where}" if self.where else "")


class Name(NamedTuple):
    """A symbol; that of an iteration also has a number, slope * letter + offset."""

    symbol: str
    offset: int | None = None
    letter: str = ""  # t; empty where the number is known
    slope: int = 1

    def __str__(self) -> str:
        if self.offset is None:
            return self.symbol
        shown = str(self.offset)
        if self.letter:
            number = f"{self.offset:+d}" if self.offset else ""
            moving = {1: "", -1: "-"}.get(self.slope, str(self.slope)) + self.letter
            shown = moving + number if self.slope > 0 else number.removeprefix("+") + moving
        if "(t)" in self.symbol:  # which says where its number stands
            return self.symbol.replace("(t)", f"({shown})")
        symbol = f"{{{self.symbol}}}" if "^" in self.symbol else self.symbol
        return f"{symbol}^{{({shown})}}"

    def at(self, t: int) -> Name:
        """That of iteration t."""
        return Name(self.symbol, self.slope * t + (self.offset or 0))


def label(x: Tensor, name: str) -> Tensor:
    """x, whose value bears this name (LaTeX, or W_ab) in the graph of a function being captured."""
    array = bare(x)
    if isinstance(array, Traced):
        array.value.name = name
    return x


def equations(
    graph: Graph, parts: Mapping[str, Sequence[str]] | None = None
) -> tuple[Equation, ...]:
    r"""The formulas of a graph's named values and outputs, each after those that it needs.

    Names are those of tensors (`W.name = "W"`) and of `label`. In a folded loop a value is
    h^{(t)}, the carry of delay 1 h^{(t-1)}, and item t of an unstacked x is x^{(t)}. An unnamed
    value stands within the formulas that use it; a long one that is used twice is called v.
    parts: what the equal parts of a parameter are called, along its last axis where it is split
    and its first where it is unstacked: {"W": ["W_a", "W_b"]}.
    """
    return tuple(_Writer(graph, parts or {}).lines)


def symbol(name: str) -> str:
    r"""A tensor's name in LaTeX: W_ab is W_{ab}, x0 is x_{0}, loss is \mathrm{loss}."""
    if set(name) & set("\\{}^"):
        return name
    if len(name) == 1:
        return escaped(name)
    indexed = name[1] == "_" or name[1:].isdigit()
    found = re.fullmatch(r"([A-Za-z])_?([^_]+)", name) if indexed else None
    return f"{found[1]}_{{{escaped(found[2])}}}" if found else rf"\mathrm{{{escaped(name)}}}"


def escaped(text: str) -> str:
    """Text whose characters LaTeX takes for themselves."""
    return re.sub(r"([_&%#$])", r"\\\1", text)


class _Writer:
    def __init__(self, graph: Graph, parts: Mapping[str, Sequence[str]]) -> None:
        self.parts = {symbol(whole): list(map(symbol, given)) for whole, given in parts.items()}
        self.lines: list[Equation] = []
        self.names: dict[Any, Name] = {}  # of values that have been written
        self.given: dict[Value, str] = {}  # symbols of those that are to be
        self.made: dict[Value, tuple[Instruction, int]] = {}
        self.uses: Tally[Operand] = Tally(graph.outputs)
        self.count = 0
        for step in graph.walk():
            self.uses.update(step.operands)
            if isinstance(step, Instruction):
                self.made.update({v: (step, i) for i, v in enumerate(step.outputs)})
                self.given.update({v: symbol(v.name) for v in step.outputs if v.name})
        self.total, self.seen = Tally(self.given.values()), Tally[str]()
        called = {symbol(value.name) for value in graph.inputs if value.name}
        called.update(self.given.values(), *self.parts.values())
        self.taken = {name.partition("^")[0] for name in called}  # h^{(0)} is one of h
        for value in graph.inputs:
            self.names[value] = Name(symbol(value.name) if value.name else self.fresh("a"))
        self.steps(graph.steps)
        unnamed = [value for value in graph.outputs if value not in self.names]
        for i, value in enumerate(unnamed):
            name = f"y_{{{i + 1}}}" if len(unnamed) > 1 else "y"
            self.define(value, Name(self.fresh("y") if name in self.taken else name))

    def fresh(self, letter: str = "v") -> str:
        """A name that nobody has given."""
        self.count += 1
        while (name := f"{letter}_{{{self.count}}}") in self.taken:
            self.count += 1
        self.taken.add(name)
        return name

    def define(self, value: Operand, name: Name, where: str = "") -> None:
        self.lines.append(Equation(str(name), self.write(value)[0], where))
        self.names[value] = name

    # steps

    def steps(self, steps: Sequence[Step], letter: str = "", where: str = "") -> None:
        for step in steps:
            if isinstance(step, Loop):
                self.loop(step, INDICES[(INDICES.find(letter) + 1) % len(INDICES) if letter else 0])
                continue
            for value in step.outputs:
                uses = 0 if step.op.name in UNNAMED or value in self.given else self.uses[value]
                if uses and len(self.write(value)[0]) > (LONG if uses > 1 else LONGEST):
                    self.given[value] = self.fresh()
                if made := self.given.get(value):
                    self.seen[made] += 1
                    numbered = self.seen[made] if self.total[made] > 1 else None
                    self.define(value, Name(made, 0 if letter else numbered, letter), where)

    def loop(self, loop: Loop, letter: str) -> None:
        here = {value for step in loop.body for value in step.outputs}
        results = [c.result for c in loop.carries] + [c.result for c in loop.collected]
        for value in results:
            if value in here and value not in self.given:
                self.given[value] = self.fresh()
        # Iterations that stand before the loop, as they differ, have the first numbers.
        begun = max((self.seen[self.given[v]] for v in here if v in self.given), default=0)
        where = rf"{letter} = {begun + 1}, \dots, {begun + loop.trips}"
        for indexed in loop.indexed:
            self.names[indexed.parameter] = self.item(indexed, letter, begun + 1, where)
        copied: list[tuple[Value, Name]] = []
        for carry in loop.carries:
            known = self.names.get(carry.result)  # an item, or another carry
            if carry.result in here or known is None or known.letter != letter:
                known = Name(self.given.get(carry.result) or self.fresh(), 0, letter)
                copied += [(carry.result, known)] if carry.result not in here else []
            before = known._replace(offset=(known.offset or 0) - carry.delay * known.slope)
            self.names[carry.parameter] = before
            for t, start in enumerate(carry.initial, begun + 1):
                left, right = str(before.at(t)), self.write(start)[0]
                self.lines += [Equation(left, right)] if left != right else []
        self.steps(loop.body, letter, where)
        for result, name in copied:
            self.lines.append(Equation(str(name), self.write(result)[0], where))
        for collected in loop.collected:
            if collected.result not in self.names:  # a value from around the loop
                self.define(collected.result, Name(self.fresh()))
            name = self.names[collected.result]
            self.names.update({v: name.at(begun + t + 1) for t, v in collected.outputs.items()})
        self.seen.update({self.given[v]: loop.trips - 1 for v in here if v in self.given})

    def item(self, indexed: Indexed, letter: str, first: int, where: str) -> Name:
        """What item t is called, x^{(t)} if the items are x^{(1)}, x^{(2)}, ..."""
        names = [self.name(x) or Name("") for x in indexed.items]
        places = [name.offset or 0 for name in names]
        slope = places[1] - places[0] if len(places) > 1 else 1
        if names == [Name(names[0].symbol, places[0] + slope * i) for i in range(len(names))]:
            return Name(names[0].symbol, places[0] - slope * first, letter, slope)
        name = Name(self.fresh(), 0, letter)
        items = ", ".join(self.write(x)[0] for x in indexed.items)
        self.lines.append(Equation(str(name), f"({items})_{{{letter}}}", where))
        return name

    def name(self, x: Any) -> Name | None:
        if x in self.names or x not in self.made:
            return self.names.get(x)
        step, i = self.made[x]
        rows = step.op.name == "unstack" and step.static["axis"] == 0
        whole = self.name(step.operands[0]) if rows else None
        if whole is None or whole.offset is not None:
            return None
        own = self.parts.get(whole.symbol)
        return Name(own[i]) if own else Name(whole.symbol, i + 1)

    # values

    def write(self, x: Operand, part: Part = None) -> Text:
        """A value, or a part of its last axis, and how tightly what is written holds together."""
        if not isinstance(x, Value):
            return number(x)
        if name := self.name(x):
            own = self.parts.get(name.symbol, ())
            width = x.spec.shape[-1] // len(own) if own else 0
            if part and part[1] - part[0] == width and part[0] % width == 0:
                return own[part[0] // width], ATOM
            return cut((str(name), ATOM), part)
        if x.constant is not None:
            values = x.constant.numpy()
            same = values.size and (values == values.flat[0]).all()
            return number(values.flat[0].item()) if same else cut((r"\text{constant}", ATOM), part)
        step, i = self.made[x]
        op, last = step.op.name, len(x.spec.shape) - 1
        if op == "split" and step.static["axis"] == last:
            start = (0, *step.static["ends"])[i] + (part[0] if part else 0)
            width = part[1] - part[0] if part else x.spec.shape[-1]
            return self.write(step.operands[0], (start, start + width))
        columns = op == "matmul" and len(spec_of(step.operands[1]).shape) > 1
        if part and op not in ELEMENTWISE and not columns:
            return cut(self.write(x), part)
        operands = self.lean(step)
        wide = [spec_of(y).shape[-1:] == x.spec.shape[-1:] for y in operands]
        parts = [part if w else None for w in ([False, True] if columns else wide)]
        return self.instruction(step, i, [self.write(*given) for given in zip(operands, parts)])

    def lean(self, step: Instruction) -> list[Operand]:
        """Operands; one that is spread over the shape of another one as it was before."""
        narrow = list(map(self.narrow, step.operands))
        shape = step.outputs[0].spec.shape
        full = [a is b and spec_of(a).shape == shape for a, b in zip(narrow, step.operands)]
        return narrow if step.op.name in ELEMENTWISE and any(full) else list(step.operands)

    def narrow(self, x: Operand) -> Operand:
        while isinstance(x, Value) and x in self.made and x not in self.names:
            step, _ = self.made[x]
            if step.op.name != "broadcast_to" and not (step.op.name == "reshape" and is_one(x)):
                break
            x = step.operands[0]
        return x

    def instruction(self, step: Instruction, i: int, shown: Sequence[Text]) -> Text:
        op, y = step.op.name, step.outputs[0]
        first, *others = shown or [("", ATOM)]
        same = len(shown) == 1 and spec_of(step.operands[0]).shape == y.spec.shape
        if op in SAME and (same or is_one(y)) and y.spec.dtype.kind == "f":
            return first
        if op in INFIX:
            return infix(*INFIX[op], *shown)
        if op == "matmul":
            return infix("", TIMES, *shown)
        if op == "multiply":
            return product(step.operands, shown, [is_one(x) for x in self.lean(step)])
        if op == "divide":
            return rf"\frac{{{first[0]}}}{{{others[0][0]}}}", POWER
        if op == "negative":
            return f"-{wrap(first, PRODUCT)}", SUM
        if op == "power":
            hadamard = r"\odot " if is_square(y) else ""  # no power of the matrix
            return f"{base(first)}^{{{hadamard}{others[0][0]}}}", POWER
        if op == "sqrt":
            return rf"\sqrt{{{first[0]}}}", ATOM
        if op == "transpose" and step.static["axes"] == (1, 0):
            return rf"{base(first, '{}' if first[1] == ATOM else '()')}^{{\top}}", POWER
        if op == "where":
            lines = rf"{others[0][0]} & {first[0]} \\ {others[1][0]} & \text{{otherwise}}"
            return rf"\begin{{cases}} {lines} \end{{cases}}", ATOM
        if op in CALLS or (op in REDUCING and is_one(y)):
            return f"{(CALLS | REDUCING)[op]}({', '.join(x for x, _ in shown)})", POWER
        static = map_static(
            lambda leaf: "varies" if isinstance(leaf, Affine) else leaf, step.static
        )
        told = ", ".join(f"{key}={value}" for key, value in static.items())
        below = rf"_{{\text{{{told}}}}}" if told else ""
        row = [x for x, _ in shown]
        row = [row[0], r"\dots", row[-1]] if len(row) > MANY else row
        called = rf"\operatorname{{{op}}}{below}".replace("_", r"\_").replace(r"}\_", "}_")
        called = f"{called}({', '.join(row)})"
        return (f"{called}_{{{i + 1}}}" if step.op.outputs else called), POWER


# --- text ----------------------------------------------------------------------------------------


def is_one(x: Operand) -> bool:
    """Whether it has one element."""
    return math.prod(spec_of(x).shape) == 1


def is_square(x: Operand) -> bool:
    """Whether it is a matrix that can be multiplied with itself."""
    *_, rows, columns = (0, 1, *spec_of(x).shape)
    return rows == columns > 1


def number(x: Any) -> Text:
    """A number, its exponent as a power of ten."""
    text = str(int(x)) if math.isfinite(x) and x == int(x) and abs(x) < 1e6 else repr(x)
    text = text.replace("inf", r"\infty").replace("nan", r"\mathrm{nan}")
    text, e, exponent = text.partition("e")
    text += rf" \cdot 10^{{{int(exponent)}}}" if e else ""
    return text, SUM if text.startswith("-") else TIMES if e else ATOM


def wrap(shown: Text, least: int) -> str:
    """Text, in parentheses unless its parts hold together at least so tightly."""
    return shown[0] if shown[1] >= least else f"({shown[0]})"


def base(shown: Text, braces: str = "()") -> str:
    """Text that a power may follow."""
    simple = shown[1] == ATOM and not set(shown[0]) & set("^ ")
    return shown[0] if simple else f"{braces[0]}{shown[0]}{braces[1]}"


def infix(sign: str, level: int, left: Text, right: Text) -> Text:
    """left sign right, the operands in parentheses where they need them."""
    a, b = wrap(left, level + (level == RELATION)), wrap(right, level + 1)
    sign = r"\cdot" if not sign and b[0].isdigit() else sign
    return " ".join(filter(None, (a, sign, b))), level


def product(operands: Sequence[Operand], shown: Sequence[Text], one: Sequence[bool]) -> Text:
    """An elementwise product: a square, a change of sign, a scalar times the other, or odot."""
    if operands[0] is operands[1] and not is_square(operands[0]):
        return f"{base(shown[0])}^{{2}}", POWER
    for factor, other in (shown, shown[::-1]):
        if factor[0] in ("1", "-1"):
            return other if factor[0] == "1" else (f"-{wrap(other, PRODUCT)}", SUM)
    if any(one):
        return infix("", TIMES, *(shown if one[0] else shown[::-1]))
    return infix(r"\odot", PRODUCT, *shown)


def cut(shown: Text, part: Part) -> Text:
    """Text of a part of the last axis."""
    return (f"({shown[0]})_{{[{part[0]}:{part[1]}]}}", POWER) if part else shown
