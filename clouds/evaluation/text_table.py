"""Tables of figures for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from clouds.evaluation import html


def text_table(header: Sequence[str], rows: Sequence[Sequence[html.Cell]], *, footer: int = 0) -> list[str]:
    """Lines of a table; the first column is left-aligned, `footer` rows at the end are set apart."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    grid = Table(box=box.SIMPLE_HEAD)
    for index, title in enumerate(header):
        grid.add_column(title, justify="right" if index else "left", no_wrap=True)
    for index, row in enumerate(rows):
        grid.add_row(*(html.number(cell) for cell in row), end_section=index == len(rows) - footer - 1)
    console = Console(width=10_000, color_system=None)  # wide enough that nothing is cut off
    with console.capture() as capture:
        console.print(grid, markup=False)
    return [line.rstrip() for line in capture.get().splitlines()]
