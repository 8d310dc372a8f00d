"""Formulas for a terminal: the LaTeX of the tutorials, in the characters that Unicode has."""

from __future__ import annotations

import re
import unicodedata

WORDS = {
    "theta": "θ", "sigma": "σ", "nabla": "∇", "partial": "∂", "sum": "Σ", "prod": "Π",
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "lambda": "λ",
    "mu": "μ", "pi": "π", "tau": "τ", "phi": "φ", "top": "ᵀ", "cdot": "·", "times": "×",
    "leftarrow": "←", "to": "→", "dots": "…", "mid": "|", "leq": "≤", "geq": "≥",
    "log": "log", "exp": "exp", "tanh": "tanh", "max": "max", "min": "min", "sinh": "sinh",
    "cosh": "cosh", "odot": "⊙", "Omega": "Ω", "Lambda": "Λ", "land": "∧", "le": "≤", "ge": "≥",
    "ne": "≠", "neq": "≠", "approx": "≈", "infty": "∞", "cos": "cos", "qquad": "  ", "sqrt": "√",
}  # fmt: skip
RAISED = dict(zip("0123456789+-()dijkntTxᵀγ", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ᵈⁱʲᵏⁿᵗᵀˣᵀᵞ"))
LOWERED = dict(zip("0123456789+-()aehijklmnoprstuvx", "₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓ"))
INNERMOST = re.compile(r"(?:\\frac\{([^{}]*)\}|√)\{([^{}]*)\}|(?<![A-Za-z}])\{([^{}]*)\}")
HAT = "\N{COMBINING CIRCUMFLEX ACCENT}"


def readable(latex: str) -> str:
    """A formula without its dollar signs, on one line; what is not known stays as it stands."""
    shown = re.sub(r"\\hat\s*\{?(\w)\}?", rf"\1{HAT}", " ".join(latex.split()))
    shown = re.sub(r"\\(?:mathrm|operatorname|text|textit)\{([^{}]+)\}", r"\1", shown)
    shown = shown.replace(r"\,", " ")
    for cases, words in ((r"\begin{cases}", "("), (r"\end{cases}", ")"), ("& otherwise", "")):
        shown = shown.replace(cases, words)
    shown = shown.replace(r"\\", "else").replace("&", "if")
    shown = re.sub(r"\\(partial|nabla) ", lambda m: WORDS[m[1]], shown)
    shown = re.sub(r"\\([a-zA-Z]+)", lambda m: WORDS.get(m[1], m[0]), shown)
    innermost = re.compile(r"([\^_])(?:\{([^{}]*)\}|([^\s{]))")
    while match := innermost.search(shown):
        script = match[3] if match[2] is None else match[2]
        shown = shown[: match.start()] + _script(match[1], script) + shown[match.end() :]
    while (flat := INNERMOST.sub(_flat, shown)) != shown:
        shown = flat
    return unicodedata.normalize("NFC", shown.translate({1: "^", 2: "_"}))


def _flat(match: re.Match[str]) -> str:
    """A fraction, a root or a group without its braces."""
    over, under, group = match.groups()
    if group is not None:
        return group
    if over is None:
        return f"√({under})"
    return "/".join(f"({part})" if " " in part else part for part in (over, under))


def _script(mark: str, script: str) -> str:
    """Raised or lowered characters; where Unicode lacks one, a mark that is no ^ or _ stays."""
    table = RAISED if mark == "^" else LOWERED
    if all(c in table for c in script):
        return "".join(table[c] for c in script)
    return ("\1" if mark == "^" else "\2") + (f"({script})" if " " in script else script)
