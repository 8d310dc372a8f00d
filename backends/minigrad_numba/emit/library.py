"""The functions that native programs call: products, packing, a barrier; one library for all."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

from llvmlite import binding, ir

from . import objects, packing, products, resting, target
from .loops import INDEX, ONE, POINTER, VOID, ZERO, define, index

SPINS = 1_000  # turns of a waiting thread's loop, some tens of microseconds, before it yields
BARRIER_SIZE = 128  # bytes of a barrier's state, zeros at first: two cache lines
DTYPES = ("float32", "float64")

PARAMETERS = {
    **{f"pack_{dtype}": packing.PARAMETERS for dtype in DTYPES},
    **{f"product_{dtype}": products.PRODUCT for dtype in DTYPES},
    **{f"product_tall_{dtype}": products.TALL for dtype in DTYPES},
    **{f"finite_{dtype}": resting.FINITE for dtype in DTYPES},
    **{f"product_resting_{dtype}": resting.PRODUCT for dtype in DTYPES},
    **{f"product_tall_resting_{dtype}": resting.TALL for dtype in DTYPES},
    "barrier": (POINTER, INDEX),  # state, threads
}


def module(made_for: target.Target) -> ir.Module:
    """All functions, for one processor."""
    made = ir.Module("library")
    for dtype in DTYPES:
        form = products.shape(dtype, made_for)
        products.products(made, form)
        resting.resting(made, form)
    _barrier(made, made_for)
    return made


@functools.cache
def load() -> objects.Library:
    """The library's code for this processor; from then on programs may declare its functions."""
    library = objects.find("library", lambda: module(target.host()))
    for name in PARAMETERS:
        binding.add_symbol(f"minigrad_{name}", library.address(name))
    return library


def declare(program: ir.Module, name: str) -> ir.Function:
    """A library function for a program's module to call."""
    return ir.Function(program, ir.FunctionType(VOID, PARAMETERS[name]), f"minigrad_{name}")


def signature(name: str) -> Any:
    """A library function's type for ctypes: pointers are integers, all else is int64."""
    types = [ctypes.c_void_p if p == POINTER else ctypes.c_int64 for p in PARAMETERS[name]]
    return ctypes.CFUNCTYPE(None, *types)


def function(name: str) -> Any:
    """A library function for Python to call."""
    return load().function(name, signature(name))


def _barrier(made: ir.Module, made_for: target.Target) -> None:
    """barrier(state, threads): return when so many threads have called it."""
    code = define(made, "barrier", PARAMETERS["barrier"])
    state, threads = code.arguments
    generation = code.gep(state, [index(BARRIER_SIZE // 16)], source_etype=INDEX)
    alone, several, last, wait, spin, give_way, done = (
        code.append_basic_block(name)
        for name in ("alone", "several", "last", "wait", "spin", "yield", "done")
    )
    code.cbranch(code.icmp_signed("<=", threads, ONE), alone, several)
    code.position_at_end(alone)
    code.ret_void()
    code.position_at_end(several)
    now = code.load_atomic(generation, "acquire", 8, typ=INDEX)
    before = code.atomic_rmw("add", state, ONE, "acq_rel")
    code.cbranch(code.icmp_signed("==", code.add(before, ONE), threads), last, wait)
    code.position_at_end(last)
    code.atomic_rmw("xchg", state, ZERO, "monotonic")  # llvmlite stores through typed pointers only
    code.atomic_rmw("xchg", generation, code.add(now, ONE), "release")
    code.ret_void()
    code.position_at_end(wait)
    turn = code.phi(INDEX)
    turn.add_incoming(ZERO, several)
    found = code.load_atomic(generation, "acquire", 8, typ=INDEX)
    patient = code.icmp_signed("<", turn, index(SPINS))
    waiting = code.append_basic_block("waiting")
    code.cbranch(code.icmp_signed("!=", found, now), done, waiting)
    code.position_at_end(waiting)
    code.cbranch(patient, spin, give_way)
    code.position_at_end(spin)
    if made_for.arm:
        hint = ir.Function(made, ir.FunctionType(VOID, [ir.IntType(32)]), "llvm.aarch64.hint")
        code.call(hint, [ir.Constant(ir.IntType(32), 1)])  # yield
    elif made_for.triple.startswith("x86_64"):
        code.call(ir.Function(made, ir.FunctionType(VOID, ()), "llvm.x86.sse2.pause"), ())
    turn.add_incoming(code.add(turn, ONE), spin)
    code.branch(wait)
    code.position_at_end(give_way)
    name = "SwitchToThread" if "windows" in made_for.triple else "sched_yield"
    yields = ir.Function(made, ir.FunctionType(ir.IntType(32), ()), name)
    code.call(yields, ())
    turn.add_incoming(turn, give_way)
    code.branch(wait)
    code.position_at_end(done)
    code.ret_void()
