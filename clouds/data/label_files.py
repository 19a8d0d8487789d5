"""Reading label files as they were stored, before their values are given a meaning.

What a PNG says about itself decides, not how a picture viewer would show it:

- Grey of 1, 2, 4 or 8 bits: the sample values, 0 to 2^bits - 1. A viewer would stretch them to 0..255.
- A palette with a colour in it: the indices. The colours are for people.
- A palette of greys alone, which lossless optimisers make of a label map with few values: the greys, unless they do not
  tell the indices apart; then the indices. Where the grey of each index is the index, both are one.
- Black and white alone, and palettes whose greys rise evenly from 0 to 255, can be meant either way: a viewer's form of
  the values 0, 1, 2, ..., or an optimiser's form of 0, ..., 255. A file for which that makes a difference is refused,
  unless `[labels.mapping]` names all values of one reading and not all of the other.

Transparency (tRNS) and interlacing change no value. Colour encodings take the colours of RGB and palette files.
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
_STRETCH = {"L;2": 85, "L;4": 17}  # by which Pillow multiplies grey samples of fewer than 8 bits
_LEVELS = 256


def read_label_pixels(
    path: Path, encoding: LabelEncoding, *, max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "h w *rgb"]:
    """Read a label file (PNG) as it was stored: values "h w", or RGB "h w 3" for colour encodings.

    Raises:
        DataError: the file cannot be read, has other bits or channels than the encoding expects, or can be meant in
            two ways; the message names it.
    """
    with opened(path, formats=("PNG",), max_pixels=max_pixels) as image:
        form = _form(image)
        if encoding.deep:
            return _read_deep(path, image, form, encoding)
        if not encoding.colored:
            return _read_values(path, image, form, encoding)
        if form not in _COLOR_FORMS:
            raise _misfit(path, f"mode {image.mode}" if form == image.mode else f"form {form}", encoding)
        return to_rgb(image, name=str(path), max_pixels=max_pixels)


def _form(image: Image.Image) -> str:
    """How the samples are stored, in Pillow's words: "L;4" is grey of 4 bits, "P;1" a palette of 2 entries, ..."""
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
        return stored  # greys that do not tell the indices apart
    if (greys[used] == used).all():
        return stored
    if _rises_evenly(greys):
        what = "1 bit per pixel" if form == "1" else f"a palette of {len(greys)} greys from black to white"
        return stored if _means_indices(path, encoding, what, used, greys[used]) else greys[stored]
    return greys[stored]


def _grey_palette(image: Image.Image) -> UInt8[np.ndarray, " n"] | None:
    """The greys of a palette by index; None without one, or when it has a colour."""
    if image.mode != "P" or image.palette is None:
        return None
    colors = np.frombuffer(bytes(image.palette.getdata()[1]), np.uint8).reshape(-1, 3)
    return colors[:, 0] if (colors == colors[:, :1]).all() else None


def _rises_evenly(greys: UInt8[np.ndarray, " n"]) -> bool:
    """Whether these are the greys of a viewer's ramp: from 0 to 255 in equal steps, of fewer levels than there are."""
    exact = np.linspace(0, 255, len(greys))
    return 1 < len(greys) < _LEVELS and bool((np.abs(greys - exact) < 1).all())


def _means_indices(path: Path, encoding: LabelEncoding, what: str, indices: np.ndarray, greys: np.ndarray) -> bool:
    """Which of two readings a dataset's mapping names: indices (True), or greys."""
    named = [encoding.mapped.issuperset(values.tolist()) for values in (indices, greys)]
    if named[0] == named[1]:
        raise DataError(
            f"{path}: label has {what}, so its values can be {_listed(indices)} or {_listed(greys)}; say in "
            "dataset.toml, under [labels.mapping], what each value of one of the two means, or store it as grey of 8 "
            "bits"
        )
    return named[0]


def _listed(values: np.ndarray) -> str:
    return ", ".join(map(str, values.tolist()))


def _read_deep(path: Path, image: Image.Image, form: str, encoding: LabelEncoding) -> UInt8[np.ndarray, "h w"]:
    """The first of three 16-bit channels, 0..255.

    Pillow has pictures of 8 bits alone and keeps the upper byte of each channel, which is 0 in label files. PNG stores
    the upper byte first; read as if it came last, the same bytes give the lower one.
    """
    if form != "RGB;16B":
        raise _misfit(path, f"form {form}", encoding)
    image.tile = [tile._replace(args="RGB;16L") for tile in image.tile]  # type: ignore[attr-defined]
    return np.array(upright(image))[..., 0]


def _misfit(path: Path, actual: str, encoding: LabelEncoding) -> DataError:
    wanted = "a PNG of 16 bits RGB, with the class in the first channel" if encoding.deep else "one channel of 8 bits"
    return DataError(
        f"{path}: label has {actual}, but encoding {encoding.name!r} expects "
        f"{'an RGB picture of 8 bits' if encoding.colored else wanted}; "
        "choose another labels.encoding in dataset.toml, or convert the file"
    )
