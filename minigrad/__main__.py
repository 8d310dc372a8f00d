"""`python -m minigrad backends`: what runs here, and the versions that a bug report needs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from minigrad.introspection import show_backends


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m minigrad",
        description="A small reverse-mode autograd engine with plug-in backends.",
        epilog="Choose a backend with MINIGRAD_BACKEND=numpy|numba|cupy[:device]|auto|module://"
        "package.module:attribute; watch ops with MINIGRAD_DEBUG=nan,dtype,dispatch.",
    )
    version = sys.modules["minigrad"].__version__
    parser.add_argument("--version", action="version", version=f"minigrad {version}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("backends", help="test every known backend and show the versions in use")
    if parser.parse_args(arguments).command is None:
        parser.print_help()
    else:
        show_backends()


if __name__ == "__main__":
    main()
