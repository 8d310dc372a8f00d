"""Matrices copied into panels, the order in which a product reads them.

A panel is `width` neighbouring columns of a (K, N) matrix: K rows of `width` numbers, contiguous,
with zeros for the columns that the matrix does not have.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from .loops import FLOATS, INDEX, ONE, POINTER, ZERO, Code, define, index

ROWS = 8  # of a matrix that are copied to all panels in turn: long enough runs on both sides

# matrix, its row stride and column stride in elements, K, N, the panels
PARAMETERS = (POINTER, INDEX, INDEX, INDEX, INDEX, POINTER)
LISTED = (POINTER, INDEX, INDEX, INDEX, POINTER, POINTER)


def pack(module: ir.Module, name: str, dtype: str, width: int, lanes: int, internal: bool) -> None:
    """Define name(matrix, row_stride, column_stride, K, N, panels); the strides are any."""
    slowly = _numbers(module, f"{name}_numbers", dtype, width)
    code = define(module, name, PARAMETERS, internal)
    matrix, row, column, depth, columns, panels = code.arguments
    whole = code.multiples(columns, width)
    with code.if_else(code.icmp_signed("==", column, ONE)) as (then, otherwise):
        with (
            then,
            code.loop(ZERO, depth, index(ROWS)) as k0,
            code.loop(ZERO, whole, index(width)) as first,
            code.loop(k0, code.smaller(code.add(k0, index(ROWS)), depth)) as k,
        ):
            values = code.read(code.at(matrix, dtype, (first, ONE), (k, row)), dtype, width)
            to = code.at(panels, dtype, (first, depth), (k, index(width)))
            code.write(values, to, dtype)
        with otherwise, code.loop(ZERO, whole, index(width)) as first:
            source = code.at(matrix, dtype, (first, column))
            panel = code.at(panels, dtype, (first, depth))
            along = code.icmp_signed("==", row, ONE)
            end = code.select(along, code.multiples(depth, lanes), ZERO)
            with code.loop(ZERO, end, index(lanes)) as k:
                _transpose(code, dtype, width, lanes, source, column, panel, k)
            rest = code.sub(depth, end)
            start = code.at(source, dtype, (end, row))
            to = code.at(panel, dtype, (end, index(width)))
            code.call(slowly, [start, row, column, rest, index(width), to])
    with code.if_then(code.icmp_signed("<", whole, columns)):
        source = code.at(matrix, dtype, (whole, column))
        panel = code.at(panels, dtype, (whole, depth))
        code.call(slowly, [source, row, column, depth, code.sub(columns, whole), panel])
    code.ret_void()


def pack_listed(module: ir.Module, name: str, dtype: str, width: int) -> None:
    """Define name(matrix, row_stride, K, N, panels, list): the K rows that a list names.

    The columns are contiguous.
    """
    code = define(module, name, LISTED, internal=True)
    matrix, stride, depth, columns, panels, rows = code.arguments
    with (
        code.loop(ZERO, depth, index(ROWS)) as k0,
        code.loop(ZERO, columns, index(width)) as first,
        code.loop(k0, code.smaller(code.add(k0, index(ROWS)), depth)) as k,
    ):
        row = code.load(code.gep(rows, [k], source_etype=INDEX), typ=INDEX)
        source = code.at(matrix, dtype, (first, ONE), (row, stride))
        to = code.at(panels, dtype, (first, depth), (k, index(width)))
        left = code.sub(columns, first)
        with code.if_else(code.icmp_signed(">=", left, index(width))) as (then, otherwise):
            with then:
                code.write(code.read(source, dtype, width), to, dtype)
            with otherwise:
                _filled(code, dtype, width, left, source, ONE, to)
    code.ret_void()


def _numbers(module: ir.Module, name: str, dtype: str, width: int) -> ir.Function:
    """One panel of at most `width` columns, number by number."""
    code = define(module, name, PARAMETERS, internal=True)
    matrix, row, column, depth, columns, panel = code.arguments
    with code.loop(ZERO, depth) as k:
        source = code.at(matrix, dtype, (k, row))
        to = code.at(panel, dtype, (k, index(width)))
        _filled(code, dtype, width, columns, source, column, to)
    code.ret_void()
    return code.function


def _filled(
    code: Code, dtype: str, width: int, count: Any, source: Any, stride: Any, to: Any
) -> None:
    """A row of a panel: `count` numbers, and zeros behind them."""
    with code.loop(ZERO, count) as j:
        number = code.read(code.at(source, dtype, (j, stride)), dtype)
        code.write(number, code.at(to, dtype, (j, ONE)), dtype)
    with code.loop(count, index(width)) as j:
        code.write(ir.Constant(FLOATS[dtype], 0.0), code.at(to, dtype, (j, ONE)), dtype)


def _transpose(
    code: Code, dtype: str, width: int, lanes: int, source: Any, column: Any, panel: Any, k: Any
) -> None:
    """`lanes` rows of a panel from k on, of a matrix whose columns are contiguous."""
    nothing = ir.Constant(ir.VectorType(FLOATS[dtype], lanes), ir.Undefined)
    for first in range(0, width, lanes):
        vectors = [
            code.read(code.at(source, dtype, (index(j), column), (k, ONE)), dtype, lanes)
            if j < width
            else nothing
            for j in range(first, first + lanes)
        ]
        for i, values in enumerate(_transposed(code, vectors)):
            part = code.pick(values, values, range(min(lanes, width - first)))
            row = code.add(k, index(i), flags=["nsw"])
            to = code.at(panel, dtype, (row, index(width)), (index(first), ONE))
            code.write(part, to, dtype)


def _transposed(code: Code, vectors: list[Any]) -> list[Any]:
    """n vectors of n lanes, n a power of two: interleaving halves log2(n) times transposes."""
    n = len(vectors)
    low = [lane for i in range(n // 2) for lane in (i, n + i)]
    high = [lane + n // 2 for lane in low]
    for _ in range(n.bit_length() - 1):
        pairs = [(vectors[i], vectors[i + n // 2]) for i in range(n // 2)]
        vectors = [code.pick(*pair, lanes) for pair in pairs for lanes in (low, high)]
    return vectors
