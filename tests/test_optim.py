"""Optimizers, schedules and clipping against literal transcriptions and torch.optim; faults."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import pytest
from minigrad_numpy import NumpyBackend

import minigrad as mg
from minigrad import nn, optim
from minigrad.op import at_choke_points, rebind
from tests.oracles import optim as oracle

SHAPES = ((3, 4), (4,), ())
CASES: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "weight_decay": 0.2}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("RMSProp", {"lr": 0.01}),
    ("RMSProp", {"lr": 0.01, "alpha": 0.9, "eps": 1e-3, "momentum": 0.5, "weight_decay": 0.1}),
    ("RMSProp", {"lr": 0.01, "centered": True}),
    ("RMSProp", {"lr": 0.01, "alpha": 0.8, "centered": True, "momentum": 0.9, "eps": 1e-4}),
    ("Adam", {"lr": 0.05}),
    ("Adam", {"lr": 0.05, "betas": (0.7, 0.9), "eps": 1e-2, "weight_decay": 0.3}),
    ("AdamW", {"lr": 0.05}),
    ("AdamW", {"lr": 0.05, "betas": (0.5, 0.8), "weight_decay": 0.5}),
]
NAMES = [f"{name}-{'-'.join(options)}" for name, options in CASES]


class Elsewhere(NumpyBackend):
    name = "elsewhere"


def initial() -> list[np.ndarray]:
    rng = np.random.default_rng(8)
    return [rng.normal(size=shape) for shape in SHAPES]


def slope(values: list[Any], step: int) -> list[Any]:
    """Gradients of a bumpy function of all parameters, written out; they differ at every step."""
    total = sum((v * v).sum() for v in values)
    return [2 * v * total / 20 + math.sin(step) for v in values]


def parameters(dtype: str = "float64") -> list[nn.Parameter]:
    return [nn.Parameter(value, dtype=dtype) for value in initial()]


def give_gradients(ps: list[Any], step: int) -> None:
    for p, g in zip(ps, slope([p.numpy() for p in ps], step), strict=True):
        p.grad = mg.Tensor(np.asarray(g), dtype=p.dtype, backend=p.backend)


def train(optimizer: optim.Optimizer, steps: range) -> list[np.ndarray]:
    for step in steps:
        give_gradients(optimizer.parameters, step)
        optimizer.step()
    return [p.numpy() for p in optimizer.parameters]


# --- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "options"), CASES, ids=NAMES)
def test_fifty_steps_equal_the_transcription(
    backend: str, name: str, options: dict[str, Any]
) -> None:
    found = train(getattr(optim, name)(parameters(), **options), range(50))
    values, states = initial(), [{} for _ in SHAPES]
    rule = getattr(oracle, name.lower())
    for step in range(50):
        gradients = slope(values, step)
        values = [
            rule(p, g, s, **options) for p, g, s in zip(values, gradients, states, strict=True)
        ]
    for ours, theirs, start in zip(found, values, initial(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)
        assert (np.abs(ours - start) > 1e-3).any()


@pytest.mark.parametrize(("name", "options"), CASES, ids=NAMES)
def test_fifty_steps_equal_torch(name: str, options: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    found = train(getattr(optim, name)(parameters(), **options), range(50))
    theirs = [torch.tensor(value, requires_grad=True) for value in initial()]
    optimizer = getattr(torch.optim, {"RMSProp": "RMSprop"}.get(name, name))(theirs, **options)
    for step in range(50):
        gradients = slope([p.detach().numpy() for p in theirs], step)
        for p, g in zip(theirs, gradients, strict=True):
            p.grad = torch.tensor(np.asarray(g))
        optimizer.step()
    for ours, expected in zip(found, theirs, strict=True):
        np.testing.assert_allclose(ours, expected.detach().numpy(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["SGD", "RMSProp", "Adam", "AdamW"])
def test_float32_parameters_stay_float32(backend: str, name: str) -> None:
    optimizer = getattr(optim, name)(parameters("float32"), lr=0.01)
    found = train(optimizer, range(20))
    assert {v.dtype for v in found} == {np.dtype("float32")}
    assert {t.dtype for ts in optimizer.kept.values() for t in ts} <= {np.dtype("float32")}
    assert optimizer.rate.dtype == optimizer.count.dtype == np.float64
    assert optimizer.rate.shape == optimizer.count.shape == ()
    expected = train(getattr(optim, name)(parameters(), lr=0.01), range(20))
    for ours, wide in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, wide, rtol=1e-4, atol=1e-5)


def test_two_dtypes_in_one_optimizer() -> None:
    values = initial()
    mixed = [nn.Parameter(values[0], dtype="float64"), nn.Parameter(values[1], dtype="float32")]
    train(optim.Adam(mixed, lr=0.1), range(3))
    assert [p.dtype for p in mixed] == [np.float64, np.float32]


# --- what a step is ------------------------------------------------------------------------------


def test_a_graph_recorded_before_a_step_still_differentiates() -> None:
    """y = w² at w = 3: the gradient is 6, also when w has become 2 in between."""
    w = nn.Parameter(3.0)
    y = w * w
    w.grad = mg.Tensor(1.0)
    optim.SGD([w], lr=1.0).step()
    assert w.item() == 2
    w.grad = None
    y.backward()
    assert w.grad.item() == 6


def test_a_step_is_not_recorded_and_leaves_leaves() -> None:
    ps = parameters()
    optimizer = optim.Adam(ps)
    train(optimizer, range(2))
    assert all(p.is_leaf and p.requires_grad for p in ps)
    assert not any(t.requires_grad for ts in optimizer.kept.values() for t in ts)


def test_a_parameter_without_a_gradient_is_left_alone() -> None:
    ps = parameters()
    optimizer = optim.Adam(ps, lr=0.1)
    give_gradients(ps, 0)
    ps[1].grad = None
    optimizer.step()
    np.testing.assert_array_equal(ps[1].numpy(), initial()[1])
    assert not optimizer.kept["m"][1].numpy().any()
    assert (ps[0].numpy() != initial()[0]).all()
    optimizer.zero_grad()
    assert [p.grad for p in ps] == [None, None, None]


def test_all_state_is_there_before_the_first_step_and_keeps_its_identity() -> None:
    optimizer = optim.RMSProp(parameters(), momentum=0.9, centered=True)
    tensors = [optimizer.rate, optimizer.count, *chain(*optimizer.kept.values())]
    assert len(tensors) == 2 + 3 * 3
    train(optimizer, range(2))
    after = [optimizer.rate, optimizer.count, *chain(*optimizer.kept.values())]
    assert [id(t) for t in after] == [id(t) for t in tensors]
    assert optimizer.count.item() == 2


@pytest.mark.parametrize("at", range(11))
def test_an_interrupt_leaves_a_whole_step(at: int) -> None:
    """Ctrl-C at any assignment: parameters and state are those before the step or those after."""

    def snapshot(optimizer: optim.Optimizer) -> list[bytes]:
        tensors = [*optimizer.parameters, *optimizer.state_dict().values()]
        return [t.numpy().tobytes() for t in tensors]

    optimizer, twin = (optim.Adam(parameters(), lr=0.1) for _ in range(2))
    train(optimizer, range(3))
    train(twin, range(3))
    before = snapshot(optimizer)
    give_gradients(optimizer.parameters, 3)
    train(twin, range(3, 4))
    after = snapshot(twin)
    calls = 0

    def interrupted(tensor: mg.Tensor, value: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == at + 1:
            raise KeyboardInterrupt
        rebind(tensor, value)

    total = 1 + 3 * len(SHAPES)
    with at_choke_points(assign=interrupted):
        if at < total:
            with pytest.raises(KeyboardInterrupt):
                optimizer.step()
        else:
            optimizer.step()
    assert before != after
    assert snapshot(optimizer) == after


def test_an_error_in_the_middle_changes_nothing() -> None:
    ps = parameters()
    optimizer = optim.Adam(ps, lr=0.1)
    give_gradients(ps, 0)
    ps[2].grad = mg.Tensor(1.0, dtype="float64", backend=Elsewhere())
    with pytest.raises(mg.BackendMismatchError):
        optimizer.step()
    assert optimizer.count.item() == 0
    for p, start in zip(ps, initial(), strict=True):
        np.testing.assert_array_equal(p.numpy(), start)


@pytest.mark.parametrize(("name", "options"), CASES, ids=NAMES)
def test_the_state_follows_the_parameters_and_a_state_dict_resumes(
    name: str, options: dict[str, Any]
) -> None:
    """10 steps, a move, 10 steps, a save, a load elsewhere, 10 steps = 30 steps, bit for bit."""

    class Model(nn.Module):
        def __init__(self) -> None:
            self.ps = parameters()

    kind = getattr(optim, name)
    expected = train(kind(parameters(), **options), range(30))
    model = Model()
    optimizer = kind(model.parameters(), **options)
    train(optimizer, range(10))
    model.to(Elsewhere())
    train(optimizer, range(10, 20))
    assert {t.backend.name for t in optimizer.state_dict().values()} == {"elsewhere"}
    saved, weights = optimizer.state_dict(), model.state_dict()
    train(optimizer, range(20, 23))
    fresh = Model()
    fresh.load_state_dict(weights)
    resumed = kind(fresh.parameters(), **{**options, "lr": 7.0})
    resumed.load_state_dict(saved)
    assert resumed.lr == options["lr"]
    for ours, theirs in zip(train(resumed, range(20, 30)), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_state_dict_names_and_faults() -> None:
    layer = nn.Linear(2, 1)
    optimizer = optim.Adam(layer.parameters())
    state = optimizer.state_dict()
    assert list(state) == ["lr", "step", "m.W", "m.b", "v.W", "v.b"]
    assert list(optim.SGD(parameters(), lr=1, momentum=0.5).state_dict())[2:] == [
        "v.0",
        "v.1",
        "v.2",
    ]
    state["m.w"] = state.pop("m.W")
    state["v.b"] = mg.ones(3)
    with pytest.raises(mg.StateDictError) as caught:
        optimizer.load_state_dict(state)
    assert str(caught.value) == (
        "the state does not fit Adam: missing: m.W; unexpected: m.w (did you mean m.W?); "
        "v.b: shape (3,) instead of (1,)"
    )


def test_looking_at_a_model_renames_nothing() -> None:
    """The names in a state_dict are those of the constructor, whatever was printed or read."""
    layer = nn.Linear(2, 1)
    optimizer = optim.Adam([layer.W, layer.b])
    state = optimizer.state_dict()
    repr(layer), dict(layer.named_parameters()), layer.state_dict()
    assert layer.W.name is None
    layer.parameters()  # this one names them
    assert layer.W.name == "W"
    optimizer.load_state_dict(state)
    fresh = nn.Linear(2, 1)
    repr(fresh)
    optim.Adam([fresh.W, fresh.b]).load_state_dict(state)


def test_the_learning_rate_reads_and_assigns() -> None:
    p = nn.Parameter(1.0, dtype="float64")
    optimizer = optim.SGD([p], lr=0.5)
    assert optimizer.lr == 0.5
    optimizer.lr = 0.25
    p.grad = mg.Tensor(1.0, dtype="float64")
    optimizer.step()
    assert p.item() == 0.75
    with pytest.raises(ValueError, match="lr=-1: give a number >= 0"):
        optimizer.lr = -1
    assert repr(optimizer) == "SGD(lr=0.25, 1 parameters)"


# --- schedules -----------------------------------------------------------------------------------


def rates(make: Callable[[optim.Optimizer], optim.Schedule], steps: int) -> list[float]:
    optimizer = optim.SGD([nn.Parameter(1.0)], lr=0.8)
    schedule = make(optimizer)
    found = [optimizer.lr]
    for _ in range(steps):
        schedule.step()
        found.append(optimizer.lr)
    return found


def warmed_cosine(n: int) -> float:
    if n < 4:
        return oracle.warmup_lr(0.8, n, total=4, start=0.25)
    return oracle.cosine_lr(0.8, min(n - 4, 6), total=6)


SCHEDULES: list[tuple[Callable[..., Any], Callable[[int], float]]] = [
    (
        partial(optim.StepSchedule, size=3, gamma=0.5),
        lambda n: oracle.step_lr(0.8, n, step_size=3, gamma=0.5),
    ),
    (
        partial(optim.CosineSchedule, total=9, low=0.1),
        lambda n: oracle.cosine_lr(0.8, min(n, 9), total=9, minimum=0.1),
    ),
    (
        partial(optim.WarmupSchedule, total=5),
        lambda n: oracle.warmup_lr(0.8, n, total=5),
    ),
    (
        partial(optim.WarmupSchedule, total=5, start=0),
        lambda n: oracle.warmup_lr(0.8, n, total=5, start=0.0),
    ),
    (partial(optim.CosineSchedule, total=6, warmup=4, start=0.25), warmed_cosine),
]


@pytest.mark.parametrize(("make", "expected"), SCHEDULES)
def test_schedules_equal_their_formula(
    backend: str, make: Callable[..., Any], expected: Callable[[int], float]
) -> None:
    found = rates(make, 12)
    np.testing.assert_allclose(found, [expected(n) for n in range(13)], rtol=1e-12, atol=1e-16)


def test_schedules_equal_torch() -> None:
    torch = pytest.importorskip("torch")

    def theirs(make: Callable[[Any, Any], Any]) -> list[float]:
        optimizer = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.8)
        schedule = make(torch.optim.lr_scheduler, optimizer)
        found = [optimizer.param_groups[0]["lr"]]
        for _ in range(9):
            optimizer.step()
            schedule.step()
            found.append(optimizer.param_groups[0]["lr"])
        return found

    pairs = [
        (lambda o: optim.StepSchedule(o, 4), lambda s, o: s.StepLR(o, 4)),
        (
            lambda o: optim.CosineSchedule(o, 9, low=0.2),
            lambda s, o: s.CosineAnnealingLR(o, 9, eta_min=0.2),
        ),
        (lambda o: optim.WarmupSchedule(o, 5), lambda s, o: s.LinearLR(o, total_iters=5)),
    ]
    for ours, make in pairs:
        np.testing.assert_allclose(rates(ours, 9), theirs(make), rtol=1e-12)


def test_a_schedule_resumes_and_follows() -> None:
    def made() -> optim.CosineSchedule:
        p = nn.Parameter(1.0)
        return optim.CosineSchedule(optim.SGD([p], lr=0.8), 9)

    first, second = made(), made()
    for _ in range(4):
        first.step()
    second.load_state_dict(first.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    assert second.optimizer.lr == first.optimizer.lr
    layer = second.optimizer.parameters[0]
    module = nn.Module()
    module.p = layer
    module.to(Elsewhere())
    layer.grad = mg.Tensor(1.0, backend=layer.backend)
    second.optimizer.step()
    first.step()
    second.step()
    assert second.optimizer.lr == first.optimizer.lr < 0.8
    assert second.optimizer.rate.backend is layer.backend


# --- clipping ------------------------------------------------------------------------------------


def graded(*gradients: Any, dtype: str = "float64") -> list[nn.Parameter]:
    ps = [nn.Parameter(np.zeros(np.shape(g)), dtype=dtype) for g in gradients]
    for p, g in zip(ps, gradients, strict=True):
        p.grad = mg.Tensor(np.asarray(g), dtype=dtype)
    return ps


@pytest.mark.lecture("D6", "global norm")
@pytest.mark.parametrize("limit", [0.1, 1.0, 50.0])
def test_clipping_by_the_joint_norm(backend: str, limit: float) -> None:
    """Eq 10.48-10.49: one norm over all; the direction stays, the norm becomes min(|g|, v)."""
    gradients = initial()
    ps = graded(*gradients)
    norm = optim.clip_by_global_norm(ps, limit)
    total = oracle.global_norm(gradients)
    assert norm.item() == pytest.approx(total, rel=1e-14)
    for p, expected in zip(ps, oracle.clip_global_norm(gradients, limit), strict=True):
        np.testing.assert_allclose(p.grad.numpy(), expected, rtol=1e-14)
    before = np.concatenate([np.ravel(g) for g in gradients])
    after = np.concatenate([p.grad.numpy().ravel() for p in ps])
    assert before @ after / np.sqrt((before @ before) * (after @ after)) >= 1 - 1e-12
    assert np.sqrt(after @ after) == pytest.approx(min(total, limit), rel=1e-14)


@pytest.mark.lecture("D6", "edges")
def test_clipping_leaves_small_gradients_bit_for_bit(backend: str) -> None:
    for value in (0.0, np.finfo(float).eps, 5e-324, 0.5):
        ps = graded([value, 0.0], 0.0)
        optim.clip_by_global_norm(ps, 0.5)
        np.testing.assert_array_equal(ps[0].grad.numpy(), [value, 0.0])


def test_clipping_large_float32_gradients_does_not_overflow(backend: str) -> None:
    """The squares of 3e30 are beyond float32, their sum in float64 is not."""
    ps = graded([3e30, 4e30], dtype="float32")
    assert optim.clip_by_global_norm(ps, 1.0).item() == pytest.approx(5e30, rel=1e-6)
    np.testing.assert_allclose(ps[0].grad.numpy(), [0.6, 0.8], rtol=1e-6)
    assert ps[0].grad.dtype == np.float32


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_norm_that_is_not_finite(backend: str, bad: float) -> None:
    """Fault 36."""
    ps = graded([3.0, 4.0], bad)
    with pytest.raises(mg.NonFiniteError, match=r"total norm of the gradients is (nan|inf), so"):
        optim.clip_by_global_norm(ps, 1.0)
    assert ps[0].grad.tolist() == [3, 4]
    with np.errstate(invalid="ignore"):
        norm = optim.clip_by_global_norm(ps, 1.0, error_if_nonfinite=False)
    assert not np.isfinite(norm.item())


def test_clipping_equals_torch() -> None:
    torch = pytest.importorskip("torch")
    ps, theirs = graded(*initial()), [torch.ones(np.shape(g)) for g in initial()]
    for p, g in zip(theirs, initial(), strict=True):
        p.grad = torch.tensor(np.asarray(g), dtype=torch.float32)
    norm = optim.clip_by_global_norm(ps, 0.7)
    assert norm.item() == pytest.approx(torch.nn.utils.clip_grad_norm_(theirs, 0.7).item(), 1e-6)
    for p, expected in zip(ps, theirs, strict=True):  # torch adds 1e-6 to the norm
        np.testing.assert_allclose(p.grad.numpy(), expected.grad.numpy(), rtol=1e-5)


def test_clipping_by_value(backend: str) -> None:
    ps = graded([-3.0, -0.5, 0.2, 9.0], 2.0)
    ps.append(nn.Parameter(1.0))
    optim.clip_by_value(ps, 0.5)
    assert [None if p.grad is None else p.grad.tolist() for p in ps] == [
        [-0.5, -0.5, 0.2, 0.5],
        0.5,
        None,
    ]


# --- faults --------------------------------------------------------------------------------------

P = nn.Parameter(1.0)


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: optim.Adam([]), ValueError, "optimizer got an empty parameter list"),
        (lambda: optim.Adam([P * 2]), mg.GradientError, "can't optimize a non-leaf tensor"),
        (lambda: optim.Adam([mg.ones(2)]), mg.GradientError, "make it with requires_grad=True"),
        (lambda: optim.Adam([P, 3]), ValueError, "parameter 1 is no tensor but a int"),
        (lambda: optim.Adam([P, P]), ValueError, "given twice"),
        (lambda: optim.Adam(P), ValueError, r"a list of parameters; write \[parameter\]"),
        (lambda: optim.SGD([P], lr=-1), ValueError, "lr=-1: give a number >= 0"),
        (lambda: optim.SGD([P], lr=float("inf")), ValueError, "lr=inf: give a number >= 0"),
        (lambda: optim.SGD([P], 1, momentum=-0.1), ValueError, "momentum=-0.1"),
        (lambda: optim.SGD([P], 1, nesterov=True), ValueError, "give a momentum > 0"),
        (lambda: optim.Adam([P], betas=(1.0, 0.9)), ValueError, r"betas=1.0: .* \[0, 1\)"),
        (lambda: optim.Adam([P], betas=0.9), ValueError, r"betas=0.9: give two numbers"),
        (lambda: optim.RMSProp([P], alpha=2), ValueError, r"alpha=2: give a number in \[0, 1\]"),
        (lambda: optim.AdamW([P], weight_decay="1"), ValueError, "weight_decay='1'"),
        (lambda: optim.StepSchedule(optim.Adam([P]), 0), ValueError, "size=0: give an integer"),
        (lambda: optim.CosineSchedule(optim.Adam([P]), 1.5), ValueError, "total=1.5"),
        (lambda: optim.clip_by_global_norm([P], 0), ValueError, "max_norm=0: give a number > 0"),
        (lambda: optim.clip_by_value([P], -1), ValueError, "limit=-1"),
        (lambda: optim.clip_by_value([P], 1), mg.GradientError, r"call loss.backward\(\) first"),
        (lambda: optim.Adam([P]).step(), mg.GradientError, r"call loss.backward\(\) first"),
    ],
)
def test_faults(make: Callable[[], Any], kind: type[Exception], message: str) -> None:
    """Fault 38, and arguments out of range (33)."""
    with pytest.raises(kind, match=message):
        make()
