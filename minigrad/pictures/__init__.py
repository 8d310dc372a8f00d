"""Pictures of graphs as SVG, with a layout of their own: no binary, no network, no dependency."""

from minigrad.pictures.recorded import draw
from minigrad.pictures.svg import Box, Edge, Picture

__all__ = ["Box", "Edge", "Picture", "draw"]
