import io
import math
import os
import struct
import tracemalloc
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clouds.core.system.errors import DataError
from clouds.core.system.images import (
    EXTENSIONS,
    MAX_PIXELS,
    read_image,
    short_side_size,
    to_rgb,
    upright_size,
    write_png,
)

PIXELS = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)


def test_png_round_trip(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", PIXELS)
    assert (read_image(tmp_path / "a.png") == PIXELS).all()
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "L", "P", "1", "CMYK"])
def test_other_modes_are_read_as_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.fromarray(PIXELS).convert(mode).save(path)
    assert read_image(path).shape == (4, 5, 3)


def test_alpha_is_dropped(tmp_path: Path) -> None:
    transparent = np.concatenate((PIXELS, np.zeros((4, 5, 1), np.uint8)), axis=2)
    Image.fromarray(transparent).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png") == PIXELS).all()


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=exif)
    assert read_image(tmp_path / "a.png").shape == (5, 4, 3)


def test_sixteen_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 5), 40000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match=r"deep\.png: has mode I;16 .* convert it to 8 bits"):
        read_image(tmp_path / "deep.png")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.png: no such file"):
        read_image(tmp_path / "nothing.png")


def test_a_text_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture", encoding="utf-8")
    with pytest.raises(DataError, match=r"text\.png: not a picture"):
        read_image(tmp_path / "text.png")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_truncated_file_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(DataError, match=rf"cut\.{suffix}: cannot be read .*truncated"):
        read_image(path)


@pytest.mark.parametrize("suffix", EXTENSIONS)
def test_each_format_that_we_mean_is_read_by_every_door(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    smooth = np.add.outer(np.arange(32), np.arange(48))[..., None] + np.array([0, 60, 120])
    Image.fromarray(smooth.astype(np.uint8)).save(path)
    pixels = read_image(path)
    with Image.open(path) as opened:
        assert np.array_equal(to_rgb(opened), pixels)
    assert np.abs(pixels.astype(int) - smooth).max() <= (0 if suffix in (".png", ".tif", ".tiff", ".bmp") else 16)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "L", "P", "PA", "1", "CMYK", "YCbCr", "HSV", "LAB"])
def test_an_image_in_memory_is_read_as_its_file_is(tmp_path: Path, mode: str) -> None:
    image = Image.new(mode, (3, 2)) if mode in ("LAB", "HSV") else Image.fromarray(PIXELS).convert(mode)
    if mode == "PA":
        image = Image.fromarray(PIXELS).convert("RGBA").convert("PA")
    assert to_rgb(image).shape == (image.height, image.width, 3)
    if mode in ("RGB", "RGBA", "LA", "L", "P", "1"):
        image.save(tmp_path / "a.png")
        assert np.array_equal(to_rgb(image), read_image(tmp_path / "a.png"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_files_and_images_are_turned_upright_alike(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.zeros((16, 32, 3), np.uint8)
    stored[:8, :16] = 255  # the corner that the tag moves
    path = tmp_path / f"a{suffix}"
    Image.fromarray(stored).save(path, exif=exif)
    flips = {2: (1,), 3: (0, 1), 4: (0,), 5: (), 6: (1,), 7: (0, 1), 8: (0,)}.get(orientation, ())
    wanted = np.flip(stored.swapaxes(0, 1) if orientation >= 5 else stored, flips) > 127
    with Image.open(path) as opened:
        assert np.array_equal(to_rgb(opened) > 127, wanted)
    assert np.array_equal(read_image(path) > 127, wanted)
    assert upright_size(path) == wanted.shape[:2]


def test_strips_of_a_picture_are_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (37, 11, 4), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    monkeypatch.setattr("clouds.core.system.images._STRIP", 40)
    assert np.array_equal(read_image(tmp_path / "a.png"), pixels[..., :3])


@pytest.mark.parametrize("name", ["x.png", "x.jpg"])
def test_postscript_is_not_handed_to_an_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    interpreter = tmp_path / "bin" / "gs"
    interpreter.parent.mkdir()
    interpreter.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n", encoding="utf-8")
    interpreter.chmod(0o755)
    monkeypatch.setenv("PATH", str(interpreter.parent), prepend=":")
    path = tmp_path / name
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(DataError, match=rf"{name}: not a picture that can be read; expected PNG or JPEG"):
        read_image(path)
    with Image.open(path) as opened, pytest.raises(DataError, match=r"image: is opened from .* format EPS; expected"):
        to_rgb(opened)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("form", ["GIF", "PPM", "TGA", "ICO", "DDS", "JPEG2000", "PCX", "SGI", "AVIF"])
def test_other_formats_are_refused_under_any_name(tmp_path: Path, form: str) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(path, format=form)
    with pytest.raises(DataError, match=r"a\.png: not a picture that can be read"):
        read_image(path)


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match=r"pipe\.png: is no regular file; expected a picture"):
        read_image(tmp_path / "pipe.png")
    with pytest.raises(DataError, match=r": is a folder; expected a picture"):
        read_image(tmp_path)
    with pytest.raises(DataError, match=r"cannot be read .*null"):
        read_image("a\0b")


def test_a_picture_with_too_many_pixels_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    side = math.isqrt(MAX_PIXELS) + 1
    rows = zlib.compress(bytes(1 + -(-side // 8)) * side, 9)
    path = write_png_chunks(tmp_path / "bomb.png", (side, side, 1, 0), rows)
    assert path.stat().st_size < 30_000
    tracemalloc.start()
    with pytest.raises(DataError, match=rf"bomb\.png: has {side} x {side} pixels .* max_pixels={side**2} "):
        read_image(path)
    with (
        pytest.warns(Image.DecompressionBombWarning),
        Image.open(path) as opened,
        pytest.raises(DataError, match=f"image: has {side} x {side} pixels"),
    ):
        to_rgb(opened)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_the_limit_is_an_option(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", PIXELS)
    with pytest.raises(DataError, match=r"a\.png: has 4 x 5 pixels .* more than 19; .* --max-pixels"):
        read_image(tmp_path / "a.png", max_pixels=19)
    assert read_image(tmp_path / "a.png", max_pixels=20).shape == (4, 5, 3)


def test_the_limit_can_be_above_that_of_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
    write_png(tmp_path / "a.png", PIXELS)
    assert np.array_equal(read_image(tmp_path / "a.png", max_pixels=1000), PIXELS)


def test_an_image_without_pixels() -> None:
    with pytest.raises(DataError, match="image: has no pixel, but 5 x 0"):
        to_rgb(Image.new("RGB", (0, 5)))


def test_an_image_that_is_decoded_late_and_is_damaged(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(stream, "JPEG")
    with (
        Image.open(io.BytesIO(stream.getvalue()[:1500])) as opened,
        pytest.raises(DataError, match=r"image: cannot be read .*truncated"),
    ):
        to_rgb(opened)


@pytest.mark.parametrize("suffix", EXTENSIONS)
@given(data=st.data())
def test_damaged_files_are_read_or_named(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp()
    whole, path = folder / f"whole{suffix}", folder / f"damaged{suffix}"
    Image.fromarray(PIXELS.repeat(4, 0)).save(whole)
    content = bytearray(whole.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with suppress(DataError):
        assert read_image(path).shape[2] == 3


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 2048))
def test_the_short_side_is_exact_and_the_long_one_rounded_half_up(height: int, width: int, side: int) -> None:
    size = short_side_size(height, width, side, max_pixels=3000 * 2048**2)
    assert min(size) == side
    # half a pixel of rounding, and that of the division in float64, below 1e-9 for sides up to 3000 * 2048
    assert abs(max(size) - max(height, width) * side / min(height, width)) <= 0.5 + 1e-9


def test_half_a_pixel_goes_up() -> None:
    assert short_side_size(2048, 4097, 1024) == (1024, 2049)
    assert short_side_size(4097, 2048, 1024) == (2049, 1024)


def write_png_chunks(path: Path, header: tuple[int, int, int, int], rows: bytes) -> Path:
    """A PNG of (width, height, bit depth, colour type) whose rows are compressed already."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", *header, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b""))
    parts = [struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path
