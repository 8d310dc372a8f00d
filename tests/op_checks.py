"""What is demanded of every row of the op table, as functions of (row, backend) that raise.

The tests call them on every backend, the mutation test on ops made wrong on purpose.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

import minigrad as mg
from minigrad import tree
from minigrad.op import at_choke_points, bare, execute
from minigrad.spec import Spec, specs_of
from minigrad.tensor import leaf, make
from tests.op_rows.row import Row, Sample
from tests.tolerances import close

Arrays = list[np.ndarray]


class Call:
    """A sample taken apart: its arrays, and the function of them that a row computes."""

    def __init__(self, row: Row, sample: Sample) -> None:
        self.row = row
        self.leaves, self.rebuild = tree.flatten((sample.args, sample.kwargs))
        self.places = [i for i, x in enumerate(self.leaves) if isinstance(x, np.ndarray)]
        self.arrays: Arrays = [self.leaves[i] for i in self.places]
        self.floats = [n for n, a in enumerate(self.arrays) if a.dtype.kind == "f"]

    def _apply(self, function: Callable[..., Any], operands: Sequence[Any]) -> list[Any]:
        full = list(self.leaves)
        for i, x in zip(self.places, operands, strict=True):
            full[i] = x
        args, kwargs = self.rebuild(full)
        return tree.flatten(function(*args, **kwargs))[0]

    def reference(self, arrays: Arrays) -> Arrays:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # the mean of nothing
            return [np.asarray(y) for y in self._apply(self.row.reference, arrays)]

    def run(self, tensors: Sequence[mg.Tensor]) -> list[mg.Tensor]:
        return self._apply(self.row.call, tensors)

    def with_floats(self, values: Sequence[Any], others: Sequence[Any]) -> list[Any]:
        operands = list(others)
        for n, value in zip(self.floats, values, strict=True):
            operands[n] = value
        return operands


def calls(row: Row, extra: bool = False) -> Iterator[Call]:
    for sample in (*row.samples, *(row.extra if extra else ())):
        yield Call(row, sample)


def smooth_calls(row: Row) -> Iterator[Call]:
    """Calls that have something to differentiate, and somewhere to."""
    if row.order:
        for call in calls(row):
            if call.floats and not any(np.isnan(y).any() for y in call.reference(call.arrays)):
                yield call


def weights(ys: Sequence[Any], salt: int = 0) -> Arrays:
    random = np.random.default_rng(17 + salt)
    return [
        np.asarray(random.uniform(0.5, 1.5, y.shape) * random.choice([-1, 1], y.shape)) for y in ys
    ]


def leaves_of(arrays: Sequence[np.ndarray]) -> list[mg.Tensor]:
    return [mg.Tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]


def pulled(call: Call, tensors: Sequence[mg.Tensor], cotangents: Arrays) -> Arrays:
    """The gradients of sum(cotangent * result) with respect to the floating operands."""
    ys = call.run(tensors)
    for y, v in zip(ys, cotangents, strict=True):
        if y.requires_grad:
            y.backward(v.astype(y.dtype), retain_graph=True)
    found = []
    for n in call.floats:
        g = tensors[n].grad
        found.append(np.zeros(tensors[n].shape) if g is None else g.numpy())
    return found


# --- values --------------------------------------------------------------------------------------


def check_values(row: Row, backend: str) -> None:
    """float64: value, shape and dtype of the reference; the operands stay as they were."""
    for call in calls(row, extra=True):
        tensors = [mg.Tensor(a) for a in call.arrays]
        before = [t.numpy().tobytes() for t in tensors]
        got, want = call.run(tensors), call.reference(call.arrays)
        assert len(got) == len(want), f"{row.name}: {len(got)} results, not {len(want)}"
        for y, expected in zip(got, want, strict=True):
            assert y.backend is mg.resolve(backend)
            assert y.shape == expected.shape, f"{row.name}: {y.shape}, not {expected.shape}"
            assert y.dtype == expected.dtype, f"{row.name}: {y.dtype}, not {expected.dtype}"
            kind = "float32" if expected.dtype == np.float32 else "float64"
            close(y.numpy(), expected, kind, row.kind, row.name)
        assert [t.numpy().tobytes() for t in tensors] == before, f"{row.name} wrote into an operand"


def check_float32(row: Row, backend: str) -> None:
    """float32 operands give what float64 ones give, in float32, to its accuracy; gradients too."""
    for call in calls(row):
        if not call.floats:
            continue
        narrow = [a.astype(np.float32) if a.dtype.kind == "f" else a for a in call.arrays]
        wide = [a.astype(np.float64) if a.dtype == np.float32 else a for a in narrow]
        got = call.run([mg.Tensor(a) for a in narrow])
        want = call.reference(wide)
        kind = row.kind_float32 or row.kind
        for y, expected in zip(got, want, strict=True):
            if row.name != "astype" and expected.dtype == np.float64:
                assert y.dtype == np.float32, f"{row.name}: float32 became {y.dtype}"
                expected = expected.astype(np.float32) if kind == "exact" else expected
            close(y.numpy(), expected, "float32", kind, row.name)
        if row.order and row.name != "astype" and got and got[0].dtype == np.float32:
            cotangents = weights(got)
            single = pulled(call, leaves_of(narrow), cotangents)
            double = pulled(call, leaves_of(wide), cotangents)
            for g, expected in zip(single, double, strict=True):
                close(g, expected, "float32", "gradient", f"gradient of {row.name}")


def whole_numbers(row: Row, like: np.ndarray, dtype: Any) -> np.ndarray:
    return np.resize(np.array(row.whole), like.shape).astype(dtype)


def check_dtypes(row: Row, backend: str) -> None:
    """Integers and bool give the dtype that the row says, and the reference's values."""
    for dtype in ("int64", "int32", "uint8", "bool"):
        if row.dtypes is None or (dtype == "bool" and not row.bools):
            continue
        for call in calls(row):
            if any(a.dtype.kind != "f" for a in call.arrays):
                continue
            if any(isinstance(x, float) for x in call.leaves) or row.name == "clip":
                continue
            if dtype == "bool":
                operands = [np.ones(a.shape, bool) for a in call.arrays]
            else:
                operands = [whole_numbers(row, a, dtype) for a in call.arrays]
            as_float = row.dtypes == "float"
            values = [a.astype(np.float64) for a in operands] if as_float else operands
            summed = "uint64" if dtype == "uint8" else "int64"
            result = {"keep": dtype, "float": "float32", "sum": summed}.get(row.dtypes, row.dtypes)
            for y, want in zip(call.run([mg.Tensor(a) for a in operands]), call.reference(values)):
                assert y.dtype == result, f"{row.name} of {dtype}: {y.dtype}, not {result}"
                if as_float:
                    kind = row.kind if row.kind != "exact" else "elementwise"
                    close(y.numpy(), want, "float32", kind, row.name)
                else:
                    close(y.numpy(), want.astype(result), "float64", row.kind, row.name)


def check_mixed_dtypes(row: Row, backend: str) -> None:
    """int64 with float32 is float32; float32 with float64 is float64, or an error where strict."""
    for call in calls(row):
        if len(call.floats) < 2 or len(call.floats) != len(call.arrays) or row.order == 0:
            continue
        first, *rest = call.arrays
        narrow = [mg.Tensor(a, dtype="float32") for a in rest]
        whole = mg.Tensor(np.ones(first.shape, np.int64))
        for y in call.run([whole, *narrow]):
            assert y.dtype == np.float32, f"{row.name}(int64, float32) is {y.dtype}"
        wide = mg.Tensor(first)
        if row.strict:
            try:
                call.run([wide, *narrow])
            except mg.DtypeError as error:
                assert "float64" in str(error) and "float32" in str(error), error
                assert ".astype(" in str(error), error
            else:
                raise AssertionError(f"{row.name} took float64 with float32")
        else:
            for y in call.run([wide, *narrow]):
                assert y.dtype == np.float64, f"{row.name}(float64, float32) is {y.dtype}"


def laid_out(array: np.ndarray, layout: str) -> mg.Tensor:
    """The values of array (of its first entry alone, for zero strides) in another memory layout."""
    if layout == "fortran":
        t = mg.transpose(mg.Tensor(np.ascontiguousarray(array.T)))
    elif layout == "negative strides":
        t = mg.flip(mg.Tensor(np.ascontiguousarray(np.flip(array))))
    elif layout == "every other":
        t = mg.Tensor(np.repeat(array, 2, axis=-1))[..., ::2]
    else:
        t = mg.broadcast_to(
            mg.Tensor(array.reshape(-1)[:1].reshape((1,) * array.ndim)), array.shape
        )
    return t.detach()


LAYOUTS = ("fortran", "negative strides", "every other", "zero strides", "read-only")


def check_layouts(row: Row, backend: str) -> None:
    """Value and gradient do not depend on how the operands lie in memory."""
    for call in calls(row):
        if not any(a.ndim for a in call.arrays):
            continue
        for layout in LAYOUTS:
            tensors = []
            for a in call.arrays:
                moves = a.ndim and (
                    a.dtype.kind == "f" or layout in ("fortran", "negative strides")
                )
                if layout == "read-only" and mg.resolve(backend).xp is np:
                    array = a.copy()
                    array.flags.writeable = False
                    t = make(array, mg.resolve(backend))
                elif moves and (layout != "zero strides" or a.size) and layout != "read-only":
                    t = laid_out(a, layout)
                else:
                    t = mg.Tensor(a)
                if a.dtype.kind == "f":
                    t = make(bare(t), t.backend, leaf(t.backend, t.shape, t.dtype))
                tensors.append(t)
            plain = [np.array(t.numpy(), order="C") for t in tensors]
            want = call.reference(plain)
            for y, expected in zip(call.run(tensors), want, strict=True):
                kind = "float32" if expected.dtype == np.float32 else "float64"
                close(y.numpy(), expected, kind, row.kind, f"{row.name}, {layout}")
            if row.order and call.floats:
                cotangents = weights(want)
                with np.errstate(all="ignore"):  # std of equal values
                    got = pulled(call, tensors, cotangents)
                    expected_gradients = pulled(call, leaves_of(plain), cotangents)
                for g, e in zip(got, expected_gradients, strict=True):
                    close(g, e, "float64", "gradient", f"gradient of {row.name}, {layout}")


# --- derivatives ---------------------------------------------------------------------------------


def objective(call: Call, cotangents: Arrays) -> Callable[[Arrays], Any]:
    return lambda arrays: sum(
        np.sum(v * y) for v, y in zip(cotangents, call.reference(arrays), strict=True)
    )


def differences(call: Call, cotangents: Arrays) -> Arrays:
    """The gradients of sum(cotangent * reference), by complex step or by differences."""
    total = objective(call, cotangents)
    found = []
    for n in call.floats:
        gradient = np.zeros(call.arrays[n].shape)
        for place in np.ndindex(gradient.shape):
            if call.row.analytic:
                moved = [
                    a.astype(complex) if m in call.floats else a for m, a in enumerate(call.arrays)
                ]
                moved[n][place] += 1e-30j
                gradient[place] = total(moved).imag / 1e-30
            else:
                sides = []
                for step in (1e-6, -1e-6):
                    moved = [a.copy() for a in call.arrays]
                    moved[n][place] += step
                    sides.append(total(moved))
                gradient[place] = (sides[0] - sides[1]) / 2e-6
        found.append(gradient)
    return found


def exactness(row: Row) -> str:
    return "complex step" if row.analytic else "difference"


def check_gradient(row: Row, backend: str) -> None:
    """The rule of every operand, against the derivative of the reference, entry by entry."""
    for call in smooth_calls(row):
        cotangents = weights(call.reference(call.arrays))
        tensors = leaves_of(call.arrays)
        before = [t.numpy().tobytes() for t in tensors]
        got = pulled(call, tensors, cotangents)
        for g, want in zip(got, differences(call, cotangents), strict=True):
            assert g.shape == want.shape
            close(g, want, "float64", exactness(row), f"gradient of {row.name}")
        assert [t.numpy().tobytes() for t in tensors] == before, f"{row.name} wrote into an operand"


def check_one_operand_at_a_time(row: Row, backend: str) -> None:
    """A gradient does not depend on which other operands need one."""
    for call in smooth_calls(row):
        if len(call.floats) < 2:
            continue
        cotangents = weights(call.reference(call.arrays))
        together = pulled(call, leaves_of(call.arrays), cotangents)
        for n, want in zip(call.floats, together, strict=True):
            tensors = [mg.Tensor(a, requires_grad=m == n) for m, a in enumerate(call.arrays)]
            ys = call.run(tensors)
            for y, v in zip(ys, cotangents, strict=True):
                y.backward(v, retain_graph=True)
            g = tensors[n].grad
            assert g is not None
            close(g.numpy(), want, "float64", "gradient", f"gradient of {row.name} alone")


def check_jvp(row: Row, backend: str) -> None:
    """jvp along a random direction, against the derivative of the reference along it."""
    for call in smooth_calls(row):
        floats = [call.arrays[n] for n in call.floats]
        directions = weights(floats, 1)

        def function(*values: Any, call: Call = call) -> list[Any]:
            others = [mg.Tensor(a) for a in call.arrays]
            return call.run(call.with_floats(values, others))

        _, got = mg.jvp(
            function, [mg.Tensor(a) for a in floats], [mg.Tensor(d) for d in directions]
        )
        if row.analytic:
            moved = [a + 1e-30j * d for a, d in zip(floats, directions, strict=True)]
            want = [y.imag / 1e-30 for y in call.reference(call.with_floats(moved, call.arrays))]
        else:
            up, down = (
                call.reference(
                    call.with_floats(
                        [a + s * d for a, d in zip(floats, directions, strict=True)], call.arrays
                    )
                )
                for s in (1e-6, -1e-6)
            )
            want = [(p - m) / 2e-6 for p, m in zip(up, down, strict=True)]
        for dy, expected in zip(got, want, strict=True):
            close(dy.numpy(), expected, "float64", exactness(row), f"jvp of {row.name}")


def check_second_order(row: Row, backend: str) -> None:
    """Gradients of gradients, against central differences of gradients."""
    for call in smooth_calls(row) if row.order > 1 else ():
        if not all(a.size for a in call.arrays):
            continue

        def function(*values: Any, call: Call = call) -> list[Any]:
            others = [mg.Tensor(a) for a in call.arrays]
            return call.run(call.with_floats(values, others))

        mg.gradcheck(function, *(mg.Tensor(call.arrays[n]) for n in call.floats), order=2)


def check_linear(row: Row, backend: str) -> None:
    """The pullback is linear in the cotangent."""
    for call in smooth_calls(row):
        want = call.reference(call.arrays)
        first, second = weights(want, 2), weights(want, 3)
        both = [a + 2.5 * b for a, b in zip(first, second, strict=True)]
        a, b, c = (pulled(call, leaves_of(call.arrays), v) for v in (first, second, both))
        for x, y, z in zip(a, b, c, strict=True):
            np.testing.assert_allclose(x + 2.5 * y, z, rtol=1e-11, atol=1e-11, err_msg=row.name)


def check_points(row: Row, backend: str) -> None:
    """Gradients at kinks and edges, known in closed form."""
    for point in row.points:
        call = Call(row, point.sample)
        tensors = leaves_of(call.arrays)
        mg.sum(call.run(tensors)[0]).backward()
        for n, want in zip(call.floats, point.gradients, strict=True):
            g = tensors[n].grad
            assert g is not None and g.dtype == tensors[n].dtype
            close(g.numpy(), np.asarray(want), "float64", "gradient", f"{row.name} at a kink")


# --- shape rules and errors ----------------------------------------------------------------------


def check_shape_rule(row: Row, backend: str) -> None:
    """op.shape says the shape and dtype of every result, forward and backward."""
    seen = set()

    def compared(op: Any, operands: Sequence[Any], static: dict[str, Any]) -> Any:
        y = execute(op, operands, static)
        if all(isinstance(t, (mg.Tensor, int, float)) for t in operands):
            rule = op.shape(*specs_of([bare(t) for t in operands]), **static)
            results = y if op.outputs else [y]
            rules = rule if op.outputs else [rule]
            assert [tuple(r) for r in rules] == [(t.shape, t.dtype) for t in results], (
                f"{op.name}: the shape rule says {rules}, the results are "
                f"{[Spec(t.shape, t.dtype) for t in results]}"
            )
            seen.add(op.name)
        return y

    with at_choke_points(run=compared):
        for call in calls(row, extra=True):
            tensors = leaves_of(call.arrays)
            with np.errstate(all="ignore"):
                pulled(call, tensors, weights(call.reference(call.arrays)))
            if row.dtypes and all(a.dtype.kind == "f" for a in call.arrays):
                call.run([mg.Tensor(whole_numbers(row, a, "int32")) for a in call.arrays])
    assert row.op is None or row.op in seen, f"{row.op} does not run in its own row"


def check_errors(row: Row, backend: str) -> None:
    """Wrong arguments raise the error that the row names; its words are those of every backend."""
    for bad in row.errors:
        call = Call(row, bad.sample)
        try:
            call.run([mg.Tensor(a) for a in call.arrays])
        except bad.error as error:
            assert isinstance(error, mg.MinigradError) or bad.error is ValueError
            assert re.search(bad.match, str(error)), f"{row.name}: {error!s} lacks {bad.match!r}"
        else:
            raise AssertionError(f"{row.name} accepted {bad.sample}")


def outcome(row: Row, backend: str) -> list[tuple[str, np.ndarray]]:
    """All values and gradients of a row on a backend, float32 and float64."""
    found: list[tuple[str, np.ndarray]] = []
    with mg.use_backend(backend):
        for call in calls(row):
            for dtype in ("float64", "float32"):
                arrays = [a.astype(dtype) if a.dtype.kind == "f" else a for a in call.arrays]
                ys = call.run([mg.Tensor(a) for a in arrays])
                found += [(f"{row.kind} {dtype}", y.numpy()) for y in ys]
                if row.order and call.floats:
                    gs = pulled(call, leaves_of(arrays), weights(ys))
                    found += [(f"gradient {dtype}", g) for g in gs]
    return found


CHECKS = (
    check_values,
    check_float32,
    check_dtypes,
    check_mixed_dtypes,
    check_layouts,
    check_gradient,
    check_one_operand_at_a_time,
    check_jvp,
    check_second_order,
    check_linear,
    check_points,
    check_shape_rule,
    check_errors,
)
