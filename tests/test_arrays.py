"""What a tensor offers to Python, NumPy and others, and what it answers to wrong input."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from minigrad_numpy import NumpyBackend

import minigrad as mg


def leaf(*values: float) -> mg.Tensor:
    return mg.Tensor(np.array(values), requires_grad=True)


def on_host(tensor: mg.Tensor) -> bool:
    return tensor.backend.xp is np


# --- NumPy ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "slope"),
    [
        (lambda t, a: a + t, lambda x, a: np.ones(2)),
        (lambda t, a: a * t, lambda x, a: a),
        (lambda t, a: a / t, lambda x, a: -a / x**2),
        (lambda t, a: np.float64(3) * t, lambda x, a: np.full(2, 3.0)),
        (lambda t, a: np.exp(t), lambda x, a: np.exp(x)),
        (lambda t, a: np.maximum(t, a), lambda x, a: np.array([0.0, 1.0])),
        (lambda t, a: a @ t, lambda x, a: a),
        (lambda t, a: np.matmul(a, t), lambda x, a: a),
        (lambda t, a: np.square(t), lambda x, a: 2 * x),
        (lambda t, a: a**t, lambda x, a: a**x * np.log(a)),
        (lambda t, a: np.sqrt(t) - a, lambda x, a: 0.5 / np.sqrt(x)),
    ],
)
def test_numpy_functions_stay_on_the_graph(function, slope):
    """Faults 11 and 12: ndarray + T, np.exp(T), ndarray @ T."""
    x, a = np.array([0.5, 4.0]), np.array([1.5, 2.5])
    t = mg.Tensor(x, requires_grad=True)
    y = function(t, a)
    assert isinstance(y, mg.Tensor)
    assert np.array_equal(y.numpy(), function(x, a))
    y.sum().backward()
    np.testing.assert_allclose(t.grad.numpy(), slope(x, a), rtol=1e-14)


def test_what_numpy_cannot_do_to_a_tensor():
    t = leaf(1.0, 2.0)
    for call, words in (
        (lambda: np.add(t, 1, out=np.zeros(2)), r"numpy.add with out .*use minigrad.add"),
        (lambda: np.add.reduce(t), r"numpy.add.reduce cannot take a tensor; use minigrad.add"),
        (lambda: np.frexp(t), "numpy.frexp cannot take a tensor; it has no minigrad equivalent"),
        (lambda: np.exp(t, where=[True, False]), r"numpy.exp with where .*minigrad.exp"),
    ):
        with pytest.raises(TypeError, match=words):
            call()
    a = np.zeros(2)
    with pytest.raises(TypeError, match=r"numpy\.add with out"):
        a += t


def test_asarray_never_cuts_a_graph(backend):
    """Fault 13, in torch's words."""
    t = leaf(1.0, 2.0)
    if not on_host(t):
        with pytest.raises(mg.BackendMismatchError, match=r"use tensor.numpy\(\)"):
            np.asarray(t)
        return
    for value in (t, t * 2):
        with pytest.raises(
            mg.GradientError,
            match=r"Can't call numpy\(\) on Tensor that requires grad. Use tensor.detach\(\).numpy",
        ):
            np.asarray(value)
    with mg.no_grad():
        assert np.array_equal(np.asarray(t), [1, 2])
    d = t.detach()
    assert np.asarray(d).dtype == np.float64
    assert np.asarray(d, dtype="float32").dtype == np.float32
    copied = np.array(d)
    copied[0] = 7
    assert d.tolist() == [1.0, 2.0]
    shared = np.array(d, copy=False)
    assert not shared.flags.writeable
    with pytest.raises(ValueError, match="without a copy"):
        np.array(d, dtype="float32", copy=False)


def test_numpy_is_a_read_only_view_of_any_tensor(backend):
    t = leaf(1.0, 2.0)
    for value in (t, t * 2, t.detach()):
        array = value.numpy()
        assert not array.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 5
    assert (t * 2).tolist() == [2.0, 4.0]


@pytest.mark.parametrize("shape", [(), (3,), (0, 2), (2, 3)])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "uint64", "bool"])
def test_nothing_makes_the_view_writeable(shape, dtype, backend):
    values = np.ones(shape, dtype)
    for t in (mg.Tensor(values), mg.Tensor(values).T, mg.broadcast_to(mg.Tensor(values), shape)):
        array = t.numpy()
        assert array.dtype == dtype
        with pytest.raises(ValueError, match="cannot set WRITEABLE"):
            array.flags.writeable = True
        assert not isinstance(array.base, np.ndarray)
        np.testing.assert_array_equal(array, values.T if t.shape != shape else values)


def test_there_is_no_data_to_write_to(backend):
    """PyTorch's `w.data -= 1` would change what a recorded graph has saved."""
    t = leaf(1.0, 2.0)
    with pytest.raises(AttributeError, match="'data'"):
        t.data -= 1
    t.assign(t.detach() - 1)
    assert t.tolist() == [0.0, 1.0]


def test_the_tensor_holds_a_copy(backend):
    """Fault 10: whoever changes the source afterwards changes no value and no gradient."""
    source = np.array([1.0, 2.0])
    t = mg.Tensor(source, requires_grad=True)
    y = (t * t).sum()
    source[:] = 100
    y.backward()
    assert t.tolist() == [1.0, 2.0]
    assert t.grad.tolist() == [2.0, 4.0]


def test_dlpack_exports_a_copy():
    with mg.use_backend("numpy"):
        t = leaf(1.0, 2.0)
    with pytest.raises(mg.GradientError, match=r"__dlpack__\(\).*tensor.detach\(\)"):
        np.from_dlpack(t)
    array = np.from_dlpack(t.detach())
    assert np.array_equal(array, [1, 2])
    if array.flags.writeable:
        array[0] = 9
    assert t.tolist() == [1.0, 2.0]
    with pytest.raises(BufferError, match="exports a copy"):
        t.detach().__dlpack__(copy=False)
    assert t.__dlpack_device__() == (1, 0)


def test_dlpack_imports_a_copy():
    source = np.arange(3.0)
    with mg.use_backend("numpy"):
        t = mg.from_dlpack(source)
    source[:] = 9
    assert t.tolist() == [0.0, 1.0, 2.0]
    assert t.dtype == np.float64
    assert not t.requires_grad


# --- copies and pickles --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "clone",
    [copy.copy, copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_leaves_are_copied(clone, backend):
    t = leaf(1.0, 2.0)
    t.name = "speed"
    again = clone(t)
    assert again.tolist() == [1.0, 2.0]
    assert (again.dtype, again.requires_grad, again.name) == (t.dtype, True, "speed")
    assert again.backend is t.backend
    again.sum().backward()
    assert t.grad is None
    constant = clone(mg.Tensor([1, 2]))
    assert not constant.requires_grad
    assert constant.dtype == np.int64


def test_a_copy_stays_on_a_backend_that_no_name_leads_to():
    class Unlisted(NumpyBackend):
        name = "unlisted"

    here = Unlisted()
    t = mg.Tensor([1.0, 2.0], requires_grad=True, backend=here)
    for other in (copy.copy(t), copy.deepcopy(t)):
        assert other.backend is here
        assert other.requires_grad
        assert other.tolist() == [1.0, 2.0]


def test_a_gradient_is_set_to_a_tensor_of_the_same_place(backend):
    t = leaf(1.0, 2.0)
    with pytest.raises(mg.GradientError, match=r"tensor or None, not ndarray; write minigrad.Tens"):
        t.grad = np.zeros(2, "float32")
    far = type("Far", (NumpyBackend,), {"name": "far"})()
    with pytest.raises(mg.BackendMismatchError, match=r"on 'far' .* move it with .to\("):
        t.grad = mg.zeros(2, backend=far)
    assert t.grad is None
    t.grad = mg.ones(2, dtype="float64")
    assert t.grad.tolist() == [1.0, 1.0]


def test_graph_tensors_are_not_copied(backend):
    """Fault 41."""
    y = leaf(1.0) * 2
    with pytest.raises(mg.GradientError, match=r"created explicitly by the user.*detach\(\)"):
        copy.deepcopy(y)
    with pytest.raises(mg.GradientError, match=r"only leaves can be pickled; use tensor.detach"):
        pickle.dumps(y)
    assert copy.deepcopy(y.detach()).tolist() == [2.0]


# --- Python --------------------------------------------------------------------------------------


def test_truth_and_numbers(backend):
    """Faults 22 and 23."""
    with pytest.raises(
        mg.ShapeError, match=r"truth value of a tensor of shape \(2,\) is ambiguous"
    ):
        bool(mg.Tensor([0.0, 1.0]))
    with pytest.raises(mg.ShapeError, match="truth value"):
        bool(mg.Tensor([]))
    assert bool(mg.Tensor([1.0]))
    assert not mg.Tensor(0.0)
    for convert in (float, int, complex):
        with pytest.raises(mg.ShapeError, match=r"only one-element tensors convert.*\(2,\)"):
            convert(mg.Tensor([0.0, 1.0]))
    assert float(leaf(2.5)) == 2.5
    assert int(mg.Tensor([[3]])) == 3
    assert complex(mg.Tensor(1.5)) == 1.5
    assert [10, 20, 30][mg.Tensor(1)] == 20
    with pytest.raises(mg.DtypeError, match="only an integer tensor is an index, not float32"):
        [10][mg.Tensor(0.0)]
    assert f"{leaf(2.0).sum():.3f}" == "2.000"
    assert f"{mg.Tensor([1.0, 2.0])}".startswith("Tensor([1., 2.]")
    assert isinstance(mg.Tensor(1.5).item(), float)
    assert isinstance(mg.Tensor(1).item(), int)


def test_length_iteration_membership(backend):
    """Fault 24."""
    scalar = mg.Tensor(1.0)
    for call, words in (
        (lambda: list(scalar), "iteration over a 0-d tensor"),
        (lambda: 1.0 in scalar, "iteration over a 0-d tensor"),
        (lambda: len(scalar), r"len\(\) of a 0-d tensor"),
    ):
        with pytest.raises(TypeError, match=words):
            call()
    t = mg.Tensor([[1.0, 2.0], [3.0, 4.0]])
    assert len(t) == 2
    assert [row.tolist() for row in t] == [[1.0, 2.0], [3.0, 4.0]]
    assert 3.0 in t
    assert 5.0 not in t
    assert list(mg.zeros((0, 2))) == []


def test_equality_is_elementwise_and_hashing_by_identity(backend):
    a, b = mg.Tensor([1.0, 2.0]), mg.Tensor([1.0, 3.0])
    assert (a == b).tolist() == [True, False]
    assert (a != b).tolist() == [False, True]
    assert {a: "a", b: "b"}[a] == "a"
    assert hash(a) != hash(b)


def test_repr_shows_what_matters(backend):
    name = leaf(1.0).backend.name
    assert repr(mg.Tensor([1.0])) == f"Tensor([1.], backend='{name}')"
    assert repr(mg.Tensor([1, 2])) == f"Tensor([1, 2], dtype=int64, backend='{name}')"
    assert repr(leaf(1.0)).endswith(f"dtype=float64, backend='{name}', requires_grad=True)")
    assert "grad_fn=<exp>" in repr(mg.exp(leaf(1.0)))
    assert repr(mg.zeros((100, 100))).startswith("Tensor(<100 x 100 values>")
    assert len(repr(mg.zeros(900))) < 10_000


def test_nothing_is_changed_in_place(backend):
    """Fault 8: at the edit, with the functional forms."""
    t = leaf(1.0, 2.0)
    with pytest.raises(
        TypeError, match=r"never changed in place; use minigrad.where, minigrad.scat"
    ):
        t[0] = 5
    kept = t
    t += 1  # binds the name to a new tensor
    assert kept.tolist() == [1.0, 2.0]
    assert t.tolist() == [2.0, 3.0]
    assert not t.is_leaf


# --- what makes no tensor ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "error", "match"),
    [
        ([[1.0, 2.0], [3.0]], mg.ShapeError, "must be rectangular"),
        (np.array([1, "a", None], dtype=object), mg.DtypeError, "not object"),
        (np.array(["a"]), mg.DtypeError, r"float32, float64, integers and bool, not <U1"),
        (np.ones(2, np.complex128), mg.DtypeError, r"not complex128; .*astype"),
        (np.ones(2, np.float16), mg.DtypeError, r"not float16; .*astype\('float32'\)"),
        ([1j], mg.DtypeError, "not complex128"),
        (None, mg.DtypeError, "not object"),
        ({"a": 1}, mg.DtypeError, "not object"),
    ],
    ids=["ragged", "object", "text", "complex", "float16", "complex list", "None", "dict"],
)
def test_refused_data(data, error, match, backend):
    """Fault 25."""
    with pytest.raises(error, match=match):
        mg.Tensor(data)


def test_a_list_of_tensors_is_stacked_on_purpose_only(backend):
    with pytest.raises(mg.DtypeError, match=r"list of tensors: use minigrad.stack"):
        mg.Tensor([leaf(1.0), leaf(2.0)])


def test_dtypes_of_new_tensors(backend):
    assert mg.Tensor(1.5).dtype == mg.Tensor([1.5, 2]).dtype == np.float32
    assert mg.Tensor(1).dtype == np.int64
    assert mg.Tensor(True).dtype == np.bool_
    assert mg.Tensor([]).dtype == np.float32
    assert mg.Tensor(np.ones(2)).dtype == np.float64
    assert mg.Tensor(np.ones(2), dtype="float32").dtype == np.float32
    mg.set_default_dtype("float64")
    try:
        assert mg.Tensor(1.5).dtype == mg.zeros(2).dtype == np.float64
        assert (mg.Tensor([1, 2]) / 2).dtype == np.float64
    finally:
        mg.set_default_dtype("float32")
    with pytest.raises(mg.DtypeError, match="float32 or float64, not int64"):
        mg.set_default_dtype("int64")


def test_integers_stay_integers(backend):
    """No integer dtype holds both uint64 and int64; NumPy would go to float64."""
    a, b = mg.Tensor(np.array([3], "uint64")), mg.Tensor(np.array([-5], "int64"))
    for narrow in (b, b.astype("int8")):
        for y, value in ((a + narrow, -2), (narrow * a, -15), (mg.concatenate([a, narrow])[1], -5)):
            assert y.dtype == np.int64
            assert y.item() == value
    assert (a / b).dtype == np.float32


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "bool"])
def test_where_of_numbers_ignores_the_condition(dtype, backend):
    condition = mg.Tensor([1, 0], dtype=dtype)
    for y, wanted in (
        (mg.where(condition, 1.0, 0.5), "float32"),
        (mg.where(condition, 1, 0.5), "float32"),
        (mg.where(condition, 1, 0), "int64"),
        (mg.where(condition, mg.ones(2, "float64"), 0.5), "float64"),
        (mg.where(condition, mg.ones(2), 0), "float32"),
        (mg.where(condition, True, False), "bool"),
    ):
        assert y.dtype == wanted
    assert mg.where(condition, 1.0, 0.5).tolist() == [1.0, 0.5]


def test_integers_are_compared_with_floats_exactly(backend):
    """2^24 + 1 is no float32: it must not become 2^24 first."""
    n, x = mg.Tensor([16777217, 1]), mg.Tensor([16777216.0, 1.0])
    assert x.dtype == np.float32
    for other in (x, 16777216.0):
        assert (n == other).tolist()[0] is False
        assert (n != other).tolist()[0] is True
        assert (n > other).tolist()[0] is True
        assert (n <= other).tolist()[0] is False
    assert (n >= x).tolist() == [True, True]
    assert (x < n).tolist() == [True, False]
    assert (mg.Tensor([0.1]) == 0.1).tolist() == [True]  # floats among themselves: weak as ever
    unsigned = mg.Tensor(np.array([2**63], "uint64"))
    assert (unsigned > mg.Tensor([-(2**63)])).tolist() == [True]


def test_scalars_are_weak(backend):
    """Fault 14: no NumPy scalar, 0-d array or Python number makes float32 wider."""
    t = mg.ones(2)
    for scalar in (np.float64(2), np.sqrt(2.0), np.int64(3), np.array(2.0), 2.0, 2, True):
        if isinstance(scalar, np.ndarray) and not on_host(t):
            continue  # an array of the host, not a number
        for y in (t * scalar, scalar * t, t + scalar, scalar - t, t / scalar, scalar / t):
            assert y.dtype == np.float32, scalar
        assert mg.maximum(t, scalar).dtype == np.float32
        assert mg.where(t > 0, t, scalar).dtype == np.float32
    assert (mg.Tensor([1, 2]) * 2).dtype == np.int64
    assert (mg.Tensor([1, 2]) * 2.5).dtype == np.float32
    assert (mg.Tensor([1, 2]) / 2).dtype == np.float32
    assert (mg.Tensor([True]) + 1).dtype == np.int64
    assert (mg.Tensor([1, 2], dtype="int32") + 1).dtype == np.int32
    assert (mg.Tensor([1]) * mg.ones(1)).dtype == np.float32
    assert (mg.ones(1) * mg.ones(1, dtype="float64")).dtype == np.float64
    assert mg.mean(mg.Tensor([1, 2])).dtype == np.float32
    assert (
        mg.scatter_add(t, np.array([0]) if on_host(t) else mg.Tensor([0]), 0.1).dtype == np.float32
    )


# --- indices -------------------------------------------------------------------------------------


def test_indices_are_checked_unless_switched_off(monkeypatch):
    """Fault 19: MINIGRAD_CHECK_INDEX=0 leaves the rest to NumPy."""
    t = mg.Tensor([1.0, 2.0, 3.0])
    with pytest.raises(mg.IndexRangeError, match=r"index 3 at position \(1,\).*axis 0 of shape"):
        mg.take(t, [0, 3])
    monkeypatch.setenv("MINIGRAD_CHECK_INDEX", "0")
    with pytest.raises(IndexError) as caught:
        mg.take(t, [0, 3])
    assert not isinstance(caught.value, mg.IndexRangeError)


def test_duplicate_indices_all_count(backend):
    """Fault 21, in value and in order: float32 sums of many duplicates are the same each time."""
    table = mg.Tensor(np.zeros((3, 2)), requires_grad=True)
    ids = mg.Tensor([1, 1, 2, 1])
    (mg.take(table, ids, axis=0) * mg.Tensor(np.arange(8.0).reshape(4, 2))).sum().backward()
    assert table.grad.tolist() == [[0, 0], [0 + 2 + 6, 1 + 3 + 7], [4, 5]]
    random = np.random.default_rng(0)
    many, values = random.integers(0, 5, 3000), random.normal(size=3000).astype(np.float32)
    results = {
        mg.scatter_add(mg.zeros(5), mg.Tensor(many), mg.Tensor(values)).numpy().tobytes()
        for _ in range(3)
    }
    assert len(results) == 1


# --- empty tensors, backends ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["max", "min"])
def test_the_extremum_that_is_nan_is_attained_at_nan(name, backend):
    values = np.array([[1.0, np.nan, 3.0, np.nan], [2.0, 5.0, 5.0, 2.0]])
    x = mg.Tensor(values, requires_grad=True)
    getattr(mg, name)(x, axis=1).sum().backward()
    even = [0, 0.5, 0.5, 0] if name == "max" else [0.5, 0, 0, 0.5]
    assert x.grad.tolist() == [[0, 0.5, 0, 0.5], even]
    torch = pytest.importorskip("torch")
    a = torch.tensor(values[0], requires_grad=True)
    getattr(a, name)().backward()
    assert x.grad.tolist()[0] == a.grad.tolist()


def test_empty_tensors(backend):
    """Fault 28: NumPy's answers, an error for an extremum, and no gradient that fails."""
    x = mg.Tensor(np.zeros((0, 3)), requires_grad=True)
    assert mg.sum(x).item() == 0
    assert mg.prod(x).item() == 1
    assert np.isnan(mg.mean(x).item())
    with pytest.raises(mg.ShapeError, match="empty axis 0 has no extremum"):
        mg.max(x)
    with pytest.raises(mg.ShapeError, match="empty axis 0 has no extremum"):
        mg.argmax(x, axis=0)
    (mg.exp(x) @ mg.Tensor(np.ones((3, 2)))).sum().backward()
    assert x.grad.shape == (0, 3)


def test_backends_do_not_mix():
    """Fault 47: named operands, and what to write; even where both hold NumPy's arrays."""
    a = mg.Tensor([1.0], backend="numpy")
    b = mg.Tensor([1.0], backend="numba")
    with pytest.raises(
        mg.BackendMismatchError,
        match=r"add: a on 'numpy', b on 'numba'; move one with .to\('numpy'",
    ):
        a + b
    with pytest.raises(TypeError, match=r"matmul: a on 'numba', b on 'numpy'"):
        b @ a
    assert (a + b.to("numpy")).tolist() == [2.0]
    with pytest.raises(mg.BackendMismatchError, match=r"on 'numpy' cannot take a value on 'numba'"):
        a.assign(b)
    moved = leaf(1.0).to("numba")
    assert (moved.backend.name, moved.requires_grad) == ("numba", True)
    with pytest.raises(mg.GradientError, match="the graph stays on its backend"):
        (leaf(1.0) * 2).to("numba")


def test_the_same_words_on_every_backend(backend):
    """Faults 1, 2, 15, 18 and 27: the op, both operands with shape and dtype, the backend."""
    name = leaf(1.0).backend.name

    def words(call) -> str:
        with pytest.raises(mg.MinigradError) as caught:
            call()
        return str(caught.value)

    assert words(lambda: mg.zeros((3, 4)) @ mg.zeros((5, 6))) == (
        "shapes (3, 4) and (5, 6) cannot be multiplied: the last axis of a has 4 elements, the "
        "second last axis of b has 5; in matmul(a: (3, 4) float32, b: (5, 6) float32) on backend "
        f"{name!r}"
    )
    assert words(lambda: mg.zeros((3, 4)) + mg.zeros(5)) == (
        "shapes (3, 4) and (5,) do not broadcast: axis -1 has sizes 4 and 5, which must be equal "
        f"or 1; in add(a: (3, 4) float32, b: (5,) float32) on backend {name!r}"
    )
    assert "matmul: operands of float32 and float64; convert one" in words(
        lambda: mg.ones((1, 1)) @ mg.ones((1, 1), dtype="float64")
    )
    assert words(lambda: mg.zeros(3)[5]) == "index 5 is out of bounds for axis 0 of shape (3,)"
    assert "shape (3,) is invalid for a tensor of shape (2, 2)" in words(
        lambda: mg.zeros((2, 2)).reshape(3)
    )


# --- whole numbers, and where lists go -----------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: mg.arange(5)[1.7:3.9], mg.IndexTypeError),
        (lambda: mg.arange(5)[: mg.Tensor(2.0)], mg.IndexTypeError),
        (lambda: mg.arange(6).reshape(2.9, 3), mg.ShapeError),
        (lambda: mg.arange(6).reshape((2.0, 3)), mg.ShapeError),
        (lambda: mg.split(mg.arange(6), [1.5]), mg.ShapeError),
    ],
)
def test_a_fraction_is_no_size_and_no_bound(call, error, backend):
    with pytest.raises(error, match="made of integers"):
        call()


def test_a_whole_number_of_any_kind_is_a_size_and_a_bound(backend):
    two = mg.Tensor(2)
    assert mg.arange(5)[np.int8(1) : two].tolist() == [1]
    assert mg.arange(6).reshape(np.int64(2), -1).shape == mg.arange(6).reshape((two, 3)).shape
    assert [part.tolist() for part in mg.split(mg.arange(4), np.int64(2))] == [[0, 1], [2, 3]]


def test_a_list_joins_the_tensors_backend():
    with mg.use_backend("numba"):
        x = mg.Tensor([1.0, 2.0, 3.0])
    for y in (
        x[[0, 1]],
        x[[]],
        mg.take(x, [0, 1]),
        mg.take_along_axis(x, [0, 1], 0),
        mg.scatter_add(x, [0, 1], [1.0, 2.0]),
        mg.concatenate([x, [1.0, 2.0]]),
        mg.concatenate([[1.0, 2.0], x]),
        mg.stack([x, [1.0, 2.0, 3.0]]),
    ):
        assert y.backend is x.backend
    assert x[[2, 0]].tolist() == [3.0, 1.0]
    assert mg.concatenate([[0.0], x]).tolist() == [0.0, 1.0, 2.0, 3.0]
