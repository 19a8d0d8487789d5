"""Light by time of day, and sensors of the procedural generator."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32
from scipy import ndimage

from clouds.streets.records import Frame, Image

Rng = np.random.Generator


def daylight(image: Image, frame: Frame, rng: Rng) -> Image:
    """Full light, a little warmer or cooler in each image."""
    warmth = rng.uniform(-0.05, 0.05)
    return image * np.array([1 + warmth, 1.0, 1 - warmth], np.float32) * np.float32(rng.uniform(0.88, 1.08))


def golden_dusk(image: Image, frame: Frame, rng: Rng) -> Image:
    """Low sun: warm to orange light, a glow at the horizon, some lit windows."""
    late = np.float32(rng.uniform(0.2, 1.0))
    lit = image * (1 - late * np.array([0.14, 0.36, 0.48], np.float32)) * np.float32(rng.uniform(0.85, 1.05))
    _, down = frame.camera.rays(image.shape[:2])
    band = np.exp(-5.0 * np.maximum(-down, 0.0))[..., None] * frame.sky[..., None]
    lit = lit + band * (np.array([1.0, 0.66, 0.4], np.float32) - lit) * late * np.float32(0.85)
    return _shine(lit, frame, np.array([1.0, 0.86, 0.6], np.float32), 0.5)


def moonlit_night(image: Image, frame: Frame, rng: Rng) -> Image:
    """Dim blue light, with lit windows and lamps, and headlights on near surfaces."""
    exposure = np.float32(rng.uniform(0.16, 0.42)) * np.array([0.76, 0.88, 1.15], np.float32)
    beam = np.exp(-((frame.lateral / (2.0 + 0.22 * frame.depth)) ** 2)) * np.exp(-frame.depth / 16.0)
    beam = np.where(frame.sky, 0.0, beam * np.float32(rng.uniform(0.35, 0.6)))[..., None].astype(np.float32)
    lit = image * (exposure + beam * np.array([1.0, 0.96, 0.84], np.float32))
    return _shine(lit, frame, np.array([1.0, 0.84, 0.52], np.float32), 0.85)


def _shine(image: Image, frame: Frame, color: Float32[np.ndarray, " 3"], strength: float) -> Image:
    glow = (strength * frame.glow)[..., None]
    return image + glow * (np.maximum(color, image) - image)


def additive_noise(image: Image, frame: Frame, rng: Rng) -> Image:
    """Gaussian noise of equal strength in all channels."""
    return image + np.float32(rng.uniform(0.005, 0.03)) * rng.standard_normal(image.shape, dtype=np.float32)


def soft_lens(image: Image, frame: Frame, rng: Rng) -> Image:
    """A slightly unsharp lens: Gaussian blur proportional to the image width, then faint noise."""
    sigma = rng.uniform(0.3, 0.9) * image.shape[1] / 256
    blurred = ndimage.gaussian_filter(image, (sigma, sigma, 0), mode="nearest", truncate=2.5)
    return blurred + np.float32(0.008) * rng.standard_normal(image.shape, dtype=np.float32)


def contrast_curve(image: Image, frame: Frame, rng: Rng) -> Image:
    """A camera's tone curve: random gamma and saturation, then faint noise."""
    toned = image ** np.float32(rng.uniform(0.75, 1.35))
    grey = toned.mean(axis=2, keepdims=True)
    toned = grey + np.float32(rng.uniform(0.6, 1.4)) * (toned - grey)
    return toned + np.float32(0.01) * rng.standard_normal(image.shape, dtype=np.float32)


LIGHTS = (daylight, golden_dusk, moonlit_night)
SENSORS = (additive_noise, soft_lens, contrast_curve)
