"""A scene: flat surfaces in the world, painted from far to near."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
from attrs import define, field, frozen

from clouds.streets.camera import FAR, Camera
from clouds.streets.records import Color, Palette

# The Cityscapes classes in the order of their train ids.
CLASS_NAMES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"),
    *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
)
TRAIN_ID = {name: index for index, name in enumerate(CLASS_NAMES)}
Outline = Sequence[tuple[float, float]]
_SHARED = ("road", "mark", "sidewalk", "curb", "grass", "sky", "pole", "housing", "glass", "tyre", "trunk", "leaf")


class Facing(IntEnum):
    """Where the normal of a surface points."""

    CAMERA = 0
    ROAD = 1
    UP = 2


@frozen(kw_only=True)
class Surface:
    """A flat polygon.

    Attributes:
        corners: world points (x, y, z).
        label: Cityscapes class name.
        material, color: paint (RGB, 0..255).
        facing: decides texture coordinates and shading.
        order: metres; surfaces with larger values are painted first, ties in insertion order.
        glow: own light in the dark, 0..1.
    """

    corners: list[tuple[float, float, float]]
    label: str
    material: str
    color: Color
    facing: Facing
    order: float
    glow: float = 0.0


@define
class Scene:
    """A camera, surfaces, and soft shadows on the ground. Builders add surfaces in any order; drawing sorts them.

    `sunny_side` is -1 or 1: the side of the road with the brighter faces.
    """

    camera: Camera
    palette: Palette
    rng: np.random.Generator
    sunny_side: int = 1
    surfaces: list[Surface] = field(factory=list)
    shadows: list[list[tuple[float, float, float]]] = field(factory=list)
    _colors: dict[str, Color] = field(factory=dict)

    def color(self, material: str) -> Color:
        """A random colour: one per image for shared materials, a new one for buildings, cars and clothes."""
        if material not in _SHARED:
            return self.palette.draw(material, self.rng)
        if material not in self._colors:
            self._colors[material] = self.palette.draw(material, self.rng)
        return self._colors[material]

    def uniform(self, interval: tuple[float, float]) -> float:
        """A number from a closed interval."""
        return float(self.rng.uniform(*interval))

    def face(
        self,
        outline: Outline,
        z: float,
        label: str,
        material: str,
        color: Color | None = None,
        *,
        order: float | None = None,
        glow: float = 0.0,
    ) -> None:
        """Add a polygon of (x, y) corners that faces the camera at distance z."""
        corners = [(x, y, z) for x, y in outline]
        self._add(corners, label, material, color, Facing.CAMERA, z if order is None else order, glow)

    def side(
        self,
        outline: Outline,
        x: float,
        label: str,
        material: str,
        color: Color | None = None,
        *,
        order: float | None = None,
    ) -> None:
        """Add a polygon of (z, y) corners that faces the road at x."""
        corners = [(x, y, z) for z, y in outline]
        far = max(z for z, _ in outline)
        self._add(corners, label, material, color, Facing.ROAD, far if order is None else order, 0.0)

    def slope(
        self, corners: list[tuple[float, float, float]], label: str, material: str, color: Color, *, order: float
    ) -> None:
        """Add a polygon beside the road, such as the slope of a roof; it is shaded like a face towards the road."""
        self._add(corners, label, material, color, Facing.ROAD, order, 0.0)

    def ground(self, outline: Outline, label: str, material: str, color: Color | None = None) -> None:
        """Add a polygon of (x, z) corners on the ground; later ones cover earlier ones."""
        self._add([(x, 0.0, z) for x, z in outline], label, material, color, Facing.UP, FAR * 10, 0.0)

    def shadow(self, x: float, z: float, width: float, length: float) -> None:
        """Darken the ground under an object whose middle is (x, z)."""
        angles = np.linspace(0.0, 2 * np.pi, 10, endpoint=False)
        self.shadows.append(
            [(x + 0.6 * width * float(np.cos(t)), 0.0, max(z + 0.6 * length * float(np.sin(t)), 0.6)) for t in angles]
        )

    def _add(
        self,
        corners: list[tuple[float, float, float]],
        label: str,
        material: str,
        color: Color | None,
        facing: Facing,
        order: float,
        glow: float,
    ) -> None:
        self.surfaces.append(
            Surface(
                corners=corners,
                label=label,
                material=material,
                color=self.color(material) if color is None else color,
                facing=facing,
                order=order,
                glow=glow,
            )
        )


def brighter(color: Color, factor: float) -> Color:
    """Multiply a colour, up to white."""
    r, g, b = (min(int(factor * channel), 255) for channel in color)
    return r, g, b


def rectangle(left: float, right: float, bottom: float, top: float) -> list[tuple[float, float]]:
    """Corners of an axis-parallel rectangle."""
    return [(left, bottom), (right, bottom), (right, top), (left, top)]


def ellipse(x: float, y: float, width: float, height: float, corners: int = 10) -> list[tuple[float, float]]:
    """Corners on an ellipse around (x, y)."""
    angles = np.linspace(0.0, 2 * np.pi, corners, endpoint=False)
    return [(x + 0.5 * width * float(np.cos(t)), y + 0.5 * height * float(np.sin(t))) for t in angles]


def moved(outline: Outline, x: float, y: float, width: float, height: float) -> list[tuple[float, float]]:
    """Scale an outline in unit coordinates (x in -0.5..0.5, y in 0..1) and move its foot to (x, y)."""
    return [(x + width * u, y + height * v) for u, v in outline]
