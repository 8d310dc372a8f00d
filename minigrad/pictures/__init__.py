"""Pictures of graphs as SVG, with a layout of their own: no binary, no network, no dependency."""

from minigrad.pictures.compound import Edge, Group
from minigrad.pictures.drawing import draw
from minigrad.pictures.svg import Box, Picture

__all__ = ["Box", "Edge", "Group", "Picture", "draw"]
