"""Check a whole dataset before training: all faults at once, and pixel counts per class."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from attrs import asdict, evolve, field, frozen

from clouds.core.contract.class_index import ClassIndex
from clouds.core.contract.labels import IGNORE_ID
from clouds.core.system.errors import DataError
from clouds.data.class_index import index_dataset
from clouds.data.encodings import IGNORE
from clouds.data.folder import Dataset, check_sizes
from clouds.data.threads import map_in_threads

T = TypeVar("T")
FaultKind = Literal["image", "label", "missing label", "missing image", "size", "values", "nothing labelled"]


@frozen(kw_only=True)
class Fault:
    """One fault of a dataset.

    Attributes:
        kind: "image" or "label" (cannot be read), "missing label", "missing image", "size" (image and label differ),
            "values" (unknown label values), "nothing labelled" (no label map has a labelled pixel).
        file: the file with the fault.
        message: the fault and its remedy.
    """

    kind: FaultKind
    file: str
    message: str


@frozen(kw_only=True)
class CheckReport:
    """Result of `check_dataset`.

    Attributes:
        name: name of the dataset.
        images: number of images.
        pixels: number of pixels by class name, and "ignore"; excludes label files with unknown values.
        unknown: number of pixels by unknown label value.
        faults: faults in the order of the files.
        notes: remarks that are not faults: unused files, and label maps without a labelled pixel.
        class_index: pixel counts of each label map; None if there are faults. Not part of `to_json`.
    """

    name: str
    images: int
    pixels: dict[str, int]
    unknown: dict[str, int]
    faults: tuple[Fault, ...]
    notes: tuple[str, ...] = ()
    class_index: ClassIndex | None = field(default=None, repr=False)

    @property
    def ok(self) -> bool:
        """Whether the dataset can be used."""
        return not self.faults

    def to_json(self) -> str:
        """JSON text."""
        document = asdict(evolve(self, class_index=None))
        del document["class_index"]
        return json.dumps({"ok": self.ok, **document}, indent=2)


@frozen(kw_only=True)
class _Finding:
    counts: np.ndarray  # int64, by train id 0..255
    unknown: dict[str, int]
    faults: list[Fault]


def check_dataset(dataset: Dataset, *, progress: bool = False) -> CheckReport:
    """Read every image and label file, on all processor cores.

    Open the dataset with `require_labels=False`, so that missing label files are found together with everything else.

    Args:
        dataset: dataset to check.
        progress: show a progress bar on standard error if it is a terminal.
    """
    counts = np.zeros(IGNORE_ID + 1, np.int64)
    unknown, faults = Counter[str](), list[Fault]()
    findings = map_in_threads(
        lambda index: _check_item(dataset, index), len(dataset), description="check", progress=progress
    )
    unlabelled, rows = list[Path](), list[list[int]]()
    for item, finding in zip(dataset.items, findings, strict=True):
        counts += finding.counts
        rows.append(finding.counts[: len(dataset.label_space)].tolist())
        unknown.update(finding.unknown)
        faults += finding.faults
        if item.label and finding.counts[IGNORE_ID] and not finding.counts[:IGNORE_ID].any():
            unlabelled.append(item.label)
    if unlabelled and not (counts[:IGNORE_ID].any() or unknown):
        faults.append(Fault(kind="nothing labelled", file=str(unlabelled[0]), message=_nothing_labelled(dataset)))
    by_class = counts.tolist()
    faults += [_without_image(path, dataset) for path in dataset.unpaired]
    return CheckReport(
        name=dataset.name,
        images=len(dataset),
        pixels={**dict(zip(dataset.label_space.names, by_class, strict=False)), IGNORE: by_class[IGNORE_ID]},
        unknown=dict(unknown),
        faults=tuple(faults),
        notes=(*dataset.notes, *_describe_unlabelled(unlabelled)),
        class_index=None if faults else index_dataset(dataset, rows),
    )


def check_labelled(dataset: Dataset) -> None:
    """Raise `DataError` when no label map of a dataset has a labelled pixel.

    The search stops at the first labelled pixel. It also stops at an unreadable label file, which later use reports.
    """

    def is_labelled(index: int) -> bool:
        try:
            return bool((dataset.read_label(index) != IGNORE_ID).any())
        except DataError:
            return True

    if not (
        is_labelled(0) or any(map_in_threads(is_labelled, len(dataset), description="find labels", progress=False))
    ):
        raise DataError(f"{_nothing_labelled(dataset)}; `clouds datasets check` counts its values")


def _nothing_labelled(dataset: Dataset) -> str:
    return (
        f"{dataset.spec}: no labelled pixel in {len(dataset)} label maps; encoding {dataset.encoding.name!r} "
        "ignores all of their values"
    )


def _describe_unlabelled(paths: list[Path]) -> list[str]:
    return [f"no labelled pixel in {len(paths)} label maps; the first is {paths[0]}"] if paths else []


def _check_item(dataset: Dataset, index: int) -> _Finding:
    item, encoding, faults = dataset.items[index], dataset.encoding, list[Fault]()
    finding = _Finding(counts=np.zeros(IGNORE_ID + 1, np.int64), unknown={}, faults=faults)
    image = _collect_fault(faults, "image", item.image, lambda: dataset.read_image(index))
    label = item.label
    if label is None:
        faults.append(
            Fault(kind="missing label", file=str(item.image), message=f"{item.image}: has no label file; {item.lacks}")
        )
        return finding
    pixels = _collect_fault(faults, "label", label, lambda: dataset.read_label_pixels(index))
    if pixels is None:
        return finding
    if image is not None:
        _collect_fault(faults, "size", label, lambda: check_sizes(item, image, pixels))
    train_ids = _collect_fault(faults, "values", label, lambda: encoding.decode(pixels, name=str(label)))
    if train_ids is None:
        return evolve(finding, unknown=encoding.unknown(pixels))
    return evolve(finding, counts=np.bincount(train_ids.ravel(), minlength=IGNORE_ID + 1))


def _collect_fault(faults: list[Fault], kind: FaultKind, file: Path, action: Callable[[], T]) -> T | None:
    """The action's result; on a `DataError`, None, and the error is added to `faults`."""
    try:
        return action()
    except DataError as error:
        faults.append(Fault(kind=kind, file=str(file), message=str(error)))
        return None


def _without_image(path: Path, dataset: Dataset) -> Fault:
    like = next((other for other in dataset.left_out if other.stem == path.stem), None)
    reason = f"its image {like.name} has a format that is not read" if like else "no image has this name"
    return Fault(kind="missing image", file=str(path), message=f"{path}: {reason}")
