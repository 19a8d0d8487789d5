"""Scenes to ask captions for: attributes that are drawn so that all of them come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from attrs import frozen
from jaxtyping import Float

from clouds.core.contract.class_index import ClassIndex, class_probabilities
from clouds.core.contract.labels import LabelSpace
from clouds.core.contract.prompt_words import LIGHT_WORDS, WEATHER_WORDS
from clouds.core.system.errors import ConfigError
from clouds.prompters.grammar import KINDS, PLACES, SURROUNDINGS, THINGS, TIMES, WEATHERS
from clouds.prompters.prompt_statistics import classes_named, words_named

T = TypeVar("T")
TEMPERATURE = 0.01  # of rare-class sampling, as published (DAFormer, CVPR 2022)
_REMEDY = "write it with: clouds datasets check SPEC --index FILE"
_WORDS = {**THINGS, **SURROUNDINGS}


@frozen(kw_only=True)
class Scene:
    """What a caption has to name.

    Attributes:
        kind, place, time, weather: words of the grammar.
        classes: two classes; one if the label space has no other.
    """

    kind: str
    place: str
    classes: tuple[str, ...]
    time: str
    weather: str

    @property
    def sentence(self) -> str:
        """A plain sentence in the grammar's words: "A photo of a rainy highway at night with cars and a wall."."""
        things = " and ".join(_WORDS.get(name, name) for name in self.classes)
        return f"A {self.kind} of a {self.weather} {self.place} {self.time} with {things}."

    def is_named_in(self, caption: str, label_space: LabelSpace) -> bool:
        """Whether a caption names the classes, and the weather and time of day and no others; by any of their words."""
        return set(self.classes) <= classes_named(caption, label_space) and all(
            words_named(caption, words) == words_named(self.sentence, words) for words in (WEATHER_WORDS, LIGHT_WORDS)
        )


def draw_scenes(
    label_space: LabelSpace, *, seed: int, shares: Float[np.ndarray, " k"] | None = None
) -> Iterator[Scene]:
    """Scenes without end; scene i depends only on the seed and i.

    Each attribute, and the first class, goes through all of its choices before one comes again. So k consecutive scenes
    from a multiple of k on name all k classes. The second class is drawn among the others.

    Args:
        label_space: the classes.
        seed: random seed.
        shares: probability of each second class; None draws them evenly. Classes of probability 0 come first only.
    """
    slots = (KINDS, PLACES, TIMES, WEATHERS, range(len(label_space)))
    decks = [_shuffled(slot, np.random.default_rng((seed, number))) for number, slot in enumerate(slots)]
    rng = np.random.default_rng((seed, len(slots)))
    weights = np.ones(len(label_space)) if shares is None else shares
    for kind, place, time, weather, first in zip(*decks, strict=True):
        others = np.where(np.arange(len(weights)) == first, 0, weights)
        second = [rng.choice(len(others), p=others / others.sum())] if others.any() else []
        classes = tuple(label_space.names[index] for index in (first, *second))
        yield Scene(kind=kind, place=place, classes=classes, time=time, weather=weather)


def second_shares(
    balance: Literal["even", "rare"], index: Sequence[str], label_space: LabelSpace
) -> Float[np.ndarray, " k"] | None:
    """The `shares` of `draw_scenes` by the option `balance`: those of rare-class sampling over all indices, or None.

    Raises:
        ConfigError: `index` is missing or of no use, or an index cannot be read or counts other classes.
    """
    if (balance == "rare") != bool(index):
        raise ConfigError(
            f"prompter llm: balance={balance} with {len(index)} class indices; expected index=[FILE, ...] with "
            f"balance=rare, and none with balance=even; {_REMEDY}"
        )
    if balance == "even":
        return None
    found = [ClassIndex.read(Path(file), remedy=_REMEDY) for file in index]
    for file, one in zip(index, found, strict=True):
        if one.classes != label_space.names:
            raise ConfigError(f"{file}: counts other classes than label space {label_space.name!r}; {_REMEDY}")
    counts = np.concatenate([one.counts for one in found])
    if not counts.any():
        raise ConfigError(f"{', '.join(index)}: no pixel is labelled; give the index of a labelled source")
    return class_probabilities(counts, TEMPERATURE)


def _shuffled(choices: Sequence[T], rng: np.random.Generator) -> Iterator[T]:
    """All choices in random order, again and again."""
    while True:
        yield from (choices[index] for index in rng.permutation(len(choices)))
