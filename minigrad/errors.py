"""The errors raised on purpose; each is a `MinigradError` and the builtin a reader expects."""

from __future__ import annotations


class MinigradError(Exception):
    """Base class of all errors that minigrad raises on purpose."""


class ShapeError(MinigradError, ValueError):
    """Shapes that an op cannot combine."""


class AxisError(MinigradError, IndexError, ValueError):
    """An axis that the tensor does not have."""


class DtypeError(MinigradError, TypeError):
    """A dtype that an op, or the engine, does not take."""


class IndexTypeError(DtypeError, IndexError):
    """An index that is not an integer."""


class IndexRangeError(MinigradError, IndexError):
    """An index outside the axis it addresses."""


class GradientError(MinigradError, RuntimeError):
    """A gradient that cannot be computed from what was recorded."""


class NonFiniteError(MinigradError, FloatingPointError):
    """A NaN or an infinity where `MINIGRAD_DEBUG=nan` or clipping forbids one."""


class StateDictError(MinigradError, KeyError):
    """A state_dict that does not fit its module."""

    def __str__(self) -> str:  # KeyError would print the repr, newlines escaped
        return str(self.args[0])


class CheckpointError(MinigradError, ValueError):
    """A checkpoint file that is damaged, hostile or of another configuration."""


class UnknownBackendError(MinigradError, ValueError):
    """A backend name that nothing registers."""


class BackendUnavailableError(MinigradError, ImportError):
    """A known backend that cannot run here."""


class BackendMismatchError(MinigradError, TypeError):
    """Operands that live on different backends."""


class OpNotImplementedError(MinigradError, NotImplementedError):
    """An op whose array function the backend's namespace lacks."""
