"""Parses prompts for the procedural generator. Unknown words only change the random choices."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from attrs import field, frozen

from clouds.core.contract.prompt_words import LAYOUT_WORDS, LIGHT_WORDS, OBJECT_WORDS, WEATHER_WORDS

EMPTY_WORDS = ("empty", "deserted", "quiet", "lonely")
BUSY_WORDS = ("busy", "crowded", "bustling")
NEGATIONS = ("no", "without")
MOVING = ("car", "truck", "bus", "motorcycle", "person", "rider", "bicycle")


@frozen(kw_only=True)
class Wish:
    """The scene that a prompt describes.

    Attributes:
        light, weather, layout: names of `prompt_words`, or None if unspecified.
        objects: object name -> minimum number: 1 for "a car", 2 for "cars", 0 for "no cars".
        empty, busy: few or many vehicles and people.
    """

    light: str | None = None
    weather: str | None = None
    layout: str | None = None
    objects: dict[str, int] = field(factory=dict)
    empty: bool = False
    busy: bool = False


def read_prompt(prompt: str) -> Wish:
    """Look up the words of a prompt; of several words for one property the first counts.

    >>> wish = read_prompt("A rainy highway at night with trucks and no cars")
    >>> wish.light, wish.weather, wish.layout, wish.objects
    ('night', 'rain', 'highway', {'truck': 2, 'car': 0})
    """
    words = re.findall(r"[a-z]+", prompt.lower())
    return Wish(
        light=_first(LIGHT_WORDS, words),
        weather=_first(WEATHER_WORDS, words),
        layout=_first(LAYOUT_WORDS, words),
        objects=_objects(words),
        empty=any(word in EMPTY_WORDS for word in words),
        busy=any(word in BUSY_WORDS for word in words),
    )


def _first(table: Mapping[str, tuple[str, ...]], words: Sequence[str]) -> str | None:
    """The name of the first known word."""
    return next((name for word in words for name, known in table.items() if word in known), None)


def _objects(words: Sequence[str]) -> dict[str, int]:
    """Named objects and their minimum numbers; word pairs ("traffic light") take precedence over single words."""
    counts = {word: (name, 1 + many) for name, forms in OBJECT_WORDS.items() for many in (0, 1) for word in forms[many]}
    found: dict[str, int] = {}
    start = 0
    while start < len(words):
        pair = " ".join(words[start : start + 2])
        phrase = pair if pair in counts else words[start]
        if phrase in counts:
            name, least = counts[phrase]
            found.setdefault(name, 0 if start and words[start - 1] in NEGATIONS else least)
        start += len(phrase.split())
    return found
