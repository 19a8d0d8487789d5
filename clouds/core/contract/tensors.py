"""Conversion of images to tensors."""

# pyright: reportUnknownMemberType=false
# (torch has incomplete types)

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor


def image_tensor(pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[Tensor, "3 h w"]:
    """Copy pixels to a contiguous tensor; the array may be read-only."""
    return torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C"))
