"""Reading and writing pictures. Arrays are uint8, "h w 3", RGB; label maps are uint8 "h w"."""

from __future__ import annotations

import os
import warnings
from glob import glob, has_magic
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from clouds.core.errors import DataError
from clouds.core.files import atomic_file

_ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")


def open_image(path: str | os.PathLike[str]) -> Image.Image:
    """Open and decode a picture as stored, whatever its mode, turned upright as its EXIF tag says.

    Raises:
        DataError: the file is missing, no picture, or truncated.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # large pictures are predicted in windows
            with Image.open(path) as image:
                image.load()
                ImageOps.exif_transpose(image, in_place=True)
                return image
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except UnidentifiedImageError:
        raise DataError(f"{path}: not a picture that can be read") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot be read ({error}); the file may be truncated or damaged") from error


def to_rgb(image: Image.Image, *, name: str = "image") -> UInt8[np.ndarray, "h w 3"]:
    """Convert a PIL image to RGB: alpha is dropped, greyscale and palettes are expanded.

    Raises:
        DataError: more than 8 bits per channel, whose scaling nobody can guess.
    """
    if image.mode in _DEEP:
        raise DataError(f"{name}: has mode {image.mode} (more than 8 bits per channel); convert it to 8 bits first")
    if "transparency" in image.info:
        image = image.convert("RGBA")  # expands palette transparency, which a direct conversion warns about
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def read_image(path: str | os.PathLike[str]) -> UInt8[np.ndarray, "h w 3"]:
    """Read a picture as RGB. Raises `DataError` naming the file."""
    return to_rgb(open_image(path), name=str(path))


def find_pictures(place: str | os.PathLike[str]) -> list[Path]:
    """The pictures of a folder (not of folders in it) or of a glob pattern, sorted by path; or the one file itself.

    In a pattern `**` stands for any folders. Hidden files, whose names begin with a dot, are left out.

    Raises:
        DataError: there is nothing of this name, or it holds no picture.
    """
    path = Path(place)
    if path.is_file():
        return [path]
    if path.is_dir():
        found = [one for one in path.iterdir() if not one.name.startswith(".")]
    elif has_magic(str(place)):
        found = [Path(one) for one in glob(str(place), recursive=True)]
    else:
        raise DataError(f"{place}: no such file or folder")
    pictures = sorted(one for one in found if one.suffix.lower() in _ENDINGS and one.is_file())
    if not pictures:
        raise DataError(f"{place}: holds no picture; expected files that end in {', '.join(_ENDINGS)}")
    return pictures


def write_png(path: str | os.PathLike[str], pixels: UInt8[np.ndarray, "h w *c"]) -> None:
    """Write a PNG in one piece: RGB from "h w 3", one channel from "h w"."""
    with atomic_file(Path(path).with_suffix(".png")) as temporary:
        Image.fromarray(pixels).save(temporary)
