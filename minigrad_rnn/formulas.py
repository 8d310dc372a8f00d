"""Formulas for a terminal: the LaTeX of the tutorials, in the characters that Unicode has."""

from __future__ import annotations

import re
import unicodedata

WORDS = {
    "theta": "θ", "sigma": "σ", "nabla": "∇", "partial": "∂", "sum": "Σ", "prod": "Π",
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "lambda": "λ",
    "mu": "μ", "pi": "π", "tau": "τ", "phi": "φ", "top": "ᵀ", "cdot": "·", "times": "×",
    "leftarrow": "←", "to": "→", "dots": "…", "mid": "|", "leq": "≤", "geq": "≥",
    "log": "log", "exp": "exp", "tanh": "tanh", "max": "max", "min": "min",
}  # fmt: skip
RAISED = dict(zip("0123456789+-()ijntTxᵀ", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁱʲⁿᵗᵀˣᵀ"))
LOWERED = dict(zip("0123456789+-()aehijklmnoprstuvx", "₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓ"))
HAT = "\N{COMBINING CIRCUMFLEX ACCENT}"


def readable(latex: str) -> str:
    """A formula without its dollar signs, on one line; what is not known stays as it stands."""
    shown = re.sub(r"\\hat\s*\{?(\w)\}?", rf"\1{HAT}", " ".join(latex.split()))
    shown = re.sub(r"\\mathrm\{(\w+)\}", r"\1", shown).replace(r"\,", " ")
    shown = re.sub(r"\\(partial|nabla) ", lambda m: WORDS[m[1]], shown)
    shown = re.sub(r"\\([a-zA-Z]+)", lambda m: WORDS.get(m[1], m[0]), shown)
    innermost = re.compile(r"([\^_])(?:\{([^{}]*)\}|([^\s{]))")
    while match := innermost.search(shown):
        script = match[3] if match[2] is None else match[2]
        shown = shown[: match.start()] + _script(match[1], script) + shown[match.end() :]
    return unicodedata.normalize("NFC", shown.translate({1: "^", 2: "_"}))


def _script(mark: str, script: str) -> str:
    """Raised or lowered characters; where Unicode lacks one, a mark that is no ^ or _ stays."""
    table = RAISED if mark == "^" else LOWERED
    if all(c in table for c in script):
        return "".join(table[c] for c in script)
    return ("\1" if mark == "^" else "\2") + (f"({script})" if " " in script else script)
