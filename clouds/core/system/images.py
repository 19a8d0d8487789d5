"""Reading and writing of images. Arrays are uint8, "h w 3", RGB; label maps are uint8 "h w"."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from glob import glob, has_magic
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps

from clouds.core.system.errors import CloudsError, DataError, LeftOutWarning
from clouds.core.system.files import atomic_file

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")  # Pillow's names; its other decoders are never used
MAX_PIXELS = 2**27  # 134 million, above 10,000 x 10,000 and 108-megapixel cameras
_OPENED_AS = (*FORMATS, "MPO", None)  # MPO: a JPEG with further images appended; None: created in memory
_DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
_SHOWN = 5  # file names listed in one message
_STRIP = 2**22  # pixels converted at a time, to limit the memory


@contextmanager
def opened(
    path: str | os.PathLike[str], *, formats: Sequence[str] = FORMATS, max_pixels: int = MAX_PIXELS
) -> Generator[Image.Image]:
    """Yield an image after reading its header only. Decoder errors within the block become a `DataError`.

    Args:
        path: a regular file; its format is detected from the content.
        formats: allowed formats, from `FORMATS`.
        max_pixels: images with more pixels are refused before decoding.

    Raises:
        DataError: the file is missing, not regular, of another format, too large, or damaged; the message names it.
    """
    with _decoding(str(path)):
        if not stat.S_ISREG(os.stat(path).st_mode):
            kind = "a folder" if os.path.isdir(path) else "no regular file"
            raise DataError(f"{path}: is {kind}; expected a picture")
        with open(path, "rb") as stream, _identify(stream, str(path), formats) as image:
            _check_size(image, str(path), max_pixels)
            yield image


def open_image(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open and decode an image in its stored mode, rotated upright according to its EXIF tag.

    Raises:
        DataError: see `opened`.
    """
    with opened(path, max_pixels=max_pixels) as image:
        image.load()
        return upright(image)


def upright(image: Image.Image) -> Image.Image:
    """Rotate an image according to its EXIF tag; upright images are returned unchanged."""
    return image if _orientation(image) == 1 else ImageOps.exif_transpose(image)


def upright_size(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(height, width) of the upright image, from its header. Raises `DataError`, see `opened`."""
    with opened(path, max_pixels=max_pixels) as image:
        swapped = _orientation(image) >= 5
        return (image.width, image.height) if swapped else (image.height, image.width)


def to_rgb(image: Image.Image, *, name: str = "image", max_pixels: int = MAX_PIXELS) -> UInt8[np.ndarray, "h w 3"]:
    """Convert a PIL image to RGB with the same result as reading its file.

    The image is decoded and rotated upright (EXIF); alpha is dropped, greyscale and palettes are expanded. The given
    image is not changed.

    Raises:
        DataError: the image's file is damaged or not in `FORMATS`; or the image has no pixels, more than `max_pixels`,
            or more than 8 bits per channel, whose scaling is unknown.
    """
    if image.format not in _OPENED_AS:
        raise DataError(
            f"{name}: is opened from a file of format {image.format}; expected {', '.join(FORMATS)}, or an image that "
            "was made in memory, such as image.convert('RGB')"
        )
    with _decoding(name):
        _check_size(image, name, max_pixels)
        image.load()
        return _convert(upright(image), name)


def read_image(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> UInt8[np.ndarray, "h w 3"]:
    """Read an image as RGB. Raises a `DataError` that names the file."""
    return to_rgb(open_image(path, max_pixels=max_pixels), name=str(path), max_pixels=max_pixels)


def short_side_size(
    height: int, width: int, side: int, *, name: str = "image", max_pixels: int = MAX_PIXELS
) -> tuple[int, int]:
    """(height, width) with short side `side` and the same aspect ratio, rounded half up as published.

    >>> short_side_size(1052, 1914, 1024)
    (1024, 1863)

    Raises:
        DataError: the result exceeds `max_pixels` (long, narrow images); the message names the image.
    """
    scale = side / min(height, width)
    size = (side, int(width * scale + 0.5)) if height < width else (int(height * scale + 0.5), side)
    if size[0] * size[1] > max_pixels:
        raise DataError(
            f"{name}: {height} x {width} pixels (height x width) with a short side of {side} become {size[0]} x "
            f"{size[1]}, more than {max_pixels}; choose a smaller short side, or protocol native, or allow for it: "
            f"max_pixels={size[0] * size[1]} (predict, dataset.toml), --max-pixels"
        )
    return size


def window_starts(length: int, side: int, stride: int) -> list[int]:
    """First pixels of the windows along an axis: multiples of the stride; the last window ends at the border.

    >>> window_starts(1024, 512, 341)
    [0, 341, 512]
    """
    count = -(-max(length - side, 0) // stride) + 1
    return [min(index * stride, max(length - side, 0)) for index in range(count)]


def find_pictures(place: str | os.PathLike[str]) -> list[Path]:
    """Image files of a folder (not recursive) or glob pattern, sorted by path; a file gives itself.

    In a pattern, `**` matches any folders. Hidden files, whose names begin with a dot, are skipped; a `LeftOutWarning`
    lists other files that are not images.

    Raises:
        DataError: nothing has this name, or it holds no image.
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
    pictures = sorted(one for one in found if one.suffix.lower() in EXTENSIONS and one.is_file())
    if not pictures:
        raise DataError(f"{place}: holds no picture; expected files that end in {', '.join(EXTENSIONS)}")
    if others := sorted(one for one in {*found} - {*pictures} if not one.is_dir()):
        warnings.warn(left_out(place, others), LeftOutWarning, stacklevel=2)
    return pictures


def left_out(place: object, others: Sequence[Path], endings: Sequence[str] = EXTENSIONS) -> str:
    """Message about files that are not images: their number, and the names of some."""
    return f"{place}: {counted(others)}: not read; pictures are files that end in {', '.join(endings)}"


def counted(paths: Sequence[Path]) -> str:
    """The number of files, and the names of some.

    >>> counted([Path("docs/notes.txt")])
    '1 file (notes.txt)'
    """
    names = ", ".join(path.name for path in paths[:_SHOWN])
    return f"{len(paths)} file{'' if len(paths) == 1 else 's'} ({names}{', ...' if len(paths) > _SHOWN else ''})"


def write_png(path: str | os.PathLike[str], pixels: UInt8[np.ndarray, "h w *c"]) -> None:
    """Write a PNG atomically: RGB from "h w 3", one channel from "h w"."""
    with atomic_file(Path(path).with_suffix(".png")) as temporary:
        Image.fromarray(pixels).save(temporary)


@contextmanager
def _decoding(name: str) -> Generator[None]:
    """Convert whatever decoders raise for a damaged file to a `DataError` that names the file."""
    try:
        yield
    except CloudsError:
        raise
    except FileNotFoundError:
        raise DataError(f"{name}: no such file") from None
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise DataError(f"{name}: cannot be read ({reason}); the file may be truncated or damaged") from error


def _identify(stream: BinaryIO, name: str, formats: Sequence[str]) -> Image.Image:
    """Like `Image.open(stream, formats=formats)`, but without Pillow's pixel limit, which is a global variable."""
    if any(one not in Image.OPEN for one in formats):
        Image.init()
    start = stream.read(16)
    for one in formats:
        factory, accept = Image.OPEN[one]
        if accept is None or accept(start) is True:
            stream.seek(0)
            return factory(stream, name)
    raise DataError(f"{name}: not a picture that can be read; expected {' or '.join(formats)}")


def _check_size(image: Image.Image, name: str, max_pixels: int) -> None:
    if not image.width * image.height:
        raise DataError(f"{name}: has no pixel, but {image.height} x {image.width} (height x width)")
    if image.width * image.height > max_pixels:
        raise DataError(
            f"{name}: has {image.height} x {image.width} pixels (height x width), more than {max_pixels}; if it is "
            f"meant, allow for it: max_pixels={image.width * image.height} (predict, dataset.toml), --max-pixels"
        )


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) to 8, without decoding, which Pillow does for a PNG without EXIF."""
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return 1  # Pillow rotates TIFFs itself
    found = image.getexif().get(ExifTags.Base.Orientation, 1)
    return found if found in range(1, 9) else 1


def _convert(image: Image.Image, name: str) -> UInt8[np.ndarray, "h w 3"]:
    if image.mode in _DEEP:
        raise DataError(f"{name}: has mode {image.mode} (more than 8 bits per channel); convert it to 8 bits first")
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        strip = image if rows >= image.height else image.crop(box)
        if "transparency" in image.info:
            strip = strip.convert("RGBA")  # direct conversion warns about palette transparency
        pixels[top : box[3]] = np.asarray(strip if strip.mode == "RGB" else strip.convert("RGB"))
    return pixels
