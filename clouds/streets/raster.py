"""Rasterises the surfaces of a scene to per-pixel label, depth, position and paint."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import frozen
from jaxtyping import Bool, Float, Float32, Int32, UInt8
from PIL import Image, ImageDraw

from clouds.streets.camera import FAR, NEAR, Camera
from clouds.streets.scene import TRAIN_ID, Facing, Scene, Surface

SUBPIXELS = 3  # per axis, for smooth edges; odd, so that one is the pixel's centre, which decides the label
_SHADING = {-1: 0.80, 1: 1.0}  # brightness of faces on the dark and the sunny side of the road
_SHADING_CAMERA = 0.92


@frozen(eq=False, kw_only=True)
class Raster:
    """Surfaces by pixel. Surface 0 is the sky, surface 1 the terrain below the horizon.

    Attributes:
        surfaces: index of the surface at each subpixel.
        centre: index of the surface at each pixel centre.
        colors: paint by surface, RGB in 0..1, shaded by its facing.
        materials: material by surface.
        facing, keys, glow, classes: values by surface.
        depth, height, lateral: metres by pixel.
        shadow: share of the light that nearby objects block, 0..1 by pixel.
    """

    surfaces: Int32[np.ndarray, "hs ws"]
    centre: Int32[np.ndarray, "h w"]
    colors: Float32[np.ndarray, "n 3"]
    materials: list[str]
    facing: Int32[np.ndarray, " n"]
    keys: Float32[np.ndarray, " n"]
    glow: Float32[np.ndarray, " n"]
    classes: UInt8[np.ndarray, " n"]
    depth: Float32[np.ndarray, "h w"]
    height: Float32[np.ndarray, "h w"]
    lateral: Float32[np.ndarray, "h w"]
    shadow: Float32[np.ndarray, "h w"]

    @property
    def ground(self) -> Bool[np.ndarray, "h w"]:
        """Pixels whose visible surface is horizontal."""
        return (self.facing == Facing.UP)[self.centre]


def rasterize(scene: Scene, size: tuple[int, int]) -> Raster:
    """Paint the scene's surfaces from far to near (painter's algorithm) at `size` = (height, width) in pixels."""
    ordered = sorted(scene.surfaces, key=lambda surface: -surface.order)  # stable: ties keep insertion order
    fine = (size[0] * SUBPIXELS, size[1] * SUBPIXELS)
    surfaces = _paint([surface.corners for surface in ordered], scene.camera, fine, first=2)
    centre = surfaces[SUBPIXELS // 2 :: SUBPIXELS, SUBPIXELS // 2 :: SUBPIXELS]
    depth, height, lateral = _positions(_depth_planes(ordered, scene.camera), centre, scene.camera, size)
    shadow = _paint(scene.shadows, scene.camera, size, first=0)
    facing = np.array([-1, Facing.UP, *(surface.facing for surface in ordered)], dtype=np.int32)  # -1: sky
    return Raster(
        surfaces=surfaces,
        centre=centre,
        colors=_shaded_colors(ordered, scene),
        materials=["sky", "grass", *(surface.material for surface in ordered)],
        facing=facing,
        keys=scene.rng.random(len(facing), dtype=np.float32),
        glow=np.array([0, 0, *(surface.glow for surface in ordered)], dtype=np.float32),
        classes=np.array([TRAIN_ID[name] for name in ("sky", "terrain", *(s.label for s in ordered))], dtype=np.uint8),
        depth=depth,
        height=height,
        lateral=lateral,
        shadow=(shadow >= 0).astype(np.float32),
    )


def _paint(
    polygons: Sequence[Sequence[tuple[float, float, float]]], camera: Camera, size: tuple[int, int], *, first: int
) -> Int32[np.ndarray, "h w"]:
    """Index of the last polygon that covers each pixel, counting from `first`.

    With `first` = 2, sky is 0 and terrain 1; with `first` = 0, uncovered pixels are -1.
    """
    picture = Image.new("I", (size[1], size[0]), 0 if first else -1)
    draw = ImageDraw.Draw(picture)
    if first:
        draw.rectangle((0, round(camera.horizon * size[0]), size[1], size[0]), fill=1)
    if polygons:
        corners = np.array([corner for polygon in polygons for corner in polygon], dtype=np.float64)
        # Pillow's pixel i is centred at i. Only corners far outside of the image are clipped.
        flat = np.clip(camera.project(corners, size) - 0.5, -1e5, 1e5)
        stops = np.cumsum([len(polygon) for polygon in polygons]).tolist()
        start = 0
        for index, stop in enumerate(stops, start=first):
            draw.polygon(flat[start:stop].ravel().tolist(), fill=index)
            start = stop
    return np.array(picture, dtype=np.int32)


def _depth_planes(ordered: Sequence[Surface], camera: Camera) -> Float[np.ndarray, "n 3"]:
    """Coefficients (p, q, r) of 1/z = p * right + q * down + r; inverse depth is affine in the slopes of a ray."""
    planes = np.zeros((len(ordered) + 2, 3))
    planes[0, 2] = 1 / FAR
    planes[1, 1] = 1 / camera.height
    for index, surface in enumerate(ordered, start=2):
        if surface.facing == Facing.UP:
            planes[index, 1] = 1 / camera.height
        elif surface.facing == Facing.CAMERA:
            planes[index, 2] = 1 / surface.corners[0][2]
        else:
            planes[index, [0, 2]] = _upright_plane(surface, camera)
    return planes


def _upright_plane(surface: Surface, camera: Camera) -> tuple[float, float]:
    """(p, r) of an upright plane along the road, through its nearest and farthest corner."""
    near, far = (pick(surface.corners, key=lambda corner: corner[2]) for pick in (min, max))
    right = [(x + camera.bend(z)) / z for x, _, z in (near, far)]
    slope = (1 / near[2] - 1 / far[2]) / (right[0] - right[1]) if right[0] != right[1] else 0.0
    return slope, 1 / far[2] - slope * right[1]


def _positions(
    planes: Float[np.ndarray, "n 3"], centre: Int32[np.ndarray, "h w"], camera: Camera, size: tuple[int, int]
) -> tuple[Float32[np.ndarray, "h w"], Float32[np.ndarray, "h w"], Float32[np.ndarray, "h w"]]:
    right, down = camera.rays(size)
    p, q, r = (planes[:, i].astype(np.float32)[centre] for i in range(3))
    depth = 1 / np.clip(p * right + q * down + r, np.float32(1 / FAR), np.float32(1 / NEAR))
    lateral = right * depth - camera.bend(depth).astype(np.float32)
    return depth, np.float32(camera.height) - down * depth, lateral


def _shaded_colors(ordered: Sequence[Surface], scene: Scene) -> Float32[np.ndarray, "n 3"]:
    colors = np.array([scene.color("sky"), scene.color("grass"), *(s.color for s in ordered)], dtype=np.float32) / 255
    for index, surface in enumerate(ordered, start=2):
        if surface.facing == Facing.CAMERA:
            colors[index] *= _SHADING_CAMERA
        elif surface.facing == Facing.ROAD:
            colors[index] *= _SHADING[scene.sunny_side if surface.corners[0][0] < 0 else -scene.sunny_side]
    return colors
