"""Optimizers, learning-rate schedules and gradient clipping.

All that changes from step to step is a tensor made in the constructor: the learning rate and the
step count, 0-d float64, and what an optimizer keeps per parameter. The updates are ops, without a
graph; a step computes all new values first and then assigns them together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from minigrad import arguments, state
from minigrad.autodiff import no_grad
from minigrad.errors import GradientError, NonFiniteError
from minigrad.op import op, rehome
from minigrad.ops import random, specs
from minigrad.ops.create import zeros_like
from minigrad.ops.elementwise import clip, cos, floor, maximum, minimum, power, sqrt, where
from minigrad.ops.shape import stack
from minigrad.tensor import Tensor

Updated = Sequence[Tensor]  # the new value of a parameter, then those of what is kept for it


class Optimizer:
    """Base class: a subclass names what it keeps per parameter and defines `update`.

    weight_decay adds weight_decay p to p's gradient. A parameter without a gradient is left as it
    is, together with what is kept for it. State moves with the parameters after Module.to. Raises
    ValueError and GradientError for parameters that are none, no leaves, or given twice.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        kept: Sequence[str] = (),
        weight_decay: float = 0.0,
    ) -> None:
        self.parameters = _checked(parameters)
        self.weight_decay = arguments.number("weight_decay", weight_decay, 0)
        home = self.parameters[0].backend
        lr = arguments.number("lr", lr, 0)
        self.rate = Tensor(lr, dtype="float64", backend=home)
        self.count = Tensor(0.0, dtype="float64", backend=home)
        self.kept = {name: [zeros_like(p) for p in self.parameters] for name in kept}
        names = [p.name or "" for p in self.parameters]  # as they are now: state_dict keeps them
        if len(set(names) - {""}) < len(names):  # not every parameter has a name of its own
            names = [str(i) for i in range(len(names))]
        self.names = names

    @property
    def lr(self) -> float:
        """The learning rate, a number; the tensor is `.rate`."""
        return float(self.rate)

    @lr.setter
    def lr(self, value: float) -> None:
        self.rate.assign(arguments.number("lr", value, 0))

    def factors(self, rate: Tensor, count: Tensor) -> Sequence[Tensor]:
        """What `update` needs of the learning rate and the step count (from 1), 0-d float64."""
        return (rate,)

    def update(self, p: Tensor, g: Tensor, kept: list[Tensor], *factors: Tensor) -> Updated:
        """The new values of p and of what is kept for it; the factors have p's dtype."""
        raise NotImplementedError(f"{type(self).__name__} defines no update")

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for p in self.parameters:
            p.grad = None

    def step(self) -> None:
        """Change every parameter that has a gradient. Raises GradientError if none has one."""
        gradients = [(i, p, p.grad) for i, p in enumerate(self.parameters)]
        if all(g is None for _, _, g in gradients):
            raise GradientError("step: no parameter has a gradient; call loss.backward() first")
        self._follow()
        with no_grad():
            count = self.count + 1
            factors = self.factors(self.rate, count)
            cast: dict[Any, Sequence[Tensor]] = {}
            changes = [(self.count, count)]
            for i, p, g in gradients:
                if g is None:
                    continue
                if p.dtype not in cast:
                    cast[p.dtype] = [factor.astype(p.dtype) for factor in factors]
                if self.weight_decay:
                    g = g + self.weight_decay * p
                kept = [tensors[i] for tensors in self.kept.values()]
                changes += zip((p, *kept), self.update(p, g, kept, *cast[p.dtype]), strict=True)
        state.commit(changes)

    def _follow(self) -> None:
        """Bring the state to where the parameters are."""
        rehome(self.rate, self.parameters[0].backend)
        rehome(self.count, self.parameters[0].backend)
        for tensors in self.kept.values():
            for p, tensor in zip(self.parameters, tensors, strict=True):
                rehome(tensor, p.backend)

    def _named(self) -> dict[str, Tensor]:
        named = {"lr": self.rate, "step": self.count}
        for kind, tensors in self.kept.items():
            named |= {f"{kind}.{name}": t for name, t in zip(self.names, tensors, strict=True)}
        return named

    def state_dict(self) -> dict[str, Tensor]:
        """The learning rate, the step count, and what is kept, by the names the parameters had."""
        return {name: tensor.detach() for name, tensor in self._named().items()}

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Take over all values of a state_dict, or raise StateDictError with every problem."""
        self._follow()
        state.load(self._named(), values, type(self).__name__, strict=True)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(lr={self.lr:g}, {len(self.parameters)} parameters)"


def _checked(parameters: Iterable[Tensor]) -> list[Tensor]:
    if isinstance(parameters, Tensor):
        raise ValueError("an optimizer takes a list of parameters; write [parameter]")
    found = list(parameters)
    if not found:
        raise ValueError("optimizer got an empty parameter list")
    for i, p in enumerate(found):
        if not isinstance(p, Tensor):
            raise ValueError(f"parameter {i} is no tensor but a {type(p).__name__}")
        if not p.is_leaf:
            raise GradientError(f"can't optimize a non-leaf tensor: parameter {i} was computed")
        if not p.requires_grad:
            raise GradientError(f"parameter {i} has no gradient; make it with requires_grad=True")
    if len({id(p) for p in found}) < len(found):
        raise ValueError("a parameter is given twice to one optimizer")
    return found


class SGD(Optimizer):
    """p <- p - lr g; with momentum v <- momentum v + g and v in g's place (Sutskever et al. 2013).

    nesterov takes g + momentum v in its place.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        self.momentum = arguments.number("momentum", momentum, 0)
        self.nesterov = arguments.flag("nesterov", nesterov)
        if nesterov and not momentum:
            raise ValueError("nesterov=True: give a momentum > 0 with it")
        super().__init__(parameters, lr, ["v"] * bool(momentum), weight_decay)

    def update(self, p: Tensor, g: Tensor, kept: list[Tensor], *factors: Tensor) -> Updated:
        (lr,) = factors
        if not kept:
            return (p - lr * g,)
        v = self.momentum * kept[0] + g
        return p - lr * (g + self.momentum * v if self.nesterov else v), v


class RMSProp(Optimizer):
    """s <- alpha s + (1 - alpha) g², p <- p - lr g / (sqrt(s) + eps) (Tieleman and Hinton 2012).

    centered takes s - m² in place of s, m the running mean of g (Graves 2013); momentum keeps
    v <- momentum v + g / (sqrt(s) + eps), p <- p - lr v.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        momentum: float = 0.0,
        centered: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        self.alpha = arguments.number("alpha", alpha, 0, 1)
        self.eps = arguments.number("eps", eps, 0)
        self.momentum = arguments.number("momentum", momentum, 0)
        self.centered = arguments.flag("centered", centered)
        kept = ["s"] + ["m"] * centered + ["v"] * bool(momentum)
        super().__init__(parameters, lr, kept, weight_decay)

    def update(self, p: Tensor, g: Tensor, kept: list[Tensor], *factors: Tensor) -> Updated:
        (lr,) = factors
        s = self.alpha * kept[0] + (1 - self.alpha) * (g * g)
        new = [s]
        if self.centered:
            m = self.alpha * kept[1] + (1 - self.alpha) * g
            new.append(m)
            s = s - m * m
        change = g / (sqrt(s) + self.eps)
        if self.momentum:
            change = self.momentum * kept[-1] + change
            new.append(change)
        return p - lr * change, *new


class Adam(Optimizer):
    """p <- p - lr mhat / (sqrt(vhat) + eps) (Kingma and Ba 2015).

    m <- beta1 m + (1 - beta1) g, mhat = m / (1 - beta1^t), v <- beta2 v + (1 - beta2) g²,
    vhat = v / (1 - beta2^t).
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise ValueError(f"betas={betas!r}: give two numbers in [0, 1)")
        beta1, beta2 = (arguments.number("betas", beta, 0, 1, open="high") for beta in betas)
        self.betas = beta1, beta2
        self.eps = arguments.number("eps", eps, 0)
        super().__init__(parameters, lr, ("m", "v"), weight_decay)

    def factors(self, rate: Tensor, count: Tensor) -> Sequence[Tensor]:
        """lr sqrt(1 - beta2^t) / (1 - beta1^t) and eps sqrt(1 - beta2^t): both corrections."""
        beta1, beta2 = self.betas
        root = sqrt(1 - power(beta2, count))
        return rate * root / (1 - power(beta1, count)), self.eps * root

    def update(self, p: Tensor, g: Tensor, kept: list[Tensor], *factors: Tensor) -> Updated:
        (rate, eps), (m, v) = factors, kept
        m = m + (1 - self.betas[0]) * (g - m)
        v = self.betas[1] * v + (1 - self.betas[1]) * (g * g)
        return p - rate * m / (sqrt(v) + eps), m, v


class AdamW(Adam):
    """Adam after p <- (1 - lr weight_decay) p, nothing added to g (Loshchilov and Hutter 2019)."""

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(parameters, lr, betas, eps)
        self.decay = arguments.number("weight_decay", weight_decay, 0)

    def factors(self, rate: Tensor, count: Tensor) -> Sequence[Tensor]:
        return *super().factors(rate, count), 1 - rate * self.decay

    def update(self, p: Tensor, g: Tensor, kept: list[Tensor], *factors: Tensor) -> Updated:
        *others, shrink = factors
        return super().update(p * shrink, g, kept, *others)


# --- schedules -----------------------------------------------------------------------------------


class Schedule:
    """Base class: sets the optimizer's learning rate at once and after each `step()`.

    base is the rate that the optimizer had; a subclass defines `rate(base, n)` of the steps n done
    after the warm-up, during which it rises linearly from start * base to base.
    """

    def __init__(self, optimizer: Optimizer, warmup: int = 0, start: float = 1 / 3) -> None:
        self.optimizer = optimizer
        self.warmup = arguments.size("warmup", warmup, least=0)
        self.start = arguments.number("start", start, 0, 1)
        self.base = optimizer.rate.detach()
        self.count = zeros_like(self.base)
        self._set(self.count)

    def rate(self, base: Tensor, n: Tensor) -> Tensor:
        """The learning rate after n steps."""
        return base

    def step(self) -> None:
        """Count one step and set the learning rate."""
        rehome(self.base, self.optimizer.rate.backend)
        rehome(self.count, self.optimizer.rate.backend)
        self._set(self.count + 1)

    def _set(self, count: Tensor) -> None:
        rate = self.rate(self.base, count - self.warmup)
        if self.warmup:
            rising = self.base * (self.start + (1 - self.start) / self.warmup * count)
            rate = where(count < self.warmup, rising, rate)
        state.commit([(self.count, count), (self.optimizer.rate, rate)])

    def state_dict(self) -> dict[str, Tensor]:
        return {"base": self.base.detach(), "count": self.count.detach()}

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        own = {"base": self.base, "count": self.count}
        state.load(own, values, type(self).__name__, strict=True)


class WarmupSchedule(Schedule):
    """base (start + (1 - start) n / total) for n <= total, then base."""

    def __init__(self, optimizer: Optimizer, total: int, start: float = 1 / 3) -> None:
        super().__init__(optimizer, arguments.size("total", total), start)


class StepSchedule(Schedule):
    """base gamma^floor(n / size): the rate falls by gamma every `size` steps."""

    def __init__(
        self,
        optimizer: Optimizer,
        size: int,
        gamma: float = 0.1,
        warmup: int = 0,
        start: float = 1 / 3,
    ) -> None:
        self.size = arguments.size("size", size)
        self.gamma = arguments.number("gamma", gamma, 0, open="low")
        super().__init__(optimizer, warmup, start)

    def rate(self, base: Tensor, n: Tensor) -> Tensor:
        return base * power(self.gamma, floor(n / self.size))


class CosineSchedule(Schedule):
    """low + (base - low) (1 + cos(pi n / total)) / 2 for n <= total, then low (Loshchilov 2017)."""

    def __init__(
        self,
        optimizer: Optimizer,
        total: int,
        low: float = 0.0,
        warmup: int = 0,
        start: float = 1 / 3,
    ) -> None:
        self.total = arguments.size("total", total)
        self.low = arguments.number("low", low, 0)
        super().__init__(optimizer, warmup, start)

    def rate(self, base: Tensor, n: Tensor) -> Tensor:
        share = (1 + cos(minimum(n / self.total, 1) * math.pi)) / 2
        return self.low + (base - self.low) * share


# --- clipping ------------------------------------------------------------------------------------


def _with_gradients(call: str, parameters: Iterable[Tensor]) -> list[tuple[Tensor, Tensor]]:
    found = [(p, p.grad) for p in ([parameters] if isinstance(parameters, Tensor) else parameters)]
    if all(g is None for _, g in found):
        raise GradientError(f"{call}: no parameter has a gradient; call loss.backward() first")
    return [(p, g) for p, g in found if g is not None]


def _check_finite(backend: Any, norm: Any) -> None:
    if not math.isfinite(value := backend.to_numpy(norm).item()):
        raise NonFiniteError(
            f"the total norm of the gradients is {value}, so it cannot be clipped; look for the "
            f"cause with MINIGRAD_DEBUG=nan, or pass error_if_nonfinite=False"
        )


# An op, so that a compiled step looks at each call.
_finite = op("finite", lambda xp, norm: norm, shape=specs.same, check=_check_finite)


def clip_by_global_norm(
    parameters: Iterable[Tensor], max_norm: float, error_if_nonfinite: bool = True
) -> Tensor:
    """Scale all gradients by min(1, max_norm / norm), and return the norm of all of them together.

    It is 0-d and summed up in float64 (eq 10.48-10.49, Pascanu et al. 2013). A norm that is NaN or
    infinite raises NonFiniteError and changes nothing, unless error_if_nonfinite=False.
    """
    max_norm = arguments.number("max_norm", max_norm, 0, open="low")
    found = _with_gradients("clip_by_global_norm", parameters)
    with no_grad():
        wide = [g.astype("float64") for _, g in found]
        norm = sqrt(stack([(g * g).sum() for g in wide]).sum())
        if error_if_nonfinite:
            norm = _finite(norm)
        factor = max_norm / maximum(norm, max_norm)  # exactly 1 where nothing is to be clipped
        factors = {g.dtype: factor.astype(g.dtype) for _, g in found}
        for p, g in found:
            p.grad = g * factors[g.dtype]
    return norm


def step_if_nonfinite(
    parameters: Iterable[Tensor], size: float, key: random.Key | None = None
) -> bool:
    """Where a gradient is NaN or infinite, put in all gradients' place a random one of norm size.

    A bounded step in a random direction leaves the place where nothing can be computed (section
    10.11.1 of the book). Draws from key or the ambient generator; returns whether it did so.
    """
    size = arguments.number("size", size, 0)
    found = _with_gradients("step_if_nonfinite", parameters)
    if math.isfinite(float(stack([(g * 0).sum().astype("float64") for _, g in found]).sum())):
        return False
    with no_grad():
        keys = [None if key is None else key.fold(i) for i in range(len(found))]
        drawn = [
            random.normal(k, g.shape, "float64").to(g.backend)
            for k, (_, g) in zip(keys, found, strict=True)
        ]
        norm = sqrt(stack([(d * d).sum() for d in drawn]).sum())
        for (p, g), d in zip(found, drawn, strict=True):
            p.grad = (d * (size / norm)).astype(g.dtype)
    return True


def clip_by_value(parameters: Iterable[Tensor], limit: float) -> None:
    """Move every element of every gradient into [-limit, limit]."""
    limit = arguments.number("limit", limit, 0)
    with no_grad():
        for p, g in _with_gradients("clip_by_value", parameters):
            p.grad = clip(g, -limit, limit)
