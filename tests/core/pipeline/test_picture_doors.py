"""The same picture as a path, an open image, an array and a tensor: one array of pixels, or one error."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import clouds
from clouds import DataError
from clouds.core.pipeline.prediction import InputImage, to_pixels

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1"])
def test_every_door_gives_the_same_pixels(tmp_path: Path, mode: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.png"
    Image.fromarray(PIXELS).convert(mode).save(path, exif=exif)
    pixels = to_pixels(path)
    assert pixels.shape == ((9, 6, 3) if orientation >= 5 else (6, 9, 3))
    with Image.open(path) as opened:
        forms = [str(path), opened, pixels, pixels[::-1][::-1], torch.tensor(pixels).permute(2, 0, 1)]
        assert all(np.array_equal(to_pixels(form), pixels) for form in forms)


def test_deep_pictures_are_refused_by_every_door(tmp_path: Path) -> None:
    deep = np.full((4, 5), 40000, np.uint16)
    Image.fromarray(deep).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as opened:
        for form in (tmp_path / "a.png", opened, Image.fromarray(deep)):
            with pytest.raises(DataError, match=r"has mode I;16.* \(more than 8 bits per channel\)"):
                to_pixels(form)
    with pytest.raises(DataError, match=r"expected a non-empty uint8 array .*, got uint16 of shape \(4, 5, 3\)"):
        to_pixels(np.stack([deep] * 3, axis=-1))


def test_truncated_pictures_are_refused_by_every_door(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(PIXELS.repeat(20, 0)).save(stream, "JPEG")
    (tmp_path / "a.jpg").write_bytes(stream.getvalue()[:-200])
    with pytest.raises(DataError, match=r"a\.jpg: cannot be read .*truncated"):
        to_pixels(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as opened, pytest.raises(DataError, match=r"image: cannot be read .*truncated"):
        to_pixels(opened)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"a.png", "expected a path, a PIL image, an array or a tensor; got bytes"),
        (None, "got NoneType"),
        ([[1, 2], [3]], "got list"),
        (np.zeros((4, 4), np.uint8), r"uint8 array h x w x 3, got uint8 of shape \(4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), "non-empty"),
        (torch.zeros(3, 4, 4), r"uint8 tensor of shape 3 x h x w, got float32 of shape \(3, 4, 4\)"),
        (torch.zeros(3, 4, 4, dtype=torch.bfloat16), "got bfloat16"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8, device="meta"), "expected a dense tensor with values; .* device meta"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8).to_sparse(), "expected a dense tensor with values; .*sparse"),
    ],
)
def test_other_forms_are_named(unchecked_types: None, image: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        to_pixels(image)


@pytest.mark.parametrize("value", [float("nan"), 0.5, "5", 0, -5])
@pytest.mark.parametrize("name", ["short_side", "window"])
def test_sizes_are_whole_numbers(unchecked_types: None, name: str, value: Any) -> None:
    tiny = {"name": "tiny", "dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
    pipeline = clouds.compose(backbone=tiny, head={"name": "linear", "width": 8}, device="cpu")
    pipeline.trained = True
    with pytest.raises(DataError, match=rf"{name} is {value!r}; expected at least 1 pixel, a whole number"):
        pipeline.predict(PIXELS, **{name: value})


def test_a_short_side_that_makes_a_picture_too_large_is_refused() -> None:
    line = np.zeros((1, 5000, 3), np.uint8)
    with pytest.raises(DataError, match=r"image: 1 x 5000 pixels .* side of 200 become 200 x 1000000, more than"):
        InputImage.read(line, short_side=200)
    assert InputImage.read(line, short_side=2).resized.shape == (2, 10000, 3)
    with pytest.raises(DataError, match=r"more than 19999; choose .*: max_pixels=20000 \(predict, "):
        InputImage.read(line, short_side=2, max_pixels=19999)


def test_the_long_side_is_rounded_as_in_evaluate() -> None:
    assert InputImage.read(np.zeros((64, 129, 3), np.uint8), short_side=32).resized.shape == (32, 65, 3)
