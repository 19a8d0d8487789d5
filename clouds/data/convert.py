"""Convert a dataset to a `folder:` dataset, with label maps as PNGs of train ids."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Literal

from attrs import evolve, frozen

from clouds.core.contract.labels import CITYSCAPES, IGNORE_ID, LabelSpace
from clouds.core.system.config import read_toml, structure, to_toml
from clouds.core.system.errors import DataError
from clouds.core.system.files import atomic_file, inside, link_file, own_folder, write_text
from clouds.core.system.images import MAX_PIXELS, upright_size, write_png
from clouds.data.config import FILE_NAME, DatasetConfig, LabelSettings
from clouds.data.encodings import IGNORE
from clouds.data.folder import Dataset, check_equal_sizes
from clouds.data.threads import map_in_threads


@frozen(kw_only=True)
class Conversion:
    """Result of `convert_dataset`.

    Attributes:
        spec: SPEC of the converted dataset.
        images: number of images.
        written: number of label files that this call wrote; the others existed.
    """

    spec: str
    images: int
    written: int


def convert_dataset(
    dataset: Dataset,
    out: str | os.PathLike[str],
    *,
    images: Literal["link", "copy"] = "link",
    progress: bool = False,
) -> Conversion:
    """Write `out/images/<split>/NAME.*`, `out/labels/<split>/NAME.png` (train ids, 255 = ignore) and `dataset.toml`.

    All images are written before the first label map, and each file atomically, so that an interrupted conversion is
    not mistaken for a dataset. Repeating the call adds the missing files. Several splits may share `out`.

    Args:
        dataset: dataset to convert; each image needs a label file.
        out: output folder.
        images: "link" makes symbolic links to the originals, "copy" makes `out` independent of them.
        progress: show a progress bar on standard error if it is a terminal.

    Raises:
        DataError: `out` holds something else, another process is writing to it, or a label file cannot be read or
            differs from its image in size; that label file is not written.
    """
    root, split = Path(out), str(dataset.spec.split)
    _new_config(dataset, root, split)  # refuses an unusable folder before anything is written
    with own_folder(root, marker=FILE_NAME):
        if config := _new_config(dataset, root, split):
            write_text(root / FILE_NAME, _to_toml(config))
        return _fill(dataset, root, split, images, progress)


def _fill(dataset: Dataset, root: Path, split: str, images: Literal["link", "copy"], progress: bool) -> Conversion:
    picture_folder, label_folder = inside(root, f"images/{split}"), inside(root, f"labels/{split}")
    picture_folder.mkdir(parents=True, exist_ok=True)
    for item in dataset.items:
        _place(item.image, picture_folder / f"{item.name}{item.image.suffix}", images)

    def write_label(index: int) -> bool:
        path = label_folder / f"{dataset.items[index].name}.png"
        if path.exists():
            return False
        label_map = dataset.read_label(index)
        size = upright_size(dataset.items[index].image, max_pixels=dataset.max_pixels)
        check_equal_sizes(dataset.items[index], size, (label_map.shape[0], label_map.shape[1]))
        write_png(path, label_map)
        return True

    written = sum(map_in_threads(write_label, len(dataset), description="convert", progress=progress))
    return Conversion(spec=f"folder:{root}:{split}", images=len(dataset), written=written)


def _new_config(dataset: Dataset, root: Path, split: str) -> DatasetConfig | None:
    """The `dataset.toml` that includes the split; None if the file already does. Refuses a folder with other data."""
    path, wanted = root / FILE_NAME, _config(dataset, split)
    there = structure(read_toml(path), DatasetConfig, source=str(path)) if path.exists() else None
    used = any((root / part / split).exists() for part in ("images", "labels"))
    converted = there.converted if there else {}
    before = converted.get(split, "files of unknown origin" if used else wanted.converted[split])
    if before != wanted.converted[split]:
        raise DataError(f"{root}: split {split!r} has {before}, not {wanted.converted[split]}; choose another folder")
    if there and evolve(there, converted=wanted.converted) != wanted:
        raise DataError(f"{path}: its [labels] or [fold] differ from those of {dataset.spec}; choose another folder")
    return None if split in converted else evolve(wanted, converted=converted | wanted.converted)


def _config(dataset: Dataset, split: str) -> DatasetConfig:
    names, fold = dataset.label_space.names, dataset.fold
    source = evolve(dataset.spec, path=dataset.spec.path.resolve())
    return DatasetConfig(
        labels=LabelSettings(encoding="trainIds"),
        fold={}
        if fold is None
        else {
            name: IGNORE if fold[index] == IGNORE_ID else names[fold[index]]
            for index, name in enumerate(names)
            if fold[index] != index
        },
        max_pixels=dataset.max_pixels,
        converted={split: f"{source}, encoding {dataset.encoding.name}, label space {_described(dataset.label_space)}"},
    )


def _described(label_space: LabelSpace) -> str:
    """Name and classes of a label space, since custom label spaces may share a name."""
    return label_space.name if label_space == CITYSCAPES else f"{label_space.name} ({', '.join(label_space.names)})"


def _to_toml(config: DatasetConfig) -> str:
    tables = {"labels": {"encoding": config.labels.encoding}, "fold": config.fold, "converted": config.converted}
    limit = {"max_pixels": config.max_pixels} if config.max_pixels != MAX_PIXELS else {}
    return to_toml(limit | {name: table for name, table in tables.items() if table})


def _place(source: Path, target: Path, images: Literal["link", "copy"]) -> None:
    if images == "link":
        link_file(source, target)
    elif not target.exists():
        with atomic_file(target) as temporary:
            shutil.copyfile(source, temporary)
