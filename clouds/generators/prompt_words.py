"""What the procedural generator understands of a prompt. Words that it does not know change nothing but the drawing."""

from __future__ import annotations

import re
from collections.abc import Mapping

from attrs import field, frozen

LIGHT_WORDS = {
    "golden_dusk": ("dusk", "dawn", "sunset", "sunrise", "twilight", "evening", "golden"),
    "moonlit_night": ("night", "nighttime", "midnight", "moonlight", "dark"),
    "daylight": ("day", "daylight", "daytime", "noon", "midday", "morning", "afternoon"),
}
WEATHER_WORDS = {
    "exponential_fog": ("fog", "foggy", "mist", "misty", "haze", "hazy"),
    "streak_rain": ("rain", "rainy", "raining", "storm", "stormy", "wet", "drizzle", "shower"),
    "flake_snow": ("snow", "snowy", "snowing", "winter", "wintry", "blizzard", "snowfall"),
    "overcast": ("overcast", "cloudy", "clouds", "grey", "gray"),
    "clear_sky": ("clear", "sunny", "sun", "sunshine", "bright"),
}
LAYOUT_WORDS = {
    "highway": ("highway", "motorway", "freeway", "expressway"),
    "suburb": ("suburb", "suburban", "residential", "neighborhood", "neighbourhood"),
    "village": ("village", "hamlet"),
    "country": ("country", "countryside", "rural", "farm", "forest", "mountain"),
    "city": ("city", "downtown", "urban", "town", "avenue", "boulevard", "square", "intersection", "crossroads"),
}
OBJECT_WORDS = {
    "car": ("car", "cars", "vehicle", "vehicles", "traffic", "taxi", "taxis"),
    "truck": ("truck", "trucks", "lorry", "lorries"),
    "bus": ("bus", "buses", "coach", "coaches"),
    "train": ("train", "trains", "tram", "trams", "streetcar"),
    "motorcycle": ("motorcycle", "motorcycles", "motorbike", "motorbikes"),
    "person": ("person", "persons", "people", "pedestrian", "pedestrians", "crowd"),
    "rider": ("rider", "riders", "cyclist", "cyclists"),
    "bicycle": ("bicycle", "bicycles", "bike", "bikes"),
    "tree": ("tree", "trees", "bushes", "vegetation", "park"),
    "pole": ("pole", "poles", "lamp", "lamps", "streetlights"),
    "traffic light": ("traffic light", "traffic lights"),
    "traffic sign": ("traffic sign", "traffic signs", "stop sign", "road signs"),
}
EMPTY_WORDS = ("empty", "deserted", "quiet", "lonely")
BUSY_WORDS = ("busy", "crowded", "bustling")
MOVING = ("car", "truck", "bus", "motorcycle", "person", "rider", "bicycle")


@frozen(kw_only=True)
class Scene:
    """What a prompt asks for.

    Attributes:
        light, weather, layout: names of the kit, or None where the prompt leaves it open.
        objects: named objects, and how many at least.
        empty, busy: few or many vehicles and people.
    """

    light: str | None = None
    weather: str | None = None
    layout: str | None = None
    objects: dict[str, int] = field(factory=dict)
    empty: bool = False
    busy: bool = False


def read_prompt(prompt: str) -> Scene:
    """Look up the words of a prompt; of several words for one thing the first counts.

    >>> read_prompt("A rainy highway at night with two trucks")
    Scene(light='moonlit_night', weather='streak_rain', layout='highway', objects={'truck': 2}, empty=False, busy=False)
    """
    words = re.findall(r"[a-z]+", prompt.lower())
    pairs = [f"{first} {second}" for first, second in zip(words, words[1:], strict=False)]
    named = {word for pair in pairs if _of(OBJECT_WORDS, [pair]) for word in pair.split()}
    singles = [word for word in words if word not in named]
    found = [(name, word) for word in (*pairs, *singles) if (name := _of(OBJECT_WORDS, [word]))]
    return Scene(
        light=_of(LIGHT_WORDS, words),
        weather=_of(WEATHER_WORDS, words),
        layout=_of(LAYOUT_WORDS, words),
        objects={
            name: 2 if word.endswith("s") or word in ("people", "traffic", "crowd") else 1 for name, word in found
        },
        empty=any(word in EMPTY_WORDS for word in words),
        busy=any(word in BUSY_WORDS for word in words),
    )


def _of(table: Mapping[str, tuple[str, ...]], words: list[str]) -> str | None:
    """The name whose word comes first."""
    return next((name for word in words for name, known in table.items() if word in known), None)
