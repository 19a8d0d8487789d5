"""The generated images of a run: those that the teacher labels, and those that keep labels of their own."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from attrs import field, frozen

from clouds.core.contract.labels import CITYSCAPES, IGNORE_ID, LabelSpace
from clouds.core.system.errors import DataError, SeenDomainWarning
from clouds.data.encodings import LabelEncoding
from clouds.data.folder import Dataset, Item
from clouds.data.spec import Spec, parse_spec
from clouds.synthesis.generated_set import GeneratedSet, open_generated
from clouds.synthesis.manifest import Row
from clouds.training.recipe import DataConfig


@frozen
class GeneratedImages:
    """The images of a generated set as a recipe uses them.

    Attributes:
        pictures: images that the teacher labels.
        labelled: images with labels of their own, by kind of label: "exact" or "inherited".
    """

    pictures: tuple[Path, ...] = ()
    labelled: dict[str, Dataset] = field(factory=dict[str, Dataset])

    def __bool__(self) -> bool:
        return bool(self.pictures or self.labelled)


def open_generated_images(data: DataConfig, label_space: LabelSpace) -> GeneratedImages:
    """Open `data.generated`, and sort its images by `data.generated_weight`.

    Warns `SeenDomainWarning` of photographs that belong to a set that is scored.

    Args:
        data: the recipe's data.
        label_space: label space of the labels, which are matched by class name; other classes are ignored.

    Raises:
        DataError: the set has no image, or cannot be opened; or no image has labels of a kind that the weights name.
    """
    generated = open_generated(data.generated)
    if not generated.images:
        raise DataError(f"{data.generated}: has no image for the joint phase; generate some, or omit it")
    _warn_of_seen(generated, data.evaluation)
    kinds = [row.label_kind for row in generated.rows] or ["pseudo"] * len(generated.images)
    labelled = {kind: _labelled(generated, kind, label_space) for kind in data.label_weights if kind != "pseudo"}
    for kind, dataset in labelled.items():
        if not dataset.items:
            raise DataError(
                f"{data.generated}: no image has {kind} labels, but data.generated_weight names them; leave them out"
            )
    pictures = [path for path, kind in zip(generated.images, kinds, strict=True) if kind not in labelled]
    return GeneratedImages(tuple(pictures), labelled)


def _labelled(generated: GeneratedSet, kind: str, label_space: LabelSpace) -> Dataset:
    """The images with this kind of label as a dataset."""
    pairs = [
        (row, Item(path.stem, path, generated.folder.resolve() / row.labels.file))
        for row, path in zip(generated.rows, generated.images, strict=False)  # a set without manifest has no rows
        if row.label_kind == kind and row.labels
    ]
    return Dataset(
        name=f"{generated.folder.name}:{kind}",
        spec=Spec("generated", generated.folder, kind),
        items=[item for _, item in pairs],
        label_space=label_space,
        encoding=_encoding(pairs[0][0] if pairs else None, label_space),
    )


def _encoding(row: Row | None, label_space: LabelSpace) -> LabelEncoding:
    """Train ids of the source's classes, or else of Cityscapes, as train ids of a label space, by class name."""
    classes = row.source["classes"] if row and row.source else CITYSCAPES.names
    train_ids = {name: train_id for train_id, name in enumerate(label_space.names)}
    codes = {code: train_ids.get(name, IGNORE_ID) for code, name in enumerate(classes)}
    codes[IGNORE_ID] = IGNORE_ID
    return LabelEncoding(name="trainIds", label_space=label_space, colored=False, codes=codes)


def _warn_of_seen(generated: GeneratedSet, evaluation: Sequence[str]) -> None:
    origins = [Path(row.origin["file"]) for row in generated.rows if row.origin and "file" in row.origin]
    for spec in evaluation:
        root = parse_spec(spec).path.absolute()
        seen = sum(root in path.parents for path in origins)
        if seen:
            warnings.warn(
                f"{generated.folder}: {seen} of {len(generated.images)} images are photographs of {root}, so "
                f"the scores on {spec} are not those of an unseen domain",
                SeenDomainWarning,
                stacklevel=2,
            )
