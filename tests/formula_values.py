"""Formulas as programs: LaTeX as lectures write it, read and evaluated in NumPy; an oracle.

Side by side is a matrix product, or a scalar times the rest; odot and frac are elementwise. A
script such as ^{(t-1)} or _{t-1} says which value is meant of a symbol that has several.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

TOKEN = re.compile(r"\\[a-zA-Z]+|\\\\|\d+(?:\.\d+)?|[^\s\\]")
SILENT = re.compile(r"\\(?:left|right|quad|qquad)(?![a-zA-Z])|\\[,;!]")
RANGE = re.compile(r"\\qquad\s*t\s*=\s*(.+?),\s*\\dots,\s*(.+)$")
PLACE = re.compile(r"\(?(?:([A-Za-z]|\\tau) ?([+-]\d+)?|(\d+))\)?")  # t-1, \tau, 3
CALLED = {
    "\\sigma": lambda x: 1 / (1 + np.exp(-x)), "\\min": np.minimum,
    "\\max": lambda x, *ys: np.maximum(x, *ys) if ys else np.max(x),
    "\\sqrt": np.sqrt, "\\sum": np.sum, "unstack": np.asarray, "stack": lambda *xs: np.stack(xs),
    "softmax": lambda x: np.exp(x) / np.sum(np.exp(x)), "diag": lambda x: np.diag(np.ravel(x)),
} | {f"\\{name}": getattr(np, name) for name in ("tanh", "exp", "log", "sinh", "cosh")}  # fmt: skip
COMPARED = {"=": np.equal, "<": np.less, ">": np.greater, "\\le": np.less_equal,
            "\\ge": np.greater_equal, "\\ne": np.not_equal, "\\land": np.logical_and}  # fmt: skip
ENDS = {*")},;&+-=<>", "\\odot", "\\cdot", "\\\\", "\\rVert", "\\end", *COMPARED, ""}
Values = dict[str, Any]  # arrays, functions, and {1: x1, 2: x2} for symbols with several values
Expression = Callable[[Values, Mapping[str, int]], Any]


class FormulaError(ValueError):
    """A formula that cannot be read, or a symbol in it that has no value."""


def assign(formulas: Iterable[str], values: Mapping[str, Any], last: int = 1) -> Values:
    r"""The values and those of the left sides, from formulas `left = right` in order.

    A left side that has the index t stands for t = 1, ..., last, or for the range that follows:
    `\qquad t = \tau-1, \dots, 1`; neighbours of one range are evaluated together, t by t.
    Raises FormulaError for what cannot be read and for symbols without a value.
    """
    known = {key: dict(x) if isinstance(x, Mapping) else x for key, x in values.items()}
    known |= {"T": last, "\\tau": last, "e": np.e}
    called = {key for key, x in known.items() if callable(x)}
    read: list[tuple[Any, _Symbol, Expression]] = []
    for formula in formulas:
        span = RANGE.search(formula)
        left, _, right = (formula[: span.start()] if span else formula).partition("=")
        symbol = _Reader(left, called).symbol()
        ends = span.groups() if span else ("1", "T")
        read.append((ends if symbol.runs() else None, symbol, _Reader(right, called).whole()))
    for ends, group in itertools.groupby(read, key=lambda item: item[0]):
        lines = list(group)
        first, final = (int(_Reader(end, called).whole()(known, {})) for end in ends or ("1", "1"))
        step = 1 if first <= final else -1
        for t in range(first, final + step, step):
            for _, symbol, right_side in lines:
                symbol.put(known, right_side(known, {"t": t}), {"t": t})
    return known


class _Symbol(NamedTuple):
    """A letter and its scripts."""

    base: str
    below: str = ""
    above: str = ""

    def key(self, below: str, above: str) -> str:
        return self.base + (f"_{below}" if below else "") + (f"^{above}" if above else "")

    def places(self) -> Iterator[tuple[str, re.Match[str], str]]:
        """Where a script says which value is meant: the rest's key, the script, what is above."""
        above, top, _ = self.above.partition("\\top")
        if above.startswith("(") and (place := PLACE.fullmatch(above)):
            yield self.key(self.below, ""), place, top
        if place := PLACE.fullmatch(self.below):
            yield self.key("", ""), place, self.above

    def runs(self) -> bool:
        """Whether it has the index t."""
        return any(place[1] == "t" for _, place, _ in self.places())

    def get(self, values: Values, numbers: Mapping[str, int]) -> Any:
        if self.base in numbers and not self.below + self.above:
            return numbers[self.base]
        if (full := self.key(self.below, self.above)) in values:
            return values[full]
        for key, place, power in self.places():
            found = values.get(key)
            if isinstance(found, Mapping) and (n := _number(place, values, numbers)) in found:
                return _raised(found[n], power, values, numbers)
        key = self.key(self.below, "")
        if self.above.startswith("(") or key not in values:
            raise FormulaError(f"{full} has no value at {dict(numbers)}")
        return _raised(values[key], self.above, values, numbers)

    def put(self, values: Values, x: Any, numbers: Mapping[str, int]) -> None:
        for key, place, _ in self.places():
            if place[1] or self.above.startswith("(") or isinstance(values.get(key), dict):
                values.setdefault(key, {})[_number(place, values, numbers)] = x
                return
        full = self.key(self.below, self.above)
        values[f"{full}()" if isinstance(values.get(full), dict) else full] = x  # L beside L^{(t)}


def _number(place: re.Match[str], values: Values, numbers: Mapping[str, int]) -> int:
    if place[3]:
        return int(place[3])
    return int({**values, **numbers}.get(place[1], -1)) + int(place[2] or 0)


def _raised(x: Any, above: str, values: Values, numbers: Mapping[str, int]) -> Any:
    if not above:
        return x
    if above == "\\top":
        return np.transpose(x)
    square = np.ndim(x) == 2 and x.shape[0] == x.shape[1] > 1 and "\\odot" not in above
    power = _Reader(above.replace("\\odot", ""), set()).whole()(values, numbers)
    return np.linalg.matrix_power(x, int(power)) if square else x**power


class _Reader:
    """Recursive descent: sums of products of neighbours of things with powers."""

    def __init__(self, text: str, called: set[str]) -> None:
        self.tokens = TOKEN.findall(SILENT.sub(" ", text))
        self.called, self.at, self.norm = called, 0, False

    def next(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, expected: str = "") -> str:
        token = self.next()
        if not token or (expected and token != expected):
            raise FormulaError(f"{' '.join(self.tokens)}: {expected or 'more'} is missing")
        self.at += 1
        return token

    def took(self, token: str) -> bool:
        self.at += (here := self.next() == token)
        return here

    def whole(self) -> Expression:
        found = self.compared()
        if self.next():
            raise FormulaError(f"{' '.join(self.tokens)}: {self.next()} cannot be read")
        return found

    def compared(self) -> Expression:
        left = self.sum()
        if (relation := COMPARED.get(self.next())) is None:
            return left
        self.take()
        right = self.sum()
        return lambda v, n: relation(left(v, n), right(v, n))

    def sum(self) -> Expression:
        minus = self.took("-")
        first = self.product()
        found: Expression = (lambda v, n: -first(v, n)) if minus else first
        while self.next() in ("+", "-"):
            found = _binary(np.add if self.take() == "+" else np.subtract, found, self.product())
        return found

    def product(self) -> Expression:
        found = self.neighbours()
        while self.next() in ("\\odot", "\\cdot"):
            self.take()
            found = _binary(np.multiply, found, self.neighbours())
        return found

    def neighbours(self) -> Expression:
        found = self.factor()
        while self.next() not in ENDS and not (self.norm and self.next() == "|"):
            found = _binary(_times, found, self.factor())
        return found

    def factor(self) -> Expression:
        found = self.atom()
        while self.next() in ("^", "_"):
            mark = self.take()
            found = functools.partial(_power if mark == "^" else _part, found, self.group())
        return found

    def atom(self) -> Expression:
        token = self.next()
        if token[0].isdigit():
            self.take()
            return lambda v, n: float(token)
        if token in ("(", "{"):
            return self.between(token, ")" if token == "(" else "}")
        if token in ("|", "\\lVert"):
            outer, self.norm = self.norm, True
            inside = self.between(token, {"|": "|"}.get(token, "\\rVert"))
            self.norm = outer
            return lambda v, n: np.sqrt(np.sum(inside(v, n) ** 2))
        if token == "\\frac":
            self.take()
            return _binary(np.divide, self.between("{", "}"), self.between("{", "}"))
        if token == "\\begin":
            return self.cases()
        if token in ("\\sum", "\\prod") and self.tokens[self.at + 1] in "_^":
            return self.repeated()
        if token in ("\\operatorname", "\\textit", "\\mathrm"):
            self.take()
            token = self.group()
            if self.took("_"):
                self.group()
            return self.call(CALLED.get(token), token)
        if token in CALLED:
            return self.call(CALLED[self.take()], token)
        symbol = self.symbol()
        if symbol.key(symbol.below, symbol.above) in self.called:
            return self.call(lambda *xs: None, symbol.key(symbol.below, symbol.above))
        return symbol.get

    def between(self, opening: str, closing: str) -> Expression:
        self.take(opening)
        found = self.compared()
        self.take(closing)
        return found

    def call(self, function: Any, name: str) -> Expression:
        if function is None:
            raise FormulaError(f"{name} is no function that is known here")
        arguments = []
        if self.next() != "(":
            arguments.append(self.factor())
        else:
            while self.next() != ")":
                self.take()
                arguments.append(self.sum())
            self.take()
        return lambda v, n: (v[name] if name in self.called else function)(
            *(x(v, n) for x in arguments)
        )

    def repeated(self) -> Expression:
        """A sum or product over t, or over t = 1 to T."""
        function = np.add if self.take() == "\\sum" else _times
        scripts = {self.take(): self.group() for _ in range(2) if self.next() in ("_", "^")}
        letter, _, first = scripts.get("_", "t").partition("=")
        begin, end = (_Reader(x, set()).whole() for x in (first or "1", scripts.get("^", "T")))
        body = self.product()
        return lambda v, n: functools.reduce(
            function,
            (body(v, {**n, letter: k}) for k in range(int(begin(v, n)), int(end(v, n)) + 1)),
        )

    def cases(self) -> Expression:
        self.take()
        self.group()
        yes = self.sum()
        self.take("&")
        condition = self.compared()
        self.take("\\\\")
        no = self.sum()
        for _ in range(2):  # & \text{otherwise}, \end{cases}
            self.took("&")
            self.take()
            self.group()
        return lambda v, n: np.where(condition(v, n), yes(v, n), no(v, n))

    def group(self) -> str:
        """A token, or all in braces, as it is written."""
        if not self.took("{"):
            return self.take()
        begin, depth = self.at, 1
        while depth:
            depth += {"{": 1, "}": -1}.get(self.take(), 0)
        inside = self.tokens[begin : self.at - 1]
        return "".join(f"{token} " if len(token) > 1 < len(inside) else token for token in inside)

    def symbol(self) -> _Symbol:
        base = self.take()
        if base in ("\\hat", "\\tilde"):
            base = f"{base}{{{self.group()}}}"
        scripts = {"_": "", "^": ""}
        while self.next() in scripts:
            mark = self.take()
            scripts[mark] = self.group()
        if base == "\\nabla" and self.took("L") and scripts["_"]:
            inner = _Reader(scripts["_"], set()).symbol()
            return inner._replace(base=f"\\nabla_{inner.base}")
        if not re.fullmatch(r"\\?[A-Za-z]+(\{\w+\})?", base):
            raise FormulaError(f"{' '.join(self.tokens)}: {base} is no symbol")
        return _Symbol(base, scripts["_"], scripts["^"])


def _power(inner: Expression, above: str, values: Values, numbers: Mapping[str, int]) -> Any:
    return _raised(inner(values, numbers), above, values, numbers)


def _part(inner: Expression, below: str, values: Values, numbers: Mapping[str, int]) -> Any:
    return inner(values, numbers)[int(below) - 1]


def _binary(function: Any, a: Expression, b: Expression) -> Expression:
    return lambda v, n: function(a(v, n), b(v, n))


def _times(a: Any, b: Any) -> Any:
    return a * b if np.size(a) == 1 or np.size(b) == 1 else a @ b
