"""Renders an image: scene, raster, shading, then the style's weather, light and sensor models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import frozen
from jaxtyping import UInt8

from clouds.streets.buildings import add_lots, add_skyline
from clouds.streets.camera import Camera
from clouds.streets.furniture import add_lamp_posts, add_traffic_lights, add_traffic_signs, add_trees
from clouds.streets.ground import add_ground, draw_street
from clouds.streets.people import add_bicycles, add_motorcycles, add_persons, add_riders
from clouds.streets.raster import rasterize
from clouds.streets.records import OBJECTS, Palette, SceneLayout, Style
from clouds.streets.scene import Scene
from clouds.streets.shade import shade
from clouds.streets.vehicles import VEHICLES, add_vehicles


@frozen(eq=False, kw_only=True)
class Drawing:
    """A rendered street: `image` is uint8 "h w 3" RGB, `label_map` uint8 "h w" train ids, exact at pixel centres."""

    image: UInt8[np.ndarray, "h w 3"]
    label_map: UInt8[np.ndarray, "h w"]


def render(style: Style, size: tuple[int, int], key: Sequence[int]) -> Drawing:
    """Render an image of (height, width) pixels. The same style, size and key give the same bytes.

    The scene does not depend on the size: the same key shows the same street at any resolution.

    Args:
        style: style of the image.
        size: at least (1, 1).
        key: random seed, numbers of 0 or more.
    """
    seeds = [np.random.SeedSequence(key, spawn_key=(part,)) for part in range(2 + len(style.stages))]
    scene_rng, shade_rng, *stage_rngs = map(np.random.default_rng, seeds)
    scene = build_scene(style.layout, style.palette, scene_rng)
    raster = rasterize(scene, size)
    pane = np.array(scene.color("glass"), dtype=np.float32) / 255
    image, frame = shade(raster, style, scene.camera, pane, shade_rng)
    for stage, rng in zip(style.stages, stage_rngs, strict=True):
        image = np.clip(stage(image, frame, rng), 0.0, 1.0)
    return Drawing(image=np.rint(image * 255).astype(np.uint8), label_map=frame.label_map)


def build_scene(layout: SceneLayout, palette: Palette, rng: np.random.Generator) -> Scene:
    """Draw a random street from its layout, and add its objects."""
    camera = Camera(
        height=rng.uniform(*layout.camera_height),
        focal=rng.uniform(*layout.focal),
        horizon=rng.uniform(*layout.horizon),
        curvature=rng.uniform(*layout.curvature) * rng.choice((-1, 1)),
    )
    scene = Scene(camera=camera, palette=palette, rng=rng, sunny_side=int(rng.choice((-1, 1))))
    counts = dict.fromkeys(OBJECTS, 0)
    counts |= {name: int(rng.integers(low, high + 1)) for name, (low, high) in layout.objects.items()}
    street = draw_street(layout, scene)
    add_ground(street, scene)
    add_skyline(layout, scene)
    add_lots(layout, street, scene)
    add_trees(layout, street, scene, counts["tree"])
    add_lamp_posts(street, scene, counts["pole"])
    add_traffic_lights(street, scene, counts["traffic light"])
    add_traffic_signs(street, scene, counts["traffic sign"])
    add_vehicles(street, scene, {name: counts[name] for name in VEHICLES})
    add_riders(street, scene, counts["rider"])
    add_motorcycles(street, scene, counts["motorcycle"])
    add_bicycles(street, scene, counts["bicycle"])
    add_persons(street, scene, counts["person"])
    return scene
