"""Shades a raster in plain daylight, with textures and windows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int32

from clouds.streets.camera import Camera
from clouds.streets.noise import Noise
from clouds.streets.raster import SUBPIXELS, Raster
from clouds.streets.records import Frame, Image, Patch, Style
from clouds.streets.scene import Facing

_SHADOW = 0.45  # share of the light that an object blocks directly under it


def shade(
    raster: Raster, style: Style, camera: Camera, window: Float32[np.ndarray, " 3"], rng: np.random.Generator
) -> tuple[Image, Frame]:
    """Colour every pixel. `window` is the colour of the panes (RGB, 0..1).

    Returns:
        The image (0..1) before weather, light and sensor, and the frame for these models.
    """
    noise = Noise(rng)
    image = _smooth_colors(raster)
    patches = _Patches(raster, camera, noise)
    factor = np.ones(raster.centre.shape, dtype=np.float32)
    glow = raster.glow[raster.centre]
    for texture, chosen in _choices(style.textures, raster, rng):
        where = chosen[patches.surfaces]
        factor.reshape(-1)[where] = texture(patches.at(where))
    image *= factor[..., None]
    for facade, chosen in _choices({"building": style.facades}, raster, rng):
        where = np.flatnonzero(chosen[patches.surfaces])
        patch = patches.at(where)
        panes, cell = facade(patch)
        panes = panes * np.clip(1.7 - 2.2 * patch.pixel, 0.0, 1.0)  # panes fade out with distance
        flat = image.reshape(-1, 3)
        flat[where] += panes[:, None] * (window * (0.7 + 0.6 * cell[:, None]) - flat[where])
        glow.reshape(-1)[where] = np.where(cell < 0.4, panes, 0.0)
    ground = raster.ground
    image[ground] *= (1 - _SHADOW * raster.shadow[ground])[:, None]
    return image, Frame(
        camera=camera,
        label_map=raster.classes[raster.centre],
        depth=raster.depth,
        height=raster.height,
        lateral=raster.lateral,
        sky=raster.centre == 0,
        ground=ground,
        glow=glow,
        noise=noise,
    )


def _smooth_colors(raster: Raster) -> Image:
    """Mean colour of each pixel's subpixels."""
    total = np.zeros((*raster.centre.shape, 3), dtype=np.float32)
    for row in range(SUBPIXELS):
        for column in range(SUBPIXELS):
            total += raster.colors[raster.surfaces[row::SUBPIXELS, column::SUBPIXELS]]
    return total / SUBPIXELS**2


def _choices(
    functions: Any, raster: Raster, rng: np.random.Generator
) -> list[tuple[Callable[..., Any], Bool[np.ndarray, " n"]]]:
    """Draw one function per surface; return each function with the surfaces that it paints."""
    chosen: dict[Callable[..., Any], Bool[np.ndarray, " n"]] = {}
    materials = np.array(raster.materials)
    for material, choices in functions.items():
        surfaces = np.flatnonzero(materials == material)
        picks = rng.integers(len(choices), size=len(surfaces))
        for number, function in enumerate(choices):
            mask = chosen.setdefault(function, np.zeros(len(materials), dtype=bool))
            mask[surfaces[picks == number]] = True
    return list(chosen.items())


class _Patches:
    """Texture coordinates of all pixels, computed once."""

    def __init__(self, raster: Raster, camera: Camera, noise: Noise) -> None:
        height, width = raster.centre.shape
        facing = raster.facing[raster.centre]
        right, down = camera.rays((height, width))
        sky = facing < 0
        a = np.where(facing == Facing.ROAD, raster.depth, raster.lateral)
        b = np.where(facing == Facing.UP, raster.depth, raster.height)
        self.surfaces: Int32[np.ndarray, " p"] = raster.centre.reshape(-1)
        self._a = np.where(sky, right, a).reshape(-1)
        self._b = np.where(sky, -down, b).reshape(-1)
        self._key = raster.keys[raster.centre].reshape(-1)
        self._pixel = (raster.depth / (camera.focal * width)).reshape(-1)
        self._noise = noise

    def at(self, where: Any) -> Patch:
        return Patch(
            a=self._a[where], b=self._b[where], key=self._key[where], pixel=self._pixel[where], noise=self._noise
        )
