"""Read label files as stored, before an encoding maps their values.

The PNG format decides which values a file has, not its appearance in a viewer:

- Greyscale of 1, 2, 4 or 8 bits: the sample values, 0 to 2^bits - 1. A viewer would stretch them to 0..255.
- A palette with a colour in it: the indices. The colours are for display.
- A palette of greys only: the greys, if they are distinct, else the indices. Lossless optimisers write label maps with
  few values this way.
- Black and white, and palettes whose greys rise evenly from 0 to 255, are ambiguous: either the values 0, 1, 2, ...
  stretched for display, or 0, ..., 255 from an optimiser. If the readings differ, the file is refused, unless
  `[labels.mapping]` lists all values of only one of them.

Transparency (tRNS) and interlacing do not change values. Colour encodings read the colours of RGB and palette files.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from clouds.core.system.errors import DataError
from clouds.core.system.images import MAX_PIXELS, opened, to_rgb, upright
from clouds.data.encodings import LabelEncoding

_INDEX_MODES = ("L", "P", "1")
_COLOR_FORMS = ("RGB", "RGBA", "P", "P;1", "P;2", "P;4")
_STRETCH = {"L;2": 85, "L;4": 17}  # factor by which Pillow stretches grey samples of fewer than 8 bits
_LEVELS = 256


def read_label_pixels(
    path: Path, encoding: LabelEncoding, *, max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "h w *rgb"]:
    """Read a label file (PNG) as stored: values "h w", or RGB "h w 3" for colour encodings.

    Raises:
        DataError: the file cannot be read, is ambiguous, or its bit depth or channels do not fit the encoding; the
            message names it.
    """
    with opened(path, formats=("PNG",), max_pixels=max_pixels) as image:
        form = stored_form(image)
        if encoding.deep:
            return _read_deep(path, image, form, encoding)
        if encoding.red:
            return _read_red(path, image, form, encoding)
        if not encoding.colored:
            return _read_values(path, image, form, encoding)
        if form not in _COLOR_FORMS:
            raise _misfit(path, f"mode {image.mode}" if form == image.mode else f"form {form}", encoding)
        return to_rgb(image, name=str(path), max_pixels=max_pixels)


def stored_form(image: Image.Image) -> str:
    """Storage format in Pillow's notation: "L;4" is greyscale of 4 bits, "P;1" a palette of 2 entries, ..."""
    return str(image.tile[0].args) if image.tile else image.mode  # type: ignore[attr-defined]


def _read_values(path: Path, image: Image.Image, form: str, encoding: LabelEncoding) -> UInt8[np.ndarray, "h w"]:
    if image.mode not in _INDEX_MODES:
        raise _misfit(path, f"mode {image.mode}", encoding)
    greys = np.array([0, 255], np.uint8) if form == "1" else _grey_palette(image)
    stored = np.array(upright(image), dtype=np.uint8) // np.uint8(_STRETCH.get(form, 1))
    if greys is None:
        return stored
    used = np.flatnonzero(np.bincount(stored.ravel(), minlength=_LEVELS))
    if used[-1] >= len(greys) or len(set(greys[: used[-1] + 1].tolist())) <= used[-1]:
        return stored  # greys are not distinct
    if (greys[used] == used).all():
        return stored
    if _rises_evenly(greys):
        what = "1 bit per pixel" if form == "1" else f"a palette of {len(greys)} greys from black to white"
        return stored if _means_indices(path, encoding, what, used, greys[used]) else greys[stored]
    return greys[stored]


def _grey_palette(image: Image.Image) -> UInt8[np.ndarray, " n"] | None:
    """Greys of a palette by index; None without a palette, or if it has a colour."""
    if image.mode != "P" or image.palette is None:
        return None
    colors = np.frombuffer(bytes(image.palette.getdata()[1]), np.uint8).reshape(-1, 3)
    return colors[:, 0] if (colors == colors[:, :1]).all() else None


def _rises_evenly(greys: UInt8[np.ndarray, " n"]) -> bool:
    """Whether the greys are fewer than 256 and rise from 0 to 255 in equal steps, as a display ramp."""
    exact = np.linspace(0, 255, len(greys))
    return 1 < len(greys) < _LEVELS and bool((np.abs(greys - exact) < 1).all())


def _means_indices(path: Path, encoding: LabelEncoding, what: str, indices: np.ndarray, greys: np.ndarray) -> bool:
    """Whether a dataset's mapping lists the indices (True) or the greys (False) of an ambiguous file."""
    named = [encoding.mapped.issuperset(values.tolist()) for values in (indices, greys)]
    if named[0] == named[1]:
        raise DataError(
            f"{path}: label has {what}, so its values can be {_listed(indices)} or {_listed(greys)}; list the values "
            "of one of the two in dataset.toml, under [labels.mapping], or store it as 8-bit greyscale"
        )
    return named[0]


def _listed(values: np.ndarray) -> str:
    return ", ".join(map(str, values.tolist()))


def _read_deep(path: Path, image: Image.Image, form: str, encoding: LabelEncoding) -> UInt8[np.ndarray, "h w"]:
    """The first of three 16-bit channels, 0..255.

    Pillow reduces channels to 8 bits and keeps the upper byte, which is 0 in label files. PNG stores the upper byte
    first; reading the data as little-endian makes Pillow keep the lower byte.
    """
    if form != "RGB;16B":
        raise _misfit(path, f"form {form}", encoding)
    image.tile = [tile._replace(args="RGB;16L") for tile in image.tile]  # type: ignore[attr-defined]
    return np.array(upright(image))[..., 0]


def _read_red(path: Path, image: Image.Image, form: str, encoding: LabelEncoding) -> UInt8[np.ndarray, "h w"]:
    if form not in ("RGB", "RGBA"):
        raise _misfit(path, f"form {form}", encoding)
    return np.array(upright(image))[..., 0]


def _misfit(path: Path, actual: str, encoding: LabelEncoding) -> DataError:
    wanted = "an 8-bit RGB image" if encoding.colored else "one channel of 8 bits"
    if encoding.deep or encoding.red:
        wanted = (
            f"{'a 16-bit RGB' if encoding.deep else 'an 8-bit RGB or RGBA'} PNG, with the class in the first channel"
        )
    return DataError(
        f"{path}: label has {actual}, but encoding {encoding.name!r} expects "
        f"{wanted}; "
        "choose another labels.encoding in dataset.toml, or convert the file"
    )
