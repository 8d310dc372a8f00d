"""What a backend's emitter needs of the engine, besides graphs: ops, tensors and their arrays."""

from minigrad.op import Op, Static, bare, promote
from minigrad.tensor import Tensor, make

__all__ = ["Op", "Static", "Tensor", "bare", "make", "promote"]
