"""`clouds sheet`: a contact sheet of a generated dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clouds.cli.output import write

if TYPE_CHECKING:
    from clouds.synthesis.generated_set import GeneratedSet

_COLUMNS = 5
_WIDTH = 320


def sheet(folder: Path, /, *, out: Path | None = None, n: int = 60) -> None:
    """Write a contact sheet of a generated dataset as one self-contained HTML file.

    Args:
        folder: output folder of `clouds generate`, or the published dataset.
        out: HTML file; default: FOLDER/sheet.html.
        n: number of images, evenly spread over the dataset.
    """
    from clouds.synthesis.generated_set import open_generated

    out = out or folder / "sheet.html"
    write_sheet(open_generated(folder), out, n=n)
    write(f"contact sheet: {out}")


def write_sheet(dataset: GeneratedSet, out: Path, *, n: int = 60) -> None:
    """Write the page. Raises `ConfigError` when n is less than 1."""
    from clouds.core.system.errors import ConfigError
    from clouds.core.system.files import write_text
    from clouds.evaluation import html

    if n < 1:
        raise ConfigError(f"a contact sheet needs at least 1 image, got n={n}")
    count = len(dataset.images)
    chosen = [position * count // min(n, count) for position in range(min(n, count))]
    pictures: list[Any] = [_picture(dataset, index) for index in chosen]
    pictures += [None] * (-len(pictures) % _COLUMNS)
    grid = [pictures[start : start + _COLUMNS] for start in range(0, len(pictures), _COLUMNS)]
    shown = html.Section(
        title="Pictures",
        note=f"{len(chosen)} of {count}, evenly spread",
        content=[html.picture_grid([""] * _COLUMNS, grid)],
    )
    facts = html.Section(title="Made by", content=[_facts(dataset)])
    write_text(out, html.page(f"Generated dataset {dataset.folder.resolve().name}", [shown, facts]))


def _picture(dataset: GeneratedSet, index: int) -> Any:
    import numpy as np
    from PIL import Image

    from clouds.core.system.images import read_image
    from clouds.evaluation.html import Picture

    picture = Image.fromarray(read_image(dataset.images[index]))
    picture.thumbnail((_WIDTH, _WIDTH))
    caption = dataset.images[index].stem
    if dataset.rows:
        row = dataset.rows[index]
        scores = "".join(f" · {name} {value:g}" for name, value in row.scores.items())
        caption = f"{row.index}: {row.prompt} (seed {row.seed}{scores})"
    return Picture(np.asarray(picture), caption)


def _facts(dataset: GeneratedSet) -> Any:
    """A table of the rows' common values, or the number of different ones."""
    from clouds.evaluation import html

    if not dataset.rows:
        return html.text("There is no manifest, so the settings of the generation are unknown.")
    columns: dict[str, Sequence[Any]] = {
        "generator": [row.generator.name or row.generator.ready for row in dataset.rows],
        **{key: [row.model.get(key) for row in dataset.rows] for key in dataset.rows[0].model},
        **{
            key: [getattr(row, key) for row in dataset.rows]
            for key in ("prompt", "size", "steps", "guidance", "label_kind")
        },
        "filters": [", ".join(f"{name} >= {least:g}" for name, least in row.filters.items()) for row in dataset.rows],
    }
    values = {key: sorted({str(value) for value in column if value is not None}) for key, column in columns.items()}
    rows = [(key, found[0] if len(found) == 1 else f"{len(found)} different") for key, found in values.items() if found]
    return html.table(["", "value"], rows)
