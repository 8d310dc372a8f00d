"""A picture as a text for Graphviz: `dot -Tpdf graph.dot`."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from minigrad.pictures.compound import Group
from minigrad.pictures.svg import FRAMES, KINDS, Picture, printable


def text(picture: Picture) -> str:
    """The boxes as nodes, the groups as clusters; delays and tags do not rank."""
    numbers = {key: f"n{i}" for i, key in enumerate(picture.boxes)}
    rank = {"down": "TB", "up": "BT", "right": "LR"}[picture.direction]
    lines = [
        "digraph {",
        f"  rankdir={rank}; label={_quoted([picture.title])}; tooltip={_quoted([picture.title])};",
        '  node [fontname="monospace", fontsize=11, shape=box, style="rounded,filled"];',
        '  edge [fontname="monospace", fontsize=9, color="#5a5a5a"];',
    ]
    _group(picture, None, numbers, lines, "  ")
    for edge in picture.edges:
        more = {"": "", "step": "", "back": ", constraint=false, penwidth=2",
                "tag": ", constraint=false, style=dashed"}[edge.kind]  # fmt: skip
        ends = f"{numbers[edge.source]} -> {numbers[edge.target]}"
        lines.append(f"  {ends} [label={_quoted([edge.label])}{more}];")
    return "\n".join([*lines, "}", ""])


def _group(
    picture: Picture, group: Hashable, numbers: dict[Hashable, str], lines: list[str], indent: str
) -> None:
    for key, box in picture.boxes.items():
        if box.group == group:
            fill, outline, weight, dashes, _ = KINDS[box.kind]
            style = "filled,dashed" if dashes else "rounded,filled"
            said = [*box.lines, box.wire] if box.wire else box.lines
            color = ', fontcolor="#ffffff"' if box.kind == "delay" else ""
            lines.append(
                f"{indent}{numbers[key]} [label={_quoted(said)}, "
                f'tooltip={_quoted([box.tip or " · ".join(box.lines)])}, fillcolor="{fill}", '
                f'color="{outline}", penwidth={weight}, style="{style}"{color}];'
            )
    inner: list[tuple[int, Hashable, Group]] = [
        (i, key, one) for i, (key, one) in enumerate(picture.groups.items()) if one.parent == group
    ]
    for i, key, one in inner:
        fill, outline, weight, *_ = FRAMES[one.kind]
        lines.append(f"{indent}subgraph cluster_{i} {{")
        lines.append(
            f'{indent}  label={_quoted([one.title])}; style="rounded,filled"; '
            f'fillcolor="{fill}"; color="{outline}"; penwidth={weight};'
        )
        _group(picture, key, numbers, lines, indent + "  ")
        lines.append(f"{indent}}}")


def _quoted(lines: Sequence[str]) -> str:
    r"""A string of the DOT language; only its own \n breaks a line, and nothing else is special."""
    said = (printable(line).replace("\\", "\\\\").replace('"', '\\"') for line in lines)
    return '"' + "\\n".join(line.replace("&", "&amp;") for line in said) + '"'
