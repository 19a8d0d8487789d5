"""Progress bars on standard error, shown only on a terminal."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from clouds.core.system.files import printable

if TYPE_CHECKING:
    from rich.progress import Progress


@contextmanager
def progress_bar(*, shown: bool = True) -> Generator[Progress]:
    """Yield rich's progress display; nothing is drawn unless `shown` and standard error is a terminal."""
    from rich.console import Console
    from rich.progress import Progress, Task, TextColumn
    from rich.text import Text

    class Description(TextColumn):
        """Shows file and dataset names literally, without markup or control characters."""

        def render(self, task: Task) -> Text:
            return Text(printable(task.description), style="progress.description")

    console = Console(stderr=True)
    columns = (Description(""), *Progress.get_default_columns()[1:])
    with Progress(*columns, console=console, transient=True, disable=not (shown and console.is_terminal)) as bar:
        yield bar
