"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def markdown_table(header: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """The table, or "not measured" without cells."""
    if not cells:
        return "not measured"
    lines = (header, ["---"] * len(header), *cells)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
