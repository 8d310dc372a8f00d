"""Pictures of graphs as SVG, with a layout of their own: no binary, no network, no dependency."""

from minigrad.pictures.arrows import Arrow, Spot
from minigrad.pictures.diagram import Diagram, Panel
from minigrad.pictures.recorded import draw
from minigrad.pictures.svg import Box, Edge, Picture

__all__ = ["Arrow", "Box", "Diagram", "Edge", "Panel", "Picture", "Spot", "draw"]
