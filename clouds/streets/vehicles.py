"""Cars, trucks, buses and trains: boxes with a face towards the camera and a flank towards the road."""

from __future__ import annotations

import numpy as np
from attrs import frozen

from clouds.streets.ground import Street
from clouds.streets.scene import Outline, Scene, ellipse, moved, rectangle

Part = tuple[Outline, str]
"""An outline in unit coordinates and its material; "" is the vehicle's own paint."""


@frozen(kw_only=True)
class Vehicle:
    """Size in metres, and the shapes of its face and its flank (front to the right)."""

    label: str
    width: float
    height: float
    length: float
    face: tuple[Part, ...]
    flank: tuple[Part, ...]


def _wheels(*positions: float, size: float, height: float) -> tuple[Part, ...]:
    return tuple((ellipse(x, height / 2, size, height, 10), "tyre") for x in positions)


_FEET: tuple[Part, ...] = ((rectangle(-0.46, -0.3, 0.0, 0.2), "tyre"), (rectangle(0.3, 0.46, 0.0, 0.2), "tyre"))
_CAR = Vehicle(
    label="car",
    width=1.8,
    height=1.5,
    length=4.3,
    face=(
        *_FEET,
        ([(-0.5, 0.14), (0.5, 0.14), (0.5, 0.5), (0.46, 0.62), (-0.46, 0.62), (-0.5, 0.5)], ""),
        ([(-0.45, 0.58), (0.45, 0.58), (0.33, 1.0), (-0.33, 1.0)], ""),
        ([(-0.39, 0.62), (0.39, 0.62), (0.29, 0.93), (-0.29, 0.93)], "glass"),
        (rectangle(-0.44, 0.44, 0.14, 0.22), "tyre"),
    ),
    flank=(
        ([(-0.5, 0.16), (0.5, 0.16), (0.5, 0.45), (0.44, 0.56), (-0.46, 0.62), (-0.5, 0.5)], ""),
        ([(-0.45, 0.58), (0.24, 0.56), (0.08, 1.0), (-0.3, 1.0)], ""),
        ([(-0.38, 0.62), (-0.12, 0.62), (-0.12, 0.93), (-0.28, 0.93)], "glass"),
        ([(-0.08, 0.62), (0.18, 0.62), (0.06, 0.93), (-0.08, 0.93)], "glass"),
        *_wheels(-0.3, 0.3, size=0.17, height=0.44),
    ),
)
_TRUCK = Vehicle(
    label="truck",
    width=2.4,
    height=3.3,
    length=7.5,
    face=(
        *_FEET,
        (rectangle(-0.5, 0.5, 0.16, 1.0), ""),
        (rectangle(-0.46, 0.46, 0.2, 0.27), "tyre"),
        (rectangle(-0.02, 0.02, 0.3, 0.97), "housing"),
    ),
    flank=(
        (rectangle(-0.5, 0.22, 0.22, 1.0), ""),
        ([(0.24, 0.16), (0.5, 0.16), (0.5, 0.45), (0.44, 0.78), (0.24, 0.78)], "truck"),
        ([(0.34, 0.48), (0.47, 0.48), (0.43, 0.72), (0.34, 0.72)], "glass"),
        *_wheels(-0.36, -0.22, 0.36, size=0.13, height=0.28),
    ),
)
_BUS = Vehicle(
    label="bus",
    width=2.5,
    height=3.0,
    length=10.0,
    face=(
        *_FEET,
        (rectangle(-0.5, 0.5, 0.1, 1.0), ""),
        (rectangle(-0.43, 0.43, 0.48, 0.84), "glass"),
        (rectangle(-0.3, 0.3, 0.88, 0.96), "sign"),
    ),
    flank=(
        (rectangle(-0.5, 0.5, 0.12, 1.0), ""),
        *((rectangle(x, x + 0.13, 0.5, 0.82), "glass") for x in (-0.47, -0.32, -0.17, -0.02, 0.13, 0.28)),
        (rectangle(0.42, 0.48, 0.2, 0.82), "glass"),
        *_wheels(-0.32, 0.3, size=0.095, height=0.32),
    ),
)
_TRAIN = Vehicle(
    label="train",
    width=2.6,
    height=3.5,
    length=22.0,
    face=(
        ([(-0.5, 0.06), (0.5, 0.06), (0.5, 0.8), (0.34, 1.0), (-0.34, 1.0), (-0.5, 0.8)], ""),
        ([(-0.42, 0.45), (0.42, 0.45), (0.36, 0.86), (-0.36, 0.86)], "glass"),
        (rectangle(-0.5, 0.5, 0.28, 0.34), "sign"),
    ),
    flank=(
        (rectangle(-0.5, 0.5, 0.06, 0.97), ""),
        *((rectangle(x, x + 0.085, 0.48, 0.8), "glass") for x in np.linspace(-0.48, 0.39, 9).tolist()),
        (rectangle(-0.5, 0.5, 0.28, 0.34), "sign"),
    ),
)
VEHICLES = {"car": _CAR, "truck": _TRUCK, "bus": _BUS, "train": _TRAIN}


def add_vehicles(street: Street, scene: Scene, counts: dict[str, int]) -> None:
    """Place vehicles on the lanes without overlap, nearest first; kinds alternate."""
    free = {x: scene.uniform((9.0, 22.0)) for x in street.own}
    free |= {x: scene.uniform((6.0, 16.0)) for x in street.oncoming}
    if street.shoulder > 1.8:  # wide enough for parked cars
        parking = street.right - street.shoulder / 2
        free[parking] = scene.uniform((5.0, 10.0))
    lanes = list(free)
    for turn in range(max(counts.values(), default=0)):
        for name in [name for name, count in counts.items() if count > turn]:
            vehicle = VEHICLES[name]
            x = min(lanes, key=free.__getitem__) if turn == 0 else lanes[scene.rng.integers(len(lanes))]
            z = free[x]
            _add_vehicle(scene, vehicle, x, z, towards=x in street.oncoming)
            free[x] = z + vehicle.length + scene.uniform((2.5, 16.0))


def _add_vehicle(scene: Scene, vehicle: Vehicle, x: float, z: float, *, towards: bool) -> None:
    paint = scene.color(vehicle.label)
    half = vehicle.width / 2
    middle = x + scene.camera.bend(z)
    order = z + vehicle.length
    scene.shadow(x, z + vehicle.length / 2, vehicle.width, vehicle.length)
    if abs(middle) > half:  # otherwise the flank is hidden
        flank_x = x - half if middle > 0 else x + half
        direction = -1.0 if towards else 1.0
        for outline, material in vehicle.flank:
            turned = [(direction * u, v) for u, v in outline]
            shape = moved(turned, z + vehicle.length / 2, 0.0, vehicle.length, vehicle.height)
            color = None if material else paint
            scene.side(shape, flank_x, vehicle.label, material or vehicle.label, color, order=order)
    for outline, material in vehicle.face:
        shape = moved(outline, x, 0.0, vehicle.width, vehicle.height)
        scene.face(shape, z, vehicle.label, material or vehicle.label, None if material else paint, order=order)
    lamp = (255, 244, 205) if towards else (200, 28, 24)
    for side in (-1, 1):
        spot = ellipse(x + side * 0.38 * vehicle.width, 0.72, 0.26, 0.18, 6)
        scene.face(spot, z, vehicle.label, "glass", lamp, order=order, glow=1.0)
