"""Generated datasets on disk: `images/`, optional `labels/`, and a manifest, which the published dataset lacks."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path

from attrs import frozen

from clouds.core.contract.labels import CITYSCAPES, LabelSpace
from clouds.core.system.config import to_toml
from clouds.core.system.errors import DataError, LeftOutWarning
from clouds.core.system.files import link_file, write_text
from clouds.core.system.images import EXTENSIONS, left_out
from clouds.data.config import FILE_NAME as SETTINGS
from clouds.synthesis.manifest import FILE_NAME, FileLengths, Row, read_rows

_PUBLISHED_LABEL = "_labelTrainIds.png"


@frozen(kw_only=True)
class GeneratedSet:
    """A complete generated dataset.

    Attributes:
        folder: folder of the dataset.
        rows: one manifest row per image, by index; empty without a manifest.
        images: image files, in the same order.
        labels: label maps in the same order; None unless every image has one.
    """

    folder: Path
    rows: tuple[Row, ...]
    images: tuple[Path, ...]
    labels: tuple[Path, ...] | None


def open_generated(folder: str | os.PathLike[str], *, verify: bool = False) -> GeneratedSet:
    """Open a generated dataset and check that every listed file exists with its size.

    A folder without manifest is read in the published layout: images in `images/` (`im_{j}_p{k}.png`, sorted by
    number), and label maps of train ids in `labels/im_{j}_p{k}_labelTrainIds.png`. A `LeftOutWarning` lists other files
    in `images/`. Links may point anywhere, because files are only read.

    Args:
        folder: folder of the dataset.
        verify: also compare the files' SHA-256 with the manifest.

    Raises:
        DataError: the folder has neither manifest nor images, the manifest is invalid, a name points outside the
            folder, or a file is missing or differs; the message names it.
    """
    folder = Path(folder)
    if not (folder / FILE_NAME).exists() and (folder / "images").is_dir():
        return _open_published(folder)
    return collect(read_rows(folder), FileLengths(folder), folder, verify=verify)


def labelled_set(generated: GeneratedSet, folder: Path, label_space: LabelSpace) -> str:
    """SPEC of a labelled dataset of links to the generated images and their exact labels; empty without them.

    Exact labels are train ids of Cityscapes. They become those of `label_space` by class name; other classes are
    ignored. Without a common class, the result is empty, too.
    """
    if generated.labels is None or any(row.label_kind != "exact" for row in generated.rows):
        return ""
    train_ids = {name: train_id for train_id, name in enumerate(label_space.names)}
    if not train_ids.keys() & {*CITYSCAPES.names}:
        return ""
    mapping = {str(code): train_ids.get(name, "ignore") for code, name in enumerate(CITYSCAPES.names)}
    write_text(folder / SETTINGS, to_toml({"labels": {"mapping": mapping}}))
    for image, label in zip(generated.images, generated.labels, strict=True):
        link_file(image, folder / "images" / "train" / image.name)
        link_file(label, folder / "labels" / "train" / f"{image.stem}.png")
    return f"folder:{folder.absolute()}:train"


def collect(rows: tuple[Row, ...], files: FileLengths, folder: Path, *, verify: bool = False) -> GeneratedSet:
    """Make the dataset of these rows. Raises `DataError` if a file is missing or differs; see `open_generated`."""
    faults = [fault for row in rows for fault in row.faults(files, verify=verify)]
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise DataError(f"{faults[0]}{more}; generate into {folder} again to add the missing files")
    label_files = [row.labels.file for row in rows if row.labels]
    labelled = bool(rows) and len(label_files) == len(rows)
    return GeneratedSet(
        folder=folder,
        rows=rows,
        images=tuple(files.folder / row.file for row in rows),
        labels=tuple(files.folder / name for name in label_files) if labelled else None,
    )


def _open_published(folder: Path) -> GeneratedSet:
    base = folder.resolve()
    files = [path for path in (base / "images").rglob("*") if not (path.name.startswith(".") or path.is_dir())]
    images = sorted((path for path in files if path.suffix.lower() in EXTENSIONS and path.is_file()), key=_order)
    if not images:
        raise DataError(f"{folder}: has no {FILE_NAME}, and images/ has no image ({', '.join(EXTENSIONS)})")
    if others := sorted({*files} - {*images}):
        warnings.warn(left_out(folder / "images", others), LeftOutWarning, stacklevel=3)
    labels = [base / "labels" / f"{path.stem}{_PUBLISHED_LABEL}" for path in images]
    kept = tuple(labels) if all(path.is_file() for path in labels) else None
    return GeneratedSet(folder=folder, rows=(), images=tuple(images), labels=kept)


def _order(path: Path) -> list[tuple[int, str]]:
    """Sort key by the numbers in a name: im_9_p9 before im_10_p10."""
    return [(int(word), "") if word.isdigit() else (-1, word) for word in re.split(r"([0-9]+)", str(path))]
