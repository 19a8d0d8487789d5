"""Reading and writing pictures. Arrays are uint8, "h w 3", RGB; label maps are uint8 "h w"."""

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
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")  # Pillow's names; its other decoders never see a file
MAX_PIXELS = 2**27  # 134 million: 10,000 x 10,000 and a 108-megapixel camera are below it
_OPENED_AS = (*FORMATS, "MPO", None)  # MPO: a JPEG with further pictures behind it; None: made in memory
_DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
_SHOWN = 5  # names of files that are not read
_STRIP = 2**22  # pixels that are converted at a time, so that a large picture exists once in each form


@contextmanager
def opened(
    path: str | os.PathLike[str], *, formats: Sequence[str] = FORMATS, max_pixels: int = MAX_PIXELS
) -> Generator[Image.Image]:
    """Yield a picture whose header alone has been read. Whatever a decoder raises in the block becomes a `DataError`.

    Args:
        path: a regular file. What it holds decides, not its extension.
        formats: of `FORMATS`, those that it may have.
        max_pixels: a picture with more is refused before it is decoded.

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
    """Open and decode a picture as stored, whatever its mode, turned upright as its EXIF tag says.

    Raises:
        DataError: see `opened`.
    """
    with opened(path, max_pixels=max_pixels) as image:
        image.load()
        return upright(image)


def upright(image: Image.Image) -> Image.Image:
    """A picture turned as its EXIF tag says; the same one when there is nothing to turn."""
    return image if _orientation(image) == 1 else ImageOps.exif_transpose(image)


def upright_size(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(height, width) of a picture turned upright, from its header. Raises `DataError`, see `opened`."""
    with opened(path, max_pixels=max_pixels) as image:
        swapped = _orientation(image) >= 5
        return (image.width, image.height) if swapped else (image.height, image.width)


def to_rgb(image: Image.Image, *, name: str = "image", max_pixels: int = MAX_PIXELS) -> UInt8[np.ndarray, "h w 3"]:
    """Convert a PIL image to RGB, as the same file would be read: decoded if it is not yet, turned upright as its EXIF
    tag says; alpha is dropped, greyscale and palettes are expanded. The image itself stays as it is.

    Raises:
        DataError: the file that it was opened from has another format than `FORMATS`, or is damaged; the image has no
            pixel, more than `max_pixels`, or more than 8 bits per channel, whose scaling nobody can guess.
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
    """Read a picture as RGB. Raises `DataError` naming the file."""
    return to_rgb(open_image(path, max_pixels=max_pixels), name=str(path), max_pixels=max_pixels)


def short_side_size(
    height: int, width: int, side: int, *, name: str = "image", max_pixels: int = MAX_PIXELS
) -> tuple[int, int]:
    """(height, width) with the short side at `side` and the same aspect, rounded as published: half goes up.

    >>> short_side_size(1052, 1914, 1024)
    (1024, 1863)

    Raises:
        DataError: that is more than `max_pixels`, as of a long and narrow image; it names file or image.
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


def find_pictures(place: str | os.PathLike[str]) -> list[Path]:
    """The pictures of a folder (not of folders in it) or of a glob pattern, sorted by path; or the one file itself.

    In a pattern `**` stands for any folders. Hidden files, whose names begin with a dot, are left out; other files that
    are no pictures are said in a `LeftOutWarning`.

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
    pictures = sorted(one for one in found if one.suffix.lower() in EXTENSIONS and one.is_file())
    if not pictures:
        raise DataError(f"{place}: holds no picture; expected files that end in {', '.join(EXTENSIONS)}")
    if others := sorted(one for one in {*found} - {*pictures} if not one.is_dir()):
        warnings.warn(left_out(place, others), LeftOutWarning, stacklevel=2)
    return pictures


def left_out(place: object, others: Sequence[Path], endings: Sequence[str] = EXTENSIONS) -> str:
    """What to say of files that lie beside pictures and are not read: how many there are, and the names of some."""
    return f"{place}: {counted(others)}: not read; pictures are files that end in {', '.join(endings)}"


def counted(paths: Sequence[Path]) -> str:
    """How many files, and the names of some.

    >>> counted([Path("docs/notes.txt")])
    '1 file (notes.txt)'
    """
    names = ", ".join(path.name for path in paths[:_SHOWN])
    return f"{len(paths)} file{'' if len(paths) == 1 else 's'} ({names}{', ...' if len(paths) > _SHOWN else ''})"


def write_png(path: str | os.PathLike[str], pixels: UInt8[np.ndarray, "h w *c"]) -> None:
    """Write a PNG in one piece: RGB from "h w 3", one channel from "h w"."""
    with atomic_file(Path(path).with_suffix(".png")) as temporary:
        Image.fromarray(pixels).save(temporary)


@contextmanager
def _decoding(name: str) -> Generator[None]:
    """Decoders raise whatever comes to them from a damaged file; here it becomes a `DataError` that names the file."""
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
    """What `Image.open(stream, formats=formats)` does, but for Pillow's own limit on pixels: one for a whole process,
    which only a global variable lifts."""
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
    """The EXIF tag, 1 to 8; 1 is upright. Nothing is decoded for it, as Pillow would do for a PNG without EXIF."""
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return 1  # Pillow turns a TIFF by itself
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
            strip = strip.convert("RGBA")  # expands palette transparency, which a direct conversion warns about
        pixels[top : box[3]] = np.asarray(strip if strip.mode == "RGB" else strip.convert("RGB"))
    return pixels
