"""Pictures of graphs as SVG, with a layout of their own: no binary, no network, no dependency."""

from minigrad.pictures.arrows import Arrow, Spot
from minigrad.pictures.compound import Edge, Group
from minigrad.pictures.diagram import Diagram, Panel
from minigrad.pictures.drawing import draw
from minigrad.pictures.svg import Box, Drawing, Picture, printable

# fmt: off
__all__ = [
    "Arrow", "Box", "Diagram", "Drawing", "Edge", "Group", "Panel", "Picture", "Spot", "draw",
    "printable",
]
