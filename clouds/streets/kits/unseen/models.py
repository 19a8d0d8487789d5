"""Weather, light and sensor models of the unseen domains."""

from __future__ import annotations

import numpy as np

from clouds.streets.records import Frame, Image

Rng = np.random.Generator


def valley_mist(image: Image, frame: Frame, rng: Rng) -> Image:
    """Bluish, patchy mist: thick near the ground, thin above (not homogeneous)."""
    patches = 0.4 + 1.2 * frame.noise(frame.lateral * 0.08 + 5, frame.depth * 0.05)
    low = np.exp(-np.maximum(frame.height, 0.0) / np.float32(rng.uniform(4.0, 9.0)))
    thickness = np.where(frame.sky, 0.35, np.minimum(frame.depth / 45, 1.0) * low * patches)
    share = np.clip(thickness * np.float32(rng.uniform(0.7, 1.1)), 0.0, 0.92)[..., None]
    return image * (1 - share) + share * np.array([0.68, 0.76, 0.84], np.float32)


def lens_drops(image: Image, frame: Frame, rng: Rng) -> Image:
    """Rain on the lens: each drop shows the scene small and upside down; the light is flat and greenish."""
    height, width = image.shape[:2]
    grey = image.mean(axis=2, keepdims=True) * np.array([0.86, 0.98, 0.92], np.float32)
    flat = (0.62 * image + 0.38 * grey) * np.float32(rng.uniform(0.85, 1.0))
    wet = flat.copy()
    for y, x, size in rng.random((int(rng.integers(16, 40)), 3)).tolist():
        radius = max((0.015 + 0.06 * size**2) * height, 1.0)
        y, x = y * height, x * width
        rows = np.arange(max(int(y - radius), 0), min(int(y + radius) + 1, height))[:, None]
        columns = np.arange(max(int(x - radius), 0), min(int(x + radius) + 1, width))[None]
        inside = np.clip(3.0 - 3.0 * ((rows - y) ** 2 + (columns - x) ** 2) / radius**2, 0.0, 1.0)[..., None]
        seen_row = np.clip(y - 5 * (rows - y), 0, height - 1).astype(int)
        seen_column = np.clip(x - 5 * (columns - x), 0, width - 1).astype(int)
        wet[rows, columns] += inside.astype(np.float32) * (1.12 * flat[seen_row, seen_column] - wet[rows, columns])
    return wet


def settled_drifts(image: Image, frame: Frame, rng: Rng) -> Image:
    """After the snowfall: drifts with hard edges on the ground, no flakes in the air; the road has bare tracks."""
    drift = frame.noise(frame.lateral * 0.35 + 3, frame.depth * 0.12)
    cover = frame.ground & (drift > np.float32(rng.uniform(0.35, 0.55)))
    tracks = (frame.label_map == 0) & (np.abs(np.abs(frame.lateral) - 0.8) < 0.3)
    snow = np.array([0.86, 0.9, 1.0], np.float32) * (0.8 + 0.2 * drift[..., None])
    return np.where((cover & ~tracks)[..., None], snow, image * np.array([0.9, 0.95, 1.02], np.float32))


def dust_veil(image: Image, frame: Frame, rng: Rng) -> Image:
    """Yellowish dust that grows linearly with distance, up to a limit, including the sky."""
    share = np.clip(frame.depth / np.float32(rng.uniform(90, 160)), 0.0, 0.75)[..., None]
    return image * (1 - share) + share * np.array([0.78, 0.68, 0.5], np.float32)


def sodium_lamps(image: Image, frame: Frame, rng: Rng) -> Image:
    """Night under street lamps: orange pools at regular distances, almost no colour, a brownish sky."""
    pool = 0.5 + 0.5 * np.cos(2 * np.pi * (frame.depth / np.float32(rng.uniform(16, 26)) + rng.random()))
    reach = np.where(frame.sky, 0.12, 0.16 + 0.5 * pool**2 * np.exp(-frame.depth / 90))[..., None]
    grey = 0.75 * image.mean(axis=2, keepdims=True) + 0.25 * image
    lit = grey * reach * np.array([1.25, 0.85, 0.45], np.float32)
    return lit + (0.9 * frame.glow)[..., None] * (np.array([1.0, 0.75, 0.4], np.float32) - lit)


def raking_sun(image: Image, frame: Frame, rng: Rng) -> Image:
    """Hard light from one side: a ramp across the picture, and long shadow bars on the ground."""
    ramp = np.linspace(0.72, 1.18, image.shape[1], dtype=np.float32)[None, :, None]
    ramp = ramp[:, ::-1] if rng.random() < 0.5 else ramp
    bars = np.sin(frame.depth * np.float32(rng.uniform(0.5, 0.9)) + 0.4 * frame.lateral) > 0.55
    shadow = np.where(frame.ground & bars, 0.62, 1.0)[..., None].astype(np.float32)
    return image * ramp * shadow


def flat_dome(image: Image, frame: Frame, rng: Rng) -> Image:
    """Even light without direction, cool."""
    return image**0.9 * np.array([0.92, 0.97, 1.03], np.float32) * np.float32(rng.uniform(0.8, 0.95))


def row_banding(image: Image, frame: Frame, rng: Rng) -> Image:
    """A cheap sensor: every row has an offset, bright pixels have shot noise."""
    rows = rng.normal(0.0, 0.018, (image.shape[0], 1, 1)).astype(np.float32)
    shot = rng.standard_normal(image.shape, dtype=np.float32) * np.sqrt(np.clip(image, 0.0, 1.0)) * np.float32(0.04)
    return image + rows + shot


def block_codec(image: Image, frame: Frame, rng: Rng) -> Image:
    """A strong video codec: colour in blocks of 8 pixels, brightness in coarse steps."""
    height, width = image.shape[:2]
    grey = image.mean(axis=2, keepdims=True)
    small = (image - grey)[::8, ::8]
    color = small.repeat(8, 0).repeat(8, 1)[:height, :width]
    return np.round(grey * 40) / 40 + color


def vignette(image: Image, frame: Frame, rng: Rng) -> Image:
    """An old lens: dark corners, and a few stuck pixels."""
    height, width = image.shape[:2]
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None]
    fall = (1.0 - 0.32 * (x**2 + y**2) / 2)[..., None].astype(np.float32)
    stuck = rng.random((height, width, 1)) < 0.0006
    return np.where(stuck, np.float32(0.95), image * fall)


WEATHERS = (valley_mist, lens_drops, settled_drifts, dust_veil)
LIGHTS = (sodium_lamps, raking_sun, flat_dome)
SENSORS = (row_banding, block_codec, vignette)
