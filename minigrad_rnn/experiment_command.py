"""`minigrad-rnn experiment`: runs what is missing, keeps it, and says what came out."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import hashlib
import json
import math
import os
import re
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import minigrad as mg
from minigrad_rnn import experiments
from minigrad_rnn.experiments import Bar, Experiment
from minigrad_rnn.session import circumstances
from minigrad_rnn.train_command import UsageError, program, running

STATUS_EVERY = 10.0  # seconds, where there is no terminal for a bar


@dataclasses.dataclass
class Result:
    """Of one variant and seed: the measure (NaN where it failed), the curve, the seconds."""

    measure: float
    curve: list[tuple[float, float]]
    seconds: float


Results = dict[tuple[str, int], Result]


def experiment(options: argparse.Namespace) -> int:
    """Run the command; 0 where all bars hold, 1 where one does not, 130 after Ctrl-C."""
    if options.name is None or options.list:
        print(listing())
        return 0
    try:
        asked = experiments.find(options.name)
    except ValueError as error:
        raise UsageError(f"{error}; --list says what they ask") from error
    quick = "-quick" if options.quick else ""
    path = Path(options.save or f"experiment-{asked.name}{quick}.json")
    if path.suffix != ".json":
        raise UsageError(f"--save {path}: results are saved as .json")
    if not path.parent.is_dir():
        raise UsageError(f"--save {path}: there is no folder {path.parent}")
    seeds = options.seeds or asked.seeds(options.quick)
    if len(set(seeds)) < len(seeds):
        raise UsageError(f"--seeds {' '.join(map(str, seeds))}: a seed counts once")
    store = Store(path, fingerprint(asked, options.quick))
    results = {} if options.fresh else store.load()
    todo = [(v, s) for v in asked.variants for s in seeds if (v, s) not in results]
    print(f"question  {asked.question} (row {asked.row} of the lectures)")
    print(
        f"running   {len(todo)} of {len(asked.variants)} variants x {len(seeds)} seeds "
        f"{running()}; each is saved to {path} as it ends",
        flush=True,
    )
    try:
        _run(asked, todo, options.quick, results, store)
    except KeyboardInterrupt:
        # --fresh, or its beginning: a second time it would throw away what was kept now
        words = [w for w in sys.argv[1:] if not (len(w) > 2 and "--fresh".startswith(w))]
        words += [] if circumstances()["compiled"] or "--no-compile" in words else ["--no-compile"]
        again = " ".join([*program(), shlex.join(words)])
        kept = sum((v, s) in results for v in asked.variants for s in seeds)
        held = f"{path} holds {kept} of {len(asked.variants) * len(seeds)} results"
        print(f"\nstopped   {held if kept else 'before a run had ended: nothing was saved'}")
        print(f"next\n  {again}")
        return 130
    measures = {v: [results[v, s].measure for s in seeds] for v in asked.variants}
    print(f"measure   {asked.measure}\n\n{table(measures, seeds)}\n")
    bars = asked.quick_bars if options.quick else asked.bars
    verdicts = [_verdict(bar, measures) for bar in bars]
    print(*(line for _, line in verdicts), sep="\n")
    if list(seeds) != list(asked.seeds(options.quick)):
        print(f"note      the bars speak of seeds {' '.join(map(str, asked.seeds(options.quick)))}")
    if not options.no_picture and draw(asked, seeds, results, path.with_suffix(".png")):
        print(f"picture   {path.with_suffix('.png')}")
    return 0 if all(held for held, _ in verdicts) else 1


def listing() -> str:
    """All experiments, a line each."""
    found = [experiments.find(name) for name in experiments.NAMES]
    width = max((len(e.name) for e in found), default=0)
    return "\n".join(f"{e.name:{width}}  {e.row:3}  {e.question}" for e in found)


# --- running -------------------------------------------------------------------------------------


def _run(
    asked: Experiment, todo: Sequence[tuple[str, int]], quick: bool, results: Results, store: Store
) -> None:
    """Fill in the results that are missing, saving after each."""
    if todo:
        store.save(results)  # a place that cannot be written shows now, not after the first run
    with tqdm(total=len(todo), unit="run", disable=None, dynamic_ncols=True) as bar:
        told = time.perf_counter()
        for done, (variant, seed) in enumerate(todo):
            begin, curve = time.perf_counter(), []
            for share, value in _advance(asked, variant, seed, quick, curve):
                bar.n = done + share
                bar.set_postfix_str(f"{variant}, seed {seed}: {value:.4g}")
                if bar.disable and time.perf_counter() - told > STATUS_EVERY:
                    told = time.perf_counter()
                    line = f"run {done + share:.1f} of {len(todo)}: {variant}, seed {seed}"
                    print(f"{line}: {value:.4g}", file=sys.stderr, flush=True)
            measure = curve.pop()[1]
            results[variant, seed] = Result(measure, curve, time.perf_counter() - begin)
            store.save(results)
        bar.n = len(todo)
        bar.refresh()


def _advance(
    asked: Experiment, variant: str, seed: int, quick: bool, curve: list[tuple[float, float]]
) -> Iterator[tuple[float, float]]:
    """The points of a run, which it adds to the curve, the measure last."""
    points = asked.run(variant, seed, quick)
    measure = math.nan  # stays so where the numbers become infinite: a failed seed
    try:
        while True:
            curve.append(next(points))
            yield curve[-1]
    except StopIteration as end:
        measure = float(end.value)
    except ArithmeticError as error:  # NonFiniteError is one
        tqdm.write(f"failed    {variant}, seed {seed}: {error}")
    curve.append((1.0, measure))


def fingerprint(asked: Experiment, quick: bool) -> dict[str, Any]:
    """What results hang on; stored results of another fingerprint are not gone on with."""
    digest = hashlib.sha256()
    for _, content in sorted(_sources(asked).items()):
        digest.update(content)
    return {
        "experiment": asked.name,
        "quick": quick,
        "source": digest.hexdigest()[:16],
        "backend": circumstances()["backend"],
        "compiled": circumstances()["compiled"],
        "minigrad": mg.__version__,
    }


def _sources(asked: Experiment) -> dict[Path, bytes]:
    """The file of an experiment, and those of the package that it imports, and these import."""
    package = Path(experiments.__file__).parent
    own = sys.modules[asked.run.__module__].__file__
    found, waiting = {}, [Path(own)] if own else []
    while waiting:
        file = waiting.pop()
        if file in found or not file.is_file():
            continue
        found[file] = file.read_bytes()
        for node in ast.walk(ast.parse(found[file])):
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{name.name}" for name in node.names]
            elif isinstance(node, ast.Import):
                names = [name.name for name in node.names]
            else:
                continue
            inside = (n.removeprefix(f"{experiments.__name__}.") for n in names)
            waiting += [package / f"{m.split('.')[0]}.py" for m, n in zip(inside, names) if m != n]
    return found


class Store:
    """A JSON file of results, which holds at any moment those of all runs that have ended."""

    def __init__(self, path: Path, fingerprint: dict[str, Any]) -> None:
        self.path, self.fingerprint = path, fingerprint

    def load(self) -> Results:
        """What the file holds; {} without a file. UsageError where it is of another experiment."""
        if not self.path.exists():
            return {}
        start_over = "--fresh starts over, --save names another file"
        try:
            held = json.loads(self.path.read_text(encoding="utf-8"))
            before = _is(dict, held["fingerprint"])
            found = {
                (_is(str, r["variant"]), _is(int, r["seed"])): Result(
                    _number(r["measure"]),
                    [(_is(float, x), _number(y)) for x, y in r["curve"]],
                    _is(float, r["seconds"]),
                )
                for r in held["results"]
            }
        except (ValueError, KeyError, TypeError, ArithmeticError, RecursionError) as error:
            raise UsageError(
                f"{self.path} holds no results of an experiment; {start_over}"
            ) from error
        except OSError as error:
            raise UsageError(f"{self.path} cannot be read: {error.strerror}") from error
        for name, now in self.fingerprint.items():
            if before.get(name) != now:
                raise UsageError(
                    f"{self.path}: {name} was {before.get(name)}, now {now}; {start_over}"
                )
        return found

    def save(self, results: Results) -> None:
        """Replace the file, at once and whole; UsageError where that cannot be."""
        held = [
            {
                "variant": variant,
                "seed": seed,
                "measure": _json(r.measure),
                "seconds": round(r.seconds, 3),
                "curve": [[x, _json(y)] for x, y in r.curve],
            }
            for (variant, seed), r in results.items()
        ]
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        content = json.dumps({"fingerprint": self.fingerprint, "results": held}, allow_nan=False)
        try:
            try:
                temporary.write_text(content, encoding="utf-8")
                os.replace(temporary, self.path)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise UsageError(f"{self.path} cannot be written: {error.strerror}") from error


def _json(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _number(value: Any) -> float:
    return math.nan if value is None else float(_is(float, value))


def _is(kind: type, value: Any) -> Any:
    """The value; TypeError where it is of another kind, ValueError where it is not finite."""
    kinds: tuple[type[Any], ...] = (int, float) if kind is float else (kind,)
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise TypeError(f"{value!r} is no {kind.__name__}")
    if kind is float and not math.isfinite(value):
        raise ValueError(f"{value!r} is not finite")
    return value


# --- telling -------------------------------------------------------------------------------------


def table(measures: dict[str, list[float]], seeds: Sequence[int]) -> str:
    """Minimum, median, maximum and every seed's value, a line a variant; a failed seed stays in."""
    head = ["variant", "minimum", "median", "maximum", *(f"seed {seed}" for seed in seeds)]
    lines = [head]
    for variant, values in measures.items():
        spread = (np.min(values), np.median(values), np.max(values))
        lines.append([variant, *(_shown(value) for value in (*spread, *values))])
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in lines
    )


def _shown(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "failed"


def _verdict(bar: Bar, measures: dict[str, list[float]]) -> tuple[bool, str]:
    """Whether a bar holds, and a line that says so with the measures of the variants it names."""
    held = bar.holds(measures)
    word = r"(?<![\w.]){}(?![\w.])"
    named = {v: m for v, m in measures.items() if re.search(word.format(re.escape(v)), bar.text)}
    numbers = ", ".join(
        f"{v} {' '.join(_shown(value) for value in values)}"
        for v, values in (named or measures).items()
    )
    return held, f"{'PASS' if held else 'FAIL'}      {bar.text} ({numbers})"


def draw(asked: Experiment, seeds: Sequence[int], results: Results, path: Path) -> bool:
    """The curves, one a seed and variant, and the measures; False where matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    curves, measures = figure.subplots(1, 2, width_ratios=(3, 2))
    for place, variant in enumerate(asked.variants):
        for n, seed in enumerate(seeds):
            result = results[variant, seed]
            label = variant if n == 0 else None
            x, y = [*zip(*result.curve)] or ([], [])
            curves.plot(x, y, color=f"C{place}", lw=0.9, alpha=0.8, label=label)
            measures.plot(place, result.measure, "o", color=f"C{place}", alpha=0.6)
    values = [y for r in results.values() for _, y in r.curve if math.isfinite(y)]
    if values and 0 < 100 * min(values) < max(values):
        curves.set_yscale("log")
    curves.set(xlabel="share of the run", ylabel="curve")
    curves.legend()
    measures.set_xticks(range(len(asked.variants)), asked.variants, rotation=20)
    measures.set_title(asked.measure, fontsize="small", wrap=True)
    figure.suptitle(asked.question, fontsize="medium")
    figure.savefig(path, dpi=120)
    return True
