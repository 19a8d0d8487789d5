"""The plan of a street, and its flat surfaces: road, lane marks, sidewalks, verges, a crossing street."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from attrs import frozen

from clouds.streets.camera import FAR, NEAR
from clouds.streets.records import SceneLayout
from clouds.streets.scene import Outline, Scene, rectangle

_CROSSING_WIDTH = 8.0


@frozen(kw_only=True)
class Street:
    """Random dimensions of one street in metres; x = 0 is the middle of the camera's own lane.

    Attributes:
        left, right: edges of the road.
        lane_width: width of each lane.
        own, oncoming: middles of the lanes that lead away from and towards the camera.
        sidewalk, verge: widths on each side, outside the road; 0 means none.
        crossing: distance of the near edge of a crossing street, or None.
    """

    left: float
    right: float
    lane_width: float
    own: tuple[float, ...]
    oncoming: tuple[float, ...]
    shoulder: float
    sidewalk: float
    verge: float
    crossing: float | None

    def walk(self, side: int) -> tuple[float, float]:
        """Interval of x where people walk on one side (-1 left, 1 right): the sidewalk, or else the verge."""
        inner = self.right if side > 0 else self.left
        outer = inner + side * max(self.sidewalk - 0.3, 1.2)
        return (inner + 0.4, outer) if side > 0 else (outer, inner - 0.4)

    def lots(self, side: int) -> float:
        """The x where the lots start on one side."""
        return self.right + self.sidewalk + self.verge if side > 0 else self.left - self.sidewalk - self.verge

    def crossed(self, z: float, margin: float = 0.0) -> bool:
        """Whether z lies on the crossing street."""
        return self.crossing is not None and -margin < z - self.crossing < _CROSSING_WIDTH + margin


def draw_street(layout: SceneLayout, scene: Scene) -> Street:
    """Draw random dimensions of a street from its layout."""
    lanes = int(scene.rng.integers(layout.lanes[0], layout.lanes[1] + 1))
    width, shoulder = scene.uniform(layout.lane_width), scene.uniform(layout.shoulder)
    sidewalk = scene.uniform(layout.sidewalk)
    crossing = scene.uniform((14.0, 34.0)) if scene.rng.random() < layout.crossing else None
    return Street(
        left=-width * (2 * lanes - 0.5) - shoulder,
        right=width / 2 + shoulder,
        lane_width=width,
        own=tuple(-width * i for i in range(lanes)),
        oncoming=tuple(-width * (lanes + i) for i in range(lanes)),
        shoulder=shoulder,
        sidewalk=sidewalk if sidewalk > 0.5 else 0.0,
        verge=scene.uniform(layout.verge),
        crossing=crossing,
    )


def add_ground(street: Street, scene: Scene) -> None:
    """Add all flat surfaces, except the terrain below the horizon, which the rasteriser paints."""
    if street.sidewalk:
        outer = street.sidewalk
        scene.ground(_strip(street.left - outer, street.right + outer), "sidewalk", "sidewalk")
        scene.ground(_strip(street.left - 0.25, street.right + 0.25), "sidewalk", "curb")
    scene.ground(_strip(street.left, street.right), "road", "road")
    _add_lane_marks(street, scene)
    if street.crossing is not None:
        _add_crossing(street, street.crossing, scene)


def _strip(left: float, right: float, near: float = NEAR, far: float = FAR) -> Outline:
    """A strip along the road, with enough corners to follow the bend."""
    zs = np.geomspace(near, far, 20).tolist()
    return [(left, z) for z in zs] + [(right, z) for z in reversed(zs)]


def _add_lane_marks(street: Street, scene: Scene) -> None:
    middle = (street.own[-1] + street.oncoming[0]) / 2
    for x in (street.left + street.shoulder, middle, street.right - street.shoulder):
        scene.ground(_strip(x - 0.07, x + 0.07), "road", "mark")
    phase = scene.uniform((0.0, 6.0))
    lanes = [*street.own, *street.oncoming]
    for a, b in pairwise(lanes):
        x = (a + b) / 2
        if x == middle:
            continue
        for start in np.arange(1.0 + phase, 80.0, 9.0).tolist():
            scene.ground(rectangle(x - 0.08, x + 0.08, start, start + 3.5), "road", "mark")


def _add_crossing(street: Street, start: float, scene: Scene) -> None:
    scene.ground(rectangle(-FAR, FAR, start, start + _CROSSING_WIDTH), "road", "road")
    for x in np.arange(street.left + 0.4, street.right - 0.4, 1.0).tolist():
        scene.ground(rectangle(x, x + 0.5, start - 3.5, start - 0.8), "road", "mark")
    scene.ground(rectangle(street.left, street.right, start - 4.4, start - 4.1), "road", "mark")
