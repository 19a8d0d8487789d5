"""Counts the classes, weather and times of day that prompts name, by English words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from attrs import frozen

from clouds.core.contract.labels import LabelSpace
from clouds.core.contract.prompt_words import LAYOUT_WORDS, LIGHT_WORDS, OBJECT_WORDS, WEATHER_WORDS

UNSAID = "not said"
# Words for classes, in addition to their synonyms and `prompt_words`.
_MORE_WORDS = {
    "road": (
        "street",
        "lane",
        "crosswalk",
        "roundabout",
        *LAYOUT_WORDS["highway"],
        "avenue",
        "boulevard",
        "intersection",
    ),
    "sidewalk": ("footpath", "footway"),
    "building": ("skyscraper", "shop", "store", "church", "skyline", "storefront", "highrise"),
    "vegetation": ("park", "forest", "hedge", "foliage"),
    "terrain": ("field", "lawn", "meadow"),
    "sky": ("cloud",),
    "person": ("man", "woman", "child", "men", "women", "children", "walker", "jogger"),
    "rider": ("motorcyclist",),
    "train": ("tramway",),
}
_CLASS_OF_OBJECT = {"tree": "vegetation"}  # other objects have the name of their class


@frozen(kw_only=True)
class PromptStatistics:
    """Number of prompts that name each class, weather and time of day.

    Attributes:
        prompts: number of prompts.
        distinct: number of distinct prompts.
        classes: number by class, in the order of the label space.
        weather, time: number by name, and "not said".
    """

    prompts: int
    distinct: int
    classes: dict[str, int]
    weather: dict[str, int]
    time: dict[str, int]


def describe_prompts(prompts: list[str], label_space: LabelSpace) -> PromptStatistics:
    """Count the classes, weather and times of day in prompts.

    >>> from clouds.core.contract.labels import CITYSCAPES
    >>> found = describe_prompts(["Two cars on a road at night", "A foggy park"], CITYSCAPES)
    >>> found.classes["car"], found.weather["fog"], found.time["night"], found.time["not said"]
    (1, 1, 1, 1)
    """
    named = [classes_named(prompt, label_space) for prompt in prompts]
    return PromptStatistics(
        prompts=len(prompts),
        distinct=len(set(prompts)),
        classes={name: sum(name in classes for classes in named) for name in label_space.names},
        weather=_count(prompts, WEATHER_WORDS),
        time=_count(prompts, LIGHT_WORDS),
    )


def classes_named(prompt: str, label_space: LabelSpace) -> set[str]:
    """The classes that a prompt names by name, synonym or another common word, in singular or plural.

    Longer words take precedence over shorter ones that they contain.
    """
    pattern, owners = _class_words(label_space)
    return {name for found in pattern.finditer(prompt.casefold()) for name in owners[found.group(1)]}


@lru_cache(maxsize=8)
def _class_words(label_space: LabelSpace) -> tuple[re.Pattern[str], dict[str, set[str]]]:
    """A pattern of all words, and the classes of each word."""
    owners: dict[str, set[str]] = {}
    for name, synonyms in zip(label_space.names, label_space.synonyms, strict=True):
        for word in (name, *synonyms, *_MORE_WORDS.get(name, ())):
            owners.setdefault(word.casefold(), set()).add(name)
    for thing, (one, many) in OBJECT_WORDS.items():
        name = _CLASS_OF_OBJECT.get(thing, thing)
        for word in (*one, *many) if name in label_space.names else ():
            owners.setdefault(word, set()).add(name)
    return _any_of(tuple(owners)), owners


def words_named(prompt: str, words: Mapping[str, tuple[str, ...]]) -> set[str]:
    """The names in a table of `prompt_words` that have a word in the prompt.

    >>> words_named("A wet street in the evening", WEATHER_WORDS)
    {'rain'}
    """
    return {name for name, forms in words.items() if _any_of(forms).search(prompt.casefold())}


@lru_cache(maxsize=64)
def _any_of(words: tuple[str, ...]) -> re.Pattern[str]:
    """A pattern for the longest matching whole word, with an optional plural ending."""
    forms = "|".join(sorted(map(re.escape, words), key=len, reverse=True))
    return re.compile(rf"(?<!\w)({forms})(?:e?s)?(?!\w)")


def _count(prompts: list[str], words: Mapping[str, tuple[str, ...]]) -> dict[str, int]:
    named = [words_named(prompt, words) for prompt in prompts]
    counts = {name: sum(name in found for found in named) for name in words}
    return {**counts, UNSAID: sum(not found for found in named)}
