"""Makes the class index of a dataset, and checks that an index is that of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from clouds.core.contract.class_index import ClassIndex
from clouds.core.system.config import to_json
from clouds.core.system.errors import DataError
from clouds.data.folder import Dataset


def index_dataset(dataset: Dataset, pixels: Sequence[Sequence[int]]) -> ClassIndex:
    """The index of a dataset with these counts "n k". Raises `DataError` if a label file is missing."""
    return ClassIndex(
        classes=tuple(dataset.label_space.names),
        encoding=_digest(dataset),
        names=tuple(item.name for item in dataset.items),
        bytes=_label_sizes(dataset),
        pixels=tuple(map(tuple, pixels)),
    )


def read_class_index(path: Path, dataset: Dataset) -> ClassIndex:
    """Read the index of a dataset.

    Raises:
        ConfigError: the file cannot be read, or is not a class index.
        DataError: it is the index of another dataset, or of another version of this one; the message names the first
            difference.
    """
    index = ClassIndex.read(path, remedy=_remedy(path, dataset))
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
