"""Formats of the files that `clouds predict` writes, each from one prediction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO

import numpy as np
from attrs import frozen
from jaxtyping import Bool, Integer
from PIL import Image

from clouds.core.contract.labels import CITYSCAPES, LabelSpace
from clouds.core.pipeline.prediction import Prediction
from clouds.core.system.config import to_json
from clouds.core.system.errors import ConfigError, did_you_mean
from clouds.evaluation.calibration import confidence

_LABEL_MAP = {"labels": ".png"}
_SEGMENT_ID = 256  # COCO panoptic: id = red + 256 green + 256^2 blue


@frozen
class Format:
    """A format of results.

    Attributes:
        files: ending of each file's name by what the file is.
        encode: the content of each file, by its ending, from a prediction and the name of its files.
        needs_masks: whether it needs the masks of one forward pass, and no averaged scores.
        picture: draws a prediction, uint8 "h w 3" or "h w"; None for files that are not to be looked at.
    """

    files: Mapping[str, str]
    encode: Callable[[Prediction, str], dict[str, bytes]]
    needs_masks: bool = False
    picture: Callable[[Prediction], np.ndarray] | None = None


def find_formats(names: Sequence[str]) -> tuple[Format, ...]:
    """The formats of these names.

    Raises:
        ConfigError: a name is unknown, or two formats write files of one name.
    """
    owners: dict[str, str] = {}
    for name in dict.fromkeys(names):
        if name not in FORMATS:
            raise ConfigError(f"unknown format {name!r}{did_you_mean(name, FORMATS)}")
        for ending in FORMATS[name].files.values():
            if ending in owners:
                raise ConfigError(f"formats {owners[ending]} and {name} both write NAME{ending}; choose one of them")
            owners[ending] = name
    return tuple(FORMATS[name] for name in dict.fromkeys(names))


def check_formats(names: Sequence[str], label_space: LabelSpace) -> None:
    """Refuse formats that cannot hold the classes of a label space.

    Raises:
        ConfigError: see `cityscapes_ids` and `own_ids`.
    """
    for name, table in (("cityscapes-ids", cityscapes_ids), ("ids", own_ids)):
        if name in names:
            table(label_space)


def cityscapes_ids(label_space: LabelSpace) -> Integer[np.ndarray, " 256"]:
    """Cityscapes id of each train id (Cordts et al., CVPR 2016); values without a class become 0, "unlabeled".

    Raises:
        ConfigError: a class is not one of Cityscapes'.
    """
    strange = [name for name in label_space.names if name not in CITYSCAPES.names]
    if strange:
        raise ConfigError(
            f"--format cityscapes-ids: label space {label_space.name!r} has {strange[0]!r}, which is not a class of "
            "Cityscapes; --format ids writes the label space's own ids"
        )
    table = np.zeros(256, np.uint8)
    table[: len(label_space)] = [CITYSCAPES.ids[CITYSCAPES.index(name)] for name in label_space.names]
    return table


def own_ids(label_space: LabelSpace) -> Integer[np.ndarray, " 256"]:
    """The label space's own id of each train id, uint8 or, if ids are above 255, uint16; without a class 0.

    Raises:
        ConfigError: an id is not in 0..65535.
    """
    wrong = [one for one in label_space.ids if not 0 <= one < 2**16]
    if wrong:
        raise ConfigError(
            f"--format ids: label space {label_space.name!r} has id {wrong[0]}; a PNG holds 0..65535: use train-ids"
        )
    table = np.zeros(256, np.uint8 if max(label_space.ids) < 256 else np.uint16)
    table[: len(label_space)] = label_space.ids
    return table


def run_lengths(mask: Bool[np.ndarray, "h w"]) -> list[int]:
    """COCO's uncompressed run-length code: column by column, lengths of runs of 0 and 1 in turn, 0 first.

    >>> run_lengths(np.array([[True, False], [True, True]]))
    [0, 2, 1, 1]
    """
    pixels = mask.ravel(order="F")
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    lengths = np.diff(np.concatenate([[0], changes, [pixels.size]])).tolist()
    return [0, *lengths] if pixels[0] else lengths


def _png(pixels: np.ndarray) -> bytes:
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def _json(document: object) -> bytes:
    return to_json(document).encode() + b"\n"


def _scores(found: Prediction, _: str) -> dict[str, bytes]:
    stream = BytesIO()
    np.save(stream, found.scores().astype(np.float16), allow_pickle=False)
    return {"_scores.npy": stream.getvalue()}


def _panoptic(found: Prediction, name: str) -> dict[str, bytes]:
    """An image of segment ids and its annotation, as in COCO panoptic (Kirillov et al., CVPR 2019)."""
    panoptic = found.panoptic()
    ids = panoptic.segments
    picture = np.stack([ids % _SEGMENT_ID, ids // _SEGMENT_ID % _SEGMENT_ID, ids // _SEGMENT_ID**2], -1)
    segments = [
        {
            "id": one.id,
            "category_id": one.label,
            "category": found.label_space.names[one.label],
            "isthing": int(one.is_thing),
            "iscrowd": 0,
            "area": one.area,
            "bbox": _box(ids == one.id),
            "score": round(one.score, 4),
        }
        for one in panoptic.infos
    ]
    document = {"image_id": name, "file_name": f"{name}_panoptic.png", "segments_info": segments}
    return {"_panoptic.png": _png(picture.astype(np.uint8)), "_panoptic.json": _json(document)}


def _instances(found: Prediction, name: str) -> dict[str, bytes]:
    """Instances as COCO results with uncompressed run-length codes."""
    instances = found.instances()
    rows = [
        {
            "image_id": name,
            "category_id": label,
            "category": found.label_space.names[label],
            "score": round(score, 4),
            "bbox": _box(mask),
            "segmentation": {"size": list(mask.shape), "counts": run_lengths(mask)},
        }
        for label, score, mask in zip(
            instances.labels.tolist(), instances.scores.tolist(), instances.masks, strict=True
        )
    ]
    return {"_instances.json": _json(rows)}


def _box(mask: Bool[np.ndarray, "h w"]) -> list[int]:
    """[left, top, width, height] of a mask with at least one pixel."""
    (top, *_), (left, *_) = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    bottom, right = (int(np.flatnonzero(mask.any(axis))[-1]) for axis in (1, 0))
    return [int(left), int(top), right - int(left) + 1, bottom - int(top) + 1]


def _drawn(kind: str, picture: Callable[[Prediction], np.ndarray]) -> Format:
    ending = f"_{kind}.png"
    return Format({kind: ending}, lambda found, _: {ending: _png(picture(found))}, picture=picture)


FORMATS: dict[str, Format] = {
    "train-ids": Format(_LABEL_MAP, lambda found, _: {".png": _png(found.labels)}),
    "ids": Format(_LABEL_MAP, lambda found, _: {".png": _png(own_ids(found.label_space)[found.labels])}),
    "cityscapes-ids": Format(
        _LABEL_MAP, lambda found, _: {".png": _png(cityscapes_ids(found.label_space)[found.labels])}
    ),
    "color": _drawn("color", lambda found: found.label_space.color_table()[found.labels]),
    "overlay": _drawn("overlay", lambda found: np.asarray(found.overlay())),
    "confidence": _drawn("confidence", lambda found: (confidence(found.scores()) * 255).round().astype(np.uint8)),
    "scores": Format({"scores": "_scores.npy"}, _scores),
    "panoptic": Format({"panoptic": "_panoptic.png", "segments": "_panoptic.json"}, _panoptic, needs_masks=True),
    "instances": Format({"instances": "_instances.json"}, _instances, needs_masks=True),
}
