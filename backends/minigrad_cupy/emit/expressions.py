"""C expressions: values that write code when an op's forward computes with them.

Dtypes promote as NumPy's do; Python numbers take the dtype of what they meet.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

BOOL, FLOAT32, FLOAT64 = (np.dtype(name) for name in ("bool", "float32", "float64"))
TYPES = {
    BOOL: "bool",
    FLOAT32: "float",
    FLOAT64: "double",
    np.dtype("int32"): "int",
    np.dtype("uint32"): "unsigned int",
    np.dtype("int64"): "long long",
}
WHOLE = range(-4, 9)  # exponents that become multiplications
LONG = 60  # characters of an expression from which on it gets a name

# Functions beside those of CUDA's math library, with NumPy's results for NaN, signs and zeros.
PRELUDE = """\
#define FUNCTION template <typename T> __device__ inline
FUNCTION T greater_of(T a, T b) { return a != a || a > b ? a : b; }
FUNCTION T smaller_of(T a, T b) { return a != a || a < b ? a : b; }
FUNCTION T sign_of(T x) { return x > 0 ? T(1) : x < 0 ? T(-1) : x == 0 ? T(0) : x; }
FUNCTION T size_of(T x) { return x > 0 ? x : T(0) - x; }
FUNCTION bool is_nan(T x) { return x != x; }
FUNCTION bool is_finite(T x) { return x - x == T(0); }
FUNCTION bool is_infinite(T x) { return x == x && x - x != T(0); }
FUNCTION T remainder_of(T a, T b) {
    if (b == 0 || (T(-1) < 0 && b == T(-1))) return 0;
    const T r = a % b;
    return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}
FUNCTION T quotient_of(T a, T b) {
    if (b == 0) return 0;
    if (T(-1) < 0 && b == T(-1)) return T(0) - a;
    return a / b - (a % b != 0 && (a < 0) != (b < 0));
}
FUNCTION T float_remainder_of(T a, T b) {
    const T r = fmod(double(a), double(b));
    if (r == 0) return copysign(0.0, double(b));
    return (b < 0) != (r < 0) ? r + b : r;
}
FUNCTION T float_quotient_of(T a, T b) {
    if (b == 0) return a / b;
    const T r = fmod(double(a), double(b));
    const T q = (a - r) / b - (r != 0 && (b < 0) != (r < 0));
    if (q == 0) return copysign(0.0, double(a / b));
    const T whole = floor(double(q));
    return q - whole > T(0.5) ? whole + 1 : whole;
}
"""


def literal(x: Any, dtype: Any) -> str:
    """A number of a dtype as C reads it."""
    dtype = np.dtype(dtype)
    value = dtype.type(x)
    if dtype.kind == "f" and not np.isfinite(value):
        bits = np.float64(value).view(np.uint64)
        return f"({TYPES[dtype]}(__longlong_as_double({hex(bits)}ull)))"
    suffix = {"float32": "f", "int64": "LL", "uint32": "u"}.get(dtype.name, "")
    text = f"{value!s}{suffix}".lower()
    return f"({text})" if text.startswith("-") else text


class Expression:
    """C text of a value; without a dtype a float, weak as Python's, that is an argument."""

    __slots__ = ("block", "dtype", "is_atom", "text")
    __hash__ = object.__hash__

    def __init__(self, block: Block, text: str, dtype: Any, is_atom: bool = True) -> None:
        self.block, self.text, self.dtype, self.is_atom = block, text, dtype, is_atom

    @property
    def part(self) -> str:
        """The text as a part of a longer one."""
        return self.text if self.is_atom else f"({self.text})"

    def astype(self, dtype: Any) -> Expression:
        if dtype == self.dtype:
            return self
        return Expression(self.block, f"({TYPES[np.dtype(dtype)]}){self.part}", dtype, False)

    def __bool__(self) -> bool:
        raise TypeError("the truth of a value is not known while code for it is written")


class Block:
    """Lines of C; and NumPy's elementwise functions, which write them, as an op's `xp`."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in FUNCTIONS:
            raise AttributeError(f"no C code for {name!r}", name=name, obj=self)
        return partial(FUNCTIONS[name], self)

    def name(self, x: Expression) -> Expression:
        """An expression's value under a name."""
        if x.text.isalnum():
            return x
        name = f"v{len(self.lines)}"
        self.lines.append(f"const {TYPES[x.dtype]} {name} = {x.text};")
        return Expression(self, name, x.dtype)

    def made(self, text: str, dtype: Any, is_atom: bool = False) -> Expression:
        x = Expression(self, text, np.dtype(dtype), is_atom)
        return self.name(x) if len(text) > LONG else x

    def cast(self, x: Any, dtype: Any) -> Expression:
        """An operand, which may be a Python number, in a dtype."""
        if isinstance(x, Expression):
            return x.astype(np.dtype(dtype))
        return Expression(self, literal(x, dtype), np.dtype(dtype))

    def alike(self, *operands: Any) -> tuple[list[Expression], np.dtype]:
        """Operands in their common dtype."""
        weak = [(x.dtype or 1.0) if isinstance(x, Expression) else x for x in operands]
        dtype = np.dtype(np.result_type(*weak))
        return [self.cast(x, dtype) for x in operands], dtype


# --- what writes -------------------------------------------------------------------------------


def arithmetic(symbol: str, block: Block, a: Any, b: Any) -> Expression:
    """a symbol b; of two numbers a number."""
    if all(not isinstance(x, Expression) or x.dtype is None for x in (a, b)):
        x, y = (block.cast(z, FLOAT64) for z in (a, b))
        return Expression(block, f"{x.part} {symbol} {y.part}", None, False)
    (x, y), dtype = block.alike(a, b)
    if symbol == "/" and dtype.kind != "f":
        dtype = FLOAT64
        x, y = x.astype(dtype), y.astype(dtype)
    if dtype == BOOL:
        symbol = {"+": "||", "*": "&&"}[symbol]  # NumPy has no difference of bools
    return block.made(f"{x.part} {symbol} {y.part}", dtype)


def compare(symbol: str, block: Block, a: Any, b: Any) -> Expression:
    (x, y), _ = block.alike(a, b)
    return block.made(f"{x.part} {symbol} {y.part}", BOOL)


def logical(symbol: str, block: Block, a: Any, b: Any) -> Expression:
    x, y = (block.cast(z, BOOL) for z in (a, b))
    return block.made(f"{x.part} {symbol} {y.part}", BOOL)


def negative(block: Block, a: Any) -> Expression:
    [x], dtype = block.alike(a)
    if dtype == BOOL:
        raise TypeError("negative: not of bool, as in NumPy")
    return block.made(f"-{x.part}", dtype)


def where(block: Block, condition: Any, a: Any, b: Any) -> Expression:
    (x, y), dtype = block.alike(a, b)
    return block.made(f"{block.cast(condition, BOOL).part} ? {x.part} : {y.part}", dtype)


def power(block: Block, a: Any, b: Any) -> Expression:
    """a to the b: multiplications or a root for some exponents, else C's pow."""
    exponent = None if isinstance(b, Expression) else b
    (x, _), dtype = block.alike(a, b)
    if exponent == 0.5 and dtype.kind == "f":
        return call("sqrt", block, x)
    if exponent in WHOLE and (dtype.kind == "f" or exponent >= 0):
        times = [block.name(x).text] * abs(int(exponent))
        text = " * ".join(times) or literal(1, dtype)
        return block.made(text if exponent >= 0 else f"{literal(1, dtype)} / ({text})", dtype)
    return call("pow", block, a, b)


def call(name: str, block: Block, *operands: Any) -> Expression:
    """A function of C's math library, in float or double."""
    found, dtype = block.alike(*operands)
    if dtype.kind != "f":
        raise TypeError(f"{name} of {dtype}")
    suffix = "f" if dtype == FLOAT32 else ""
    return block.made(f"{name}{suffix}({', '.join(x.text for x in found)})", dtype, True)


def helper(name: str, block: Block, *operands: Any, to: Any = None) -> Expression:
    """A function of PRELUDE."""
    found, dtype = block.alike(*operands)
    if name in ("remainder_of", "quotient_of"):
        name = {"f": f"float_{name}", "i": name, "u": name}[dtype.kind]
    return block.made(f"{name}({', '.join(x.text for x in found)})", to or dtype, True)


# By NumPy's names.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{f.__name__: f for f in (where, power, negative)},
    "logical_and": partial(logical, "&&"),
    "logical_or": partial(logical, "||"),
    "logical_not": lambda block, x: block.made(f"!{block.cast(x, BOOL).part}", BOOL),
}
_WRITERS: dict[Callable[..., Any], dict[str, str]] = {
    arithmetic: {"add": "+", "subtract": "-", "multiply": "*", "true_divide": "/"},
    compare: {
        "less": "<", "less_equal": "<=", "greater": ">", "greater_equal": ">=", "equal": "==",
        "not_equal": "!=",
    },
    call: {
        **dict(zip(*[["exp", "expm1", "tanh", "log", "log1p", "log2", "sqrt"]] * 2)),
        **dict(zip(*[["sin", "cos", "tan", "sinh", "cosh", "floor", "ceil", "rint"]] * 2)),
        "arcsin": "asin", "arccos": "acos", "arctan": "atan", "arctan2": "atan2",
        "arcsinh": "asinh", "arccosh": "acosh", "arctanh": "atanh",
    },
    helper: {
        "maximum": "greater_of", "minimum": "smaller_of", "sign": "sign_of", "absolute": "size_of",
        "remainder": "remainder_of", "floor_divide": "quotient_of",
    },
    partial(helper, to=BOOL): {"isnan": "is_nan", "isfinite": "is_finite", "isinf": "is_infinite"},
}  # fmt: skip
for _write, _names in _WRITERS.items():
    FUNCTIONS |= {name: partial(_write, symbol) for name, symbol in _names.items()}

_OPERATORS = {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "true_divide", "pow": "power",
    "floordiv": "floor_divide", "mod": "remainder", "lt": "less", "le": "less_equal",
    "gt": "greater", "ge": "greater_equal", "eq": "equal", "ne": "not_equal", "neg": "negative",
    "abs": "absolute",
}  # fmt: skip
for _short, _name in _OPERATORS.items():
    _write = FUNCTIONS[_name]
    setattr(Expression, f"__{_short}__", lambda a, *b, write=_write: write(a.block, a, *b))
    setattr(Expression, f"__r{_short}__", lambda b, a, write=_write: write(b.block, a, b))
