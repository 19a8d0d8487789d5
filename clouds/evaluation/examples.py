"""Images that show what a score means: the worst, median and best of a domain, or those that changed most."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from attrs import frozen
from jaxtyping import UInt8
from PIL import Image

from clouds.core.contract.labels import LabelSpace

_PER_GROUP = 2
_LONG_SIDE = 1024  # pixels of a picture on a page


@frozen(eq=False, kw_only=True)
class Example:
    """An image with its label map and predictions, at most 1024 pixels wide and high.

    Attributes:
        name: name of the image in its dataset.
        why: why it was chosen: "worst", "median", "best", or how much it changed.
        image: RGB.
        truth: train ids; 255 is not labelled.
        predictions: train ids by name of the model.
        scores: mIoU of the image in percent by name of the model; None without a labelled pixel.
        label_space: classes of the train ids.
    """

    name: str
    why: str
    image: UInt8[np.ndarray, "h w 3"]
    truth: UInt8[np.ndarray, "h w"]
    predictions: dict[str, UInt8[np.ndarray, "h w"]]
    scores: dict[str, float | None]
    label_space: LabelSpace

    @classmethod
    def of(
        cls,
        image: UInt8[np.ndarray, "h w 3"],
        truth: UInt8[np.ndarray, "h w"],
        predictions: Mapping[str, UInt8[np.ndarray, "h w"]],
        *,
        name: str,
        why: str,
        scores: Mapping[str, float | None],
        label_space: LabelSpace,
    ) -> Example:
        """Shrink the pictures."""
        return cls(
            name=name,
            why=why,
            image=_shrink(image, Image.Resampling.BOX),
            truth=_shrink(truth, Image.Resampling.NEAREST),
            predictions={model: _shrink(one, Image.Resampling.NEAREST) for model, one in predictions.items()},
            scores=dict(scores),
            label_space=label_space,
        )


Examples = dict[str, tuple[Example, ...]]  # by domain name
PerImage = Mapping[str, float | None]  # mIoU in percent by name of the image


def ranked(scores: PerImage, *, count: int = _PER_GROUP) -> list[tuple[int, str]]:
    """The worst, median and best images by their scores, each once: (index, why), from worst to best.

    Args:
        scores: mIoU of each image, in the order of its dataset; images with None are left out.
        count: images of each group at most; a group has fewer if there are not enough images.
    """
    order = sorted((score, index) for index, score in enumerate(scores.values()) if score is not None)
    first = max(0, (len(order) - count) // 2)  # of the median ones
    groups = {
        "worst": range(count),
        "best": range(len(order) - count, len(order)),
        "median": range(first, first + count),
    }
    chosen: dict[int, str] = {}
    for why, places in groups.items():
        chosen |= {place: why for place in places if 0 <= place < len(order) and place not in chosen}
    return [(order[place][1], why) for place, why in sorted(chosen.items())]


def most_changed(before: PerImage, after: PerImage, *, count: int = 2 * _PER_GROUP) -> list[tuple[int, str]]:
    """The images whose scores differ most: (index, difference in points), the largest difference first."""
    changes = [
        (two - one, index)
        for index, (name, one) in enumerate(before.items())
        if (two := after[name]) is not None
        if one is not None and one != two
    ]
    changes.sort(key=lambda change: (-abs(change[0]), change[1]))
    return [(index, f"{change:+z.1f} points") for change, index in changes[:count]]


def _shrink(pixels: UInt8[np.ndarray, "h w *c"], resample: Image.Resampling) -> UInt8[np.ndarray, "hs ws *c"]:
    """At most `_LONG_SIDE` pixels on the long side."""
    factor = _LONG_SIDE / max(pixels.shape[:2])
    if factor >= 1:
        return pixels
    height, width = (max(1, round(factor * side)) for side in pixels.shape[:2])
    return np.array(Image.fromarray(pixels).resize((width, height), resample))
