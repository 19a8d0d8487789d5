"""Label files that number instances, read as segment maps.

A segment map (int32 "h w") holds instance * 256 + train id. Instances of things have distinct numbers above 0, with or
without gaps. The instance is 0 for stuff, for ignored pixels (the value is then 255), and for a crowd: pixels of things
whose instances were not separated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
from attrs import frozen
from jaxtyping import Bool, Int, Int32, UInt8

from clouds.core.contract.labels import IGNORE_ID, LabelSpace
from clouds.core.system.config import parse_json
from clouds.core.system.errors import DataError
from clouds.core.system.images import counted, opened, upright
from clouds.data.label_files import stored_form
from clouds.data.layouts import SegmentForm

Stored = tuple[UInt8[np.ndarray, "h w"], Int32[np.ndarray, "h w"]]  # value of the class, and number of the instance

FACTOR = 256  # of the instance in a segment map
_SHOWN = 5


@final
@frozen(kw_only=True)
class InstanceIds:
    """16-bit greyscale PNGs: value = class * `factor` + instance.

    Attributes:
        factor: 1000 for Cityscapes, 256 for Mapillary Vistas.
        groups: values below `factor` are classes without an instance: stuff, and crowds of things (Cityscapes). The
            files of Mapillary Vistas do not mark crowds.
    """

    factor: int
    groups: bool

    def read(self, path: Path, *, max_pixels: int) -> Stored:
        """Values and instances of a file. Raises `DataError` naming the file."""
        with opened(path, formats=("PNG",), max_pixels=max_pixels) as image:
            if not image.mode.startswith("I"):
                raise DataError(f"{path}: instances are a greyscale PNG of 16 bits, but this has mode {image.mode}")
            stored = np.array(upright(image)).astype(np.int32)
        numbered = stored >= (self.factor if self.groups else 0)
        values = np.where(numbered, stored // self.factor, stored)
        if values.max() >= FACTOR:
            raise DataError(f"{path}: value {stored[values >= FACTOR][0]} is no class * {self.factor} + instance")
        # The whole value numbers an instance: classes, which count their own, may join in a label space
        return values.astype(np.uint8), np.where(numbered, stored + 1, 0).astype(np.int32)


@final
@frozen(kw_only=True)
class CocoSegments:
    """COCO's panoptic format: RGB PNGs with segment id = R + 256 G + 256^2 B, and a JSON that describes the segments.

    Kirillov et al., "Panoptic Segmentation", CVPR 2019; https://cocodataset.org/#format-data.

    Attributes:
        index: the JSON file.
        segments: by name of the PNG, a row (id, category, crowd) for each segment.
    """

    index: Path
    segments: dict[str, Int[np.ndarray, "n 3"]]

    def read(self, path: Path, *, max_pixels: int) -> Stored:
        """Categories and instances of a file; pixels without a segment have the category 255.

        Raises:
            DataError: the file cannot be read, or the JSON lacks it or one of its segments.
        """
        self.check([path])
        rows = self.segments[path.name]
        with opened(path, formats=("PNG",), max_pixels=max_pixels) as image:
            if stored_form(image) != "RGB":
                raise DataError(f"{path}: segments are an 8-bit RGB PNG, but this has form {stored_form(image)}")
            red, green, blue = np.moveaxis(np.array(upright(image), np.int32), -1, 0)
        ids, place = np.unique(red + 256 * green + 65536 * blue, return_inverse=True)
        if strange := sorted({*ids.tolist()} - {0, *rows[:, 0].tolist()}):
            more = f" and {len(strange) - _SHOWN} more" if len(strange) > _SHOWN else ""
            raise DataError(f"{path}: has segments {strange[:_SHOWN]}{more}, which {self.index} does not describe")
        # Category and instance of each id that occurs; 0 is no segment
        known = {id_: (category, 0 if crowd else number) for number, (id_, category, crowd) in enumerate(rows, 1)}
        found = np.array([known.get(one, (IGNORE_ID, 0)) for one in ids.tolist()], np.int32)
        categories, instances = np.moveaxis(found[place].reshape(*red.shape, 2), -1, 0)
        return categories.astype(np.uint8), np.ascontiguousarray(instances)

    def check(self, paths: Iterable[Path]) -> None:
        """Raise `DataError` unless the JSON describes these files."""
        if strange := [path for path in paths if path.name not in self.segments]:
            raise DataError(f"{self.index} does not describe {counted(strange)}; it may belong to another split")


SegmentFiles = InstanceIds | CocoSegments


def open_segment_files(form: SegmentForm, folder: Path, files: Iterable[Path]) -> SegmentFiles | None:
    """The reader of label files in a folder; None if they hold classes alone.

    Raises:
        DataError: the JSON beside a folder of COCO's format cannot be read, or lacks one of these files.
    """
    match form:
        case "cityscapes":
            return InstanceIds(factor=1000, groups=True)
        case "mapillary":
            return InstanceIds(factor=256, groups=False)
        case "coco":
            found = _read_index(folder.with_name(f"{folder.name}.json"))
            found.check(files)
            return found
        case _:
            return None


def _read_index(path: Path) -> CocoSegments:
    try:
        document = parse_json(path.read_text(encoding="utf-8"))
        segments = {str(one["file_name"]): _rows(one["segments_info"]) for one in document["annotations"]}
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; it describes the segments of the PNGs beside it") from None
    except (OSError, ValueError, TypeError, LookupError, OverflowError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(f"{path}: cannot be read as JSON of COCO's panoptic format ({reason})") from error
    return CocoSegments(index=path, segments=segments)


def _rows(infos: Sequence[dict[str, Any]]) -> Int[np.ndarray, "n 3"]:
    rows = [(info["id"], info["category_id"], info.get("iscrowd", 0)) for info in infos]
    if wrong := [row for row in rows if not (all(type(one) is int for one in row) and 0 <= row[1] < IGNORE_ID)]:
        raise ValueError(f"segment {wrong[0]} (id, category_id, iscrowd): expected integers, category_id 0 to 254")
    return np.array(rows, np.int64).reshape(-1, 3)


def to_segment_map(
    train_ids: UInt8[np.ndarray, "h w"], instances: Int32[np.ndarray, "h w"], label_space: LabelSpace
) -> Int32[np.ndarray, "h w"]:
    """Join classes and instances; what is no thing in the label space loses its instance."""
    return np.where(are_things(train_ids, label_space), instances, 0).astype(np.int32) * FACTOR + train_ids


def without_crowds(segments: Int32[np.ndarray, "h w"], label_space: LabelSpace) -> Int32[np.ndarray, "h w"]:
    """Ignore crowds, which are no segment to learn."""
    return np.where(are_crowds(segments, label_space), np.int32(IGNORE_ID), segments)


def are_things(train_ids: UInt8[np.ndarray, "*n"], label_space: LabelSpace) -> Bool[np.ndarray, "*n"]:
    """Which train ids are classes whose instances can be counted."""
    table = np.zeros(FACTOR, np.bool_)
    table[: len(label_space)] = label_space.things
    return table[train_ids]


def are_crowds(segments: Int32[np.ndarray, "*n"], label_space: LabelSpace) -> Bool[np.ndarray, "*n"]:
    """Which values of a segment map are crowds."""
    return (segments < FACTOR) & are_things(segments.astype(np.uint8), label_space)
