"""Photometric randomization: strong colour changes, so that a network does not rely on colour.

It helps networks trained from random weights, which otherwise overfit to the source's colours; pretrained backbones do
not need it. Source: domain randomization, Tobin et al., IROS 2017.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8

from clouds.core.contract.sampling import Change

_GAMMA = (0.5, 2.2)
_GAIN, _OFFSET = (0.4, 1.4), 0.15  # per channel, of the range 0..1
_SWAP, _GREY, _FADE = 0.3, 0.3, 0.4  # probabilities
_NOISE = 0.06  # largest standard deviation, of the range 0..1


def randomize_colors(image: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """Draw and apply gamma, gains and offsets per channel, channel swaps, desaturation, lower contrast, and noise."""
    values = (image.astype(np.float32) / 255) ** np.float32(rng.uniform(*_GAMMA))
    gains = rng.uniform(*_GAIN, 3).astype(np.float32)
    values = values * gains + rng.uniform(-_OFFSET, _OFFSET, 3).astype(np.float32)
    if rng.random() < _SWAP:
        values = values[..., rng.permutation(3)]
    if rng.random() < _GREY:
        values = _towards(values.mean(2, keepdims=True), values, rng.uniform(0.0, 0.5))
    if rng.random() < _FADE:
        values = _towards(values.mean((0, 1), keepdims=True), values, rng.uniform(0.2, 0.8))
    values = values + np.float32(rng.uniform(0.0, _NOISE)) * rng.standard_normal(values.shape, dtype=np.float32)
    return np.clip(values * 255, 0, 255).astype(np.uint8)


def randomize() -> Change:
    """The augmentation `randomize`."""
    return randomize_colors


def _towards(anchor: np.ndarray, values: np.ndarray, share: float) -> np.ndarray:
    """Interpolate from the anchor (share 0) to the values (share 1)."""
    return anchor + np.float32(share) * (values - anchor)
