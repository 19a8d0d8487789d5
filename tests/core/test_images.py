from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clouds.core.errors import DataError
from clouds.core.images import read_image, write_png

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
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(DataError, match=r"text\.png: not a picture"):
        read_image(tmp_path / "text.png")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_truncated_file_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(DataError, match=rf"cut\.{suffix}: cannot be read .*truncated"):
        read_image(path)
