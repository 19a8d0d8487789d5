"""Datasets on disk: find their files by layout, and read pairs of image and label map."""

from __future__ import annotations

import os
import warnings
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from glob import escape
from pathlib import Path

import numpy as np
from attrs import evolve, field, frozen
from jaxtyping import Int32, UInt8

from clouds.core.contract.labels import LabelSpace
from clouds.core.system.errors import ConfigError, DataError, LeftOutWarning, SeenDomainWarning, did_you_mean
from clouds.core.system.images import MAX_PIXELS, counted, left_out, opened, read_image, upright_size
from clouds.data.config import FILE_NAME, read_dataset_config
from clouds.data.encodings import LabelEncoding
from clouds.data.label_files import read_label_pixels
from clouds.data.layouts import FilePattern, Layout
from clouds.data.segment_files import SegmentFiles, open_segment_files, to_segment_map
from clouds.data.spec import Spec, find_layout, lacks_instances, parse_spec


@frozen
class Item:
    """An image of a dataset and its label file, or None; then `lacks` names the expected file."""

    name: str
    image: Path
    label: Path | None
    lacks: str = ""


def _to_items(value: Iterable[Item]) -> tuple[Item, ...]:
    return tuple(value)


def _to_paths(value: Iterable[Path]) -> tuple[Path, ...]:
    return tuple(value)


@frozen(eq=False, kw_only=True)
class Dataset:
    """Images and label maps on disk, read one at a time.

    Attributes:
        name: readable domain name, for example "camvid:val" or "acdc-fog:val".
        spec: SPEC of the dataset, with its split.
        items: images with their label files, sorted by name.
        label_space: label space of the label maps that `read` returns.
        encoding: encoding of the label files.
        fold: uint8 lookup of 256 train ids, applied to predictions before scoring; or None.
        unpaired: label files without an image.
        left_out: unread entries in the image folder: other formats, and folders.
        misfits: images left out because their labels differ in size.
        max_pixels: size limit; larger images and labels are refused before they are decoded.
        segment_files: reads label files that number instances; None if they hold classes alone.
    """

    name: str
    spec: Spec
    items: tuple[Item, ...] = field(converter=_to_items)
    label_space: LabelSpace
    encoding: LabelEncoding
    fold: np.ndarray | None = None
    unpaired: tuple[Path, ...] = field(default=(), converter=_to_paths)
    left_out: tuple[Path, ...] = field(default=(), converter=_to_paths)
    misfits: tuple[Path, ...] = field(default=(), converter=_to_paths)
    max_pixels: int = MAX_PIXELS
    segment_files: SegmentFiles | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """Unused files, one line per reason."""
        reasons = (
            (self.unpaired, "label files without an image of the same name"),
            (self.misfits, "left out, because image and label differ in size"),
        )
        others = [left_out(self.spec, self.left_out, self._endings)] if self.left_out else []
        return (*others, *(f"{self.spec}: {counted(paths)}: {reason}" for paths, reason in reasons if paths))

    @property
    def _endings(self) -> tuple[str, ...]:
        return find_layout(self.spec.kind).variants[0][0].endings

    def __len__(self) -> int:
        return len(self.items)

    def read(self, index: int) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]:
        """The image (RGB) and its label map (train ids, 255 = ignore).

        Raises:
            DataError: a file is missing, damaged or has the wrong format, or their sizes differ.
        """
        image, label = self.read_image(index), self.read_label(index)
        check_sizes(self.items[index], image, label)
        return image, label

    def read_segments(self, index: int) -> tuple[UInt8[np.ndarray, "h w 3"], Int32[np.ndarray, "h w"]]:
        """The image (RGB) and its segment map, see `clouds.data.segment_files`.

        Raises:
            ConfigError: the label files of this kind of dataset number no instances.
            DataError: as `read`.
        """
        if self.segment_files is None:
            raise ConfigError(f"{self.spec}: {lacks_instances(self.spec.kind)}")
        image, path = self.read_image(index), self._label_file(index)
        values, instances = self.segment_files.read(path, max_pixels=self.max_pixels)
        check_sizes(self.items[index], image, values)
        return image, to_segment_map(self.encoding.decode(values, name=str(path)), instances, self.label_space)

    def read_image(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """The image, RGB; alpha is dropped, greyscale expanded. Raises `DataError` naming the file."""
        return read_image(self.items[index].image, max_pixels=self.max_pixels)

    def read_label(self, index: int) -> UInt8[np.ndarray, "h w"]:
        """The label map: train ids, 255 = ignore. Raises `DataError` naming the file."""
        return self.encoding.decode(self.read_label_pixels(index), name=str(self._label_file(index)))

    def read_label_pixels(self, index: int) -> UInt8[np.ndarray, "h w *rgb"]:
        """The values of the label file, before the encoding maps them. Raises `DataError` naming the file."""
        path = self._label_file(index)
        if self.segment_files is not None:
            return self.segment_files.read(path, max_pixels=self.max_pixels)[0]
        return read_label_pixels(path, self.encoding, max_pixels=self.max_pixels)

    def _label_file(self, index: int) -> Path:
        item = self.items[index]
        if item.label is None:
            raise DataError(f"{item.image}: has no label file; {item.lacks}")
        return item.label


def open_dataset(
    spec: str,
    label_space: LabelSpace,
    *,
    config: str | os.PathLike[str] | None = None,
    default_split: str = "train",
    require_labels: bool = True,
) -> Dataset:
    """Find the files of a dataset in its download layout.

    This reads only `dataset.toml` and the sizes of `Layout.misfits`. A `LeftOutWarning` lists unused files; see
    `Dataset.notes`. Names are compared in Unicode's composed form (NFC), as systems store them differently.

    Args:
        spec: `KIND:PATH[:SPLIT]`; the kinds are in `clouds.data.layouts.LAYOUTS`. The split defaults to the only one,
            or to `default_split` if there are several.
        label_space: label space to decode label files into. Published datasets are decoded by class name, so it may be
            any selection of the 19 Cityscapes classes, in any order; other classes are ignored.
        config: file that replaces `PATH/dataset.toml`, for a read-only dataset. Its `[labels]` take precedence over the
            encoding of the kind.
        default_split: "train" or "val".
        require_labels: an image without a label file is an error; otherwise its `Item.label` is None, and the caller
            reports `notes`.

    Raises:
        ConfigError: the SPEC or the configuration is invalid, or this kind does not label a class.
        DataError: a folder is missing or empty, an image has no label, or two files share a name.
    """
    parsed = parse_spec(spec)
    layout = find_layout(parsed.kind)
    split, folder, images, truths = _locate(parsed, layout, default_split)
    pictures, beside = _find_images(parsed, layout, folder, images)
    label_of, others = _find(parsed.path, folder, truths)
    label_folder = truths.path(parsed.path, folder)
    lacking = _Lacking(layout, truths, label_folder, others)
    items = [lacking.item(name, path, label_of.get(name)) for name, path in pictures.items()]
    files = [item.label for item in items if item.label is not None]
    if require_labels:
        _check_labels(spec, items)
    own = parsed.path / FILE_NAME
    source = Path(config) if config else own if own.exists() else None
    encoding, fold, max_pixels = read_dataset_config(source, label_space, encoding=layout.encoding)
    misfits = [item for item in items if item.name in layout.misfits and _differs_in_size(item, max_pixels)]
    dataset = Dataset(
        name=f"{parsed.path.resolve().name if layout.splits is None else parsed.kind}:{split}",
        spec=evolve(parsed, split=split),
        items=[item for item in items if item not in misfits],
        label_space=label_space,
        encoding=encoding,
        fold=fold,
        unpaired=[path for name, path in label_of.items() if name not in pictures],
        left_out=beside,
        misfits=[item.image for item in misfits],
        max_pixels=max_pixels,
        segment_files=open_segment_files(layout.segments, label_folder, files if require_labels else ()),
    )
    for note in dataset.notes if require_labels else ():
        warnings.warn(note, LeftOutWarning, stacklevel=2)
    return dataset


def dataset_images(spec: str, *, default_split: str = "val") -> list[Path]:
    """The images of a dataset with or without labels, sorted by name, for `Pipeline.predict_many`.

    A `LeftOutWarning` lists unread files beside them.

    Args:
        spec: `KIND:PATH[:SPLIT]`, as in `open_dataset`.
        default_split: "train" or "val".

    Raises:
        ConfigError: the SPEC is invalid.
        DataError: a folder is missing or empty, or two files share a name.
    """
    parsed = parse_spec(spec)
    layout = find_layout(parsed.kind)
    _, folder, images, _ = _locate(parsed, layout, default_split)
    pictures, others = _find_images(parsed, layout, folder, images)
    if others:
        warnings.warn(left_out(parsed, others, images.endings), LeftOutWarning, stacklevel=2)
    return list(pictures.values())


def image_pattern(spec: str, *, default_split: str = "train") -> str:
    """The glob pattern of a dataset's images, for a generator that takes pictures. Labels are not read.

    A `SeenDomainWarning` says that the set has labels.

    Raises:
        ConfigError: the SPEC is invalid.
        DataError: a folder is missing.
    """
    parsed = parse_spec(spec)
    split, folder, images, truths = _locate(parsed, find_layout(parsed.kind), default_split)
    labels, _ = _find(parsed.path, folder, truths)
    if labels:
        warnings.warn(
            f"{evolve(parsed, split=split)} has {len(labels)} label files: its pictures are used without them, but "
            "scores on this set are then not those of an unseen domain",
            SeenDomainWarning,
            stacklevel=2,
        )
    ending = images.endings[0] if len(images.endings) == 1 else ""
    return str(Path(escape(str(images.path(parsed.path, folder))), *["*"] * bool(images.group), f"*{ending}"))


def check_sizes(item: Item, image: UInt8[np.ndarray, "h w 3"], label: UInt8[np.ndarray, "hl wl *rgb"]) -> None:
    """Raise `DataError` unless an image and its label have the same height and width."""
    check_equal_sizes(item, (image.shape[0], image.shape[1]), (label.shape[0], label.shape[1]))


def check_equal_sizes(item: Item, image: tuple[int, int], label: tuple[int, int]) -> None:
    """Raise `DataError` unless an image and its label have the same size (height, width)."""
    if image == label:
        return
    reason = "the sizes must be equal"
    if image[::-1] == label:
        with opened(item.image, max_pixels=image[0] * image[1]) as picture:
            if (picture.height, picture.width) != image:
                reason = "the EXIF orientation rotates the image but not the label: rotate the label, too"
    raise DataError(
        f"{item.image} is {image[0]}x{image[1]}, but its label {item.label} is {label[0]}x{label[1]} "
        f"(height x width); {reason}"
    )


def _check_labels(spec: str, items: list[Item]) -> None:
    lacking = [item for item in items if item.label is None]
    if lacking:
        raise DataError(
            f"{spec}: {len(lacking)} of {len(items)} images have no label file; the first is {lacking[0].image}, "
            f"{lacking[0].lacks}"
        )


def _locate(spec: Spec, layout: Layout, default: str) -> tuple[str, str, FilePattern, FilePattern]:
    """Split, its folder, and the patterns of its images and labels."""
    try:
        split = _choose_split(spec, layout, default)
        folder = split if layout.splits is None else layout.splits[split]
        return split, folder, *_choose_variant(spec, layout, folder)
    except (OSError, ValueError) as error:  # an invalid file name, or no permission to read the folder
        raise DataError(f"{spec}: cannot be read ({error}); give the root folder of the dataset") from error


def _find_images(spec: Spec, layout: Layout, folder: str, images: FilePattern) -> tuple[dict[str, Path], list[Path]]:
    """Images by NAME, and other files."""
    found, others = _find(spec.path, folder, images)
    if not found:
        named = f" but {counted(others)}" if others else ""
        raise _layout_error(spec, layout, f"{images.path(spec.path, folder)} holds no image{named}")
    return found, others


def _differs_in_size(item: Item, max_pixels: int) -> bool:
    try:
        sizes = {upright_size(path, max_pixels=max_pixels) for path in (item.image, item.label) if path}
    except DataError:
        return False  # reading the item later reports the error
    return len(sizes) > 1


@frozen
class _Lacking:
    """Describes the missing label file of an image: the expected path, and a similar file that exists."""

    layout: Layout
    files: FilePattern
    folder: Path
    others: list[Path]

    def item(self, name: str, image: Path, label: Path | None) -> Item:
        return Item(name, image, label, "" if label else self._describe(name, image))

    def _describe(self, name: str, image: Path) -> str:
        folder = self.folder / image.parent.name if self.files.group else self.folder
        stem = self.files.start + (name.removeprefix(f"{image.parent.name}_") if self.files.grouped_names else name)
        near = bisect_left(self.others, folder / stem)
        other = self.others[near].name if self.others[near : near + 1] else ""
        there = f", where {other} is" if other.startswith(stem) and not other[len(stem)].isalnum() else ""
        return f"expected {folder / stem}{self.files.endings[0]}{there}; the layout is {self.layout}"


def _choose_split(spec: Spec, layout: Layout, default: str) -> str:
    if layout.splits is not None:
        splits, where = list(layout.splits), f"kind {spec.kind!r}"
    else:
        folder = layout.variants[0][0].path(spec.path, "")
        if not folder.is_dir():
            raise _layout_error(spec, layout, f"no folder {folder}")
        splits = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        where = str(folder)
    if spec.split is None and len(splits) == 1:
        return splits[0]
    wanted = spec.split or default
    if wanted not in splits:
        raise DataError(f"{spec}: {where} has no split {wanted!r}{did_you_mean(wanted, splits)}{_colon_hint(spec)}")
    return wanted


def _colon_hint(spec: Spec) -> str:
    """Hint for a folder name that may have been cut at a colon."""
    if spec.split is None or spec.path.is_dir():
        return ""
    return f"; {spec.split!r} after the last colon is the split: a folder of that name is {spec.path}:{spec.split}/"


def _choose_variant(spec: Spec, layout: Layout, split_folder: str) -> tuple[FilePattern, FilePattern]:
    """The published layout that exists on disk; labels may be missing."""
    known = layout.variants
    with_images = [pair for pair in known if pair[0].path(spec.path, split_folder).is_dir()]
    if not with_images:
        missing = " nor ".join(dict.fromkeys(str(images.path(spec.path, split_folder)) for images, _ in known))
        raise _layout_error(spec, layout, f"no folder {missing}")
    whole = [pair for pair in with_images if pair[1].path(spec.path, split_folder).is_dir()]
    if len(whole) > 1:
        folders = " and ".join(str(labels.path(spec.path, split_folder)) for _, labels in whole)
        raise DataError(f"{spec}: both {folders} exist, so the labels are ambiguous; rename one of them")
    return (whole or with_images)[0]


def _layout_error(spec: Spec, layout: Layout, what: str) -> DataError:
    return DataError(f"{spec}: {what}; expected {layout} below {spec.path} ({layout.download}){_colon_hint(spec)}")


def _find(root: Path, split_folder: str, files: FilePattern) -> tuple[dict[str, Path], list[Path]]:
    """Files by NAME, and other files; both sorted."""
    found: dict[str, Path] = {}
    others: list[Path] = []
    folder = files.path(root, split_folder)
    for path in _visible(folder, nested=bool(files.group)):
        name = files.name_of(path)
        if name is None:
            others.append(path)
            continue
        if files.grouped_names and path.parent != folder:
            name = f"{path.parent.name}_{name}"
        other = found.setdefault(name, path)
        if other != path:
            raise DataError(
                f"{path} and {other} share the name {name!r}; images and labels are paired by name: rename one of them"
                + ("" if ascii(path.name) == ascii(other.name) else f" ({path.name!a}, {other.name!a})")
            )
    return dict(sorted(found.items())), sorted(others)


def _visible(folder: Path, *, nested: bool) -> Iterator[Path]:
    """Entries of a folder, sorted, or of its subfolders if `nested`; skips hidden and unfinished files."""
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        shown = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    for entry in shown:
        if nested and entry.is_dir():
            yield from _visible(Path(entry.path), nested=False)
        else:
            yield Path(entry.path)
