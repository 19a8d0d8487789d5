"""Reading label files as they were stored, before their values are given a meaning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

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
    """The first of several 16-bit channels. Pillow would keep the upper byte alone, which is always 0."""
    import torch
    from torchvision.io import ImageReadMode, decode_png

    if not path.is_file():
        raise DataError(f"{path}: no such file")
    data = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
    try:
        first = decode_png(data, ImageReadMode.UNCHANGED)[0].numpy()
    except RuntimeError as error:
        raise DataError(f"{path}: cannot be read as PNG; the file may be truncated or damaged") from error
    if first.dtype != np.uint16:
        raise _misfit(path, "8 bits per channel", encoding, "16, the class in the first one")
    if first.size and first.max() > 255:
        raise DataError(f"{path}: label value {first.max()}; encoding {encoding.name!r} has values 0..255")
    return first.astype(np.uint8)


def _misfit(path: Path, actual: str, encoding: LabelEncoding, wanted: str) -> DataError:
    return DataError(
        f"{path}: label has {actual}, but encoding {encoding.name!r} expects {wanted}; "
        "choose another labels.encoding in dataset.toml, or convert the file"
    )
