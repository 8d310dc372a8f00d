"""Drawing the next symbol from logits: greedy, temperature, top-k, top-p."""

from __future__ import annotations

import minigrad as mg
from minigrad import arguments

NEVER = float("-inf")
COLDEST = 1e-6  # below it a float32 logit over the temperature may be infinite


def check_choices(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Raise ValueError for a temperature, k or p outside its range."""
    if temperature != 0 and not COLDEST <= temperature < float("inf"):
        raise ValueError(
            f"temperature={temperature!r}: give 0, which takes the likeliest, or at least {COLDEST}"
        )
    if top_k is not None:
        arguments.size("top_k", top_k)
    if top_p is not None:
        arguments.number("top_p", top_p, 0, 1, open="low")


def narrowed(
    logits: mg.Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> mg.Tensor:
    """Logits (..., V) over the temperature, those not to be drawn at -inf.

    top_k keeps the k largest; top_p the fewest whose probabilities sum to at least p (Holtzman et
    al. 2020); ties with the last one kept stay in. Raises ValueError for values out of range.
    """
    check_choices(temperature, top_k, top_p)
    if temperature == 0:
        top_k, temperature = 1, 1.0
    logits = logits / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        least = mg.min(mg.top_k(logits, top_k), axis=-1, keepdims=True)
        logits = mg.where(logits < least, NEVER, logits)
    if top_p is not None:
        ordered = mg.flip(mg.sort(logits), -1)
        share = mg.functional.softmax(ordered)
        before = mg.cumsum(share, axis=-1) - share  # the mass of all that are likelier
        least = mg.min(mg.where(before < top_p, ordered, float("inf")), axis=-1, keepdims=True)
        logits = mg.where(logits < least, NEVER, logits)
    return logits


def draw(
    logits: mg.Tensor,
    key: mg.random.Key,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> mg.Tensor:
    """One index (B,) a row of logits (B, V); temperature 0 takes the first of the likeliest.

    One key serves all rows; with keys (B,) each row's draw depends on its own key alone.
    """
    if temperature == 0:
        check_choices(temperature, top_k, top_p)
        return mg.argmax(logits, axis=-1)
    chosen = narrowed(logits, temperature, top_k, top_p)
    return mg.random.categorical(key, logits.shape[len(key.shape) : -1], chosen)
