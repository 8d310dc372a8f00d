"""Vector code: the ops of the registry against NumPy, error bounds, masks, instructions."""

from __future__ import annotations

import ctypes
import importlib.util
import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigrad.op import REGISTRY, Op

if importlib.util.find_spec("numba") is None:
    pytest.skip("numba is not installed", allow_module_level=True)

import llvmlite.binding as llvm
from llvmlite import ir
from minigrad_numba.emit.arithmetic import fma
from minigrad_numba.emit.functions import namespace
from minigrad_numba.emit.vector import Lanes, Number, Vector, load, store

F32, F64 = np.dtype("float32"), np.dtype("float64")
FLOATS = (F32, F64)
INTEGERS = tuple(np.dtype(d) for d in ("int64", "uint64", "int8", "uint8"))
BOOL = np.dtype("bool")
I64 = ir.IntType(64)
BYTE = ir.PointerType(ir.IntType(8))

pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid|divide|underflow):RuntimeWarning")

# --- from a forward to native code ---------------------------------------------------------------


def write(
    forward: Callable[..., Any], dtypes: tuple[Any, ...], count: int, fused: bool, numbers: Any = ()
) -> tuple[ir.Module, Any, Lanes]:
    """A module with f(n, in..., out, numbers...), a loop over lanes and a masked tail."""
    module = ir.Module()
    kinds = [I64, *[BYTE] * (len(dtypes) + 1), *[ir.DoubleType()] * len(numbers)]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), "f")
    entry, loop, tail, rest, done = map(function.append_basic_block, ("in", "l", "t", "r", "out"))
    b = ir.IRBuilder(entry)
    lanes = Lanes(b, count, fused)
    n, *pointers, out = function.args[: len(dtypes) + 2]
    found = [Number(lanes, v, x) for v, x in zip(function.args[len(dtypes) + 2 :], numbers)]
    results = []

    def place(pointer: ir.Value, i: ir.Value, dtype: Any) -> ir.Value:
        return b.gep(pointer, [b.mul(i, I64(dtype.itemsize))], source_etype=ir.IntType(8))

    def body(i: ir.Value, mask: Vector | None) -> None:
        x = [load(lanes, place(p, i, d), d, mask) for p, d in zip(pointers, dtypes)]
        y = forward(namespace(lanes), *x, *found)
        store(lanes, place(out, i, y.dtype), y, mask)
        results.append(y.dtype)

    whole = b.sub(n, b.urem(n, I64(count)))
    b.cbranch(b.icmp_signed(">", whole, I64(0)), loop, tail)
    b.position_at_end(loop)
    i = b.phi(I64)
    i.add_incoming(I64(0), entry)
    body(i, None)
    following = b.add(i, I64(count))
    i.add_incoming(following, b.block)
    b.cbranch(b.icmp_signed("<", following, whole), loop, tail)
    b.position_at_end(tail)
    b.cbranch(b.icmp_signed("<", whole, n), rest, done)
    b.position_at_end(rest)
    numbered = lanes.vector(ir.Constant(lanes.type("int64"), list(range(count))), "int64")
    body(whole, numbered < lanes.splat(b.sub(n, whole), "int64"))
    b.branch(done)
    b.position_at_end(done)
    b.ret_void()
    return module, results[0], lanes


def optimise(module: ir.Module, triple: str, cpu: str, features: str = "") -> tuple[Any, Any]:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu, features, opt=3)
    parsed = llvm.parse_assembly(str(module))
    parsed.triple, parsed.data_layout = triple, str(machine.target_data)
    parsed.verify()
    tuning = llvm.create_pipeline_tuning_options(speed_level=3)
    llvm.create_pass_builder(machine, tuning).getModulePassManager().run(
        parsed, llvm.create_pass_builder(machine, tuning)
    )
    return parsed, machine


def native(
    forward: Callable[..., Any],
    *dtypes: Any,
    count: int = 8,
    fused: bool | None = None,
    numbers: tuple[float, ...] = (),
) -> Callable[..., Any]:
    """forward, compiled for this machine, as a function of arrays and then numbers."""
    features = llvm.get_host_cpu_features()
    fused = bool(features.get("fma", True)) if fused is None else fused
    dtypes = tuple(map(np.dtype, dtypes))
    module, result, lanes = write(forward, dtypes, count, fused, numbers)
    parsed, machine = optimise(
        module, llvm.get_process_triple(), llvm.get_host_cpu_name(), features.flatten()
    )
    engine = llvm.create_mcjit_compiler(parsed, machine)
    engine.finalize_object()
    pointers = [ctypes.c_void_p] * (len(dtypes) + 1)
    kind = ctypes.CFUNCTYPE(
        None, ctypes.c_int64, *pointers, *[ctypes.c_double] * len(numbers)
    )  # which lets other threads run meanwhile
    address = engine.get_function_address("f")

    def call(*operands: Any) -> np.ndarray:
        assert engine
        arrays = [np.ascontiguousarray(x, d) for x, d in zip(operands, dtypes)]
        y = np.full(len(arrays[0]) + 3, 77).astype(result)  # three more, which nothing may touch
        places = [a.ctypes.data for a in (*arrays, y)]
        kind(address)(len(arrays[0]), *places, *operands[len(dtypes) :])
        assert np.array_equal(y[-3:], np.full(3, 77).astype(result))
        return y[:-3]

    call.lanes = lanes  # type: ignore[attr-defined]
    return call


# --- values and their comparison -----------------------------------------------------------------


@cache
def values(dtype: Any, seed: int = 0) -> np.ndarray:
    """Special values, then random ones; with two seeds, every special value meets every other."""
    draw = np.random.default_rng(seed)
    if dtype == BOOL:
        special, random = np.array([False, True]), draw.random(5) < 0.5
    elif dtype.kind == "f":
        f = np.finfo(dtype)
        edges = [0.0, f.smallest_subnormal, f.tiny, f.eps, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 88.5,
                 104.0, 710.0, f.max, np.inf]  # fmt: skip
        special = np.array([*edges, *(-x for x in edges), np.nan], dtype)
        random = np.concatenate([draw.standard_normal(60), draw.uniform(-200, 200, 60)])
    else:
        i = np.iinfo(dtype)
        special = np.array([*range(8), i.max, i.max - 1, i.max // 2], dtype)
        if i.min:
            special = np.array([*special, *range(-8, 0), i.min, i.min + 1], dtype)
        random = draw.integers(max(i.min, -1000), min(i.max, 1000), 100)
    random = random.astype(dtype)
    if seed:
        return np.concatenate([np.repeat(special, len(special)), random])
    return np.concatenate([np.tile(special, len(special)), random])


def wide(x: Any) -> Any:
    """Floats in a wider type than theirs, where the machine has one; the others as they are."""
    if getattr(x, "dtype", BOOL).kind != "f":
        return x
    return x.astype(np.float64 if x.dtype == F32 else np.longdouble)


def ulps(y: np.ndarray, exact: np.ndarray) -> float:
    """The greatest error in units in the last place; NaN, infinities and zeros must be exact."""
    assert np.array_equal(np.isnan(y), np.isnan(exact))
    rounded = exact.astype(y.dtype)
    # Next to the greatest number, infinity may stand for what rounds to it and the reverse.
    edge = np.isinf(rounded) != np.isinf(y)
    assert np.all(np.abs(exact[edge] / np.finfo(y.dtype).max - 1) < 1e-6)
    zero = exact == 0
    assert np.array_equal(np.signbit(y[zero]), np.signbit(exact[zero])) and not y[zero].any()
    fine = np.isfinite(rounded) & np.isfinite(y)
    error = np.abs(y[fine].astype(exact.dtype) - exact[fine])
    return float((error / np.spacing(np.abs(rounded[fine])).astype(exact.dtype)).max(initial=0))


def same(y: np.ndarray, want: np.ndarray, signs: bool = True) -> None:
    """Raise AssertionError unless y is want to the bit; NaNs are all the same."""
    assert y.dtype == want.dtype
    np.testing.assert_array_equal(y, want)
    if want.dtype.kind == "f" and signs:
        number = ~np.isnan(want)
        np.testing.assert_array_equal(np.signbit(y[number]), np.signbit(want[number]))


# --- the registry --------------------------------------------------------------------------------

ELEMENTWISE = [op for op in REGISTRY.values() if op.forward.__module__.endswith("ops.elementwise")]
STATIC: dict[str, dict[str, Any]] = {"clip_gradient": {"limit": 1.0}}
# Ours and the C library's, against the truth: NumPy's own are as many units off.
ROUNDED = {"power", "exp", "expm1", "log", "log1p", "log2", "sin", "cos", "tan", "arcsin",
           "arccos", "arctan", "arctan2", "sinh", "cosh", "tanh", "arcsinh", "arccosh",
           "arctanh"}  # fmt: skip
UNSIGNED_ZERO = {"maximum", "minimum"}  # of 0.0 and -0.0 NumPy itself takes now this, now that
REFUSED = {("power", d.name) for d in (*INTEGERS, BOOL)}  # vectors of exponents


def operands_of(op: Op, dtype: Any) -> list[np.ndarray]:
    x = [values(dtype, seed) for seed in range(len(op.operands))][: len(op.operands)]
    return [np.resize(values(BOOL), x[1].shape), *x[1:]] if op.name == "where" else x


DTYPES = [  # the first are in every kernel of a network, the others take the same code
    pytest.param(
        d, id=str(d), marks=[] if str(d) in ("float32", "int64", "bool") else pytest.mark.slow
    )
    for d in (*FLOATS, *INTEGERS, BOOL)
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", [op for op in ELEMENTWISE if op.name != "astype"], ids=repr)
def test_every_elementwise_op_is_numpys(op: Op, dtype: Any) -> None:
    if op.dtypes == "float" and dtype.kind != "f":
        return  # such an op is given floats only
    x = operands_of(op, dtype)
    x = [a[: min(map(len, x))] for a in x]
    static = STATIC.get(op.name, {})
    compiled = lambda: native(  # noqa: E731
        lambda xp, *x: op.forward(xp, *x, **static), *(a.dtype for a in x)
    )
    if (op.name, dtype.name) in REFUSED:
        with pytest.raises(TypeError, match="is not vector code"):
            compiled()
        return
    try:
        want = op.forward(np, *x, **static)
    except TypeError:  # NumPy negates no bools, for instance
        with pytest.raises(TypeError, match="as in NumPy"):
            compiled()
        return
    y = compiled()(*x)
    if op.name in ROUNDED and dtype.kind == "f":
        exact = op.forward(np, *map(wide, x))
        assert y.dtype == want.dtype and ulps(y, exact) <= 4
    elif op.name == "sigmoid":
        np.testing.assert_allclose(y, want, rtol=3 * np.finfo(dtype).eps, atol=np.finfo(dtype).eps)
    else:
        same(y, want, op.name not in UNSIGNED_ZERO)


def test_the_other_ops_are_no_vector_code() -> None:
    xp = namespace(Lanes(ir.IRBuilder(), 8))
    for name in ("sum", "matmul", "reshape", "where_"):
        with pytest.raises(AttributeError, match=f"no function '{name}'"):
            getattr(xp, name)
    used = {
        name for op in ELEMENTWISE for name in op.forward.__code__.co_names if hasattr(np, name)
    } - {"astype"}
    assert len(used) > 40 and all(callable(getattr(xp, name)) for name in used)


@pytest.mark.parametrize("source", DTYPES)
@pytest.mark.parametrize("target", DTYPES)
def test_conversions_are_numpys(source: Any, target: Any) -> None:
    x = values(source)
    y = native(lambda xp, x: x.astype(target), source)(x)
    if source.kind == "f" and target.kind in "iu":  # beyond the integers C promises nothing
        i = np.iinfo(target)
        nearest = np.where(np.isnan(x), 0, np.clip(np.trunc(x.astype(float)), i.min, i.max))
        exact = [min(max(int(v), i.min), i.max) for v in nearest]
        assert y.dtype == target and y.tolist() == exact
    else:
        same(y, x.astype(target))


@pytest.mark.parametrize("name", ["<", "<=", ">", ">=", "==", "!="])
def test_comparisons_across_dtypes_and_with_any_integer_are_numpys(name: str) -> None:
    compare = eval(f"lambda xp, a, b: a {name} b")
    pairs = [("int64", "uint64"), ("uint64", "int64"), ("int8", "uint8"), ("bool", "int64"),
             ("int64", "float64"), ("float32", "float64"), ("int32", "int64")]  # fmt: skip
    for pair in pairs:
        a, b = (values(np.dtype(d), seed) for seed, d in enumerate(pair))
        n = min(len(a), len(b))
        same(native(compare, *pair)(a[:n], b[:n]), compare(np, a[:n], b[:n]))
    for number in (300, -1, -129, 2**64, 7, True):
        x = values(np.dtype("uint8"))
        same(native(lambda xp, x, k=number: compare(xp, x, k), "uint8")(x), compare(np, x, number))
        same(native(lambda xp, x, k=number: compare(xp, k, x), "uint8")(x), compare(np, number, x))


# --- numbers -------------------------------------------------------------------------------------

WEAK: list[Callable[..., Any]] = [
    lambda xp, x, k: x + k,
    lambda xp, x, k: k - x,
    lambda xp, x, k: xp.multiply(k, x) / k,
    lambda xp, x, k: k // x + x % k,
    lambda xp, x, k: xp.where(x > k, x, k),
    lambda xp, x, k: xp.where(xp.logical_not(x <= k), 1, k) * x,
    lambda xp, x, k: xp.maximum(x, k) - xp.minimum(k, x),
    lambda xp, x, k: (k * k - 1.0) / (k + 0.5) * x,
    lambda xp, x, k: -k * x,
    lambda xp, x, k: x * (2 * k) ** 2,
]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("forward", WEAK, ids=lambda f: inspect.getsource(f).strip(" ,\n")[14:])
def test_numbers_of_run_time_and_of_python_are_weak(forward: Any, dtype: Any) -> None:
    x = values(dtype)
    with np.errstate(all="ignore"):
        same(native(lambda xp, x: forward(xp, x, 0.3), dtype)(x), forward(np, x, 0.3))
        compiled = native(forward, dtype, numbers=(9.0,))
        for k in (0.3, -2.5):
            same(compiled(x, k), forward(np, x, k), signs=k > 0)


def test_two_numbers_make_a_number_that_knows_its_value() -> None:
    lanes = Lanes(ir.IRBuilder(ir.Function(ir.Module(), ir.FunctionType(ir.VoidType(), []), "f")
                               .append_basic_block()), 8)  # fmt: skip
    a, b = (Number(lanes, ir.Constant(ir.DoubleType(), x), x) for x in (-8.0, 0.0))
    assert (a * 2 - 1).known == -17 and (1 / a).known == -0.125 and (-a).known == 8
    assert (a / b).known is None and (a**0.3).known is None and ((a / b) + 1).known is None
    assert (a**2).known == 64 and isinstance(a**b, Number)
    with pytest.raises(TypeError, match="takes vectors and Python numbers, not list"):
        a + [1]  # noqa: RUF005
    with pytest.raises(TypeError, match="not known while code"):
        bool(a < b)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_powers_of_a_constant(dtype: Any) -> None:
    """Up to 8 roundings by multiplication; C's pow at most one."""
    x = values(dtype)
    for exponent in (*range(-4, 9), 2.0, -1.0, 0.5, 0.25, -0.5, 9, 100.0, float("inf"), 1e300):
        short = exponent in range(-4, 9) or exponent == 0.5
        exact = np.sqrt(wide(x)) if exponent == 0.5 else wide(x) ** exponent
        for numbers in ((), (float(exponent),)):
            compiled = native(lambda xp, x, k=exponent: x**k, dtype, numbers=numbers)
            y = compiled(x, *numbers)
            normal = (np.abs(exact) >= np.finfo(dtype).tiny) | ~np.isfinite(exact) | (x == 0)
            if exponent in (-3, -4):  # x^4 may overflow where its reciprocal is subnormal
                assert np.all(np.abs(y[~normal]) <= np.finfo(dtype).tiny)
            else:
                normal |= True
            assert y.dtype == dtype and ulps(y[normal], exact[normal]) <= (8 if short else 1)
        if exponent in (0, 1, 2, -1, 0.5):  # NumPy takes the same way
            same(y, x**exponent)


def test_powers_of_integers() -> None:
    for dtype in INTEGERS:
        x = values(dtype)
        for exponent in (0, 1, 2, 13):
            same(native(lambda xp, x, k=exponent: x**k, dtype)(x), x**exponent)
    with pytest.raises(ValueError, match="negative integer powers"):
        native(lambda xp, x: x**-1, "int64")
    x = values(F64)
    assert ulps(native(lambda xp, x: 0.3**x, F64)(x), np.longdouble(0.3) ** wide(x)) <= 1


# --- error bounds --------------------------------------------------------------------------------

# Units in the last place, over the whole range, with and without fused instructions.
BOUNDS = {
    ("exp", F32): 1.2, ("exp", F64): 1.3,
    ("expm1", F32): 1.6, ("expm1", F64): 1.7,
    ("tanh", F32): 2.6, ("tanh", F64): 2.6,
    ("log", F32): 0.9, ("log", F64): 0.9,
    ("log1p", F32): 0.9, ("log1p", F64): 0.9,
}  # fmt: skip


@cache
def function(name: str, dtype: Any, fused: bool) -> Callable[..., Any]:
    return native(lambda xp, x: getattr(xp, name)(x), dtype, fused=fused)


def fusing() -> list[bool]:
    """Whether to fuse: where the machine cannot, llvm.fma is a slow call."""
    return [False, True] if llvm.get_host_cpu_features().get("fma", True) else [False]


@cache
def everywhere(dtype: Any) -> np.ndarray:
    """Floats of every exponent and sign, and more of them where the functions have their kinks."""
    draw = np.random.default_rng(0)
    step = 9_973 if dtype == F32 else 2**64 // 400_009
    bits = np.arange(0, 2 ** (8 * dtype.itemsize) - 1, step, dtype=np.uint64)
    x = bits.astype(f"uint{8 * dtype.itemsize}").view(dtype)
    near = [draw.uniform(-110, 95, 200_000), draw.uniform(-750, 715, 200_000),
            draw.standard_normal(200_000), draw.standard_normal(200_000) * 0.1,
            1 + draw.standard_normal(200_000) * 0.1, draw.uniform(0, 4, 200_000)]  # fmt: skip
    return np.concatenate([x, *(a.astype(dtype) for a in near), values(dtype)])


@pytest.mark.parametrize("fused", fusing())
@pytest.mark.parametrize(("name", "dtype"), list(BOUNDS), ids=str)
def test_error_bounds_over_the_whole_range(name: str, dtype: Any, fused: bool) -> None:
    x = everywhere(dtype)
    y = function(name, dtype, fused)(x)
    assert ulps(y, getattr(np, name)(wide(x))) <= BOUNDS[name, dtype]
    if name == "tanh":
        assert np.nanmax(np.abs(y)) == 1


@pytest.mark.parametrize("fused", fusing())
@pytest.mark.parametrize(("name", "dtype"), list(BOUNDS), ids=str)
@given(data=st.data())
def test_error_bounds_of_any_float(name: str, dtype: Any, fused: bool, data: Any) -> None:
    floats = st.lists(st.floats(width=8 * dtype.itemsize), min_size=1, max_size=40)
    x = np.array(data.draw(floats), dtype)
    y = function(name, dtype, fused)(x)
    assert ulps(y, getattr(np, name)(wide(x))) <= BOUNDS[name, dtype]


# --- lanes and instructions ----------------------------------------------------------------------


def mixed(xp: Any, x: Any, keep: Any, k: Any) -> Any:
    y = xp.where(keep, 0.5 * xp.tanh(0.5 * x) + 0.5, xp.log(x) * k)
    return xp.where(xp.isfinite(y), y, xp.sin(k))


@pytest.mark.parametrize("count", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_value_depends_neither_on_its_lane_nor_on_their_number(dtype: Any, count: int) -> None:
    x = np.random.default_rng(1).standard_normal(70).astype(dtype)
    keep = np.random.default_rng(2).random(70) < 0.5
    operands = (dtype, BOOL, dtype)
    whole = native(mixed, *operands, count=8)(x, keep, x)
    compiled = native(mixed, *operands, count=count)
    for n in (0, 1, 2, 3, 5, 8, 15, 16, 17, 31, 70):
        same(compiled(x[:n], keep[:n], x[:n]), whole[:n])


def assembly(forward: Any, count: int, triple: str, cpu: str, *dtypes: Any) -> str:
    module, _, _ = write(forward, dtypes, count, fused=True)
    parsed, machine = optimise(module, triple, cpu)
    return str(machine.emit_assembly(parsed))


@pytest.mark.parametrize("cpu", ["generic", "cortex-a76"])
def test_four_lanes_are_neon_instructions(cpu: str) -> None:
    text = assembly(lambda xp, x: xp.tanh(x), 4, "aarch64-unknown-linux-gnu", cpu, F32)
    assert "fmla\tv" in text and "fdiv\tv" in text and ".4s" in text
    assert "\tbl\t" not in text  # no calls


def test_sixteen_lanes_are_avx512_instructions() -> None:
    triple = "x86_64-unknown-linux-gnu"
    text = assembly(lambda xp, x: xp.tanh(x), 16, triple, "skylake-avx512", F32)
    assert "zmm" in text and "vfmadd" in text and "call" not in text
    text = assembly(lambda xp, x, y: fma(x, y, x), 8, triple, "haswell", F32, F32)
    assert "vfmadd" in text and "ymm" in text


def test_only_fused_lanes_fuse() -> None:
    for fused in (False, True):
        module, _, _ = write(lambda xp, x: xp.exp(x), (F32,), 8, fused)
        assert ("llvm.fma" in str(module)) is fused
