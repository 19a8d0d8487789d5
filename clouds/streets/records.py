"""Frozen records that define a style of street scenes; the renderer itself has no style."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from attrs import field, frozen
from jaxtyping import Bool, Float32, UInt8

from clouds.core.system.errors import ConfigError, did_you_mean
from clouds.streets.camera import Camera
from clouds.streets.noise import Noise

Interval = tuple[float, float]
Color = tuple[int, int, int]

# Paint materials. They differ from classes, which belong to objects: a car has the materials car, glass, tyre and lamp.
MATERIALS = (
    *("road", "mark", "sidewalk", "curb", "grass", "building", "roof", "glass", "wall", "fence", "pole", "housing"),
    *("sign", "leaf", "trunk", "sky", "skin", "cloth", "car", "truck", "bus", "train", "metal", "tyre"),
)
OBJECTS = (
    *("car", "truck", "bus", "train", "motorcycle", "person", "rider", "bicycle"),
    *("tree", "pole", "traffic light", "traffic sign"),
)


@frozen(eq=False, kw_only=True)
class Patch:
    """The pixels that one texture paints.

    Attributes:
        a: metres along the surface: x on the ground and on faces towards the camera, z on faces towards the road.
        b: metres across: z on the ground, y (up) elsewhere. In the sky a and b are slopes of the viewing ray.
        key: random number in 0..1 per surface, so that neighbours differ.
        pixel: size of a pixel in metres.
        noise: random field of this image.
    """

    a: Float32[np.ndarray, " n"]
    b: Float32[np.ndarray, " n"]
    key: Float32[np.ndarray, " n"]
    pixel: Float32[np.ndarray, " n"]
    noise: Noise


@frozen(eq=False, kw_only=True)
class Frame:
    """Per-pixel data besides colour.

    Attributes:
        camera: camera of this image.
        label_map: Cityscapes train ids.
        depth: metres ahead; the sky has `camera.FAR`.
        height: metres above the ground.
        lateral: metres to the right of the own lane's middle, following the bend.
        sky, ground: masks of the sky, and of horizontal surfaces.
        glow: own light in the dark, 0..1: lit windows and lamps.
        noise: random field of this image.
    """

    camera: Camera
    label_map: UInt8[np.ndarray, "h w"]
    depth: Float32[np.ndarray, "h w"]
    height: Float32[np.ndarray, "h w"]
    lateral: Float32[np.ndarray, "h w"]
    sky: Bool[np.ndarray, "h w"]
    ground: Bool[np.ndarray, "h w"]
    glow: Float32[np.ndarray, "h w"]
    noise: Noise


Image = Float32[np.ndarray, "h w 3"]
Texture = Callable[[Patch], Float32[np.ndarray, " n"]]
"""Factor on the brightness of each pixel, 1 = unchanged."""
Facade = Callable[[Patch], tuple[Float32[np.ndarray, " n"], Float32[np.ndarray, " n"]]]
"""How much of each pixel is window (0..1), and a random number in 0..1 that is constant within a window."""
Stage = Callable[[Image, Frame, np.random.Generator], Image]
"""A model of light, weather or sensor: changes colours (RGB, 0..1; results outside are clipped), never labels."""


@frozen(kw_only=True)
class SceneLayout:
    """A family of streets: each image draws its dimensions from these closed intervals.

    Attributes:
        camera_height: metres.
        focal: fraction of the width.
        horizon: fraction of the height, from the top.
        curvature: absolute value, 1/m; the direction is random.
        lane_width, shoulder, sidewalk, verge: metres; a sidewalk under half a metre is left out.
        lanes: integer number per direction.
        building_length, building_height, setback: metres; setback is from the verge.
        density: probability that a lot has a building.
        pitched: probability that a roof is pitched.
        barriers: choices between street and lots: "wall", "fence", "none".
        skyline: choices at the horizon: "hills", "blocks", "trees".
        tree_shapes: names in `furniture.TREES`.
        tree_height: metres.
        crossing: probability of a crossing street.
        objects: integer number of each object of `OBJECTS`; missing objects do not occur.
    """

    camera_height: Interval
    focal: Interval
    horizon: Interval
    curvature: Interval
    lane_width: Interval
    shoulder: Interval
    sidewalk: Interval
    verge: Interval
    lanes: tuple[int, int]
    building_length: Interval
    building_height: Interval
    setback: Interval
    density: float
    pitched: float
    barriers: tuple[str, ...]
    skyline: tuple[str, ...]
    tree_shapes: tuple[str, ...]
    tree_height: Interval
    crossing: float
    objects: Mapping[str, tuple[int, int]]


@frozen(kw_only=True)
class Palette:
    """Colours by material: swatches (RGB, 0..255), and the maximum jitter of each channel."""

    swatches: Mapping[str, tuple[Color, ...]] = field()
    jitter: int = 0

    def __attrs_post_init__(self) -> None:
        lacking = [material for material in MATERIALS if not self.swatches.get(material)]
        if lacking:
            raise ConfigError(f"palette has no colour for {', '.join(lacking)}; give each material at least one")

    def draw(self, material: str, rng: np.random.Generator) -> Color:
        """A random colour of a material."""
        choices = self.swatches[material]
        swatch = choices[rng.integers(len(choices))]
        shift = rng.integers(-self.jitter, self.jitter + 1, size=3)
        r, g, b = (int(min(max(c + s, 0), 255)) for c, s in zip(swatch, shift, strict=True))
        return r, g, b


@frozen(kw_only=True)
class Style:
    """The complete style of an image.

    Attributes:
        layout, palette: shapes and colours.
        textures: choices by material, one per surface; other materials are plain.
        facades: choices of window patterns, one per building.
        stages: light, weather and sensor models, in the order of application.
    """

    layout: SceneLayout
    palette: Palette
    textures: Mapping[str, tuple[Texture, ...]]
    facades: tuple[Facade, ...]
    stages: tuple[Stage, ...]


def _by_name(functions: Sequence[Callable[..., Any]]) -> dict[str, Any]:
    return {function.__name__: function for function in functions}


@frozen(kw_only=True)
class Kit:
    """A closed set of models. A style takes all of its models from one kit, by name, so that kits never mix.

    Attributes:
        name: name for error messages.
        layouts, palettes: records by name.
        textures, facades, lights, weathers, sensors: model functions, looked up by `__name__`.
    """

    name: str
    layouts: Mapping[str, SceneLayout]
    palettes: Mapping[str, Palette]
    textures: Mapping[str, Texture] = field(converter=_by_name)
    facades: Mapping[str, Facade] = field(converter=_by_name)
    lights: Mapping[str, Stage] = field(converter=_by_name)
    weathers: Mapping[str, Stage] = field(converter=_by_name)
    sensors: Mapping[str, Stage] = field(converter=_by_name)

    def style(
        self,
        *,
        layout: str,
        palette: str,
        textures: Mapping[str, Sequence[str]],
        facades: Sequence[str],
        weather: str,
        light: str,
        sensor: str,
    ) -> Style:
        """Build a style from names of this kit.

        Weather is applied before light (fog at night is dark), the sensor last.

        Raises:
            ConfigError: the kit does not have a name.
        """
        return Style(
            layout=self._find("layouts", layout),
            palette=self._find("palettes", palette),
            textures={
                material: tuple(self._find("textures", name) for name in names) for material, names in textures.items()
            },
            facades=tuple(self._find("facades", name) for name in facades),
            stages=(
                self._find("weathers", weather),
                self._find("lights", light),
                self._find("sensors", sensor),
            ),
        )

    def _find(self, what: str, name: str) -> Any:
        table: Mapping[str, Any] = getattr(self, what)
        if name not in table:
            raise ConfigError(f"kit {self.name!r} has no {name!r} among its {what}{did_you_mean(name, table)}")
        return table[name]
