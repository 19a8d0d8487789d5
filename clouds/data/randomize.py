"""Photometric randomization: colour changes far beyond a camera's, so that colour says little about the class.

It serves networks that are trained from random weights, which otherwise learn the source's colours by heart; pretrained
backbones do not need it. Source: domain randomization, Tobin et al., IROS 2017.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8

_GAMMA = (0.5, 2.2)
_GAIN, _OFFSET = (0.4, 1.4), 0.15  # per channel, of the range 0..1
_SWAP, _GREY, _FADE = 0.3, 0.3, 0.4  # probabilities
_NOISE = 0.06  # largest standard deviation, of the range 0..1


def randomize_colors(image: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """Gamma, gains and offsets per channel, swapped channels, less colour, less contrast, noise; all drawn anew."""
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


def _towards(anchor: np.ndarray, values: np.ndarray, share: float) -> np.ndarray:
    """`share` of the way from the anchor to the values."""
    return anchor + np.float32(share) * (values - anchor)
