"""Reading and writing pictures. Arrays are uint8, "h w 3", RGB; label maps are uint8 "h w"."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from clouds.core.errors import DataError
from clouds.core.files import atomic_file

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


def write_png(path: str | os.PathLike[str], pixels: UInt8[np.ndarray, "h w *c"]) -> None:
    """Write a PNG in one piece: RGB from "h w 3", one channel from "h w"."""
    with atomic_file(Path(path).with_suffix(".png")) as temporary:
        Image.fromarray(pixels).save(temporary)
