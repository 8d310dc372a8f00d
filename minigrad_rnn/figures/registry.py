"""What figures there are: a name, a title, a caption, and the function that makes it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from minigrad.pictures import Diagram, Panel


@dataclass(frozen=True)
class Figure:
    """build gives the panels of a diagram, or, where plot is set, a matplotlib figure."""

    name: str
    title: str
    caption: str
    build: Callable[[], Any]
    joint: str = ""
    stacked: bool = False
    plot: bool = False

    def diagram(self) -> Diagram:
        """The diagram drawn, from the graph of a program that is run now."""
        name = f"Figure {self.name}" if self.name[0].isdigit() else self.title
        return Diagram(
            self.build(),
            title=f"{name}: {self.title}" if name != self.title else name,
            caption=f"{name}. {self.caption}",
            joint=self.joint,
            stacked=self.stacked,
        )


FIGURES: dict[str, Figure] = {}  # the book's in their order, then the others
Build = Callable[[], list[Panel]]


def figure(
    name: str, title: str, *, joint: str = "", stacked: bool = False, plot: bool = False
) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Make a function a figure, with its docstring for a caption."""

    def register(build: Callable[[], Any]) -> Callable[[], Any]:
        caption = " ".join(inspect.cleandoc(build.__doc__ or "").split())
        FIGURES[name] = Figure(name, title, caption, build, joint, stacked, plot)
        ordered = sorted(FIGURES, key=_number)
        FIGURES.update({key: FIGURES.pop(key) for key in ordered})
        return build

    return register


def _number(name: str) -> float:
    return float(name.removeprefix("10.")) if name[0].isdigit() else float("inf")
