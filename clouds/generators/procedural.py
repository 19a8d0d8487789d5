"""The procedural generator: street scenes from prompts, with exact labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import final

import numpy as np
from attrs import evolve

from clouds.core.contract.interfaces import Generator
from clouds.core.contract.records import GeneratedImage, GenerationRequest
from clouds.generators.wish import MOVING, Wish, read_prompt
from clouds.streets.kits.promptable.kit import KIT
from clouds.streets.kits.promptable.textures import CHOICES
from clouds.streets.records import SceneLayout, Style
from clouds.streets.render import render

# Prompt word -> name in the kit; places have the same name in both.
LIGHTS = {"dusk or dawn": "golden_dusk", "night": "moonlit_night", "day": "daylight"}
WEATHERS = {
    "fog": "exponential_fog",
    "rain": "streak_rain",
    "snow": "flake_snow",
    "overcast": "overcast",
    "clear": "clear_sky",
}


@final
class ProceduralGenerator(Generator):
    """Draws street scenes as the prompt says; unspecified properties are random by the request's seed and prompt.

    It ignores `steps` and `guidance` of a request. Labels are Cityscapes train ids.
    """

    def generate(self, requests: Iterable[GenerationRequest]) -> Iterator[GeneratedImage]:
        for request in requests:
            key = (request.seed, int.from_bytes(blake2b(request.prompt.encode(), digest_size=8).digest()))
            style = choose_style(read_prompt(request.prompt), np.random.default_rng(key))
            picture = render(style, request.size, key)
            yield GeneratedImage(request=request, image=picture.image, labels=picture.label_map)


def choose_style(wish: Wish, rng: np.random.Generator) -> Style:
    """A style of the promptable kit that follows the wish; unspecified properties are drawn at random."""
    light, weather, layout, sensor = (
        asked or rng.choice(names)
        for asked, names in (
            (wish.light and LIGHTS[wish.light], sorted(KIT.lights)),
            (wish.weather and WEATHERS[wish.weather], sorted(KIT.weathers)),
            (wish.layout, sorted(KIT.layouts)),
            (None, sorted(KIT.sensors)),
        )
    )
    style = KIT.style(
        layout=str(layout),
        palette="wide",
        textures=CHOICES,
        facades=sorted(KIT.facades),
        weather=str(weather),
        light=str(light),
        sensor=str(sensor),
    )
    return evolve(style, layout=_populate(style.layout, wish))


def _populate(layout: SceneLayout, wish: Wish) -> SceneLayout:
    """Set the numbers of objects as the prompt asks."""
    objects = dict(layout.objects)
    for name in MOVING:
        low, high = objects.get(name, (0, 0))
        if wish.empty:
            objects[name] = (0, 0)
        elif wish.busy and high:
            objects[name] = (low + 1, 2 * high)
    for name, least in wish.objects.items():
        high = objects.get(name, (0, 0))[1]
        objects[name] = (least, max(high, least + 1)) if least else (0, 0)
    return evolve(layout, objects=objects)
