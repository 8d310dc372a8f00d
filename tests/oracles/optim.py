"""Optimizer updates, learning-rate schedules and clipping, one step at a time.

The conventions are those of torch.optim. Every update takes a parameter and its gradient, each a
float or a float64 array, and a state dict that it writes to (`{}` before the first step), and
returns the new parameter. Sources: Sutskever et al. 2013 (momentum), Tieleman & Hinton 2012
(RMSProp), Kingma & Ba 2015 (Adam), Loshchilov & Hutter 2019 (AdamW), 2017 (cosine).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

State = dict[str, Any]


def sgd(
    p: Any,
    g: Any,
    state: State,
    *,
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> Any:
    """v = momentum v + (1 - dampening) g (v = g at first); p -= lr v, or lr (g + momentum v)."""
    g = g + weight_decay * p
    if momentum == 0:
        return p - lr * g
    v = momentum * state["v"] + (1 - dampening) * g if "v" in state else g
    state["v"] = v
    return p - lr * (g + momentum * v if nesterov else v)


def rmsprop(
    p: Any,
    g: Any,
    state: State,
    *,
    lr: float,
    alpha: float = 0.99,
    eps: float = 1e-8,
    momentum: float = 0.0,
    centered: bool = False,
    weight_decay: float = 0.0,
) -> Any:
    """s = alpha s + (1 - alpha) g^2; p -= lr g / (sqrt(s) + eps), eps outside the root.

    centered takes the variance, s - m^2 with m = alpha m + (1 - alpha) g, in place of s;
    momentum keeps v = momentum v + g / (sqrt(s) + eps), p -= lr v.
    """
    g = g + weight_decay * p
    s = alpha * state.get("s", 0.0) + (1 - alpha) * g * g
    state["s"] = s
    variance = s
    if centered:
        m = alpha * state.get("m", 0.0) + (1 - alpha) * g
        state["m"] = m
        variance = s - m * m
    update = g / (np.sqrt(variance) + eps)
    if momentum == 0:
        return p - lr * update
    v = momentum * state.get("v", 0.0) + update
    state["v"] = v
    return p - lr * v


def adam(
    p: Any,
    g: Any,
    state: State,
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> Any:
    """p -= lr mhat / (sqrt(vhat) + eps), mhat = m / (1 - beta1^t), vhat = v / (1 - beta2^t).

    m = beta1 m + (1 - beta1) g, v = beta2 v + (1 - beta2) g^2; weight decay is added to g (L2).
    """
    g = g + weight_decay * p
    t = state.get("t", 0) + 1
    m = betas[0] * state.get("m", 0.0) + (1 - betas[0]) * g
    v = betas[1] * state.get("v", 0.0) + (1 - betas[1]) * g * g
    state.update(t=t, m=m, v=v)
    mhat = m / (1 - betas[0] ** t)
    vhat = v / (1 - betas[1] ** t)
    return p - lr * mhat / (np.sqrt(vhat) + eps)


def adamw(
    p: Any,
    g: Any,
    state: State,
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
) -> Any:
    """Adam after the parameter itself has shrunk: p = (1 - lr weight_decay) p."""
    return adam(p * (1 - lr * weight_decay), g, state, lr=lr, betas=betas, eps=eps)


def step_lr(base: float, step: int, *, step_size: int, gamma: float = 0.1) -> float:
    """lr = base gamma^floor(step / step_size), step counted from 0."""
    return base * gamma ** (step // step_size)


def cosine_lr(base: float, step: int, *, total: int, minimum: float = 0.0) -> float:
    """lr = minimum + (base - minimum) (1 + cos(pi step / total)) / 2, for step <= total."""
    return minimum + (base - minimum) * (1 + math.cos(math.pi * step / total)) / 2


def warmup_lr(base: float, step: int, *, total: int, start: float = 1 / 3) -> float:
    """lr = base (start + (1 - start) min(step, total) / total), start a fraction of base."""
    return base * (start + (1 - start) * min(step, total) / total)


def global_norm(gradients: Sequence[np.ndarray]) -> float:
    """sqrt of the sum of all squares over all gradients together."""
    return math.sqrt(sum(float(value) ** 2 for g in gradients for value in np.ravel(g)))


def clip_global_norm(
    gradients: Sequence[np.ndarray], maximum: float, eps: float = 0.0
) -> list[np.ndarray]:
    """Multiply all by min(1, maximum / (norm + eps)) (eq 10.48-10.49; torch has eps = 1e-6)."""
    norm = global_norm(gradients)
    factor = 1.0 if norm + eps <= maximum else maximum / (norm + eps)
    return [g * factor for g in gradients]


def clip_value(gradients: Sequence[np.ndarray], maximum: float) -> list[np.ndarray]:
    """Move every entry into [-maximum, maximum]."""
    return [np.minimum(np.maximum(g, -maximum), maximum) for g in gradients]
