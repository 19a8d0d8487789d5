"""The class index of a dataset: pixels per class of each label map, for rare-class sampling.

`clouds datasets check --index FILE` writes it and training reads it, so that label maps are counted once.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
from attrs import asdict, frozen
from jaxtyping import Int

from clouds.core.system.config import parse_json, structure, to_json
from clouds.core.system.errors import ConfigError, DataError
from clouds.core.system.files import write_text
from clouds.data.folder import Dataset


@frozen(kw_only=True)
class ClassIndex:
    """Pixel counts of a dataset's label maps, and what tells this version of the dataset from others.

    Attributes:
        classes: class names, by train id.
        encoding: SHA-256 of the label encoding, because counts depend on it.
        names: image names, in the dataset's order.
        bytes: size of each label file.
        pixels: labelled pixels of each label map, by train id.
    """

    classes: tuple[str, ...]
    encoding: str
    names: tuple[str, ...]
    bytes: tuple[int, ...]
    pixels: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, dataset: Dataset, pixels: Sequence[Sequence[int]]) -> ClassIndex:
        """The index of a dataset with these counts "n k". Raises `DataError` if a label file is missing."""
        return cls(
            classes=tuple(dataset.label_space.names),
            encoding=_digest(dataset),
            names=tuple(item.name for item in dataset.items),
            bytes=_label_sizes(dataset),
            pixels=tuple(map(tuple, pixels)),
        )

    @property
    def counts(self) -> Int[np.ndarray, "n k"]:
        """`pixels` as an array: images by classes."""
        return np.array(self.pixels, np.int64).reshape(len(self.names), len(self.classes))

    def write(self, path: Path) -> None:
        """Write the index as JSON, atomically."""
        write_text(path, to_json(asdict(self)) + "\n")


def read_class_index(path: Path, dataset: Dataset) -> ClassIndex:
    """Read the index of a dataset.

    Raises:
        ConfigError: the file cannot be read, or is not a class index.
        DataError: it is the index of another dataset, or of another version of this one; the message names the first
            difference.
    """
    try:
        document = parse_json(path.read_text(encoding="utf-8"))
        index = structure(document, ClassIndex, source=str(path))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{path}: cannot be read as a class index ({error}); {_remedy(path, dataset)}") from error
    if len({len(index.names), len(index.bytes), len(index.pixels)}) > 1 or any(
        len(row) != len(index.classes) or min(row, default=0) < 0 for row in index.pixels
    ):
        raise ConfigError(f"{path}: its columns do not fit each other; {_remedy(path, dataset)}")
    if difference := _difference(index, dataset):
        raise DataError(f"{path} is not the index of {dataset.spec}: {difference}; {_remedy(path, dataset)}")
    return index


def _difference(index: ClassIndex, dataset: Dataset) -> str:
    """The first difference between an index and a dataset; empty if there is none."""
    if index.classes != tuple(dataset.label_space.names):
        return f"it counts {len(index.classes)} other classes than label space {dataset.label_space.name!r}"
    if len(index.names) != len(dataset):
        return f"it has {len(index.names)} images, the dataset {len(dataset)}"
    for name, item in zip(index.names, dataset.items, strict=True):
        if name != item.name:
            return f"it has image {name!r}, the dataset {item.name!r}"
    for indexed, found, item in zip(index.bytes, _label_sizes(dataset), dataset.items, strict=True):
        if indexed != found:
            return f"{item.label} has {found} bytes; the index says {indexed}"
    return "" if index.encoding == _digest(dataset) else "it was counted with another label encoding"


def _label_sizes(dataset: Dataset) -> tuple[int, ...]:
    sizes: list[int] = []
    for item in dataset.items:
        if item.label is None:
            raise DataError(f"{item.image}: has no label file; {item.lacks}")
        sizes.append(item.label.stat().st_size)
    return tuple(sizes)


def _digest(dataset: Dataset) -> str:
    encoding = dataset.encoding
    return sha256(to_json([encoding.colored, encoding.deep, sorted(encoding.codes.items())]).encode()).hexdigest()


def _remedy(path: Path, dataset: Dataset) -> str:
    return f"write it with: clouds datasets check {dataset.spec} --index {path}"
