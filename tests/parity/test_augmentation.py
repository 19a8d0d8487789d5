"""Golden set 14: resizing, crops, padding, colours and flips, given the numbers that the published code drew."""

from typing import Any

import numpy as np
import pytest
from golden import load, read_json
from PIL import Image
from published_draws import assert_same_colours, replay, same_draws, to_distortion

from clouds.data import transforms
from clouds.data.transforms import Augmentation, Geometry, augment, distort, draw_geometry, resize_crop

PUBLISHED = Augmentation(crop=(48, 48), crop_offsets="diagonal", label_resize="nearest", distort_padding=True)
SOUND = Augmentation(crop=(48, 48))


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    return load("14_resize_aug")


@pytest.fixture(scope="module")
def cases() -> list[dict[str, Any]]:
    return read_json("14_resize_aug")["train_aug"]


def _view(
    arrays: dict[str, np.ndarray], case: dict[str, Any], settings: Augmentation, monkeypatch: pytest.MonkeyPatch
) -> tuple[np.ndarray, np.ndarray]:
    distortion = to_distortion(replay(case["random_seed"]))
    monkeypatch.setattr(transforms, "draw_distortion", lambda rng: distortion)
    return augment(arrays["aug_in_img"], arrays["aug_in_seg"], same_draws(case["np_seed"]), settings)


@pytest.mark.parametrize("name", ["up", "down"])
def test_resizing(arrays: dict[str, np.ndarray], name: str) -> None:
    for what, resample in (("img", Image.Resampling.BILINEAR), ("seg", Image.Resampling.NEAREST)):
        published, given = arrays[f"resize_{name}_{what}"], arrays[f"resize_in_{what}"]
        size = (published.shape[0], published.shape[1])
        made = resize_crop(given, Geometry(size=size, offset=(0, 0), flip=False), size, resample=resample)
        assert np.array_equal(made, published)


def test_colours(arrays: dict[str, np.ndarray]) -> None:
    for index, calls in enumerate(read_json("14_resize_aug")["color_draws"]):
        made = distort(arrays["aug_in_img"], to_distortion(call[-1] for call in calls))
        assert_same_colours(made, arrays[f"color{index}_img"])


def test_geometry(cases: list[dict[str, Any]]) -> None:
    for case in cases:
        resize, crop, _, _, flip = case["transforms"]
        published = Geometry(
            size=(resize["new_h"], resize["new_w"]),
            offset=(crop["y0"], crop["x0"]),
            flip=flip["type"] == "HFlipTransform",
        )
        assert draw_geometry((60, 90), same_draws(case["np_seed"]), PUBLISHED) == published


def test_published_views(
    arrays: dict[str, np.ndarray], cases: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for index, case in enumerate(cases):
        image, label = _view(arrays, case, PUBLISHED, monkeypatch)
        assert np.array_equal(label, arrays[f"aug{index}_seg"])
        assert_same_colours(image, arrays[f"aug{index}_img"])


def test_sound_views(
    arrays: dict[str, np.ndarray], cases: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default labels are read at pixel centres, where the image's are."""
    for index, case in enumerate(cases):
        geometry = draw_geometry((60, 90), same_draws(case["np_seed"]), SOUND)
        _, label = _view(arrays, case, SOUND, monkeypatch)
        rows, columns = (min(48, full - start) for full, start in zip(geometry.size, geometry.offset, strict=True))
        y, x = (
            (2 * np.arange(start, start + count) + 1) * old // (2 * new)
            for start, count, old, new in zip(geometry.offset, (rows, columns), (60, 90), geometry.size, strict=True)
        )
        order = slice(None, None, -1 if geometry.flip else 1)
        centres, made = arrays["aug_in_seg"][np.ix_(y, x)], label[:, order][:rows, :columns]
        # Where a centre lies between two pixels either may be taken: at most every other row or column does.
        assert np.mean(made == centres) > 0.9
        assert not np.array_equal(label, arrays[f"aug{index}_seg"])
