"""The command `minigrad-rnn`: train, sample, score, experiment, figure, equations, tutorial."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import minigrad as mg
from minigrad_rnn import text
from minigrad_rnn.decode import COLDEST
from minigrad_rnn.language import CELLS, bits_per_character, generate, usual_prime
from minigrad_rnn.session import EPOCHS, LARGEST, Settings, load_model
from minigrad_rnn.train_command import DEFAULT_MODEL, UsageError, train


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0, 2 after a user's error, 130 after Ctrl-C.

    An experiment with an answer other than expected returns 1.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a model may write what the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    parser = _parser()
    options, surplus = parser.parse_known_args(argv)
    if surplus:
        hint = "; --model FILE names the model" if options.command == "sample" else ""
        parser.error(f"unrecognized arguments: {' '.join(surplus)}{hint}")
    if options.command is None:
        parser.print_help()
        return 0
    if getattr(options, "no_compile", False):
        os.environ["MINIGRAD_COMPILE"] = "0"
    try:
        status = options.run(options)
        sys.stdout.flush()
        return int(status)
    except (mg.MinigradError, text.TextError, UsageError) as error:
        message = str(error)
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    except MemoryError:
        message = "not enough memory: choose a smaller --hidden, --batch or --seq"
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    # What a file says of itself may be in the message: one line, and no control characters.
    line = "".join(c if c.isprintable() else "?" for c in " ".join(message.split()))
    print(f"minigrad-rnn {options.command}: {line}", file=sys.stderr)
    return 2


# --- the command line ----------------------------------------------------------------------------

Converter = Callable[[str], float]


def _number(kind: type, low: float, high: float, words: str) -> Converter:
    def convert(value: str) -> float:
        try:
            number = kind(value)
        except ValueError:
            number = None
        if number is None or not low <= number <= high:
            raise argparse.ArgumentTypeError(f"{words} is needed, not {value!r}")
        return number

    return convert


_COUNT = _number(int, 1, LARGEST, "a whole number >= 1")
_SEED = _number(int, 0, 2**63 - 1, "a whole number >= 0")
_POSITIVE = _number(float, 1e-9, LARGEST, "a number > 0")
_NOT_NEGATIVE = _number(float, 0, LARGEST, "a number >= 0")
_SHARE = _number(float, 0, 0.999, "a number from 0 to 0.999")
_PROBABILITY = _number(float, 1e-9, 1, "a number in (0, 1]")


def _temperature(value: str) -> float:
    words = f"0, or a number from {COLDEST:g} up,"
    number = _number(float, 0, LARGEST, words)(value)
    return number if number == 0 else _number(float, COLDEST, LARGEST, words)(value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="minigrad-rnn",
        description="Recurrent networks on minigrad: train a character model, let it write, "
        "score a text, repeat the lectures' experiments, draw their figures, step through the "
        "tutorials.",
        epilog="MINIGRAD_BACKEND=numba (or cupy) before the command chooses what it runs on.",
    )
    parser.add_argument("--version", action="version", version=f"minigrad-rnn {mg.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    _add_train(commands)
    _add_sample(commands)
    _add_score(commands)
    _add_experiment(commands)
    _add_figure(commands)
    _add_equations(commands)
    _add_tutorial(commands)
    return parser


def _command(
    commands: Any, run: Callable[[Any], int], name: str, does: str, text: str, examples: str
) -> argparse.ArgumentParser:
    lines = "\n".join(f"  minigrad-rnn {name} {words}".rstrip() for words in examples.splitlines())
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=does,
        description=text,
        epilog=f"examples:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _add_train(commands: Any) -> None:
    parser = _command(
        commands, train, "train", "train a character model on a text",
        "Train a character model: it learns to tell the next character of a text.\n"
        "Without --text it reads the docstrings of this machine's Python library, and takes\n"
        "about three minutes. Ctrl-C saves and says how to go on.",
        "\n--text novel.txt --save novel.safetensors --minutes 10\n"
        "--cell gru --layers 1 --hidden 256\n--resume --epochs 6",
    )  # fmt: skip

    def setting(name: str, help: str, **how: Any) -> None:
        # Their default is None, so that --resume knows what was given.
        parser.add_argument(f"--{name}", help=f"{help} (default: {getattr(Settings, name)})", **how)

    add = parser.add_argument
    add("--text", metavar="FILE", help="a UTF-8 text file (default: the library's docstrings)")
    setting("cell", "the recurrent cell", choices=tuple(CELLS))
    setting("layers", "cells on top of one another", type=_COUNT, metavar="N")
    setting("hidden", "units of each cell", type=_COUNT, metavar="N")
    setting("seq", "characters that a gradient goes back", type=_COUNT, metavar="N")
    setting("batch", "parts of the text read side by side", type=_COUNT, metavar="N")
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--epochs", type=_POSITIVE, metavar="N", help=f"times through the text (default: {EPOCHS})"
    )
    length.add_argument("--steps", type=_COUNT, metavar="N", help="updates of the weights")
    length.add_argument(
        "--minutes",
        type=_POSITIVE,
        metavar="M",
        help="this long: as many steps as this machine's pace allows, ended by the clock if late",
    )
    setting("lr", "the highest learning rate of Adam", type=_POSITIVE, metavar="RATE")
    setting("clip", "the longest gradient, 0 for any", type=_NOT_NEGATIVE, metavar="NORM")
    setting("dropout", "share dropped between cells", type=_SHARE, metavar="P")
    setting("validation", "share held out, the text's end", type=_PROBABILITY, metavar="P")
    setting("seed", "of weights and dropout", type=_SEED, metavar="N")
    add(
        "--save", metavar="FILE", default=DEFAULT_MODEL,
        help="the model, saved as it trains; name.1.safetensors is the save before the last, "
        "name-earlier-N.safetensors the model of an earlier run, name.csv the losses and name.png "
        "their curve (default: %(default)s)",
    )  # fmt: skip
    add("--resume", action="store_true", help="go on with the training that --save holds")
    _add_no_compile(parser)


def _add_no_compile(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no-compile",
        action="store_true",
        help="make every step op by op: slower, the same numbers (as does MINIGRAD_COMPILE=0)",
    )


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        metavar="FILE",
        default=DEFAULT_MODEL,
        help="what train saved (default: %(default)s)",
    )


def _add_sample(commands: Any) -> None:
    parser = _command(
        commands, _sample, "sample", "let a trained model write",
        "Let a trained model write, character by character.",
        '--prime "Return the "\n--temperature 1 --length 2000 --seed 3\n--top-k 5 --top-p 0.9',
    )  # fmt: skip
    _add_model(parser)
    add = parser.add_argument
    add(
        "--prime", metavar="TEXT", help='what the text begins with (default: "The ", or a new line)'
    )
    add(
        "--length", type=_COUNT, metavar="N", default=500,
        help="characters to write (default: %(default)s)",
    )  # fmt: skip
    add(
        "--temperature", type=_temperature, metavar="T", default=0.7,
        help="0 takes the likeliest, 1 the model's own probabilities (default: %(default)s)",
    )  # fmt: skip
    add(
        "--top-k", type=_COUNT, metavar="K",
        help="draw from the K likeliest characters only (default: from all)",
    )  # fmt: skip
    add(
        "--top-p", type=_PROBABILITY, metavar="P",
        help="draw from the likeliest characters that make up P (default: from all)",
    )  # fmt: skip
    add(
        "--seed", type=_SEED, metavar="N", default=0,
        help="another seed, another text (default: %(default)s)",
    )  # fmt: skip


def _add_score(commands: Any) -> None:
    parser = _command(
        commands, _score, "score", "bits per character of a text under a trained model",
        "Bits per character of texts under a trained model: the mean of -log2 P(character | all\n"
        "before it), from the second character on. Fewer is better.",
        "chapter.txt\nmine.txt yours.txt --model novel.safetensors --replace ' '",
    )  # fmt: skip
    parser.add_argument("files", nargs="+", metavar="FILE", help="a UTF-8 text file")
    _add_model(parser)
    parser.add_argument(
        "--replace", metavar="CHARACTER",
        help="stands for characters the model has never seen (default: they are an error)",
    )  # fmt: skip


def _add_experiment(commands: Any) -> None:
    parser = _command(
        commands, _experiment, "experiment", "put a claim of the lectures to the test",
        "Without a name: the list. With one: every variant from every seed, a table, and whether\n"
        "the claim holds; exit status 1 where it does not. What has ended is kept: after Ctrl-C\n"
        "the same command goes on.",
        "\nadding --quick\nadding --seeds 0 1 2 --save sums.json",
    )  # fmt: skip
    add = parser.add_argument
    add("name", nargs="?", metavar="NAME", help="which one")
    add("--list", action="store_true", help="list them, with the rows of the lectures' table")
    add("--quick", action="store_true", help="small sizes and one seed: seconds, not minutes")
    add(
        "--seeds", nargs="+", type=_SEED, metavar="N",
        help="of weights and data (default: 0 1 2 3 4; with --quick: 0)",
    )  # fmt: skip
    add(
        "--save", metavar="FILE",
        help="the results, .json, saved as they come; the picture stands beside it as .png "
        "(default: experiment-NAME.json)",
    )  # fmt: skip
    add("--fresh", action="store_true", help="start over, whatever the file holds")
    add("--no-picture", action="store_true", help="draw none")
    _add_no_compile(parser)


def _add_equations(commands: Any) -> None:
    parser = _command(
        commands, _equations, "equations", "print the lectures' equations from captured graphs",
        "Every equation of the lectures in LaTeX: their own, what the graph of the program says\n"
        "that computes it, and whether both give the same numbers; exit status 1 if not.",
        "\npeephole\nE4\n10.25\n--list",
    )  # fmt: skip
    add = parser.add_argument
    add(
        "name",
        nargs="?",
        metavar="NAME",
        help="one of them, a row of the lectures' table, or 10.25, ...",
    )
    add("--list", action="store_true", help="list them, with their rows")


def _add_figure(commands: Any) -> None:
    parser = _command(
        commands, _figure, "figure", "draw a figure of the lectures",
        "Draw a figure from the graph of the program it shows, as an SVG; two are plots.\n"
        "Without a name: the list.",
        "\n10.13\nlstm --save lstm.svg\n--all figures",
    )  # fmt: skip
    add = parser.add_argument
    add("name", nargs="?", metavar="NAME", help="which one: 10.1 to 10.18, lstm, kinds, ...")
    add("--list", action="store_true", help="list them")
    add("--save", metavar="FILE", help="where to (default: figure-NAME.svg, a plot .png)")
    add("--all", metavar="DIR", help="write all of them into a folder")


def _add_tutorial(commands: Any) -> None:
    parser = _command(
        commands, _tutorial, "tutorial", "list the tutorials, or step through one",
        "Without a number: the list. With one: prose, cell, Enter, result.",
        "\n1\n1 --notebook engine.ipynb\n1 --check mine.py",
    )  # fmt: skip
    add = parser.add_argument
    add("number", nargs="?", type=_COUNT, metavar="N", help="which one")
    add("--all", action="store_true", help="run on without waiting for Enter")
    add = parser.add_mutually_exclusive_group().add_argument
    add("--notebook", metavar="FILE", help="write it as a notebook (.ipynb) instead")
    add("--check", metavar="FILE", help="check your answers to its exercises, functions in a .py")


# --- what the commands do ------------------------------------------------------------------------


def _model(path: str) -> tuple[Any, text.Vocabulary]:
    if not Path(path).exists():
        raise UsageError(f"there is no {path}: `minigrad-rnn train` makes one; --model names it")
    return load_model(path)


def _sample(options: argparse.Namespace) -> int:
    model, vocabulary = _model(options.model)
    prime = usual_prime(vocabulary) if options.prime is None else options.prime
    if not prime:
        raise UsageError("--prime needs at least one character")
    for position, character in enumerate(prime):
        if character not in vocabulary.characters:
            raise UsageError(
                f"{character!r} (U+{ord(character):04X}, position {position}) is not among the "
                f"{len(vocabulary)} characters that the model knows: choose another --prime"
            )
    written = generate(
        model,
        vocabulary,
        prime,
        options.length,
        seed=options.seed,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
    )
    print(prime, end="", flush=True)
    for character in written:
        print(character, end="", flush=True)
    print()
    return 0


def _score(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    model, vocabulary = _model(options.model)
    if options.replace is not None and options.replace not in list(vocabulary.characters):
        raise UsageError(f"--replace {options.replace!r} is none of the model's characters")
    for name in options.files:
        written = text.read_text(name, minimum=2)
        unknown = sorted(set(written) - set(vocabulary.characters))
        if unknown and options.replace is None:
            shown = " ".join(repr(c) for c in unknown[:5]) + (" ..." if len(unknown) > 5 else "")
            raise UsageError(
                f"{name}: the model has never seen {len(unknown)} of its characters ({shown}); "
                f"choose one that stands for them: --replace CHARACTER"
            )
        ids = vocabulary.encode(written, options.replace)
        start = time.perf_counter()
        with tqdm(total=len(ids) - 1, unit="chars", leave=False, disable=None) as bar:
            bits = bits_per_character(model, ids, progress=bar.update)
        seconds = time.perf_counter() - start
        print(f"{bits:.4f} bits per character  {len(ids)} characters  {seconds:.1f} s  {name}")
    return 0


def _experiment(options: argparse.Namespace) -> int:
    from minigrad_rnn.experiment_command import experiment

    return experiment(options)


def _equations(options: argparse.Namespace) -> int:
    from minigrad_rnn.equations import command

    return command.run(options)


def _figure(options: argparse.Namespace) -> int:
    from minigrad_rnn.figures import command

    return command.run(options)


def _tutorial(options: argparse.Namespace) -> int:
    from minigrad_rnn import stepper

    if options.number is None:
        for name in ("notebook", "check"):
            if getattr(options, name):
                raise UsageError(f"--{name} needs the number of a tutorial")
        print(stepper.listing())
        return 0
    path = stepper.find(options.number)
    if options.notebook:
        stepper.write_notebook(path, options.notebook)
        print(f"wrote {options.notebook}")
        return 0
    if options.check:
        from minigrad_rnn import exercises

        return exercises.check(path, options.check)
    return stepper.step_through(path, wait=not options.all and sys.stdin.isatty())


if __name__ == "__main__":
    sys.exit(main())
