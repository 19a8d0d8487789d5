"""Street-scene sentences from a small grammar."""

from __future__ import annotations

import math
from typing import final

import numpy as np

from clouds.core.contract.interfaces import Prompter
from clouds.core.contract.labels import CITYSCAPES, LabelSpace
from clouds.core.system.errors import ConfigError

KINDS = ("photo", "dashcam picture", "wide-angle photo", "street view")
MOODS = ("busy", "quiet", "wide", "narrow", "typical")
PLACES = (
    *("city street", "downtown avenue", "suburban road", "residential street", "highway", "village road"),
    *("country road", "crossroads in a town"),
)
THINGS = {  # of classes of Cityscapes; other classes are mentioned by name
    "car": "cars",
    "truck": "trucks",
    "bus": "buses",
    "train": "a tram",
    "motorcycle": "motorcycles",
    "bicycle": "bicycles",
    "person": "pedestrians",
    "rider": "cyclists",
    "traffic light": "traffic lights",
    "traffic sign": "traffic signs",
    "vegetation": "trees",
    "pole": "street lamps and poles",
}
OBJECTS = tuple(THINGS.values())
SURROUNDINGS = {
    "road": "a wide road",
    "sidewalk": "a sidewalk",
    "building": "tall buildings",
    "wall": "a wall",
    "fence": "a fence",
    "terrain": "grassy terrain",
    "sky": "a wide sky",
}
TIMES = ("in daylight", "at dusk", "at dawn", "at night", "at noon")
WEATHERS = ("sunny", "cloudy", "foggy", "rainy", "snowy")
_GOLDEN = (math.sqrt(5) - 1) / 2


@final
class GrammarPrompter(Prompter):
    """Sentences such as "A photo of a busy city street with cars at night, rainy weather."

    The form follows the published prompts (Benigmim et al., CVPR 2024, section 3.1): a kind of picture, a place, an
    object of the classes, a time, a weather. Prompts are distinct. Every choice of every part occurs about equally
    often, because prompts are taken from the list of all sentences in steps of the golden ratio.

    Args:
        label_space: its classes that are not in Cityscapes become objects, by their name.

    Raises:
        ConfigError: more prompts are requested than exist; the message has the number.
    """

    def __init__(self, label_space: LabelSpace) -> None:
        unknown = tuple(name for name in label_space.names if name not in CITYSCAPES.names)
        self._slots = (WEATHERS, TIMES, OBJECTS + unknown, PLACES, MOODS, KINDS)

    def prompts(self, n: int, *, seed: int) -> list[str]:
        total = math.prod(len(slot) for slot in self._slots)
        if not 0 <= n <= total:
            raise ConfigError(f"the grammar has {total} distinct prompts, but {n} were requested; ask for 0 to {total}")
        rng = np.random.default_rng(seed)
        slots = [[slot[index] for index in rng.permutation(len(slot))] for slot in self._slots]
        start, step = int(rng.integers(total)), _coprime_step(total)
        return [_sentence(slots, (start + number * step) % total) for number in range(n)]


def _coprime_step(total: int) -> int:
    """The smallest step above the golden section of `total` that is coprime to it, so that it visits all numbers."""
    step = max(1, round(total * _GOLDEN))
    while math.gcd(step, total) != 1:
        step += 1
    return step


def _sentence(slots: list[list[str]], number: int) -> str:
    words: list[str] = []
    for slot in slots:
        number, index = divmod(number, len(slot))
        words.append(slot[index])
    weather, time, thing, place, mood, kind = words
    return f"A {kind} of a {mood} {place} with {thing} {time}, {weather} weather."
