"""A filter that compares inherited labels with what a segmenter sees in the new image."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import cast, final

import numpy as np
from jaxtyping import UInt8
from scipy import ndimage

from clouds.core.contract.labels import IGNORE_ID, LabelSpace
from clouds.core.contract.records import GeneratedImage
from clouds.core.pipeline.composer import load
from clouds.core.pipeline.pipeline import Pipeline
from clouds.core.system.errors import ConfigError
from clouds.synthesis.filters import Filter, Verdict
from clouds.synthesis.provenance import checkpoint_hashes

_NEIGHBOURS = np.ones((3, 3), np.uint8)  # diagonal neighbours are connected, so that thin poles are one region


@final
class ConsistencyFilter(Filter):
    """Drops regions of inherited labels that the image does not show, and rejects images of which too little is left.

    A region is a connected set of pixels of one class. Its agreement is the share of its pixels in which a segmenter
    sees this class; a region below `agreement` becomes 255 (ignore). The score of the image is the share of its
    labelled pixels that are kept, 0 if there are none.

    Args:
        segmenter: a trained pipeline that knows the classes of the labels; it may know more.
        least: minimum score of an image, 0..1.
        agreement: minimum agreement of a region, 0..1.
        name: name of the segmenter, part of the filter's name, which also has the agreement: a later run reuses
            rejections of filters with the same name and minimum score.
    """

    def __init__(
        self, segmenter: Pipeline, least: float = 0.5, *, agreement: float = 0.5, name: str = "pipeline"
    ) -> None:
        for what, value in (("minimum score", least), ("agreement", agreement)):
            if not 0 <= value <= 1:
                raise ConfigError(f"filter consistency: the {what} is {value}; expected 0..1")
        self.name, self.least = f"consistency:{agreement:g}:{name}", float(least)
        self.segmenter, self.agreement = segmenter, agreement

    def score(self, image: GeneratedImage) -> float:
        return self.check(image).score

    def check(self, image: GeneratedImage) -> Verdict:
        source = image.request.source
        if image.labels is None or source is None or image.label_kind != "inherited":
            raise ConfigError(
                "filter consistency compares inherited labels with images, and this generator returns none; omit it"
            )
        seen = self.segmenter.predict(image.image).labels
        same = image.labels == _train_ids(source.label_space, self.segmenter.labels)[seen]
        regions = connected_regions(image.labels)
        # Share of agreeing pixels "n", with region 0 for pixels without a label
        sizes, agreeing = np.bincount(regions.ravel()), np.bincount(regions.ravel(), weights=same.ravel())
        dropped = agreeing < self.agreement * sizes
        dropped[0] = False
        labelled = sizes[1:].sum()
        return Verdict(
            score=1 - sizes[dropped].sum() / labelled if labelled else 0.0,
            labels=np.where(dropped[regions], np.uint8(IGNORE_ID), image.labels),
            regions={"labelled": len(sizes) - 1, "dropped": int(dropped.sum())},
        )


def load_consistency_filter(
    segmenter: Path, *, least: float = 0.5, agreement: float = 0.5, device: str = "auto"
) -> ConsistencyFilter:
    """The filter with a saved pipeline, which its name identifies by the hashes of its files.

    Raises as `clouds.load`.
    """
    pipeline = load(segmenter, device=device)
    hashes = json.dumps(checkpoint_hashes(segmenter), sort_keys=True)
    return ConsistencyFilter(pipeline, least, agreement=agreement, name=sha256(hashes.encode()).hexdigest()[:8])


def connected_regions(labels: UInt8[np.ndarray, "h w"]) -> np.ndarray:
    """Number of each pixel's connected region of one class, int "h w": 1, 2, ..., and 0 for ignored pixels."""
    regions, count = np.zeros(labels.shape, np.int64), 0
    for train_id in np.unique(labels[labels != IGNORE_ID]):
        inside = labels == train_id
        found, _ = cast("tuple[np.ndarray, int]", ndimage.label(inside, structure=_NEIGHBOURS))
        regions[inside] = found[inside] + count
        count = int(regions.max())
    return regions


def _train_ids(of: LabelSpace, known: LabelSpace) -> UInt8[np.ndarray, " 256"]:
    """Train id in `of` of each train id in `known`, by class name; 255 for other classes."""
    lacking = [name for name in of.names if name not in known.names]
    if lacking:
        raise ConfigError(
            f"filter consistency: the segmenter does not know {', '.join(map(repr, lacking))} of the labels; give one "
            f"that was trained with the classes of {of.name!r}"
        )
    table = np.full(256, IGNORE_ID, np.uint8)
    for train_id, name in enumerate(of.names):
        table[known.names.index(name)] = train_id
    return table
