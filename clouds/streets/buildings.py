"""Buildings on lots, walls and fences, and the skyline."""

from __future__ import annotations

import numpy as np

from clouds.streets.camera import FAR
from clouds.streets.ground import Street
from clouds.streets.records import SceneLayout
from clouds.streets.scene import Scene, rectangle

_LAST_LOT = 160.0
_SKYLINE = 0.9 * FAR


def add_skyline(layout: SceneLayout, scene: Scene) -> None:
    """Add a silhouette near the horizon: hills and trees are vegetation, blocks are buildings."""
    kind = layout.skyline[scene.rng.integers(len(layout.skyline))]
    if kind == "blocks":
        x = -_SKYLINE
        while x < _SKYLINE:
            width = scene.uniform((14.0, 40.0))
            scene.face(rectangle(x, x + width, 0.0, scene.uniform((8.0, 42.0))), _SKYLINE, "building", "building")
            x += width
        return
    step, top = (60.0, (6.0, 34.0)) if kind == "hills" else (14.0, (7.0, 16.0))
    xs = np.arange(-2 * _SKYLINE, 2 * _SKYLINE, step).tolist()
    ridge = [(x, scene.uniform(top)) for x in xs]
    scene.face([(xs[0], 0.0), *ridge, (xs[-1], 0.0)], _SKYLINE, "vegetation", "leaf")


def add_lots(layout: SceneLayout, street: Street, scene: Scene) -> None:
    """Fill the lots of both sides from near to far."""
    for side in (-1, 1):
        z = scene.uniform((-8.0, 2.0))
        while z < _LAST_LOT:
            length = scene.uniform(layout.building_length)
            free = not (street.crossed(z, 2.0) or street.crossed(z + length, 2.0) or _spans(street, z, length))
            if free and scene.rng.random() < layout.density:
                setback = street.lots(side) + side * scene.uniform(layout.setback)
                _add_building(layout, scene, side, setback, max(z, 1.0), z + length)
            z += length + scene.uniform((0.0, 3.0))
        _add_barrier(layout, street, scene, side)


def _spans(street: Street, z: float, length: float) -> bool:
    return street.crossing is not None and z < street.crossing < z + length


def _add_building(layout: SceneLayout, scene: Scene, side: int, x: float, near: float, far: float) -> None:
    if far - near < 2.0:
        return
    color, height = scene.color("building"), scene.uniform(layout.building_height)
    depth = scene.uniform((7.0, 14.0))
    outer = x + side * depth
    pitched = scene.rng.random() < layout.pitched
    roof = scene.color("roof")
    if pitched:
        peak, ridge = height + 0.28 * depth, x + side * depth / 2
        scene.face([(x, height), (ridge, peak), (outer, height)], near, "building", "building", color, order=far)
        corners = [(x, height, near), (x, height, far), (ridge, peak, far), (ridge, peak, near)]
        scene.slope(corners, "building", "roof", roof, order=far)
    else:
        rim = [(near, height), (far, height), (far, height + 0.5), (near, height + 0.5)]
        scene.side(rim, x, "building", "roof", roof, order=far)
        scene.face(rectangle(x, outer, height, height + 0.5), near, "building", "roof", roof, order=far)
    scene.side(rectangle(near, far, 0.0, height), x, "building", "building", color, order=far)
    scene.face(rectangle(x, outer, 0.0, height), near, "building", "building", color, order=far)


def _add_barrier(layout: SceneLayout, street: Street, scene: Scene, side: int) -> None:
    """A wall or a fence between the verge and the lots, open at the crossing."""
    kind = layout.barriers[scene.rng.integers(len(layout.barriers))]
    if kind == "none":
        return
    x = street.lots(side) - side * 0.3
    height = scene.uniform((1.4, 2.6) if kind == "wall" else (0.9, 1.7))
    color = scene.color(kind)
    start, end = scene.uniform((1.0, 12.0)), scene.uniform((30.0, 110.0))
    for near in np.arange(start, end, 6.0).tolist():
        far = near + 6.0
        if street.crossed(near, 6.0):
            continue
        scene.side(rectangle(near, far, 0.0, height), x, kind, kind, color)
