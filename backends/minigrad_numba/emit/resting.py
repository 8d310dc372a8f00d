"""Products that leave out rows of zeros, and rows that are what they were the last time.

Zeros times finite numbers are zeros, and a row that has not changed has its product already; both
are seen in the numbers of A, which are few beside the multiplications that they save. Rows that are
left are multiplied as they lie if they are neighbours, else from a copy and back; their numbers are
those of all rows multiplied. A tall product leaves out the terms that rows of zeros in B make, as
if they had never been there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from .loops import FLOATS, INDEX, ONE, POINTER, SIZES, ZERO, Code, define, index
from .products import ROWS, Shape

FINITE = (POINTER, INDEX, POINTER)  # numbers, how many, an integer: 1 if all are finite
PRODUCT = (
    *(INDEX, INDEX, INDEX),  # M, N, K
    *(POINTER, INDEX),  # A, its row stride in elements; its columns are contiguous
    POINTER,  # B in panels
    *(POINTER, INDEX),  # C, its row stride; it is overwritten
    INDEX,  # 1: B is finite
    *(POINTER, INDEX),  # A's rows of the last time, or null; 1: C is what they made
    POINTER,  # row_scratch_size() elements
)
TALL = (
    *(INDEX, INDEX, INDEX),
    *(POINTER, INDEX),  # A, its column stride; its rows are contiguous
    *(POINTER, INDEX),  # B, its row stride
    *(POINTER, INDEX),
    *(POINTER, POINTER),  # products.scratch_size() elements, K integers
)


def row_scratch_size(depth: int, columns: int) -> int:
    """Elements of scratch memory for rows of A and C."""
    return ROWS * (depth + columns)


def resting(module: ir.Module, form: Shape) -> None:
    """Define finite, product_resting and product_tall_resting of one type, after products."""
    scans = {name: _scan(module, form, name, test) for name, test in TESTS.items()}
    copy = _copy(module, form)
    _finite(module, form, scans)
    _product(module, form, scans, copy)
    _product_tall(module, form, scans)


# --- rows ----------------------------------------------------------------------------------------


def _is_nonzero(code: Code, x: Any, y: Any) -> Any:
    return code.fcmp_unordered("!=", x, ir.Constant(x.type, None))


def _is_wild(code: Code, x: Any, y: Any) -> Any:
    """Infinite, or no number: nothing else times zero is not zero."""
    zero = ir.Constant(x.type, None)
    return code.fcmp_unordered("!=", code.fmul(x, zero), zero)


def _is_other(code: Code, x: Any, y: Any) -> Any:
    """Other bits."""
    vector = isinstance(x.type, ir.VectorType)
    size = SIZES[
        "float32" if (x.type.element if vector else x.type) == FLOATS["float32"] else "float64"
    ]
    bits = ir.IntType(8 * size)
    typ = ir.VectorType(bits, x.type.count) if vector else bits
    return code.icmp_unsigned("!=", code.bitcast(x, typ), code.bitcast(y, typ))


TESTS: dict[str, Callable[[Code, Any, Any], Any]] = {
    "nonzero": _is_nonzero, "wild": _is_wild, "other": _is_other,
}  # fmt: skip


def _scan(module: ir.Module, form: Shape, name: str, test: Any) -> ir.Function:
    """(x, y, n): whether a test holds of one of n numbers of x, and of y beside it."""
    dtype, lanes = form.dtype, form.lanes
    parameters = (POINTER, POINTER, INDEX)
    code = define(module, f"{name}_{dtype}", parameters, internal=True, result=INDEX)
    x, y, n = code.arguments
    whole = code.multiples(n, lanes)
    with code.loop(ZERO, whole, index(lanes)) as i:
        pair = [code.read(code.at(p, dtype, (i, ONE)), dtype, lanes) for p in (x, y)]
        found = code.bitcast(test(code, *pair), ir.IntType(lanes))
        with code.if_then(code.icmp_unsigned("!=", found, ir.Constant(found.type, 0))):
            code.ret(ONE)
    with code.loop(whole, n) as i:
        pair = [code.read(code.at(p, dtype, (i, ONE)), dtype) for p in (x, y)]
        with code.if_then(test(code, *pair)):
            code.ret(ONE)
    code.ret(ZERO)
    return code.function


def _copy(module: ir.Module, form: Shape) -> ir.Function:
    """(from, to, n): n numbers."""
    dtype, lanes = form.dtype, form.lanes
    code = define(module, f"copy_{dtype}", (POINTER, POINTER, INDEX), internal=True)
    source, to, n = code.arguments
    whole = code.multiples(n, lanes)
    with code.loop(ZERO, whole, index(lanes)) as i:
        values = code.read(code.at(source, dtype, (i, ONE)), dtype, lanes)
        code.write(values, code.at(to, dtype, (i, ONE)), dtype)
    with code.loop(whole, n) as i:
        code.write(
            code.read(code.at(source, dtype, (i, ONE)), dtype),
            code.at(to, dtype, (i, ONE)),
            dtype,
        )
    code.ret_void()
    return code.function


def _clear(code: Code, form: Shape, to: Any, n: Any) -> None:
    with code.loop(ZERO, n) as j:
        zero = ir.Constant(FLOATS[form.dtype], 0.0)
        code.write(zero, code.at(to, form.dtype, (j, ONE)), form.dtype)


def _finite(module: ir.Module, form: Shape, scans: dict[str, Any]) -> None:
    """finite_{dtype}(*FINITE)."""
    code = define(module, f"finite_{form.dtype}", FINITE)
    numbers, n, answer = code.arguments
    code.store(code.sub(ONE, code.call(scans["wild"], [numbers, numbers, n])), answer)
    code.ret_void()


class _List:
    """Numbers of rows, gathered while a function runs."""

    def __init__(self, code: Code, places: Any) -> None:
        self.code, self.places, self.length = code, places, code.local(INDEX)
        self.clear()

    def clear(self) -> None:
        self.code.store(ZERO, self.length)

    @property
    def count(self) -> Any:
        return self.code.load(self.length, typ=INDEX)

    def append(self, i: Any) -> None:
        count = self.count
        self.code.store(i, self.code.gep(self.places, [count], source_etype=INDEX))
        self.code.store(self.code.add(count, ONE), self.length)

    def __getitem__(self, i: Any) -> Any:
        return self.code.load(self.code.gep(self.places, [i], source_etype=INDEX), typ=INDEX)

    def is_run(self) -> Any:
        """Whether they are neighbours; of a list that is not empty."""
        last = self[self.code.sub(self.count, ONE)]
        length = self.code.add(self.code.sub(last, self[ZERO]), ONE)
        return self.code.icmp_signed("==", length, self.count)


# --- products ------------------------------------------------------------------------------------


def _product(module: ir.Module, form: Shape, scans: dict[str, Any], copy: Any) -> None:
    """product_resting_{dtype}(*PRODUCT): the columns of A are contiguous."""
    dtype = form.dtype
    code = define(module, f"product_resting_{dtype}", PRODUCT)
    m, n, depth, a, a_row, b, c, c_row, finite, last, again, scratch = code.arguments
    some_c = code.at(scratch, dtype, (index(ROWS), depth))
    product = module.get_global(f"product_{dtype}")
    left = _List(code, code.local(ir.ArrayType(INDEX, ROWS)))
    keeps = code.icmp_unsigned("!=", code.ptrtoint(last, INDEX), ZERO)
    known = code.and_(keeps, code.icmp_signed("!=", again, ZERO))
    sure = code.icmp_signed("!=", finite, ZERO)
    with code.loop(ZERO, m, index(ROWS)) as i0:
        left.clear()
        with code.loop(i0, code.smaller(code.add(i0, index(ROWS)), m)) as i:
            row, before = code.at(a, dtype, (i, a_row)), code.at(last, dtype, (i, depth))
            same = _found_none(code, known, scans["other"], row, before, depth)
            with code.if_then(code.not_(same)):
                with code.if_then(keeps):
                    code.call(copy, [row, before, depth])
                zero = _found_none(code, sure, scans["nonzero"], row, row, depth)
                with code.if_else(zero) as (then, otherwise):
                    with then:
                        _clear(code, form, code.at(c, dtype, (i, c_row)), n)
                    with otherwise:
                        left.append(i)
        count = left.count
        some = code.icmp_signed(">", count, ZERO)
        with code.if_then(some), code.if_else(left.is_run()) as (then, otherwise):
            with then:
                source = code.at(a, dtype, (left[ZERO], a_row))
                to = code.at(c, dtype, (left[ZERO], c_row))
                code.call(product, [count, n, depth, source, a_row, ONE, b, to, c_row])
            with otherwise:
                _gather(code, form, copy, left, (a, a_row), scratch, depth)
                sides = [scratch, depth, ONE, b, some_c, n]
                code.call(product, [count, n, depth, *sides])
                with code.loop(ZERO, count) as k:
                    to = code.at(c, dtype, (left[k], c_row))
                    code.call(copy, [code.at(some_c, dtype, (k, n)), to, n])
    code.ret_void()


def _product_tall(module: ir.Module, form: Shape, scans: dict[str, Any]) -> None:
    """product_tall_resting_{dtype}(*TALL): the rows of A and the columns of B are contiguous."""
    dtype = form.dtype
    code = define(module, f"product_tall_resting_{dtype}", TALL)
    m, n, depth, a, a_column, b, b_row, c, c_row, scratch, terms = code.arguments
    left = _List(code, terms)
    with code.loop(ZERO, depth) as k:
        column, row = code.at(a, dtype, (k, a_column)), code.at(b, dtype, (k, b_row))
        some = code.call(scans["nonzero"], [row, row, n])
        zero = code.icmp_signed("==", some, ZERO)
        leave = _found_none(code, zero, scans["wild"], column, column, m)
        with code.if_then(code.not_(leave)):
            left.append(k)
    sides = [a, ONE, a_column, b, b_row, ONE, c, c_row, scratch, terms]
    code.call(module.get_global(f"product_tall_listed_{dtype}"), [m, n, left.count, *sides])
    code.ret_void()


def _found_none(code: Code, asked: Any, scan: Any, *given: Any) -> Any:
    """Whether a scan that is asked for finds nothing; False where it is not."""
    before = code.block
    with code.if_then(asked):
        nothing = code.icmp_signed("==", code.call(scan, given), ZERO)
        there = code.block
    found = code.phi(ir.IntType(1))
    found.add_incoming(ir.Constant(ir.IntType(1), 0), before)
    found.add_incoming(nothing, there)
    return found


def _gather(
    code: Code, form: Shape, copy: Any, rows: _List, source: tuple[Any, Any], to: Any, n: Any
) -> None:
    """Copy rows of n numbers beneath each other."""
    with code.loop(ZERO, rows.count) as k:
        row = code.at(source[0], form.dtype, (rows[k], source[1]))
        code.call(copy, [row, code.at(to, form.dtype, (k, n)), n])
