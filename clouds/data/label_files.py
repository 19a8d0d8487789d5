"""Reading label files as they were stored, before their values are given a meaning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from clouds.core.errors import DataError
from clouds.core.images import open_image, to_rgb
from clouds.data.encodings import LabelEncoding

_INDEX_MODES = ("L", "P", "1")
_COLOR_MODES = ("RGB", "RGBA", "P")


def read_label_pixels(path: Path, encoding: LabelEncoding) -> UInt8[np.ndarray, "h w *rgb"]:
    """Read a label file as it was stored: indices "h w", or RGB "h w 3" for colour encodings.

    Raises:
        DataError: the file cannot be read, or has other bits or channels than the encoding expects.
    """
    if encoding.deep:
        return _read_deep(path, encoding)
    image = open_image(path)
    modes = _COLOR_MODES if encoding.colored else _INDEX_MODES
    if image.mode not in modes:
        wanted = "an RGB picture" if encoding.colored else "one channel of 8 bits"
        raise _misfit(path, f"mode {image.mode}", encoding, wanted)
    return to_rgb(image, name=str(path)) if encoding.colored else np.array(image, dtype=np.uint8)


def _read_deep(path: Path, encoding: LabelEncoding) -> UInt8[np.ndarray, "h w"]:
    """The first of three 16-bit channels, 0..255.

    Pillow has pictures of 8 bits alone and keeps the upper byte of each channel, which is 0 in label files. PNG stores
    the upper byte first; read as if it came last, the same bytes give the lower one.
    """
    try:
        with Image.open(path) as image:
            forms = [tile.args for tile in image.tile]
            if forms == ["RGB;16B"]:
                image.tile = [tile._replace(args="RGB;16L") for tile in image.tile]
                return np.array(image)[..., 0]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot be read ({error}); the file may be truncated or damaged") from error
    raise _misfit(path, f"form {forms}", encoding, "a PNG of 16 bits RGB, with the class in the first channel")


def _misfit(path: Path, actual: str, encoding: LabelEncoding, wanted: str) -> DataError:
    return DataError(
        f"{path}: label has {actual}, but encoding {encoding.name!r} expects {wanted}; "
        "choose another labels.encoding in dataset.toml, or convert the file"
    )
