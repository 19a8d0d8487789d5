"""What commands write to standard output."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from clouds.core.config import to_json

_UNLIMITED = 10_000  # columns; a table that goes into a file or a pipe is not folded


def write(text: str) -> None:
    """Write text and a line end to standard output."""
    sys.stdout.write(text + "\n")


def write_notes(notes: Iterable[str]) -> None:
    """Write what the user should know to standard error, one line each, so that it is in no program's way."""
    for note in notes:
        sys.stderr.write(f"note: {note}\n")


def write_json(document: Any) -> None:
    """Write a document as JSON; what JSON has no type for (a path, say) becomes its text."""
    write(to_json(document, indent=2, default=str))


def write_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a table, folded to the width of the terminal when there is one."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*header, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else _UNLIMITED, highlight=False, markup=False).print(table)
