"""Datasets in folders: `images/<split>/NAME.(jpg|jpeg|png)`, `labels/<split>/NAME.png`, optional `dataset.toml`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from attrs import field, frozen
from jaxtyping import UInt8

from clouds.core.errors import DataError, did_you_mean
from clouds.core.images import open_image, read_image, to_rgb
from clouds.core.labels import LabelSpace
from clouds.data.config import FILE_NAME, read_dataset_config
from clouds.data.encodings import LabelEncoding
from clouds.data.spec import parse_spec

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
_INDEX_MODES = ("L", "P", "1")
_COLOR_MODES = ("RGB", "RGBA", "P")


@frozen
class Item:
    """One image of a dataset and its label file; None when it has none."""

    name: str
    image: Path
    label: Path | None


def _to_items(value: Iterable[Item]) -> tuple[Item, ...]:
    return tuple(value)


@frozen(eq=False, kw_only=True)
class Dataset:
    """Images and label maps on disk, read one at a time.

    Attributes:
        name: readable domain name, for example "camvid:val".
        items: what there is, sorted by name.
        labels: label space of the label maps that `read` returns.
        encoding: what the values in the label files mean.
        fold: uint8 lookup of 256 train ids, applied to predictions before they are scored; or None.
    """

    name: str
    items: tuple[Item, ...] = field(converter=_to_items)
    labels: LabelSpace
    encoding: LabelEncoding
    fold: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.items)

    def read(self, index: int) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]:
        """The image (RGB) and its label map (train ids, 255 = ignore).

        Raises:
            DataError: a file is missing, damaged or of the wrong form, or their sizes differ.
        """
        image, label = self.read_image(index), self.read_label(index)
        check_sizes(self.items[index], image, label)
        return image, label

    def read_image(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """The image, RGB; alpha is dropped, greyscale expanded. Raises `DataError` naming the file."""
        return read_image(self.items[index].image)

    def read_label(self, index: int) -> UInt8[np.ndarray, "h w"]:
        """The label map: train ids, 255 = ignore. Raises `DataError` naming the file."""
        item = self.items[index]
        if item.label is None:
            raise DataError(f"{item.image}: has no label file")
        return self.encoding.decode(read_label_pixels(item.label, self.encoding), name=str(item.label))


def open_dataset(
    spec: str,
    labels: LabelSpace,
    *,
    config: str | os.PathLike[str] | None = None,
    default_split: str = "train",
    require_labels: bool = True,
) -> Dataset:
    """Find the files of a dataset. Nothing but `dataset.toml` is read.

    Args:
        spec: `folder:PATH[:SPLIT]`. Without a split the only one is taken, or `default_split` where there are several.
        labels: the label space to decode label files into.
        config: a file that takes the place of the folder's own `dataset.toml`, for data that must not be altered.
        default_split: "train" or "val".
        require_labels: an image without a label file is an error; otherwise its `Item.label` is None.

    Raises:
        ConfigError: the spec or the configuration is wrong.
        DataError: a folder is missing or empty, an image has no label, or two images would share one.
    """
    parsed = parse_spec(spec)
    split = _choose_split(spec, parsed.path, parsed.split, default_split)
    items = _find_items(parsed.path, split)
    lacking = [item for item in items if item.label is None]
    if require_labels and lacking:
        raise DataError(
            f"{spec}: {len(lacking)} of {len(items)} images have no label file; the first is {lacking[0].image}, "
            f"expected {_label_folder(parsed.path, split) / lacking[0].name}.png"
        )
    own = parsed.path / FILE_NAME
    encoding, fold = read_dataset_config(Path(config) if config else own if own.exists() else None, labels)
    name = f"{parsed.path.resolve().name}:{split}"
    return Dataset(name=name, items=items, labels=labels, encoding=encoding, fold=fold)


def read_label_pixels(path: Path, encoding: LabelEncoding) -> UInt8[np.ndarray, "h w *rgb"]:
    """Read a label file as it was stored: indices "h w", or RGB "h w 3" for colour encodings.

    Raises:
        DataError: the file cannot be read, or has more than 8 bits or the wrong channels for the encoding.
    """
    image = open_image(path)
    modes = _COLOR_MODES if encoding.colored else _INDEX_MODES
    if image.mode not in modes:
        wanted = "an RGB picture" if encoding.colored else "one channel of 8 bits"
        raise DataError(
            f"{path}: label has mode {image.mode}, but encoding {encoding.name!r} expects {wanted}; "
            f"choose another labels.encoding in {FILE_NAME}, or convert the file"
        )
    return to_rgb(image, name=str(path)) if encoding.colored else np.array(image, dtype=np.uint8)


def check_sizes(item: Item, image: UInt8[np.ndarray, "h w 3"], label: UInt8[np.ndarray, "hl wl *rgb"]) -> None:
    """Raise `DataError` unless an image and its label have the same height and width."""
    if image.shape[:2] != label.shape[:2]:
        raise DataError(
            f"{item.image} is {_size(image)}, but its label {item.label} is {_size(label)} (height x width); "
            "they must be of one size"
        )


def label_files(folder: Path) -> dict[str, Path]:
    """Label files in a folder by name, sorted; hidden files are not counted."""
    return {path.stem: path for path in _files(folder, (".png",))}


def _choose_split(spec: str, root: Path, split: str | None, default: str) -> str:
    folder = root / "images"
    if not folder.is_dir():
        raise DataError(f"{spec}: no folder {folder}; expected images/<split>/NAME.jpg and labels/<split>/NAME.png")
    splits = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if split is None and len(splits) == 1:
        return splits[0]
    wanted = split or default
    if wanted not in splits:
        raise DataError(f"{spec}: {folder} has no split {wanted!r}{did_you_mean(wanted, splits)}")
    return wanted


def _find_items(root: Path, split: str) -> list[Item]:
    folder = root / "images" / split
    labels = label_files(_label_folder(root, split))
    items: dict[str, Item] = {}
    for path in _files(folder, _IMAGE_SUFFIXES):
        if path.stem in items:
            raise DataError(f"{path} and {items[path.stem].image.name} would share one label file; rename one of them")
        items[path.stem] = Item(name=path.stem, image=path, label=labels.get(path.stem))
    if not items:
        raise DataError(f"{folder} holds no image; expected NAME.jpg, NAME.jpeg or NAME.png")
    return list(items.values())


def _label_folder(root: Path, split: str) -> Path:
    return root / "labels" / split


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Sorted by name; files that begin with a dot are unfinished or not meant for us."""
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if path.suffix.lower() in suffixes and not path.name.startswith("."))
    return sorted(found, key=lambda path: path.name)


def _size(pixels: np.ndarray) -> str:
    return f"{pixels.shape[0]}x{pixels.shape[1]}"
