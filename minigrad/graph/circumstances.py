"""What a captured function depends on besides its inputs, and what calls of it do not repeat."""

from __future__ import annotations

import contextlib
import gc
import warnings
from collections.abc import Callable, Iterable, Iterator
from threading import get_ident
from typing import Any

from minigrad.backend import users_level
from minigrad.graph.looks import Looks
from minigrad.nn import Module
from minigrad.op import mode
from minigrad.tensor import Node, Tensor

WRITTEN = "written"  # a .grad whose first use was to be set, so that what it was did not matter


class Circumstances:
    """Whether ops were recorded, which modules that were asked were in training, what f looked at.

    Stands in the place of `Module.training` during a capture and writes down who is asked. The
    debug switches are none of them: they stand at the choke points, through which calls go as well.
    """

    def __init__(self, f: Callable[..., Any], leaves: Iterable[Any] = ()) -> None:
        self.recording = mode.get().recording
        self.training: dict[Module, bool] = {}
        self.switched: dict[Module, None] = {}
        self.gradients: dict[Node, Any] = {}  # whether .grad was None at the first look, or WRITTEN
        self.written: set[Node] = set()  # leaves whose .grad was set
        self.looks = Looks(f, leaves)
        self.thread = get_ident()  # what other threads do meanwhile is no part of it

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Within the block it is seen which modules are asked and switched, which .grad is used."""
        training, grad = vars(Module)["training"], vars(Node)["grad"]
        Module.training = self  # type: ignore[assignment]
        setattr(Node, "grad", _Grad(grad, self))  # noqa: B010
        try:
            with self.looks.watched():
                yield
        finally:
            Module.training = training
            setattr(Node, "grad", grad)  # noqa: B010

    def __get__(self, module: Module | None, kind: Any = None) -> bool:
        if module is None:
            return True
        training: bool = vars(module).get("training", True)
        if module not in self.switched and get_ident() == self.thread:
            self.training[module] = training
        return training

    def __set__(self, module: Module, training: bool) -> None:
        if get_ident() == self.thread:
            self.switched[module] = None
        vars(module)["training"] = training

    def difference(self) -> str | None:
        """What is otherwise now than at the capture, if anything is."""
        if mode.get().recording != self.recording:
            return "outside no_grad" if self.recording else "within no_grad"
        for module, training in self.training.items():
            if vars(module).get("training", True) != training:
                return f"with {type(module).__name__} {'' if training else 'not '}in training"
        return self.looks.difference()

    def notes(self, hooked: Iterable[Node], left: Iterable[Tensor]) -> list[str]:
        """What happened once, at the capture, for the reader of the graph."""
        notes = [
            f"once: {type(module).__name__} was switched to training or out of it"
            for module in self.switched
        ]
        notes += [f"once: {name} was changed" for name in self.looks.changed]
        for what in dict.fromkeys(self.looks.stuck):
            warnings.warn(
                f"{what} while a function was captured: later calls run no Python, and repeat what "
                f"was there then; keep state in a tensor and assign it, draw with minigrad.random",
                RuntimeWarning,
                stacklevel=users_level(),
            )
        for node in hooked:
            what = f"the result of {node.op.name}" if node.op else node.name or "a leaf"
            notes.append(f"once: a hook of {what} ran; what it computed is in the graph")
        for tensor in left:
            notes.append(
                f"once: a tensor of shape {tuple(tensor.shape)} was left {_holder(tensor)}; return "
                f"it or assign it"
            )
        return list(dict.fromkeys(notes))


class _Grad:
    """Stands in the place of `Node.grad`."""

    def __init__(self, plain: Any, watcher: Circumstances) -> None:
        self.plain, self.watcher = plain, watcher

    def __get__(self, node: Node | None, kind: Any = None) -> Any:
        if node is None:
            return self.plain
        grad = self.plain.__get__(node)
        if get_ident() == self.watcher.thread:
            self.watcher.gradients.setdefault(node, grad is None)
        return grad

    def __set__(self, node: Node, grad: Any) -> None:
        if get_ident() == self.watcher.thread:
            self.watcher.gradients.setdefault(node, WRITTEN)
            self.watcher.written.add(node)
        self.plain.__set__(node, grad)


def _holder(tensor: Tensor) -> str:
    kinds = {type(x).__name__ for x in gc.get_referrers(tensor)} & {"list", "dict", "tuple", "set"}
    return f"in a {min(kinds)}" if kinds else "behind"
