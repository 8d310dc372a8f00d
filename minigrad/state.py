"""Named tensors, as a state_dict holds them: checked against what is expected, assigned at once."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from minigrad.errors import StateDictError
from minigrad.tensor import Tensor


def load(own: Mapping[str, Tensor], state: Mapping[str, Any], what: str, strict: bool) -> None:
    """Assign state's values (tensors or arrays) to the tensors of the same names, all or none.

    Raises StateDictError, which lists every missing and unexpected name (if strict) and every wrong
    shape and dtype. Values on another backend are copied to the tensor's.
    """
    if not isinstance(state, Mapping):
        hint = "; minigrad.load returns two things: tensors, metadata" * isinstance(state, tuple)
        raise StateDictError(
            f"the state of {what} is a dict of tensors by name, not a {type(state).__name__}{hint}"
        )
    problems = []
    changes = []
    if strict:
        problems += [f"missing: {name}" for name in own if name not in state]
        unused = {name.lower(): name for name in own if name not in state}
        for name in state:
            if name not in own:
                close = difflib.get_close_matches(str(name).lower(), unused, n=1)
                hint = f" (did you mean {unused[close[0]]}?)" if close else ""
                problems.append(f"unexpected: {name}{hint}")
    for name, tensor in own.items():
        if name not in state:
            continue
        value = state[name]
        if not isinstance(value, Tensor):
            value = Tensor(value, backend=tensor.backend)
        if value.shape != tensor.shape:
            problems.append(f"{name}: shape {value.shape} instead of {tensor.shape}")
        if value.dtype != tensor.dtype:
            problems.append(f"{name}: dtype {value.dtype} instead of {tensor.dtype}")
        changes.append((tensor, value))
    if problems:
        raise StateDictError(f"the state does not fit {what}: " + "; ".join(problems))
    commit([(tensor, value.detach().to(tensor.backend)) for tensor, value in changes])


def commit(changes: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Assign all values, even if Ctrl-C comes in between: what belongs together stays together."""
    try:
        for tensor, value in changes:
            tensor.assign(value)
    except KeyboardInterrupt:
        for tensor, value in changes:
            tensor.assign(value)
        raise
