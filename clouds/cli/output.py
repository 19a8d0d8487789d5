"""Output of commands: text, notes, JSON and tables."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from clouds.core.system.config import to_json
from clouds.core.system.files import printable

_UNPRINTABLE = re.compile(r"[\x7f-\x9f\ud800-\udfff\u200e\u200f\u202a-\u202e\u2066-\u2069]")  # JSON keeps these
_UNLIMITED = 10_000  # columns; a table in a file or pipe is not wrapped


def write(text: str) -> None:
    """Write a line of text to standard output; control characters are escaped."""
    sys.stdout.write(printable(text) + "\n")


def write_notes(notes: Iterable[str]) -> None:
    """Write notes for the user to standard error, one line each, so that programs can read standard output."""
    for note in notes:
        sys.stderr.write(f"note: {printable(note)}\n")


def write_error(error: str) -> None:
    """Write an error to standard error, in one line, of something that does not end the command."""
    sys.stderr.write(f"error: {printable(error)}\n")


def write_json(document: Any) -> None:
    """Write a document as JSON; values without a JSON type, such as paths, are written as text."""
    text = to_json(document, indent=2, default=str)
    sys.stdout.write(_UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")


def write_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a table, wrapped to the width of the terminal if there is one."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*header, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*map(printable, row))
    width = None if sys.stdout.isatty() else _UNLIMITED
    Console(width=width, highlight=False, markup=False, emoji=False).print(table)
