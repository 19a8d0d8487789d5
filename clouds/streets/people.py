"""Pedestrians, riders, and two-wheelers."""

from __future__ import annotations

import numpy as np

from clouds.streets.ground import Street
from clouds.streets.scene import Scene, ellipse, moved, rectangle


def add_persons(street: Street, scene: Scene, count: int) -> None:
    """Add pedestrians on the sidewalks, and some on the crosswalk."""
    for index in range(count):
        z = _distance(scene, index)
        if street.crossing is not None and scene.rng.random() < 0.35:
            x, z = scene.uniform((street.left, street.right)), street.crossing - scene.uniform((1.0, 3.0))
        else:
            x = _walking(street, scene)
        scene.shadow(x, z, 0.7, 0.4)
        _add_person(scene, x, z)


def add_riders(street: Street, scene: Scene, count: int) -> None:
    """Add cyclists with bicycles at the right edge of the road."""
    for index in range(count):
        z = _distance(scene, index)
        _add_rider(scene, street.right - scene.uniform((0.4, 1.1)), z, "bicycle")


def add_motorcycles(street: Street, scene: Scene, count: int) -> None:
    """Add motorcycles with riders, on the own lane or the next one."""
    for index in range(count):
        x = scene.uniform((-0.4 * street.lane_width, street.right - 0.8))
        _add_rider(scene, x, _distance(scene, index), "motorcycle")


def add_bicycles(street: Street, scene: Scene, count: int) -> None:
    """Add parked bicycles, seen from the side."""
    for index in range(count):
        _add_bicycle_side(scene, _walking(street, scene), _distance(scene, index))


def _distance(scene: Scene, index: int) -> float:
    """A random distance; the first object is near enough to be clearly visible."""
    return scene.uniform((6.5, 11.0)) if index == 0 else float(np.exp(scene.uniform((np.log(8.0), np.log(40.0)))))


def _walking(street: Street, scene: Scene) -> float:
    return scene.uniform(street.walk(1 if scene.rng.random() < 0.55 else -1))


def _add_person(scene: Scene, x: float, z: float) -> None:
    height = scene.uniform((1.5, 1.9))
    skin, coat, trousers = scene.color("skin"), scene.color("cloth"), scene.color("cloth")
    step = scene.uniform((0.02, 0.17))
    width = 0.52 * height / 1.75

    def part(outline: list[tuple[float, float]], material: str, color: tuple[int, int, int]) -> None:
        scene.face(moved(outline, x, 0.0, width, height), z, "person", material, color)

    part([(-0.3 - step, 0.0), (-0.04 - step, 0.0), (0.05, 0.5), (-0.32, 0.5)], "cloth", trousers)
    part([(0.04 + step, 0.0), (0.3 + step, 0.0), (0.32, 0.5), (-0.05, 0.5)], "cloth", trousers)
    part([(-0.36, 0.45), (0.36, 0.45), (0.5, 0.8), (0.2, 0.86), (-0.2, 0.86), (-0.5, 0.8)], "cloth", coat)
    part(ellipse(0.0, 0.92, 0.44, 0.155, 8), "skin", skin)


def _add_rider(scene: Scene, x: float, z: float, label: str) -> None:
    """Add a two-wheeler with its rider, seen from behind."""
    coat, trousers = scene.color("cloth"), scene.color("cloth")
    metal, thick = scene.color("metal"), 0.10 if label == "bicycle" else 0.34
    scene.shadow(x, z + 0.7, 0.6, 1.4)
    scene.face(rectangle(x - thick / 2, x + thick / 2, 0.0, 0.68), z, label, "tyre")
    scene.face(rectangle(x - 0.3, x + 0.3, 0.98, 1.06), z, label, "metal", metal)
    body = rectangle(x - 0.75 * thick, x + 0.75 * thick, 0.45, 0.95)
    scene.face(body, z, label, "metal", metal)
    for side in (-1, 1):
        leg = [(x + side * 0.08, 0.9), (x + side * 0.26, 0.9), (x + side * 0.28, 0.3), (x + side * 0.14, 0.3)]
        scene.face(leg, z, "rider", "cloth", trousers)
    torso = [(x - 0.18, 0.82), (x + 0.18, 0.82), (x + 0.28, 1.42), (x - 0.28, 1.42)]
    scene.face(torso, z, "rider", "cloth", coat)
    scene.face(ellipse(x, 1.58, 0.24, 0.3, 8), z, "rider", "skin")


def _add_bicycle_side(scene: Scene, x: float, z: float) -> None:
    metal = scene.color("metal")
    for wheel in (x - 0.52, x + 0.52):
        ring = ellipse(wheel, 0.35, 0.7, 0.7, 14)
        hole = ellipse(wheel, 0.35, 0.46, 0.46, 14)
        scene.face([*ring, ring[0], hole[0], *reversed(hole)], z, "bicycle", "tyre")
    for (xa, ya), (xb, yb) in (
        ((-0.52, 0.35), (-0.2, 0.75)),
        ((-0.52, 0.35), (0.0, 0.35)),
        ((0.0, 0.35), (0.42, 0.85)),
        ((-0.2, 0.75), (0.42, 0.8)),
        ((0.52, 0.35), (0.36, 1.0)),
        ((0.0, 0.35), (-0.24, 0.95)),
    ):
        bar = [(x + xa, ya - 0.05), (x + xb, yb - 0.05), (x + xb, yb + 0.05), (x + xa, ya + 0.05)]
        scene.face(bar, z, "bicycle", "metal", metal)
    scene.face(rectangle(x - 0.36, x - 0.1, 0.93, 1.02), z, "bicycle", "tyre")
