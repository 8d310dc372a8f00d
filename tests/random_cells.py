"""Small gated cells that nobody chose: from a seed, a cell of random structure and its equations.

The state has one to three parts. Each of two to four gates is x W + s U + b of some part s, some
with a peephole v c; each part is then renewed by one of five recipes from two gates, squashed, and
what it was. Whatever the draw, the numbers stay bounded: every multiplier is a sigmoid.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import minigrad as mg

RECIPES = ("leaky", "additive", "squashed", "gated", "residual")


class RandomCell(mg.nn.Module):
    """One random cell; `equations` says what it computes. State: a tuple of (B, H)."""

    def __init__(self, seed: int, D: int, H: int, *, dtype: Any = None) -> None:
        draw = np.random.default_rng(seed)
        self.D, self.H, self.dtype = D, H, dtype
        self.parts = int(draw.integers(1, 4))
        self.gates: list[tuple[int | None, int | None]] = []  # part, part of the peephole
        self.W, self.U, self.v = [], [], []
        count = int(draw.integers(2, min(4, 2 * self.parts + 1) + 1))
        for _ in range(count):
            part = None if draw.random() < 0.15 else int(draw.integers(self.parts))
            peephole = int(draw.integers(self.parts)) if draw.random() < 0.3 else None
            self.gates.append((part, peephole))
            self.W.append(self._parameter(draw, D, H))
            self.U.append(None if part is None else self._parameter(draw, H, H))
            self.v.append(None if peephole is None else self._parameter(draw, H))
        self.b = self._parameter(draw, count * H)
        uses = np.resize(draw.permutation(count), 2 * self.parts + 1).tolist()  # every gate is used
        self.renewals = [
            (str(draw.choice(RECIPES)), uses[2 * k], uses[2 * k + 1]) for k in range(self.parts)
        ]
        self.output = uses[-1]

    def _parameter(self, draw: np.random.Generator, *shape: int) -> mg.nn.Parameter:
        scale = shape[0] ** -0.5 if len(shape) > 1 else 0.5
        return mg.nn.Parameter(scale * draw.normal(size=shape), dtype=self.dtype)

    def initial_state(self, batch: int) -> tuple[mg.Tensor, ...]:
        return tuple(mg.zeros((batch, self.H), dtype=self.dtype) for _ in range(self.parts))

    def __call__(self, x: mg.Tensor, state: Any) -> tuple[mg.Tensor, Any]:
        gates = []
        biases = mg.split(self.b, len(self.gates))
        for k, (b, (part, peephole)) in enumerate(zip(biases, self.gates)):
            a = x @ self.W[k] + b
            if part is not None:
                a = a + state[part] @ self.U[k]
            if peephole is not None:
                a = a + self.v[k] * state[peephole]
            gates.append(a)
        new = []
        for s, (recipe, p, q) in zip(state, self.renewals):
            z, n = mg.sigmoid(gates[p]), mg.tanh(gates[q])
            if recipe == "leaky":
                s = z * s + (1 - z) * n
            elif recipe == "additive":
                s = z * s + mg.sigmoid(gates[q]) * mg.tanh(gates[p])
            elif recipe == "squashed":
                s = mg.tanh(z * s + n)
            elif recipe == "gated":
                s = z * n
            else:
                s = 0.5 * s + z * n
            new.append(s)
        return mg.sigmoid(gates[self.output]) * mg.tanh(new[-1]), tuple(new)

    @property
    def equations(self) -> str:
        """The structure in one line: gates, renewals, output."""
        gates = [
            f"x W + b{'' if s is None else f' + s{s} U'}{'' if v is None else f' + v s{v}'}"
            for s, v in self.gates
        ]
        renewed = [f"s{k} {recipe} of g{p}, g{q}" for k, (recipe, p, q) in enumerate(self.renewals)]
        return f"{'; '.join(gates)}; {'; '.join(renewed)}; y by g{self.output}"
