"""The command `minigrad-rnn`: train, sample, score, tutorial."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import minigrad as mg
from minigrad_rnn import text

DEFAULT_MODEL = "minigrad-rnn.safetensors"


class UsageError(ValueError):
    """A command line that asks for something impossible; the message is one line."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0, or 2 after an error of the user's."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        parser.print_help()
        return 0
    try:
        status = arguments.run(arguments)
        sys.stdout.flush()
        return int(status or 0)
    except (mg.MinigradError, text.TextError, UsageError) as error:
        print(f"minigrad-rnn {arguments.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130


def _number(kind: type, low: float, high: float, words: str) -> Callable[[str], float]:
    def convert(value: str) -> float:
        try:
            number = kind(value)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{words} is needed, not {value!r}") from None
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f"{words} is needed, not {value}")
        return number

    return convert


_COUNT = _number(int, 1, 10**9, "a whole number >= 1")
_SEED = _number(int, 0, 2**63 - 1, "a whole number >= 0")
_POSITIVE = _number(float, 1e-9, 1e9, "a number > 0")
_NOT_NEGATIVE = _number(float, 0, 1e9, "a number >= 0")
_SHARE = _number(float, 0, 0.999, "a number from 0 to 0.999")
_PROBABILITY = _number(float, 1e-9, 1, "a number in (0, 1]")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="minigrad-rnn",
        description="Recurrent networks on minigrad: train a character model, let it write, "
        "score a text, step through the tutorials.",
        epilog="MINIGRAD_BACKEND=numba (or cupy) before the command chooses what it runs on.",
    )
    parser.add_argument("--version", action="version", version=f"minigrad-rnn {mg.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    _add_train(commands)
    _add_sample(commands)
    _add_score(commands)
    _add_tutorial(commands)
    return parser


def _add_train(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    train = commands.add_parser(
        "train",
        help="train a character model on a text",
        description="Train a character model. Without --text it reads the docstrings of this "
        "machine's Python standard library, and takes about three minutes.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = train.add_argument
    add("--text", metavar="FILE", help="a UTF-8 text file")
    add("--cell", choices=("lstm", "gru", "rnn"), help="the recurrent cell")
    add("--layers", type=_COUNT, metavar="N", help="cells on top of one another")
    add("--hidden", type=_COUNT, metavar="N", help="units of each cell")
    add("--seq", type=_COUNT, metavar="N", help="characters that a gradient goes back")
    add("--batch", type=_COUNT, metavar="N", help="parts of the text read side by side")
    length = train.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=_POSITIVE, metavar="N", help="times through the text (4)")
    length.add_argument("--steps", type=_COUNT, metavar="N", help="updates of the weights")
    length.add_argument(
        "--minutes", type=_POSITIVE, metavar="M", help="about this long, as measured at the start"
    )
    add("--lr", type=_POSITIVE, metavar="RATE", help="the highest learning rate of Adam")
    add("--clip", type=_NOT_NEGATIVE, metavar="NORM", help="the longest gradient; 0 for any")
    add("--dropout", type=_SHARE, metavar="P", help="share dropped between cells")
    add(
        "--validation",
        type=_PROBABILITY,
        metavar="SHARE",
        help="part of the text held out, its end",
    )
    add("--seed", type=_SEED, metavar="N", help="of weights and dropout")
    add("--save", metavar="FILE", default=DEFAULT_MODEL, help="the model, saved as it trains")
    add("--resume", action="store_true", help="go on with the training that --save holds")
    train.set_defaults(run=_train)


def _model_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", metavar="FILE", default=DEFAULT_MODEL, help="what train has saved"
    )


def _add_sample(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sample = commands.add_parser(
        "sample",
        help="let a trained model write",
        description="Let a trained model write, character by character.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    _model_argument(sample)
    add = sample.add_argument
    add("--prime", metavar="TEXT", default="The ", help="what the text begins with")
    add("--length", type=_COUNT, metavar="N", default=500, help="characters to write")
    add(
        "--temperature",
        type=_NOT_NEGATIVE,
        metavar="T",
        default=0.7,
        help="0 takes the likeliest, 1 the model's own probabilities",
    )
    add("--top-k", type=_COUNT, metavar="K", help="draw from the K likeliest characters only")
    add(
        "--top-p",
        type=_PROBABILITY,
        metavar="P",
        help="draw from the likeliest characters that make up P",
    )
    add("--seed", type=_SEED, metavar="N", default=0, help="another seed, another text")
    sample.set_defaults(run=_sample)


def _add_score(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    score = commands.add_parser(
        "score",
        help="bits per character of a text under a trained model",
        description="Bits per character of texts under a trained model: -log2 P(character | all "
        "before it), from the second character on. Fewer is better.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    score.add_argument("files", nargs="+", metavar="FILE", help="a UTF-8 text file")
    _model_argument(score)
    score.add_argument(
        "--replace", metavar="CHARACTER", help="stands for characters the model has never seen"
    )
    score.set_defaults(run=_score)


def _add_tutorial(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    tutorial = commands.add_parser(
        "tutorial",
        help="list the tutorials, or step through one",
        description="Without a number: the list. With one: prose, cell, Enter, result.",
    )
    tutorial.add_argument("number", nargs="?", type=_COUNT, metavar="N", help="which one")
    tutorial.add_argument(
        "--notebook", metavar="FILE", help="write it as a notebook (.ipynb) instead"
    )
    tutorial.add_argument("--all", action="store_true", help="run on without waiting for Enter")
    tutorial.set_defaults(run=_tutorial)


# --- what the commands do ------------------------------------------------------------------------


def _train(arguments: argparse.Namespace) -> int:
    from minigrad_rnn.train_command import train

    return train(arguments)


def _sample(arguments: argparse.Namespace) -> int:
    from minigrad_rnn.language import generate
    from minigrad_rnn.session import load_model

    model, vocabulary, _ = load_model(arguments.model)
    if not arguments.prime:
        raise UsageError("--prime needs at least one character")
    print(arguments.prime, end="", flush=True)
    for character in generate(
        model,
        vocabulary,
        arguments.prime,
        arguments.length,
        seed=arguments.seed,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
    ):
        print(character, end="", flush=True)
    print()
    return 0


def _score(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from minigrad_rnn.language import bits_per_character
    from minigrad_rnn.session import load_model

    model, vocabulary, _ = load_model(arguments.model)
    if arguments.replace is not None and arguments.replace not in vocabulary.characters:
        raise UsageError(f"--replace {arguments.replace!r} is not among the model's characters")
    for name in arguments.files:
        written = text.read_text(name, minimum=2)
        unknown = sorted(set(written) - set(vocabulary.characters))
        if unknown and arguments.replace is None:
            shown = " ".join(repr(c) for c in unknown[:5]) + (" ..." if len(unknown) > 5 else "")
            raise UsageError(
                f"{name}: the model has never seen {len(unknown)} of its characters ({shown}); "
                f"choose one that stands for them: --replace ' '"
            )
        ids = vocabulary.encode(written, arguments.replace)
        start = time.perf_counter()
        with tqdm(total=len(ids) - 1, unit="chars", leave=False, disable=None) as bar:
            bits = bits_per_character(model, ids, progress=bar.update)
        seconds = time.perf_counter() - start
        print(
            f"{bits:.4f} bits per character  {len(ids)} characters  {seconds:.1f} s  {Path(name)}"
        )
    return 0


def _tutorial(arguments: argparse.Namespace) -> int:
    from minigrad_rnn import stepper

    if arguments.number is None:
        if arguments.notebook:
            raise UsageError("--notebook needs the number of a tutorial")
        print(stepper.listing())
        return 0
    path = stepper.find(arguments.number)
    if arguments.notebook:
        stepper.write_notebook(path, arguments.notebook)
        print(f"wrote {arguments.notebook}")
        return 0
    return stepper.step_through(path, wait=not arguments.all and sys.stdin.isatty())


if __name__ == "__main__":
    sys.exit(main())
