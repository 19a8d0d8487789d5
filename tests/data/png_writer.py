"""A PNG writer of our own: every bit depth, interlaced or not, with a palette and transparency, none of which Pillow
chooses by itself."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

GREY, PALETTE = 0, 3
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def write_samples(
    path: Path,
    samples: np.ndarray,
    *,
    depth: int,
    kind: int = GREY,
    palette: Sequence[tuple[int, int, int]] = (),
    transparency: bytes = b"",
    interlaced: bool = False,
) -> Path:
    """Write one channel of samples of `depth` bits, as grey or as indices of a palette."""
    height, width = samples.shape
    passes = [samples[top::down, left::right] for top, left, down, right in _ADAM7] if interlaced else [samples]
    rows = b"".join(b"\0" + _packed(row, depth) for part in passes if part.size for row in part)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, interlaced))]
    chunks += [(b"PLTE", bytes(value for color in palette for value in color))] if palette else []
    chunks += [(b"tRNS", transparency)] if transparency else []
    chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks)
    )
    return path


def _packed(row: np.ndarray, depth: int) -> bytes:
    bits = np.unpackbits(row.astype(np.uint8)[:, None], axis=1)[:, 8 - depth :]
    return np.packbits(bits.ravel()).tobytes()
