"""Pictures of examples: input, truth, predictions, and where they are wrong or changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool, UInt8

from clouds.core.contract.labels import IGNORE_ID
from clouds.evaluation import html
from clouds.evaluation.examples import Example

_WRONG, _FIXED, _BROKEN = (255, 176, 0), (86, 180, 233), (255, 110, 64)
_DIM = 0.35  # brightness of what is not marked
ERRORS = "Error maps show wrong pixels in yellow on the dimmed image; hatched pixels are not labelled."
CHANGES = (
    "Change maps show pixels that only the later one has right in plain blue, and pixels that only the first one has "
    "right in striped orange."
)


def error_map(
    image: UInt8[np.ndarray, "h w 3"], truth: UInt8[np.ndarray, "h w"], prediction: UInt8[np.ndarray, "h w"]
) -> html.Picture:
    """Wrong pixels in yellow on the dimmed image; unlabelled ones are hatched."""
    labelled = truth != IGNORE_ID
    wrong = labelled & (truth != prediction)
    pixels = _dimmed(image)
    pixels[wrong] = _WRONG
    pixels[~labelled & _stripes(truth.shape)] = 0
    words = f"{_percent(wrong, labelled)} of the labelled pixels are wrong"
    return html.Picture(pixels, words, lossless=True)


def change_map(
    image: UInt8[np.ndarray, "h w 3"],
    truth: UInt8[np.ndarray, "h w"],
    before: UInt8[np.ndarray, "h w"],
    after: UInt8[np.ndarray, "h w"],
) -> html.Picture:
    """Pixels that only `after` has right in plain blue, and those that only `before` has right in striped orange."""
    labelled = truth != IGNORE_ID
    fixed = labelled & (after == truth) & (before != truth)
    broken = labelled & (before == truth) & (after != truth)
    pixels = _dimmed(image)
    pixels[fixed] = _FIXED
    pixels[broken] = 0
    pixels[broken & _stripes(truth.shape)] = _BROKEN
    words = f"{_percent(fixed, labelled)} of the labelled pixels become right, {_percent(broken, labelled)} wrong"
    return html.Picture(pixels, words, lossless=True)


def error_pictures(examples: Iterable[Example]) -> html.Fragment:
    """Input, truth, prediction and error map of examples of one model."""
    rows: list[list[html.Picture]] = []
    for one in examples:
        ((model, labels),) = one.predictions.items()
        score = f"{html.number(one.scores[model])} % mIoU"
        rows.append(
            [
                html.Picture(one.image, f"{one.why}: {one.name}"),
                html.colorize(one.truth, one.label_space),
                html.colorize(labels, one.label_space, caption=score),
                error_map(one.image, one.truth, labels),
            ]
        )
    return html.picture_grid(["input", "truth", "prediction", "errors"], rows)


def change_pictures(examples: Sequence[Example]) -> html.Fragment:
    """Input, truth, every model's prediction, and the change from the first model to the last."""
    models = list(examples[0].predictions)
    rows: list[list[html.Picture]] = []
    for one in examples:
        maps = list(one.predictions.values())
        predicted = [
            html.colorize(labels, one.label_space, caption=f"{html.number(one.scores[model])} % mIoU")
            for model, labels in one.predictions.items()
        ]
        change = change_map(one.image, one.truth, maps[0], maps[-1])
        named = html.Picture(one.image, f"{one.why}: {one.name}")
        rows.append([named, html.colorize(one.truth, one.label_space), *predicted, change])
    return html.picture_grid(["input", "truth", *models, "change"], rows)


def _dimmed(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    grey = image.mean(axis=2, keepdims=True) * _DIM
    return np.repeat(grey, 3, axis=2).astype(np.uint8)


def _stripes(shape: Sequence[int]) -> Bool[np.ndarray, "h w"]:
    """Diagonal stripes, each an eightieth of the image wide or more, so that they are seen at the size of a page."""
    width = max(1, max(shape) // 80)
    return (np.add.outer(np.arange(shape[0]), np.arange(shape[1])) // width) % 2 == 0


def _percent(part: Bool[np.ndarray, "h w"], whole: Bool[np.ndarray, "h w"]) -> str:
    return f"{100 * np.count_nonzero(part) / max(1, np.count_nonzero(whole)):.1f} %"
