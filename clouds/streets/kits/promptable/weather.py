"""Weather models of the procedural generator. They change colours only; labels stay exact."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32
from PIL import Image as Pillow
from PIL import ImageDraw

from clouds.streets.records import Frame, Image

Rng = np.random.Generator


def clear_sky(image: Image, frame: Frame, rng: Rng) -> Image:
    """Thin haze in the distance."""
    return _veil(image, frame, np.array([0.72, 0.78, 0.86], np.float32), 0.0012)


def overcast(image: Image, frame: Frame, rng: Rng) -> Image:
    """Overcast sky: less colour, less contrast."""
    grey = image.mean(axis=2, keepdims=True)
    dull = 0.45 * grey + 0.55 * image
    cover = np.float32(rng.uniform(0.62, 0.78)) * np.array([0.96, 0.98, 1.0], np.float32)
    rise = np.where(frame.sky, np.maximum(frame.noise(*_sky_plane(frame)), 0.0), 0.0)[..., None]
    dull = np.where(frame.sky[..., None], cover * (0.9 + 0.2 * rise), dull * 0.88)
    return _veil(dull, frame, cover, 0.002)


def exponential_fog(image: Image, frame: Frame, rng: Rng) -> Image:
    """Homogeneous grey fog: light falls off as exp(-density * distance) (Koschmieder's law)."""
    color = np.float32(rng.uniform(0.66, 0.82)) * np.array([0.98, 1.0, 1.02], np.float32)
    return _veil(image, frame, color, rng.uniform(0.012, 0.05))


def streak_rain(image: Image, frame: Frame, rng: Rng) -> Image:
    """Rain: grey sky, dark glossy ground that reflects it, slanted streaks."""
    grey = 0.5 * image.mean(axis=2, keepdims=True) + 0.5 * image
    cover = np.float32(rng.uniform(0.45, 0.6)) * np.array([0.95, 0.98, 1.02], np.float32)
    grey = np.where(frame.sky[..., None], cover, 0.78 * grey)
    gloss = np.where(frame.ground, np.clip(frame.depth / 60, 0.1, 0.5), 0.0)[..., None].astype(np.float32)
    wet = np.where(frame.ground, np.float32(0.75), np.float32(1.0))[..., None]
    grey = grey * wet * (1 - gloss) + gloss * cover
    return _streaks(_veil(grey, frame, cover, rng.uniform(0.008, 0.016)), rng)


def flake_snow(image: Image, frame: Frame, rng: Rng) -> Image:
    """Snowfall: white flakes, a white sky, and an even thin cover on horizontal surfaces."""
    sky = np.float32(rng.uniform(0.74, 0.88)) * np.array([0.98, 0.99, 1.0], np.float32)
    amount = np.where(frame.ground, rng.uniform(0.35, 0.75), 0.08)[..., None].astype(np.float32)
    amount = (
        amount * np.where(frame.label_map == 0, np.float32(0.55), np.float32(1.0))[..., None]
    )  # traffic clears roads
    white = np.where(frame.sky[..., None], sky, image * (1 - amount) + 0.92 * amount)
    return _flakes(_veil(white, frame, sky, rng.uniform(0.006, 0.014)), rng)


def _veil(image: Image, frame: Frame, color: Float32[np.ndarray, " 3"], density: float) -> Image:
    passing = np.exp(np.float32(-density) * frame.depth)[..., None]
    return image * passing + color * (1 - passing)


def _sky_plane(frame: Frame) -> tuple[Float32[np.ndarray, "h w"], Float32[np.ndarray, "h w"]]:
    return frame.lateral * 0.02, frame.height * 0.03


def _streaks(image: Image, rng: Rng) -> Image:
    height, width = image.shape[:2]
    layer = Pillow.new("L", (width, height), 0)
    draw = ImageDraw.Draw(layer)
    slant = rng.uniform(-0.25, 0.25)
    for x, y, length in rng.random((180, 3)).tolist():
        size = (0.03 + 0.06 * length) * height
        left, top = x * width, (1.1 * y - 0.1) * height
        draw.line((left, top, left + slant * size, top + size), fill=60 + int(70 * length))
    mask = np.asarray(layer, dtype=np.float32)[..., None] / 255
    return image + mask * (0.85 - image)


def _flakes(image: Image, rng: Rng) -> Image:
    height, width = image.shape[:2]
    layer = Pillow.new("L", (width, height), 0)
    draw = ImageDraw.Draw(layer)
    for x, y, near in rng.random((220, 3)).tolist():
        left, top, radius = x * width, y * height, (0.002 + 0.008 * near**3) * height
        draw.ellipse((left - radius, top - radius, left + radius, top + radius), fill=120 + int(110 * near))
    mask = np.asarray(layer, dtype=np.float32)[..., None] / 255
    return image + mask * (0.95 - image)


WEATHERS = (clear_sky, overcast, exponential_fog, streak_rain, flake_snow)
