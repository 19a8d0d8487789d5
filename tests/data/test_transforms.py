import colorsys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from torch.nn import functional

from clouds import ConfigError
from clouds.data import transforms
from clouds.data.transforms import (
    Augmentation,
    Distortion,
    Geometry,
    augment,
    distort,
    draw_distortion,
    draw_geometry,
    generated_views,
    pad,
    resize_crop,
    resize_crop_label,
)

_side = st.integers(1, 40)
_seed = st.integers(0, 2**32)


def _pair(height: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(1, 256, (height, width, 3), np.uint8), rng.integers(0, 19, (height, width), np.uint8)


@given(height=_side, width=_side, crop=st.tuples(_side, _side), seed=_seed)
def test_views_have_the_size_of_the_crop_and_only_labels_that_were_there(
    height: int, width: int, crop: tuple[int, int], seed: int
) -> None:
    image, label = _pair(height, width, seed)
    kept = image.copy(), label.copy()
    view, target = augment(image, label, np.random.default_rng(seed), Augmentation(crop=crop))
    assert (view.shape, view.dtype, target.shape, target.dtype) == ((*crop, 3), np.uint8, crop, np.uint8)
    assert set(np.unique(target)) <= {*np.unique(label), 255}
    assert np.array_equal(image, kept[0])
    assert np.array_equal(label, kept[1])
    again = augment(image, label, np.random.default_rng(seed), Augmentation(crop=crop))
    assert np.array_equal(view, again[0])
    assert np.array_equal(target, again[1])


@given(height=_side, width=_side, crop=st.tuples(_side, _side), seed=_seed)
def test_crop_is_a_part_of_the_whole_resized_image(height: int, width: int, crop: tuple[int, int], seed: int) -> None:
    image, label = _pair(height, width, seed)
    geometry = draw_geometry(label.shape, np.random.default_rng(seed), Augmentation(crop=crop))
    rows, columns = (min(part, full) for part, full in zip(crop, geometry.size, strict=True))
    top, left = geometry.offset
    assert top + rows <= geometry.size[0]
    assert left + columns <= geometry.size[1]
    view = pad(resize_crop(image, geometry, crop, resample=Image.Resampling.BILINEAR), crop, 0)
    whole = np.asarray(Image.fromarray(image).resize(geometry.size[::-1], Image.Resampling.BILINEAR)).astype(int)
    # The filter's weights are rounded at other places: one level for each of the two passes.
    assert np.abs(view[:rows, :columns] - whole[top : top + rows, left : left + columns]).max() <= 2
    target = pad(resize_crop_label(label, geometry, Augmentation(crop=crop)), crop, 255)
    ys, xs = (
        _nearest(np.arange(start, start + count), old, new)
        for start, count, old, new in zip((top, left), (rows, columns), label.shape, geometry.size, strict=True)
    )
    assert np.any([target[:rows, :columns] == label[np.ix_(y, x)] for y in ys for x in xs], axis=0).all()
    for pixels, fill in ((view, 0), (target, 255)):
        assert np.all(pixels[rows:] == fill)
        assert np.all(pixels[:, columns:] == fill)


def _nearest(index: np.ndarray, old: int, new: int) -> list[np.ndarray]:
    """The pixels nearest to the centres of resized ones; two answers where a centre lies between two pixels."""
    centre = (index + 0.5) * old / new
    return [np.clip(np.floor(centre + shift), 0, old - 1).astype(int) for shift in (-1e-6, 1e-6)]


@given(height=_side, width=_side, crop=st.tuples(_side, _side), seed=_seed)
def test_published_labels_are_those_of_torchs_nearest(
    height: int, width: int, crop: tuple[int, int], seed: int
) -> None:
    _, label = _pair(height, width, seed)
    settings = Augmentation(crop=crop, label_resize="nearest")
    geometry = draw_geometry(label.shape, np.random.default_rng(seed), settings)
    whole = functional.interpolate(torch.from_numpy(label)[None, None].double(), geometry.size, mode="nearest")[0, 0]
    (top, left), part = geometry.offset, resize_crop_label(label, geometry, settings)
    assert np.array_equal(part, whole[top : top + crop[0], left : left + crop[1]])


def test_image_and_label_stay_together() -> None:
    label = np.random.default_rng(0).integers(0, 2, (30, 40), np.uint8)
    label = label.repeat(8, axis=0).repeat(8, axis=1)
    image = np.where(label[..., None] == 1, 250, 40).astype(np.uint8).repeat(3, axis=2)
    settings = Augmentation(crop=(100, 150), distortion=False)
    for seed in range(20):
        view, target = augment(image, label, np.random.default_rng(seed), settings)
        valid = target != 255
        # Bilinear mixing moves an edge by less than a pixel; blocks are at least 4 pixels wide.
        assert np.mean((view[..., 0] > 145)[valid] == (target == 1)[valid]) > 0.85
        assert np.all(view[~valid] == 0)


def test_offsets_are_independent_and_flips_are_even() -> None:
    settings = Augmentation(crop=(10, 10), scale=(1.0, 1.0))
    rng = np.random.default_rng(0)
    drawn = [draw_geometry((110, 110), rng, settings) for _ in range(4000)]
    offsets = np.array([geometry.offset for geometry in drawn])
    assert (offsets.min(), offsets.max()) == (0, 100)
    # Six standard deviations: 1 / sqrt(n) for a correlation, 1 / (2 sqrt(n)) for a share.
    assert abs(np.corrcoef(offsets.T)[0, 1]) < 6 / np.sqrt(4000)
    assert abs(np.mean([geometry.flip for geometry in drawn]) - 0.5) < 3 / np.sqrt(4000)


def test_published_crops_lie_on_the_diagonal() -> None:
    settings = Augmentation(crop=(10, 10), scale=(1.0, 1.0), crop_offsets="diagonal")
    rng = np.random.default_rng(0)
    offsets = np.array([draw_geometry((110, 60), rng, settings).offset for _ in range(1000)])
    assert offsets.min(0).tolist() == [0, 0]
    assert offsets.max(0).tolist() == [100, 50]
    assert np.abs(offsets[:, 0] - 2 * offsets[:, 1]).max() <= 1  # each is rounded: 0.5 + 2 x 0.5, and whole numbers


@pytest.mark.parametrize("distort_padding", [False, True])
def test_padding_is_distorted_only_when_asked(monkeypatch: pytest.MonkeyPatch, distort_padding: bool) -> None:
    monkeypatch.setattr(transforms, "draw_distortion", lambda rng: Distortion(brightness=20))
    settings = Augmentation(crop=(9, 9), scale=(1, 1), flip=False, distort_padding=distort_padding)
    image, rng = np.full((4, 6, 3), 100, np.uint8), np.random.default_rng(0)
    view, _ = augment(image, np.zeros((4, 6), np.uint8), rng, settings)
    clean, distorted = generated_views(image, rng, settings)
    assert np.all(clean == pad(image, (9, 9), 0))
    for changed in (view, distorted):
        assert np.all(changed == pad(image + np.uint8(20), (9, 9), 20 if distort_padding else 0))


def test_switches() -> None:
    image, label = _pair(12, 16, 3)
    settings = Augmentation(crop=(12, 16), scale=(1, 1), flip=False, distortion=False)
    for seed in range(10):
        view, target = augment(image, label, np.random.default_rng(seed), settings)
        assert np.array_equal(view, image)
        assert np.array_equal(target, label)
        clean, distorted = generated_views(image, np.random.default_rng(seed), settings)
        assert np.array_equal(clean, image)
        assert np.array_equal(distorted, image)


@given(height=_side, width=_side, crop=st.tuples(_side, _side), seed=_seed)
def test_generated_views(height: int, width: int, crop: tuple[int, int], seed: int) -> None:
    image, _ = _pair(height, width, seed)
    clean, distorted = generated_views(image, np.random.default_rng(seed), Augmentation(crop=crop))
    assert clean.shape == distorted.shape == (*crop, 3)
    rows, columns = min(crop[0], height), min(crop[1], width)
    part = clean[:rows, :columns]
    sources = [image, image[:, ::-1]]
    assert any(
        np.array_equal(part, source[top : top + rows, left : left + columns])
        for source in sources
        for top in range(height - rows + 1)
        for left in range(width - columns + 1)
    )
    assert not clean[rows:].any()
    assert not clean[:, columns:].any()


def test_views_differ_in_colours_alone() -> None:
    image = np.full((8, 8, 3), 120, np.uint8)
    image[2:5, 3:6] = (200, 30, 30)
    differing = 0
    for seed in range(20):
        clean, distorted = generated_views(image, np.random.default_rng(seed), Augmentation(crop=(8, 8)))
        red = (clean == (200, 30, 30)).all(axis=2)
        assert len(np.unique(distorted[red], axis=0)) == 1
        assert len(np.unique(distorted[~red], axis=0)) == 1
        differing += not np.array_equal(clean, distorted)
    assert differing >= 15, "each of four changes has probability 1/2: 15/16 of the views change"


@given(image=arrays(np.uint8, (4, 5, 3)))
def test_default_distortion_changes_nothing(image: np.ndarray) -> None:
    assert np.array_equal(distort(image, Distortion()), image)


@given(image=arrays(np.uint8, (4, 5, 3)), amount=st.floats(-32, 32), factor=st.floats(0.5, 1.5))
def test_brightness_and_contrast(image: np.ndarray, amount: float, factor: float) -> None:
    brighter = np.clip(image + amount, 0, 255).astype(np.uint8)
    assert np.array_equal(distort(image, Distortion(brightness=amount)), brighter)
    contrast = np.clip(brighter * factor, 0, 255).astype(np.uint8)
    for first in (True, False):
        made = distort(image, Distortion(brightness=amount, contrast=factor, contrast_first=first))
        assert np.array_equal(made, contrast)


@given(color=st.tuples(*[st.integers(0, 255)] * 3), saturation=st.floats(0.5, 1.5), hue=st.floats(-36, 36))
def test_saturation_and_hue_follow_hsv(color: tuple[int, int, int], saturation: float, hue: float) -> None:
    made = distort(np.array([[color]], np.uint8), Distortion(saturation=saturation, hue=hue))[0, 0].astype(float)
    h, s, v = colorsys.rgb_to_hsv(*(channel / 255 for channel in color))
    exact = np.array(colorsys.hsv_to_rgb((h + hue / 360) % 1, min(1, s * saturation), v)) * 255
    # With 256 steps of hue the truncated hue is off by up to 360/255 degrees, the rounded shift by 360/512 and the
    # circle of 256 instead of 255 steps by another 360/255 where it wraps: 3.6 degrees at 255/60 levels each, 15.
    # Saturation is truncated twice: 1.5/255 and 1/255 of at most 255 levels; the result once more.
    assert np.abs(made - exact).max() <= 15 + 2.5 + 1


def test_drawn_distortions_have_the_published_ranges() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_distortion(rng) for _ in range(4000)]
    for name, low, high, still in (
        ("brightness", -32, 32, 0),
        ("contrast", 0.5, 1.5, 1),
        ("saturation", 0.5, 1.5, 1),
        ("hue", -36, 36, 0),
    ):
        values = np.array([getattr(one, name) for one in drawn])
        assert low <= values.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < values.max() <= high
        assert abs(np.mean(values == still) - 0.5) < 3 / np.sqrt(4000)  # six standard deviations
    assert abs(np.mean([one.contrast_first for one in drawn]) - 0.5) < 3 / np.sqrt(4000)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop": (0, 4)}, r"crop=\(0, 4\) must be at least 1x1"),
        ({"crop": (4, 4), "scale": (0.0, 1.0)}, r"scale=\(0.0, 1.0\) must be a range"),
        ({"crop": (4, 4), "scale": (2.0, 1.0)}, "0 < low <= high"),
        ({"crop": (4, 4), "scale": (1.0, float("inf"))}, "0 < low <= high"),
    ],
)
def test_wrong_settings(settings: dict[str, tuple[float, float]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Augmentation(**settings)  # type: ignore[arg-type]


def test_geometry_of_one_pixel() -> None:
    settings = Augmentation(crop=(3, 3), scale=(0.1, 0.1))
    geometry = draw_geometry((1, 1, 3), np.random.default_rng(0), settings)
    assert (geometry.size, geometry.offset) == ((1, 1), (0, 0))
    assert isinstance(geometry, Geometry)
