"""Objects beside the road: trees, lamp posts, traffic lights, traffic signs."""

from __future__ import annotations

import numpy as np

from clouds.streets.ground import Street
from clouds.streets.records import SceneLayout
from clouds.streets.scene import Scene, brighter, ellipse, moved, rectangle

_BLOB = [(0.5 * np.cos(t), 0.5 + 0.5 * np.sin(t)) for t in np.linspace(0, 2 * np.pi, 14, endpoint=False)]
# Signals and lamps have the regulation colours in all palettes.
_RED_AMBER_GREEN = ((230, 45, 40), (240, 175, 40), (60, 215, 120))
_LAMP = (238, 232, 208)


def _round_tree(scene: Scene, x: float, z: float, height: float) -> None:
    _trunk(scene, x, z, 0.45 * height, 0.05 * height)
    _crown(scene, x, z, 0.28 * height, 0.72 * height, 0.66 * height)


def _oval_tree(scene: Scene, x: float, z: float, height: float) -> None:
    _trunk(scene, x, z, 0.4 * height, 0.045 * height)
    _crown(scene, x, z, 0.22 * height, 0.78 * height, 0.42 * height)


def _conifer(scene: Scene, x: float, z: float, height: float) -> None:
    _trunk(scene, x, z, 0.2 * height, 0.04 * height)
    for low, width in ((0.12, 0.44), (0.36, 0.34), (0.6, 0.22)):
        half = width * height / 2
        tier = [(x - half, low * height), (x + half, low * height), (x, (low + 0.4) * height)]
        scene.face(tier, z, "vegetation", "leaf")


def _bush(scene: Scene, x: float, z: float, height: float) -> None:
    _crown(scene, x, z, 0.0, 0.35 * height, 0.5 * height)


def _cube_tree(scene: Scene, x: float, z: float, height: float) -> None:
    _trunk(scene, x, z, 0.5 * height, 0.06 * height)
    scene.face(rectangle(x - 0.25 * height, x + 0.25 * height, 0.45 * height, height), z, "vegetation", "leaf")


def _poplar(scene: Scene, x: float, z: float, height: float) -> None:
    _trunk(scene, x, z, 0.15 * height, 0.03 * height)
    spindle = [(0.0, 0.08), (0.5, 0.35), (0.42, 0.62), (0.0, 1.0), (-0.42, 0.62), (-0.5, 0.35)]
    scene.face(moved(spindle, x, 0.0, 0.24 * height, height), z, "vegetation", "leaf")


def _umbrella(scene: Scene, x: float, z: float, height: float) -> None:
    _trunk(scene, x, z, 0.8 * height, 0.04 * height)
    _crown(scene, x, z, 0.66 * height, 0.34 * height, 0.95 * height)


def _palm(scene: Scene, x: float, z: float, height: float) -> None:
    _trunk(scene, x, z, 0.9 * height, 0.035 * height)
    for angle in np.linspace(-0.5, np.pi + 0.5, 8).tolist():
        dx, dy = 0.34 * height * np.cos(angle), 0.16 * height * np.sin(angle)
        top = 0.88 * height
        frond = [(x, top - 0.02 * height), (x + 0.6 * dx, top + dy + 0.05 * height), (x + dx, top + dy - 0.1 * height)]
        scene.face([*frond, (x + 0.5 * dx, top + dy - 0.02 * height)], z, "vegetation", "leaf")


TREES = {
    "round": _round_tree,
    "oval": _oval_tree,
    "conifer": _conifer,
    "bush": _bush,
    "cube": _cube_tree,
    "poplar": _poplar,
    "umbrella": _umbrella,
    "palm": _palm,
}


def add_trees(layout: SceneLayout, street: Street, scene: Scene, count: int) -> None:
    """Add trees on the verge or, without one, at the edge of the lots."""
    for z in _distances(scene, count, (6.0, 70.0)):
        side = 1 if scene.rng.random() < 0.5 else -1
        shape = TREES[layout.tree_shapes[scene.rng.integers(len(layout.tree_shapes))]]
        x = street.lots(side) - side * scene.uniform((0.0, max(street.verge, 0.8)))
        scene.shadow(x, z, 2.0, 1.2)
        shape(scene, x, z, scene.uniform(layout.tree_height))


def add_lamp_posts(street: Street, scene: Scene, count: int) -> None:
    """Add street lamps at even spacing; their arms reach over the road."""
    if count == 0:
        return
    spacing, start = 90.0 / count, scene.uniform((7.0, 14.0))
    side = 1 if scene.rng.random() < 0.5 else -1
    for index in range(count):
        z = start + index * spacing
        x = (street.right if side > 0 else street.left) + side * 0.6
        top = 6.5
        scene.face(rectangle(x - 0.09, x + 0.09, 0.0, top), z, "pole", "pole")
        scene.face(rectangle(x - 0.16, x + 0.16, 0.0, 0.9), z, "pole", "pole")
        arm = (x - side * 1.8, x) if side > 0 else (x, x - side * 1.8)
        scene.face(rectangle(*arm, top - 0.12, top + 0.06), z, "pole", "pole")
        lamp = rectangle(x - side * 1.8 - 0.3, x - side * 1.8 + 0.3, top - 0.2, top)
        scene.face(lamp, z, "pole", "pole", _LAMP, glow=1.0)
        side = -side


def add_traffic_lights(street: Street, scene: Scene, count: int) -> None:
    """Add traffic lights on both sides of the road, at the crossing if there is one, nearest first."""
    first = scene.uniform((11.0, 24.0)) if street.crossing is None else street.crossing - 1.0
    for index in range(count):
        side = 1 if index % 2 == 0 else -1
        z = first + 9.0 * (index // 2)
        x = (street.right if side > 0 else street.left) + side * 0.5
        scene.face(rectangle(x - 0.08, x + 0.08, 0.0, 2.6), z, "pole", "pole")
        scene.face(rectangle(x - 0.28, x + 0.28, 2.4, 3.8), z, "traffic light", "housing")
        lit = int(scene.rng.integers(3))
        for number, color in enumerate(_RED_AMBER_GREEN):
            on = number == lit
            shown = color if on else brighter(color, 0.25)
            disc = ellipse(x, 3.55 - 0.45 * number, 0.36, 0.36, 8)
            scene.face(disc, z, "traffic light", "housing", shown, glow=1.0 if on else 0.0)


def add_traffic_signs(street: Street, scene: Scene, count: int) -> None:
    """Add round, triangular and rectangular signs on poles."""
    shapes = (
        ellipse(0.0, 0.5, 1.0, 1.0),
        [(-0.55, 0.0), (0.55, 0.0), (0.0, 1.0)],
        rectangle(-0.5, 0.5, 0.0, 1.0),
        [(0.0, 0.0), (0.5, 0.5), (0.0, 1.0), (-0.5, 0.5)],
    )
    for z in _distances(scene, count, (8.0, 40.0)):
        side = 1 if scene.rng.random() < 0.6 else -1
        x = (street.right if side > 0 else street.left) + side * scene.uniform((0.4, 0.9))
        scene.face(rectangle(x - 0.06, x + 0.06, 0.0, 2.3), z, "pole", "pole")
        outline, size = shapes[scene.rng.integers(len(shapes))], scene.uniform((0.8, 1.15))
        scene.face(moved(outline, x, 2.2, size, size), z, "traffic sign", "sign")
        inner = [(0.62 * u, 0.2 + 0.6 * v) for u, v in outline]
        scene.face(moved(inner, x, 2.2, size, size), z, "traffic sign", "sign")


def _distances(scene: Scene, count: int, interval: tuple[float, float]) -> list[float]:
    """Distances evenly spread on a logarithmic scale with jitter, so that near and far objects occur."""
    low, high = np.log(interval[0]), np.log(interval[1])
    spots = (np.arange(count) + scene.rng.random(count)) / max(count, 1)
    return np.exp(low + (high - low) * spots).tolist()


def _trunk(scene: Scene, x: float, z: float, height: float, width: float) -> None:
    scene.face(rectangle(x - width / 2, x + width / 2, 0.0, height), z, "vegetation", "trunk")


def _crown(scene: Scene, x: float, z: float, foot: float, height: float, width: float) -> None:
    """Add an irregular crown with a lighter part inside."""
    color = scene.palette.draw("leaf", scene.rng)
    radii = scene.rng.uniform(0.82, 1.12, len(_BLOB))
    ragged = [(u * radius, 0.5 + (v - 0.5) * radius) for (u, v), radius in zip(_BLOB, radii, strict=True)]
    scene.face(moved(ragged, x, foot, width, height), z, "vegetation", "leaf", color)
    inner = [(0.6 * u + 0.08 * scene.sunny_side, 0.3 + 0.62 * v) for u, v in ragged]
    scene.face(moved(inner, x, foot, width, height), z, "vegetation", "leaf", brighter(color, 1.14))
