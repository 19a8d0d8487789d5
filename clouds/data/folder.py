"""Data sets on disk: finding their files by layout, and reading pairs of image and label map."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from attrs import evolve, field, frozen
from jaxtyping import UInt8

from clouds.core.errors import DataError, did_you_mean
from clouds.core.images import read_image
from clouds.core.labels import LabelSpace
from clouds.data.config import FILE_NAME, read_dataset_config
from clouds.data.encodings import LabelEncoding
from clouds.data.label_files import read_label_pixels
from clouds.data.layouts import LAYOUTS, Files, Layout
from clouds.data.spec import Spec, parse_spec


@frozen
class Item:
    """One image of a dataset and its label file; None when it has none."""

    name: str
    image: Path
    label: Path | None


def _to_items(value: Iterable[Item]) -> tuple[Item, ...]:
    return tuple(value)


def _to_paths(value: Iterable[Path]) -> tuple[Path, ...]:
    return tuple(value)


@frozen(eq=False, kw_only=True)
class Dataset:
    """Images and label maps on disk, read one at a time.

    Attributes:
        name: readable domain name, for example "camvid:val" or "acdc-fog:val".
        spec: what it was opened from, with its split.
        items: what there is, sorted by name.
        labels: label space of the label maps that `read` returns.
        encoding: what the values in the label files mean.
        fold: uint8 lookup of 256 train ids, applied to predictions before they are scored; or None.
        unpaired: label files without an image.
    """

    name: str
    spec: Spec
    items: tuple[Item, ...] = field(converter=_to_items)
    labels: LabelSpace
    encoding: LabelEncoding
    fold: np.ndarray | None = None
    unpaired: tuple[Path, ...] = field(default=(), converter=_to_paths)

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
    """Find the files of a dataset in the layout in which it is downloaded. Nothing but `dataset.toml` is read.

    Args:
        spec: `KIND:PATH[:SPLIT]`; `clouds.data.layouts.LAYOUTS` has the kinds. Without a split the only one is taken,
            or `default_split` where there are several.
        labels: the label space to decode label files into. Published data sets are decoded by class name, so that it
            may be any selection of the 19 classes of Cityscapes, in any order; the others are ignored.
        config: a file that takes the place of `PATH/dataset.toml`, for data that must not be altered. What it says
            about labels goes before the encoding of the kind.
        default_split: "train" or "val".
        require_labels: an image without a label file is an error; otherwise its `Item.label` is None.

    Raises:
        ConfigError: the spec or the configuration is wrong, or a class is not labelled by this kind.
        DataError: a folder is missing or empty, an image has no label, or two files have one name.
    """
    parsed = parse_spec(spec)
    layout = LAYOUTS[parsed.kind]
    split, folder, images, truths = _locate(parsed, layout, default_split)
    pictures, label_of = _find_images(parsed, layout, folder, images), _find(parsed.path, folder, truths)
    items = [Item(name=name, image=path, label=label_of.get(name)) for name, path in pictures.items()]
    if require_labels:
        _check_labels(spec, items, truths.path(parsed.path, folder) / truths.group, truths.endings[0])
    own = parsed.path / FILE_NAME
    source = Path(config) if config else own if own.exists() else None
    encoding, fold = read_dataset_config(source, labels, encoding=layout.encoding)
    return Dataset(
        name=f"{parsed.path.resolve().name if layout.splits is None else parsed.kind}:{split}",
        spec=evolve(parsed, split=split),
        items=items,
        labels=labels,
        encoding=encoding,
        fold=fold,
        unpaired=[path for name, path in label_of.items() if name not in pictures],
    )


def dataset_images(spec: str, *, default_split: str = "val") -> list[Path]:
    """The images of a dataset, sorted by name, whatever its labels; for `Pipeline.predict_many`.

    Args:
        spec: `KIND:PATH[:SPLIT]`, as in `open_dataset`.
        default_split: "train" or "val".

    Raises:
        ConfigError: the spec is wrong.
        DataError: a folder is missing or empty, or two files have one name.
    """
    parsed = parse_spec(spec)
    layout = LAYOUTS[parsed.kind]
    _, folder, images, _ = _locate(parsed, layout, default_split)
    return list(_find_images(parsed, layout, folder, images).values())


def check_sizes(item: Item, image: UInt8[np.ndarray, "h w 3"], label: UInt8[np.ndarray, "hl wl *rgb"]) -> None:
    """Raise `DataError` unless an image and its label have the same height and width."""
    if image.shape[:2] != label.shape[:2]:
        raise DataError(
            f"{item.image} is {_size(image)}, but its label {item.label} is {_size(label)} (height x width); "
            "they must be of one size"
        )


def _check_labels(spec: str, items: list[Item], folder: Path, ending: str) -> None:
    lacking = [item for item in items if item.label is None]
    if lacking:
        raise DataError(
            f"{spec}: {len(lacking)} of {len(items)} images have no label file; the first is {lacking[0].image}, "
            f"expected {folder / lacking[0].name}{ending}"
        )


def _locate(spec: Spec, layout: Layout, default: str) -> tuple[str, str, Files, Files]:
    """The split, its folder, and the form in which images and labels lie there."""
    split = _choose_split(spec, layout, default)
    folder = split if layout.splits is None else layout.splits[split]
    return split, folder, *_choose_variant(spec, layout, folder)


def _find_images(spec: Spec, layout: Layout, folder: str, images: Files) -> dict[str, Path]:
    found = _find(spec.path, folder, images)
    if not found:
        raise _not_there(spec, layout, f"{images.path(spec.path, folder)} holds no image")
    return found


def _choose_split(spec: Spec, layout: Layout, default: str) -> str:
    if layout.splits is not None:
        splits, where = list(layout.splits), f"kind {spec.kind!r}"
    else:
        folder = layout.variants[0][0].path(spec.path, "")
        if not folder.is_dir():
            raise _not_there(spec, layout, f"no folder {folder}")
        splits = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        where = str(folder)
    if spec.split is None and len(splits) == 1:
        return splits[0]
    wanted = spec.split or default
    if wanted not in splits:
        raise DataError(f"{spec}: {where} has no split {wanted!r}{did_you_mean(wanted, splits)}")
    return wanted


def _choose_variant(spec: Spec, layout: Layout, split_folder: str) -> tuple[Files, Files]:
    """The form in which the data lie there; labels may be missing."""
    known = layout.variants
    with_images = [pair for pair in known if pair[0].path(spec.path, split_folder).is_dir()]
    if not with_images:
        missing = " nor ".join(dict.fromkeys(str(images.path(spec.path, split_folder)) for images, _ in known))
        raise _not_there(spec, layout, f"no folder {missing}")
    whole = [pair for pair in with_images if pair[1].path(spec.path, split_folder).is_dir()]
    if len(whole) > 1:
        folders = " and ".join(str(labels.path(spec.path, split_folder)) for _, labels in whole)
        raise DataError(f"{spec}: {folders} are both there, and either could be meant; rename one of them")
    return (whole or with_images)[0]


def _not_there(spec: Spec, layout: Layout, what: str) -> DataError:
    return DataError(f"{spec}: {what}; expected {layout} below {spec.path} ({layout.download})")


def _find(root: Path, split_folder: str, files: Files) -> dict[str, Path]:
    """Files by NAME, sorted."""
    found: dict[str, Path] = {}
    endings = tuple(ending.lower() for ending in files.endings)
    skip = files.skip.lower()
    for path in _visible(files.path(root, split_folder), nested=bool(files.group)):
        lower = path.name.lower()
        ending = next((one for one in endings if lower.endswith(one)), None)
        if ending is None or (skip and lower.endswith(skip)):
            continue
        name = path.name[: -len(ending)]
        other = found.setdefault(name, path)
        if other != path:
            raise DataError(
                f"{path} and {other} have one name, {name!r}; images and labels are paired by name: rename one of them"
            )
    return dict(sorted(found.items()))


def _visible(folder: Path, *, nested: bool) -> Iterator[Path]:
    """Files of a folder, sorted, and of the folders in it; what begins with a dot is unfinished or not meant for us."""
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        shown = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    for entry in shown:
        if nested and entry.is_dir():
            yield from _visible(Path(entry.path), nested=False)
        else:
            yield Path(entry.path)


def _size(pixels: np.ndarray) -> str:
    return f"{pixels.shape[0]}x{pixels.shape[1]}"
