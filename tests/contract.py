"""What minigrad asks of a backend, clause by clause: `python -m tests.contract SPEC` checks any.

SPEC is what MINIGRAD_BACKEND takes: the name of an installed plug-in, or
`module://package.module:attribute`; run it from the root of this repository.
Authors of a backend run this first; a backend that passes may still lack functions in its
namespace, which the op table's tests find (`pytest --backend SPEC`). It uses nothing of this
project's other tests.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import minigrad as mg
from minigrad.op import REGISTRY

Clause = Callable[[Any, str], None]
CLAUSES: dict[str, Clause] = {}
DTYPES = ("float32", "float64", "int64", "int32", "uint8", "uint32", "bool")


class Broken(Exception):
    """A clause that the backend does not keep."""


def clause(check: Clause) -> Clause:
    CLAUSES[check.__name__.replace("_", " ")] = check
    return check


def demand(kept: Any, why: str) -> None:
    if not kept:
        raise Broken(why)


def arrays() -> Iterator[np.ndarray]:
    a = np.arange(12.0).reshape(3, 4)
    yield from (a, np.asfortranarray(a), a.T, a[::2, ::-1], np.broadcast_to(a[0], (2, 4)))
    yield from (np.array(2.5), np.zeros((0, 3)))
    yield from (np.array([0, 1, 2]).astype(dtype) for dtype in DTYPES)
    frozen = a.copy()
    frozen.flags.writeable = False
    yield frozen


@clause
def it_has_what_every_backend_has(backend: Any, spec: str) -> None:
    for name in ("name", "api", "xp", "asarray", "to_numpy", "scatter_add"):
        demand(hasattr(backend, name), f"it lacks {name}")
    demand(isinstance(backend.name, str) and backend.name, "name is no text")
    demand(backend.api == 1, f"api is {backend.api!r}, not 1")
    demand(isinstance(backend.xp.ndarray, type), "xp.ndarray is not the class of its arrays")
    hash(backend)


@clause
def one_spec_is_one_backend(backend: Any, spec: str) -> None:
    demand(mg.resolve(spec) is backend, "the same spec gives another object")
    demand(mg.resolve(f" {spec} ") is backend, "blanks around the spec give another object")


@clause
def a_device_that_is_not_there_is_refused(backend: Any, spec: str) -> None:
    if "://" not in spec:
        try:
            mg.resolve(f"{spec.partition(':')[0]}:no-such-device")
        except mg.BackendUnavailableError:
            return
        raise Broken("the factory takes any device")


@clause
def arrays_come_back_as_they_went(backend: Any, spec: str) -> None:
    for a in arrays():
        own = backend.asarray(a)
        demand(isinstance(own, backend.xp.ndarray), "asarray gives something else than xp.ndarray")
        back = backend.to_numpy(own)
        demand(type(back) is np.ndarray, "to_numpy gives no NumPy array")
        demand(own.dtype == a.dtype == back.dtype, f"{a.dtype} became {back.dtype}")
        demand(own.shape == a.shape == back.shape, f"shape {a.shape} became {back.shape}")
        demand(back.tolist() == a.tolist(), f"the values of a {a.dtype} {a.shape} changed")


@clause
def asarray_converts_and_takes_numbers(backend: Any, spec: str) -> None:
    demand(backend.asarray(np.ones(2), "float32").dtype == "float32", "asarray ignores dtype")
    demand(backend.asarray(3.0, "float64").shape == (), "asarray takes no Python number")
    demand(backend.asarray([1, 2]).shape == (2,), "asarray takes no list")


@clause
def its_own_arrays_pass_asarray_unchanged(backend: Any, spec: str) -> None:
    own = backend.asarray(np.ones(3))
    demand(backend.asarray(own) is own, "asarray copies the backend's own array")


@clause
def scatter_add_counts_every_index(backend: Any, spec: str) -> None:
    def scattered(shape: tuple[int, ...], index: tuple[Any, ...], values: np.ndarray) -> np.ndarray:
        own = tuple(i if isinstance(i, slice) else backend.asarray(i) for i in index)
        out = backend.xp.zeros(shape, values.dtype)
        return backend.to_numpy(backend.scatter_add(out, own, backend.asarray(values)))

    rows = np.array([0, 2, 0, -1, 2])
    values = np.arange(20.0).reshape(5, 4)
    wanted = np.zeros((3, 4))
    for row, value in zip(rows, values):
        wanted[row] += value
    demand((scattered((3, 4), (rows,), values) == wanted).all(), "duplicate rows are not added up")
    columns = scattered((4, 3), (slice(None), rows), values.T.copy())
    demand((columns == wanted.T).all(), "an index behind a slice is not understood")
    pairs = scattered((3, 3), (rows, np.array([1, 1, 1, 0, 1])), np.ones(5))
    demand(pairs.tolist() == [[0, 2, 0], [0, 0, 0], [1, 2, 0]], "pairs of indices are not added up")
    nothing = scattered((3, 4), (np.zeros(0, np.int64),), np.zeros((0, 4)))
    demand(not nothing.any(), "no index at all is not understood")


@clause
def scatter_add_adds_in_one_order(backend: Any, spec: str) -> None:
    numbers = np.random.default_rng(0)
    index = numbers.integers(0, 7, 10_000)
    values = numbers.normal(size=10_000).astype(np.float32)
    sums = set()
    for _ in range(3):
        out = backend.xp.zeros(7, np.float32)
        own = (backend.asarray(index),)
        sums.add(backend.to_numpy(backend.scatter_add(out, own, backend.asarray(values))).tobytes())
    demand(len(sums) == 1, "the sums differ from run to run")


@clause
def kernels_are_ops_and_leave_their_operands_alone(backend: Any, spec: str) -> None:
    kernels = getattr(backend, "kernels", {})
    unary = {
        "exp": np.exp,
        "log": np.log,
        "tanh": np.tanh,
        "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    }
    for name, kernel in kernels.items():
        near = difflib.get_close_matches(str(name), REGISTRY, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        demand(name in REGISTRY, f"{name!r} is a kernel of no op{hint}")
        demand(callable(kernel), f"the kernel of {name} cannot be called")
    for name in set(unary) & set(kernels):
        for a in (np.linspace(0.1, 3, 12).reshape(3, 4), np.zeros((0, 3)) + 1, np.array(0.5)):
            own = backend.asarray(a)
            found = backend.to_numpy(backend.asarray(kernels[name](own)))
            demand(
                np.allclose(found, unary[name](a), rtol=1e-12), f"kernel {name} gives other numbers"
            )
            demand((backend.to_numpy(own) == a).all(), f"kernel {name} writes into its operand")


@clause
def a_program_has_numpys_values_and_gradients(backend: Any, spec: str) -> None:
    numbers = np.random.default_rng(1)
    x, w = numbers.normal(size=(5, 3)), numbers.normal(size=(3, 4))
    rows = np.array([4, 0, 4])

    def program(where: Any) -> list[np.ndarray]:
        xs, ws = (mg.Tensor(a, requires_grad=True, backend=where) for a in (x, w))
        hidden = mg.tanh(xs @ ws)[mg.Tensor(rows, backend=where)]
        loss = (mg.logsumexp(hidden, axis=1) * mg.sigmoid(hidden).sum(axis=1)).mean()
        loss.backward()
        for t in (hidden, loss, xs.grad, ws.grad):
            demand(t.backend is mg.resolve(where), "a result lives elsewhere")
        return [t.numpy() for t in (loss, xs.grad, ws.grad)]

    for found, wanted in zip(program(backend), program("numpy")):
        demand(np.allclose(found, wanted, rtol=1e-10, atol=1e-12), "other values than NumPy's")


@clause
def what_is_wrong_is_refused_in_the_same_words(backend: Any, spec: str) -> None:
    def words(where: Any, kind: type[Exception], call: Callable[[Callable], Any]) -> str:
        try:
            call(lambda a: mg.Tensor(a, backend=where))
        except kind as error:
            return str(error).replace(mg.resolve(where).name, "HERE")
        raise Broken(f"no {kind.__name__}")

    cases: list[tuple[type[Exception], Callable[[Callable], Any]]] = [
        (mg.ShapeError, lambda t: t(np.ones((2, 3))) @ t(np.ones((2, 3)))),
        (mg.ShapeError, lambda t: t(np.ones(2)) + t(np.ones(3))),
        (mg.IndexRangeError, lambda t: t(np.ones((3, 2)))[t(np.array([0, 3]))]),
        (mg.DtypeError, lambda t: t(np.ones(2, np.complex128))),
    ]
    for kind, call in cases:
        ours, numpys = words(backend, kind, call), words("numpy", kind, call)
        demand(ours == numpys, f"{ours!r} instead of {numpys!r}")


@clause
def tensors_of_two_backends_do_not_mix(backend: Any, spec: str) -> None:
    if backend is not mg.resolve("numpy"):
        try:
            mg.Tensor([1.0], backend=backend) + mg.Tensor([1.0], backend="numpy")
        except mg.BackendMismatchError:
            return
        raise Broken("it took a tensor of NumPy's")


@clause
def synchronize_can_be_called(backend: Any, spec: str) -> None:
    getattr(backend, "synchronize", lambda: None)()


def check(spec: str) -> dict[str, str]:
    """The clauses that a backend breaks, and how; empty if it keeps them all."""
    backend = mg.resolve(spec)
    broken = {}
    for name, kept in CLAUSES.items():
        try:
            kept(backend, spec)
        # A backend may fail in any way; each is a clause it does not keep.
        except Exception as error:
            broken[name] = f"{type(error).__name__}: {error}"
    return broken


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.contract", description="Check a backend, clause by clause."
    )
    parser.add_argument(
        "spec", help="what MINIGRAD_BACKEND takes: loud, or module://my_package:backend"
    )
    try:
        found = check(parser.parse_args().spec)
    except mg.MinigradError as error:
        parser.error(str(error))
    for title in CLAUSES:
        print(f"FAIL  {title}: {found[title]}" if title in found else f"PASS  {title}")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
