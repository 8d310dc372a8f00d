"""Compositions and losses: values against closed forms and torch, gradients, stability, faults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import functional as F
from tests.oracles.differences import central

RNG = np.random.default_rng(3)
LOGITS = RNG.normal(size=(5, 4, 7))
LABELS = RNG.integers(0, 7, size=(5, 4))
MASK = RNG.random((5, 4)) < 0.7


def leaf(array: np.ndarray) -> mg.Tensor:
    return mg.Tensor(array, requires_grad=True)


def softmax_by_hand(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def loss_by_loop(
    logits: np.ndarray, labels: np.ndarray, valid: np.ndarray, smoothing: float
) -> list[float]:
    """-sum over classes of target * log(softmax), one valid position after the other."""
    losses = []
    for row, label, counts in zip(
        logits.reshape(-1, logits.shape[-1]), labels.ravel(), valid.ravel(), strict=True
    ):
        if counts:
            target = np.full(len(row), smoothing / len(row))
            target[label] += 1 - smoothing
            losses.append(float(-(target * np.log(softmax_by_hand(row))).sum()))
    return losses


@pytest.mark.lecture("C2", "gradient")
def test_gradient_of_cross_entropy_is_softmax_minus_one_hot(backend: str) -> None:
    """Eq 10.18: d L / d o = y - 1[label], over the number of tokens."""
    logits = leaf(LOGITS)
    F.cross_entropy(logits, mg.Tensor(LABELS)).backward()
    expected = softmax_by_hand(LOGITS)
    for i, j in np.ndindex(5, 4):
        expected[i, j, LABELS[i, j]] -= 1
    np.testing.assert_allclose(logits.grad.numpy(), expected / 20, rtol=0, atol=1e-15)


@pytest.mark.lecture("C2", "shift")
@pytest.mark.parametrize("shift", [-1e4, -3.0, 1e4])
def test_softmax_and_its_losses_do_not_see_a_shift(backend: str, shift: float) -> None:
    """Shifts and logits are multiples of 1/64, so that adding them rounds nothing."""
    x = np.round(LOGITS * 64) / 64
    labels = mg.Tensor(LABELS)
    for f in (F.softmax, F.log_softmax, lambda t: F.cross_entropy(t, labels)):
        plain, moved = leaf(x), leaf(x + shift)
        y, z = f(plain), f(moved)
        np.testing.assert_allclose(z.numpy(), y.numpy(), rtol=1e-15, atol=1e-15)
        (y * y).sum().backward()
        (z * z).sum().backward()
        np.testing.assert_allclose(moved.grad.numpy(), plain.grad.numpy(), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_softmax_is_stable_far_from_zero(backend: str, dtype: str) -> None:
    x = mg.Tensor(np.array([[1e4, 1e4 + 1, -1e4], [-1e4, -1e4, -1e4]]), dtype=dtype)
    e = np.e
    share = [[1 / (1 + e), e / (1 + e), 0], [1 / 3] * 3]
    tight = 1e-6 if dtype == "float32" else 1e-14
    np.testing.assert_allclose(F.softmax(x).numpy(), share, rtol=tight)
    logs = [[-np.log(1 + e), 1 - np.log(1 + e), -2e4 - np.log(1 + e)], [-np.log(3)] * 3]
    np.testing.assert_allclose(F.log_softmax(x).numpy(), logs, rtol=tight)
    losses = F.cross_entropy(x, mg.Tensor([1, 2]), reduction="none")
    np.testing.assert_allclose(losses.numpy(), [np.log(1 + e) - 1, np.log(3)], rtol=tight)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax_along_any_axis(backend: str, axis: int) -> None:
    e = np.exp(LOGITS)
    y = F.softmax(mg.Tensor(LOGITS), axis).numpy()
    np.testing.assert_allclose(y, e / e.sum(axis, keepdims=True), rtol=1e-13)
    logs = F.log_softmax(mg.Tensor(LOGITS), axis).numpy()
    np.testing.assert_allclose(logs, np.log(e / e.sum(axis, keepdims=True)), rtol=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("ignore", [None, 2])
def test_cross_entropy_is_the_mean_over_what_counts(
    backend: str, smoothing: float, masked: bool, ignore: int | None
) -> None:
    valid = np.ones_like(MASK) if not masked else MASK
    if ignore is not None:
        valid = valid & (ignore != LABELS)
    options: dict[str, Any] = {"smoothing": smoothing, "ignore_index": ignore}
    if masked:
        options["mask"] = mg.Tensor(MASK)
    losses = loss_by_loop(LOGITS, LABELS, valid, smoothing)

    found = F.cross_entropy(mg.Tensor(LOGITS), mg.Tensor(LABELS), **options)
    assert found.item() == pytest.approx(np.mean(losses), rel=1e-13)
    logits = leaf(LOGITS)
    F.cross_entropy(logits, mg.Tensor(LABELS), reduction="sum", **options).backward()
    moved = LOGITS.copy()
    slopes = central(lambda: sum(loss_by_loop(moved, LABELS, valid, smoothing)), moved)
    np.testing.assert_allclose(logits.grad.numpy(), slopes, atol=1e-7)
    each = F.cross_entropy(mg.Tensor(LOGITS), mg.Tensor(LABELS), reduction="none", **options)
    np.testing.assert_allclose(each.numpy()[valid], losses, rtol=1e-13)
    assert (each.numpy()[~valid] == 0).all()


def test_nothing_at_a_masked_position_is_seen(backend: str) -> None:
    """NaN logits and labels far out of range where the mask is False: as if they were not there."""
    poisoned, labels = LOGITS.copy(), LABELS.copy()
    poisoned[~MASK], labels[~MASK] = np.nan, -99
    clean, dirty = leaf(LOGITS), leaf(poisoned)
    a = F.cross_entropy(clean, mg.Tensor(LABELS), mask=mg.Tensor(MASK))
    b = F.cross_entropy(dirty, mg.Tensor(labels), mask=mg.Tensor(MASK))
    a.backward()
    b.backward()
    assert a.numpy() == b.numpy()
    np.testing.assert_array_equal(clean.grad.numpy(), dirty.grad.numpy())
    assert (dirty.grad.numpy()[~MASK] == 0).all()
    nothing = F.cross_entropy(clean, mg.Tensor(LABELS), mask=mg.Tensor(np.zeros_like(MASK)))
    assert nothing.item() == 0


@pytest.mark.parametrize(
    ("options", "theirs"),
    [
        ({}, {}),
        ({"smoothing": 0.2}, {"label_smoothing": 0.2}),
        ({"ignore_index": 3}, {"ignore_index": 3}),
        ({"ignore_index": 3, "smoothing": 0.1}, {"ignore_index": 3, "label_smoothing": 0.1}),
        ({"reduction": "sum"}, {"reduction": "sum"}),
    ],
)
def test_cross_entropy_equals_torch(options: dict[str, Any], theirs: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    x = leaf(LOGITS.reshape(20, 7))
    loss = F.cross_entropy(x, LABELS.reshape(20), **options)
    loss.backward()
    x_torch = torch.tensor(LOGITS.reshape(20, 7), requires_grad=True)
    expected = torch.nn.functional.cross_entropy(
        x_torch, torch.tensor(LABELS.reshape(20)), **theirs
    )
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-13)
    np.testing.assert_allclose(x.grad.numpy(), x_torch.grad.numpy(), rtol=1e-12, atol=1e-16)


TARGET = np.random.default_rng(5).random((2, 2, 3))
COMPOSITIONS: dict[str, Callable[[mg.Tensor], mg.Tensor]] = {
    "softmax": F.softmax,
    "log_softmax": F.log_softmax,
    "softplus": F.softplus,
    "relu": F.relu,
    "layer_norm": F.layer_norm,
    "mse": lambda x: F.mse(x, mg.Tensor(TARGET)),
    "binary": lambda x: F.binary_cross_entropy_with_logits(x, mg.Tensor(TARGET)),
    "smoothed": lambda x: F.cross_entropy(x, mg.Tensor([[1, 0], [2, 2]]), smoothing=0.1),
}


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_gradients_by_differences(backend: str, name: str) -> None:
    f, values = COMPOSITIONS[name], np.random.default_rng(6).normal(size=(2, 2, 3))
    x = leaf(values)
    y = f(x)
    weights = np.random.default_rng(7).normal(size=y.shape)
    (y * mg.Tensor(weights)).sum().backward()
    slopes = central(lambda: float((f(mg.Tensor(values)).numpy() * weights).sum()), values)
    np.testing.assert_allclose(x.grad.numpy(), slopes, rtol=1e-7, atol=1e-9)


def test_values_equal_torch() -> None:
    torch = pytest.importorskip("torch")
    theirs = torch.nn.functional
    x, t = RNG.normal(size=(6, 5)) * 9, RNG.random((6, 5))
    a, b = torch.tensor(x), torch.tensor(t)
    pairs = [
        (F.softplus(x), theirs.softplus(a)),
        (F.relu(x), theirs.relu(a)),
        (F.softmax(x), theirs.softmax(a, -1)),
        (F.mse(x, t), theirs.mse_loss(a, b)),
        (F.mse(x, t, reduction="none"), theirs.mse_loss(a, b, reduction="none")),
        (
            F.binary_cross_entropy_with_logits(x, t, reduction="sum"),
            theirs.binary_cross_entropy_with_logits(a, b, reduction="sum"),
        ),
        (F.layer_norm(x, t[0], t[1]), theirs.layer_norm(a, (5,), b[0], b[1])),
    ]
    for ours, expected in pairs:
        np.testing.assert_allclose(ours.numpy(), expected.numpy(), rtol=1e-12, atol=1e-12)


def test_binary_cross_entropy_far_from_zero(backend: str) -> None:
    """A sure prediction costs 0 where it is right and |x| where it is wrong; the slope is y - t."""
    x = leaf(np.array([1e4, -1e4, 1e4, -1e4, 0.0]))
    target = mg.Tensor(np.array([1.0, 0.0, 0.0, 1.0, 1.0]))
    losses = F.binary_cross_entropy_with_logits(x, target, reduction="none")
    np.testing.assert_allclose(losses.numpy(), [0, 0, 1e4, 1e4, np.log(2)])
    losses.sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), [0, 0, 1, -1, -0.5], atol=1e-15)


def test_relu_keeps_nan_and_has_no_slope_at_zero() -> None:
    x = leaf(np.array([np.nan, -1.0, 0.0, 2.0]))
    y = F.relu(x)
    y.sum().backward()
    np.testing.assert_array_equal(y.numpy(), [np.nan, 0, 0, 2])
    np.testing.assert_array_equal(x.grad.numpy()[1:], [0, 0, 1])


def test_softplus_far_from_zero_at_it_and_of_other_dtypes(backend: str) -> None:
    far = np.array([-np.inf, -800, -30, -1e-9, 0, 1e-9, 2, 50, 800, np.inf])
    x = leaf(far)
    y = F.softplus(x)
    np.testing.assert_allclose(y.numpy(), np.logaddexp(0, far), rtol=1e-14)
    y.sum().backward()
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(x.grad.numpy(), 1 / (1 + np.exp(-far)), rtol=1e-14)
    assert mg.grad(mg.grad(F.softplus))(leaf(np.array(0.0))).item() == 0.25
    for given in ([True, False], np.array([2, 200], "uint8"), [3, -4]):
        expected = np.logaddexp(0, np.asarray(given, "float64"))
        found = F.softplus(mg.Tensor(given))
        assert found.dtype == mg.default_dtype()
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


def test_one_hot(backend: str) -> None:
    labels = mg.Tensor(LABELS)
    hot = F.one_hot(labels, 7, dtype="float64")
    assert hot.shape == (5, 4, 7)
    np.testing.assert_array_equal(hot.numpy(), np.eye(7)[LABELS])
    assert F.one_hot(labels, 7).dtype == mg.default_dtype()
    assert F.one_hot(mg.Tensor(2), 3).tolist() == [0, 0, 1]
    assert F.one_hot(mg.Tensor(np.zeros((0,), dtype=int)), 3).shape == (0, 3)


# --- dropout -------------------------------------------------------------------------------------


def test_dropout_keeps_the_mean_and_scales_what_it_keeps(backend: str) -> None:
    mg.random.seed(4)
    x = leaf(np.full((200, 200), 3.0))
    y = F.dropout(x, 0.25)
    values = y.numpy()
    assert set(np.unique(values)) == {0.0, 4.0}
    # 40,000 draws: the share kept is within 5 standard deviations, 5 sqrt(0.75 * 0.25 / 40000)
    assert abs((values != 0).mean() - 0.75) < 0.011
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), values / 3)


def test_dropout_draws_from_its_key_alone(backend: str) -> None:
    x, key = mg.Tensor(np.ones(1000)), mg.random.key(7)
    first = F.dropout(x, 0.5, key).numpy()
    mg.random.seed(1)
    np.testing.assert_array_equal(F.dropout(x, 0.5, key).numpy(), first)
    assert (F.dropout(x, 0.5, key.fold(1)).numpy() != first).any()
    mg.random.seed(2)
    again = F.dropout(x, 0.5).numpy()
    assert (F.dropout(x, 0.5).numpy() != again).any()
    mg.random.seed(2)
    np.testing.assert_array_equal(F.dropout(x, 0.5).numpy(), again)


def test_dropout_that_drops_nothing_or_everything() -> None:
    x = mg.Tensor([1.0, 2.0])
    assert F.dropout(x, 0.5, training=False) is x
    assert F.dropout(x, 0) is x
    assert F.dropout(x, 1).tolist() == [0, 0]


# --- faults --------------------------------------------------------------------------------------


def test_a_loss_broadcasts_nothing(backend: str) -> None:
    """Fault 3: (4, 1) against (4,) would be a mean over sixteen differences."""
    column, row = mg.Tensor(np.ones((4, 1))), mg.Tensor(np.ones(4))
    for loss in (F.mse, F.binary_cross_entropy_with_logits):
        with pytest.raises(mg.ShapeError, match=r"\(4, 1\) .* \(4,\) must have the same shape"):
            loss(column, row)
    with pytest.raises(mg.ShapeError, match=r"labels of shape \(4, 1\) do not fit logits of shape"):
        F.cross_entropy(mg.Tensor(np.ones((4, 3))), mg.Tensor([[0]] * 4))
    with pytest.raises(mg.ShapeError, match="a mask of shape"):
        F.cross_entropy(mg.Tensor(np.ones((2, 3))), mg.Tensor([0, 1]), mask=mg.Tensor([True]))
    with pytest.raises(mg.DtypeError, match="a mask is bool, not float32"):
        F.cross_entropy(mg.Tensor(np.ones((2, 3))), mg.Tensor([0, 1]), mask=mg.Tensor([1.0, 0.5]))


def test_a_loss_takes_one_floating_dtype() -> None:
    """Fault 15."""
    single, double = mg.ones(3), mg.ones(3, dtype="float64")
    for loss in (F.mse, F.binary_cross_entropy_with_logits):
        with pytest.raises(mg.DtypeError, match=r"float32 and a target of float64.*astype"):
            loss(single, double)
        with pytest.raises(mg.DtypeError, match="int64"):
            loss(single, mg.Tensor([1, 2, 3]))
    with pytest.raises(mg.DtypeError, match="logits are floating, not int64"):
        F.cross_entropy(mg.Tensor([[1, 2]]), mg.Tensor([0]))


@pytest.mark.parametrize(("label", "position"), [(3, (1, 0)), (-1, (0, 1)), (99, (1, 1))])
def test_a_label_out_of_range(backend: str, label: int, position: tuple[int, int]) -> None:
    """Fault 20: value, position and number of classes; -1 is no last class."""
    labels = np.array([[0, 1], [2, 0]])
    labels[position] = label
    message = rf"label {label} at position \({position[0]}, {position[1]}\) .* 3 classes 0 to 2"
    with pytest.raises(mg.IndexRangeError, match=message):
        F.cross_entropy(mg.Tensor(np.zeros((2, 2, 3))), mg.Tensor(labels))
    with pytest.raises(mg.IndexRangeError, match=message):
        F.one_hot(mg.Tensor(labels), 3)


def test_labels_are_integers() -> None:
    for labels in (mg.Tensor([0.0, 1.0]), mg.Tensor([True, False])):
        with pytest.raises(mg.IndexTypeError, match="labels are integers, not"):
            F.cross_entropy(mg.Tensor(np.zeros((2, 3))), labels)
        with pytest.raises(mg.IndexTypeError, match="labels are integers, not"):
            F.one_hot(labels, 3)


def test_arguments_out_of_range() -> None:
    x = mg.Tensor(np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"p=1.5: give a number in \[0, 1\]"):
        F.dropout(x, 1.5)
    with pytest.raises(ValueError, match=r"smoothing=-0.1: give a number in \[0, 1\]"):
        F.cross_entropy(x, mg.Tensor([0, 1]), smoothing=-0.1)
    with pytest.raises(ValueError, match="reduction='avg': give 'mean', 'sum' or 'none'"):
        F.mse(x, x, reduction="avg")
    with pytest.raises(ValueError, match="classes=0: give an integer >= 1"):
        F.one_hot(mg.Tensor([0]), 0)


def test_labels_may_be_bytes(backend: str) -> None:
    labels = np.array([0, 128, 255])
    logits = mg.random.normal(mg.random.key(1), (3, 256))
    expected = np.zeros((3, 256))
    expected[[0, 1, 2], labels] = 1
    np.testing.assert_array_equal(F.one_hot(labels.astype("uint8"), 256).numpy(), expected)
    found = F.cross_entropy(logits, labels.astype("uint8"), reduction="none").numpy()
    by_hand = np.log(np.exp(logits.numpy()).sum(-1)) - logits.numpy()[[0, 1, 2], labels]
    np.testing.assert_allclose(found, by_hand, rtol=1e-5)
