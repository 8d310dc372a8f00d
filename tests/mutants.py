"""Ops made wrong on purpose: every forward and kernel by 1e-3, every rule by 0.1 %.

The row of an op that was made wrong must turn red; a mutant that survives is a hole in the table.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import minigrad as mg
from minigrad.op import Op
from minigrad.ops import REGISTRY
from tests.conftest import usable_backends
from tests.op_checks import check_gradient, check_values
from tests.op_table import BY_OP


@dataclass(frozen=True)
class Mutant:
    """One op with one thing wrong: part is "forward", "kernel" or the operand of a rule."""

    op: str
    part: str
    backend: str = "numpy"

    def __str__(self) -> str:
        return f"{self.op}: {self.part}" + (
            "" if self.backend == "numpy" else f" on {self.backend}"
        )


def own_ops() -> dict[str, Op]:
    """The registered ops of minigrad; tests may have registered others."""
    return {n: op for n, op in REGISTRY.items() if op.forward.__module__.startswith("minigrad.")}


def all_mutants() -> list[Mutant]:
    found = []
    for name, op in own_ops().items():
        found += [Mutant(name, "forward"), *(Mutant(name, operand) for operand in op.rules)]
    for backend in usable_backends():
        kernels = getattr(mg.resolve(backend), "kernels", {})
        found += [Mutant(name, "kernel", backend) for name in kernels]
    return found


def wrong(y: Any) -> Any:
    """A result that is off by 1e-3, or by one where it counts."""
    if isinstance(y, (list, tuple)):
        return [wrong(part) for part in y]
    if y is None or y.dtype.kind == "f":
        return y if y is None else y * 1.001
    return ~y if y.dtype.kind == "b" else y ^ 1


def spoiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with a wrong result; its signature, which the engine reads, stays."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return wrong(function(*args, **kwargs))

    return wrapped


@contextlib.contextmanager
def applied(mutant: Mutant) -> Iterator[None]:
    """The engine with this mutant in it; what it cached of the op is forgotten before and after."""
    op = REGISTRY[mutant.op]
    kernels = getattr(mg.resolve(mutant.backend), "kernels", {})
    old = {"forward": op.forward, "kernel": kernels.get(op.name)}.get(mutant.part)
    old = op.rules[mutant.part] if old is None else old

    def put(function: Callable[..., Any]) -> None:
        if mutant.part == "forward":
            op.forward = function
        elif mutant.part == "kernel":
            kernels[op.name] = function
        else:
            op.rules[mutant.part] = function
        op.plans.clear()
        op.bound.clear()

    put(spoiled(old))
    try:
        yield
    finally:
        put(old)


def caught(mutant: Mutant) -> bool:
    """Whether the op's own row turns red; it must be green without the mutant."""
    check = check_values if mutant.part in ("forward", "kernel") else check_gradient
    row = BY_OP[mutant.op]
    with mg.use_backend(mutant.backend):
        check(row, mutant.backend)
        with applied(mutant):
            try:
                check(row, mutant.backend)
            except Exception:
                return True
    return False
