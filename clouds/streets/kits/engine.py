"""The demo's source domain, "a game engine": clear days, one palette, plain surfaces, one kind of town."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32

from clouds.streets.records import Frame, Image, Kit, Palette, Patch, SceneLayout, Style

Values = Float32[np.ndarray, " n"]
Rng = np.random.Generator


def plain_shading(patch: Patch) -> Values:
    """One tone per surface."""
    return 0.95 + 0.1 * patch.key


def tiled_noise(patch: Patch) -> Values:
    """The same fine noise everywhere, as from one texture file."""
    return 0.94 + 0.12 * patch.noise(patch.a * 2.0, patch.b * 2.0)


def square_panes(patch: Patch) -> tuple[Values, Values]:
    """A regular grid of equal square windows."""
    a, b = patch.a / 2.6 % 1.0, patch.b / 2.6 % 1.0
    inside = (a > 0.25) & (a < 0.75) & (b > 0.3) & (b < 0.8) & (patch.b > 0.5)
    return inside.astype(np.float32), np.full_like(patch.a, 0.5)


def no_weather(image: Image, frame: Frame, rng: Rng) -> Image:
    """A perfectly clear atmosphere."""
    return image


def engine_sun(image: Image, frame: Frame, rng: Rng) -> Image:
    """Constant sunlight."""
    return image * np.float32(1.02)


def ideal_camera(image: Image, frame: Frame, rng: Rng) -> Image:
    """No noise."""
    return image


ENGINE = Kit(
    name="game engine",
    layouts={
        "engine town": SceneLayout(
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
            jitter=6,
            swatches={
                "road": ((98, 98, 102), (112, 112, 114), (70, 72, 76), (126, 124, 122)),
                "mark": ((236, 236, 232),),
                "sidewalk": ((170, 162, 152), (186, 182, 176), (158, 156, 156), (178, 150, 134)),
                "curb": ((200, 198, 192), (142, 140, 138)),
                "grass": ((92, 142, 62), (112, 148, 74), (82, 124, 58), (138, 140, 84)),
                "building": (
                    *((188, 164, 138), (172, 112, 88), (206, 196, 176), (150, 148, 146)),
                    *((196, 178, 140), (140, 84, 70)),
                ),
                "roof": ((132, 70, 56), (92, 86, 84), (118, 98, 84)),
                "glass": ((70, 88, 106), (92, 106, 116)),
                "wall": ((160, 150, 136), (146, 108, 90), (140, 138, 134)),
                "fence": ((118, 96, 72), (90, 100, 90), (170, 164, 154)),
                "pole": ((108, 110, 112), (80, 84, 84)),
                "housing": ((42, 44, 44), (52, 50, 40)),
                "sign": ((208, 44, 46), (44, 88, 176), (238, 236, 230), (232, 192, 54)),
                "leaf": ((66, 112, 48), (86, 126, 56), (56, 94, 54), (112, 128, 62)),
                "trunk": ((92, 72, 54), (74, 62, 52)),
                "sky": ((128, 172, 222), (146, 184, 224), (110, 154, 208), (164, 190, 214)),
                "skin": ((222, 176, 146), (172, 122, 92), (116, 82, 62)),
                "cloth": ((54, 60, 92), (156, 50, 50), (70, 70, 70), (196, 188, 174), (62, 106, 90)),
                "car": ((186, 188, 194), (160, 38, 40), (46, 74, 128), (44, 46, 50), (234, 234, 232)),
                "truck": ((218, 218, 212), (180, 92, 46), (60, 90, 138)),
                "bus": ((206, 64, 48), (230, 186, 64), (64, 122, 90)),
                "train": ((60, 98, 152),),
                "metal": ((62, 64, 68), (166, 52, 48), (56, 94, 138)),
                "tyre": ((34, 34, 36),),
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
    """The style of the source domain."""
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
