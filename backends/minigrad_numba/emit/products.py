"""Matrix products in registers: C (M, N) becomes A (M, K) times packed B (K, N).

A tile of C, some rows by some vectors of columns, stays in registers while k runs; B is read in
panels two vectors wide (see packing.py), so that a tile's loads are contiguous.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from . import packing
from .loops import FLOATS, INDEX, ONE, POINTER, SIZES, ZERO, Code, define, index
from .target import Target

ROWS = 96  # of A that are multiplied with all panels in turn: a multiple of every tile's height
BLOCK = 256 * 1024  # bytes of them at most: half an L2 cache
DEPTH = 256  # rows of a block of B in a tall product: a panel of it fits into an L1 cache
AHEAD = 24  # rows of a panel between reading one and asking for another: B comes from L3 or memory

# A tile needs eight sums or more to hide the latency of an addition: few rows take many vectors.
WIDE = {1: 8, 2: 4, 3: 4}

PRODUCT = (
    *(INDEX, INDEX, INDEX),  # M, N, K
    *(POINTER, INDEX, INDEX),  # A, its row stride and column stride in elements
    POINTER,  # B in panels
    *(POINTER, INDEX),  # C, its row stride; its columns are contiguous; nothing of it is read
)
TALL = (
    *PRODUCT[:6],
    *(POINTER, INDEX, INDEX),  # B, its row stride and column stride
    *PRODUCT[7:],
    POINTER,  # scratch_size() elements
)
LISTED = (*TALL, POINTER)  # which of A's columns and B's rows are multiplied, K integers
TILE = (INDEX, POINTER, INDEX, INDEX, POINTER, POINTER, INDEX, INDEX, INDEX)


@dataclass(frozen=True)
class Shape:
    """What a type and a processor make of a product: lanes of a vector, rows of a tile."""

    dtype: str
    lanes: int
    rows: int

    @property
    def width(self) -> int:
        """Columns of a panel."""
        return 2 * self.lanes


def shape(dtype: str, target: Target) -> Shape:
    """A tile's sums, a row's two loads of B and one number of A fill the registers."""
    return Shape(dtype, target.lanes * 4 // SIZES[dtype], 12 if target.registers == 32 else 6)


def packed_size(depth: int, columns: int, form: Shape) -> int:
    """Elements of a (depth, columns) matrix in panels."""
    return -(-columns // form.width) * form.width * depth


def scratch_size(columns: int, form: Shape) -> int:
    """Elements of scratch memory that a tall product with so many columns of C needs."""
    return packed_size(DEPTH, columns, form) + ROWS * DEPTH


def products(module: ir.Module, form: Shape) -> None:
    """Define pack, product and product_tall of one type."""
    tiles = {rows: _tile(module, form, rows, 2) for rows in range(1, form.rows + 1)}
    wide = {rows: _tile(module, form, rows, vectors) for rows, vectors in WIDE.items()}
    choose = _choose(module, form, tiles)
    panels = f"pack_{form.dtype}"
    packing.pack(module, panels, form.dtype, form.width, form.lanes, False)
    packing.pack(module, f"{panels}_rows", form.dtype, form.rows, form.lanes, True)
    _product(module, form, choose, wide)
    packing.pack_listed(module, f"{panels}_listed", form.dtype, form.width)
    packing.pack_listed(module, f"{panels}_rows_listed", form.dtype, form.rows)
    _product_tall(module, form, choose)
    _product_tall(module, form, choose, listed=True)


def _tile(module: ir.Module, form: Shape, rows: int, vectors: int) -> ir.Function:
    """(K, A, its strides, B's panels, C, its row stride, columns of C, 1 to add to C or 0)."""
    dtype, lanes, width = form.dtype, form.lanes, form.width
    name = f"tile_{rows}_{vectors}_{dtype}"
    code = define(module, name, TILE, internal=True)
    depth, a, a_row, a_column, b, c, c_row, columns, accumulate = code.arguments
    vector = ir.VectorType(FLOATS[dtype], lanes)
    zero = ir.Constant(vector, None)
    fuse = _fmuladd(module, form)
    tile = [(r, v) for r in range(rows) for v in range(vectors)]
    a_rows = [code.unrelated(code.at(a, dtype, (index(r), a_row))) for r in range(rows)]
    panels = [
        code.at(b, dtype, (code.mul(index(p), index(width)), depth)) for p in range(vectors // 2)
    ]
    sums = {}
    for place in tile:
        sums[place] = code.local(vector)
        code.store(zero, sums[place])

    if vectors == 2:
        for r in range(rows):
            code.fetch(code.at(c, dtype, (index(r), c_row)), writes=True)
    with code.loop(ZERO, depth) as k:
        for panel, line in itertools.product(panels, range(0, width, 64 // SIZES[dtype])):
            ahead = code.add(k, index(AHEAD))
            code.fetch(code.at(panel, dtype, (ahead, index(width)), (index(line), ONE)))
        # what fewer registers hold is read first: numbers of a few rows, or vectors of B
        tile.sort(key=lambda place: place[::-1] if rows < vectors else place)
        read: dict[Any, Any] = {}
        for r, v in tile:
            if ("a", r) not in read:
                number = code.read(code.at(a_rows[r], dtype, (k, a_column)), dtype)
                read["a", r] = code.splat(number, lanes)
            if ("b", v) not in read:
                panel = code.at(panels[v // 2], dtype, (k, index(width)))
                read["b", v] = code.read(
                    code.at(panel, dtype, (index(v % 2 * lanes), ONE)), dtype, lanes
                )
            total = code.load(sums[r, v], typ=vector)
            code.store(code.call(fuse, [read["a", r], read["b", v], total]), sums[r, v])

    def output(r: int, v: int) -> Any:
        return code.at(c, dtype, (index(r), c_row), (index(v * lanes), ONE))

    adds = code.icmp_signed("!=", accumulate, ZERO)
    whole = code.icmp_signed(">=", columns, index(vectors * lanes))
    with code.if_then(whole, likely=True):
        with code.if_then(adds):
            for r, v in tile:
                total = code.fadd(
                    code.read(output(r, v), dtype, lanes), code.load(sums[r, v], typ=vector)
                )
                code.store(total, sums[r, v])
        for r, v in tile:
            code.write(code.load(sums[r, v], typ=vector), output(r, v), dtype)
        code.ret_void()
    if vectors == 2:  # the wide tiles are called for whole panels alone
        _write_part(code, form, sums, (c, c_row, columns), adds)
    code.ret_void()
    return code.function


def _fmuladd(module: ir.Module, form: Shape) -> ir.Function:
    """LLVM's a * b + c: one instruction where the processor has it."""
    vector = ir.VectorType(FLOATS[form.dtype], form.lanes)
    name = f"llvm.fmuladd.v{form.lanes}f{8 * SIZES[form.dtype]}"
    if name in module.globals:
        return module.globals[name]
    return ir.Function(module, ir.FunctionType(vector, [vector] * 3), name)


def _write_part(code: Code, form: Shape, sums: Any, c: Any, adds: Any) -> None:
    """Copy a tile's first columns to C, number by number, through memory."""
    dtype, width = form.dtype, form.width
    output, c_row, columns = c
    rows = 1 + max(r for r, _ in sums)
    copy = code.local(ir.ArrayType(FLOATS[dtype], rows * width))
    for (r, v), place in sums.items():
        to = code.at(copy, dtype, (index(r * width + v * form.lanes), ONE))
        code.write(code.load(place, typ=ir.VectorType(FLOATS[dtype], form.lanes)), to, dtype)
    with code.loop(ZERO, index(rows)) as r, code.loop(ZERO, columns) as j:
        source = code.at(copy, dtype, (r, index(width)), (j, ONE))
        to = code.at(output, dtype, (r, c_row), (j, ONE))
        with code.if_else(adds) as (then, otherwise):
            with then:
                total = code.fadd(code.read(to, dtype), code.read(source, dtype))
                code.write(total, to, dtype)
            with otherwise:
                code.write(code.read(source, dtype), to, dtype)


def _choose(module: ir.Module, form: Shape, tiles: dict[int, ir.Function]) -> ir.Function:
    """(rows, and what a tile takes): the tile with so many rows."""
    code = define(module, f"tile_{form.dtype}", (INDEX, *TILE), internal=True)
    rows, *rest = code.arguments
    end = code.append_basic_block("end")
    chosen = code.switch(rows, end)
    for height, tile in tiles.items():
        block = code.append_basic_block("case")
        chosen.add_case(index(height), block)
        code.position_at_end(block)
        code.call(tile, rest)
        code.branch(end)
    code.position_at_end(end)
    code.ret_void()
    return code.function


def _product(module: ir.Module, form: Shape, choose: Any, wide: dict[int, ir.Function]) -> None:
    """product_{dtype}(*PRODUCT)."""
    dtype, width = form.dtype, form.width
    code = define(module, f"product_{dtype}", PRODUCT)
    m, n, depth, a, a_row, a_column, b, c, c_row = code.arguments
    # few rows: tiles of several panels, as long as there are so many whole ones
    start = code.local(INDEX)
    code.store(ZERO, start)
    for rows, function in wide.items():
        with code.if_then(code.icmp_signed("==", m, index(rows))):
            step = WIDE[rows] * form.lanes
            end = code.multiples(n, step)
            with code.loop(ZERO, end, index(step)) as j:
                part, to = code.at(b, dtype, (j, depth)), code.at(c, dtype, (j, ONE))
                more = code.sub(n, j)
                code.call(function, [depth, a, a_row, a_column, part, to, c_row, more, ZERO])
            code.store(end, start)
    first = code.load(start, typ=INDEX)
    fitting = code.sdiv(index(BLOCK // SIZES[dtype]), code.add(depth, ONE))
    block = code.smaller(code.multiples(fitting, form.rows), index(ROWS))
    block = code.larger(block, index(form.rows))
    with code.loop(ZERO, m, block) as i0:
        end = code.smaller(code.add(i0, block), m)
        with code.loop(first, n, index(width)) as j:
            part = code.at(b, dtype, (j, depth))
            with _tops(code, form, i0, end) as (i, height):
                source = code.at(a, dtype, (i, a_row))
                to = code.at(c, dtype, (i, c_row), (j, ONE))
                rest = [depth, source, a_row, a_column, part, to, c_row, code.sub(n, j), ZERO]
                code.call(choose, [height, *rest])
    code.ret_void()


@contextlib.contextmanager
def _tops(code: Code, form: Shape, start: Any, stop: Any) -> Iterator[tuple[Any, Any]]:
    """First row and height of tiles below each other; the last two share what is left for them.

    A tile of few rows is slow: 7 rows are 4 + 3, not 6 + 1.
    """
    now = code.local(INDEX)
    code.store(start, now)
    head, body, end = (code.append_basic_block(name) for name in ("head", "body", "end"))
    code.branch(head)
    code.position_at_end(head)
    i = code.load(now, typ=INDEX)
    code.cbranch(code.icmp_signed("<", i, stop), body, end)
    code.position_at_end(body)
    left = code.sub(stop, i)
    half = code.sdiv(code.add(left, ONE), index(2))
    fits = code.icmp_signed("<=", left, index(form.rows))
    height = code.select(fits, left, code.smaller(half, index(form.rows)))
    yield i, height
    code.store(code.add(i, height), now)
    code.branch(head)
    code.position_at_end(end)


def _product_tall(module: ir.Module, form: Shape, choose: Any, listed: bool = False) -> None:
    """product_tall_{dtype}(*TALL); or, listed, product_tall_listed_{dtype}(*LISTED).

    Of K that are listed, the rows of A and the columns of B are contiguous.
    """
    dtype, width = form.dtype, form.width
    name = f"product_tall_listed_{dtype}" if listed else f"product_tall_{dtype}"
    code = define(module, name, LISTED if listed else TALL, internal=listed)
    m, n, depth, a, a_row, a_column, b, b_row, b_column, c, c_row, scratch, *terms = code.arguments
    a_panels, b_panels = scratch, code.at(scratch, dtype, (index(ROWS * DEPTH), ONE))
    kind = "_listed" if listed else ""
    pack_b, pack_a = (module.get_global(f"pack_{dtype}{part}{kind}") for part in ("", "_rows"))

    def pack(function: Any, matrix: Any, row: Any, column: Any, k0: Any, *size: Any) -> None:
        if listed:
            now = code.gep(terms[0], [k0], source_etype=INDEX)
            code.call(function, [matrix, row, *size, now])
        else:
            code.call(function, [code.at(matrix, dtype, (k0, row)), row, column, *size])

    last = code.select(code.icmp_signed(">", depth, ONE), depth, ONE)  # K = 0 still writes C
    with code.loop(ZERO, last, index(DEPTH)) as k0:
        deep = code.smaller(index(DEPTH), code.sub(depth, k0))
        adds = code.zext(code.icmp_signed(">", k0, ZERO), INDEX)
        pack(pack_b, b, b_row, b_column, k0, deep, n, b_panels)
        with code.loop(ZERO, m, index(ROWS)) as i0:
            rows = code.smaller(index(ROWS), code.sub(m, i0))
            pack(pack_a, code.at(a, dtype, (i0, a_row)), a_column, a_row, k0, deep, rows, a_panels)
            with (
                code.loop(ZERO, n, index(width)) as j,
                code.loop(ZERO, rows, index(form.rows)) as i,
            ):
                high = code.smaller(index(form.rows), code.sub(rows, i))
                parts = [code.at(a_panels, dtype, (i, deep)), ONE, index(form.rows)]
                parts += [code.at(b_panels, dtype, (j, deep))]
                to = code.at(c, dtype, (code.add(i0, i), c_row), (j, ONE))
                code.call(choose, [high, deep, *parts, to, c_row, code.sub(n, j), adds])
    code.ret_void()
