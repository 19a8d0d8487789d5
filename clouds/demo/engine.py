"""The demo's source domain, "a game engine": clear days, one palette, plain surfaces, one kind of town."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32

from clouds.generators.street.records import Frame, Image, Kit, Layout, Palette, Patch, Style

Values = Float32[np.ndarray, " n"]
Rng = np.random.Generator


def plain_shading(patch: Patch) -> Values:
    """One tone per surface."""
    return 0.95 + 0.1 * patch.key


def tiled_noise(patch: Patch) -> Values:
    """The same small noise everywhere, as from one texture file."""
    return 0.94 + 0.12 * patch.noise(patch.a * 2.0, patch.b * 2.0)


def square_panes(patch: Patch) -> tuple[Values, Values]:
    """A regular grid of square windows, all alike."""
    a, b = patch.a / 2.6 % 1.0, patch.b / 2.6 % 1.0
    inside = (a > 0.25) & (a < 0.75) & (b > 0.3) & (b < 0.8) & (patch.b > 0.5)
    return inside.astype(np.float32), np.full_like(patch.a, 0.5)


def no_weather(image: Image, frame: Frame, rng: Rng) -> Image:
    """A perfectly clear atmosphere."""
    return image


def engine_sun(image: Image, frame: Frame, rng: Rng) -> Image:
    """One sun, always the same."""
    return image * np.float32(1.02)


def ideal_camera(image: Image, frame: Frame, rng: Rng) -> Image:
    """No noise at all."""
    return image


ENGINE = Kit(
    name="game engine",
    layouts={
        "engine town": Layout(
            camera_height=(1.4, 1.6),
            focal=(0.6, 0.68),
            horizon=(0.42, 0.48),
            curvature=(0.0, 0.002),
            lane_width=(3.2, 3.5),
            shoulder=(0.4, 1.8),
            sidewalk=(2.0, 3.0),
            verge=(0.5, 2.0),
            lanes=(1, 2),
            building_length=(10.0, 18.0),
            building_height=(6.0, 16.0),
            setback=(0.5, 3.0),
            density=0.85,
            pitched=0.3,
            barriers=("none", "wall", "fence"),
            skyline=("blocks", "hills"),
            tree_shapes=("round", "conifer"),
            tree_height=(4.0, 7.0),
            crossing=0.3,
            objects={
                "car": (1, 4),
                "truck": (0, 1),
                "bus": (0, 1),
                "person": (1, 3),
                "rider": (0, 1),
                "bicycle": (0, 1),
                "tree": (3, 8),
                "pole": (2, 5),
                "traffic light": (0, 2),
                "traffic sign": (1, 3),
            },
        )
    },
    palettes={
        "engine": Palette(
            jitter=3,
            swatches={
                "road": ((98, 98, 102),),
                "mark": ((236, 236, 232),),
                "sidewalk": ((170, 162, 152),),
                "curb": ((200, 198, 192),),
                "grass": ((92, 142, 62),),
                "building": ((188, 164, 138), (172, 112, 88)),
                "roof": ((132, 70, 56),),
                "glass": ((70, 88, 106),),
                "wall": ((160, 150, 136),),
                "fence": ((118, 96, 72),),
                "pole": ((108, 110, 112),),
                "housing": ((40, 42, 42),),
                "sign": ((208, 44, 46), (44, 88, 176)),
                "leaf": ((66, 112, 48), (86, 126, 56)),
                "trunk": ((92, 72, 54),),
                "sky": ((128, 172, 222),),
                "skin": ((222, 176, 146),),
                "cloth": ((54, 60, 92), (156, 50, 50)),
                "car": ((186, 188, 194), (160, 38, 40), (46, 74, 128)),
                "truck": ((218, 218, 212),),
                "bus": ((206, 64, 48),),
                "train": ((60, 98, 152),),
                "metal": ((62, 64, 68),),
                "tyre": ((32, 32, 34),),
            },
        )
    },
    textures=(plain_shading, tiled_noise),
    facades=(square_panes,),
    lights=(engine_sun,),
    weathers=(no_weather,),
    sensors=(ideal_camera,),
)


def engine_style() -> Style:
    """The one style of the source domain."""
    return ENGINE.style(
        layout="engine town",
        palette="engine",
        textures={
            **dict.fromkeys(("road", "sidewalk", "building", "wall", "grass"), ("plain_shading", "tiled_noise")),
            **dict.fromkeys(("leaf", "roof", "fence"), ("plain_shading",)),
        },
        facades=("square_panes",),
        weather="no_weather",
        light="engine_sun",
        sensor="ideal_camera",
    )
