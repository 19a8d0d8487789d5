"""Scenes that captions are asked for: their coverage, their check, and rare classes."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from clouds.core.contract.class_index import ClassIndex, class_probabilities
from clouds.core.contract.labels import CITYSCAPES, LabelSpace, built_in_names
from clouds.core.system.errors import ConfigError
from clouds.prompters.grammar import KINDS, PLACES, TIMES, WEATHERS
from clouds.prompters.scenes import TEMPERATURE, Scene, draw_scenes, second_shares

LEVEL = 1e-6  # of chi-squared tests: of a million right builds, one fails
COUNTS = [[900, 40, 60, 0], [800, 0, 90, 0]]
FEW = LabelSpace.from_names(["road", "car", "train", "sky"])
SCENE = Scene(kind="photo", place="highway", classes=("car", "wall"), time="at night", weather="rainy")


def scenes(n: int, *, seed: int = 0, labels: LabelSpace = CITYSCAPES, shares: np.ndarray | None = None) -> list[Scene]:
    return list(islice(draw_scenes(labels, seed=seed, shares=shares), n))


@given(seed=st.integers(0, 2**32), rare=st.booleans())
def test_every_choice_comes_before_one_comes_again(seed: int, rare: bool) -> None:
    shares = np.eye(len(CITYSCAPES))[3] if rare else None
    drawn = scenes(40, seed=seed, shares=shares)
    choices = {
        CITYSCAPES.names: [scene.classes[0] for scene in drawn],
        KINDS: [scene.kind for scene in drawn],
        PLACES: [scene.place for scene in drawn],
        TIMES: [scene.time for scene in drawn],
        WEATHERS: [scene.weather for scene in drawn],
    }
    for slot, found in choices.items():
        for start in range(0, len(found) - len(slot) + 1, len(slot)):
            assert sorted(found[start : start + len(slot)]) == sorted(slot)
    assert all(len(set(scene.classes)) == len(scene.classes) for scene in drawn)


@given(seed=st.integers(0, 2**32))
def test_a_scene_depends_on_the_seed_and_its_number(seed: int) -> None:
    assert scenes(7, seed=seed) == scenes(30, seed=seed)[:7]


def test_second_classes_are_drawn_by_their_shares() -> None:
    shares = np.array([0.1, 0.2, 0.7, 0.0])
    pairs = Counter(scene.classes for scene in scenes(8000, labels=FEW, shares=shares))
    for first, name in enumerate(FEW.names):
        others = np.where(np.arange(4) == first, 0, shares)
        expected = {FEW.names[index]: 2000 * others[index] / others.sum() for index in np.flatnonzero(others)}
        assert {second for one, second in pairs if one == name} == set(expected)
        assert chisquare([pairs[name, second] for second in expected], list(expected.values())).pvalue > LEVEL


def test_a_class_without_others_stays_alone() -> None:
    assert {scene.classes for scene in scenes(5, labels=LabelSpace.from_names(["zebu"]))} == {("zebu",)}
    alone = scenes(8, labels=FEW, shares=np.array([0.0, 1.0, 0.0, 0.0]))
    assert {scene.classes for scene in alone} == {("road", "car"), ("car",), ("train", "car"), ("sky", "car")}


@pytest.mark.parametrize("name", built_in_names())
def test_plain_sentences_name_their_scene(name: str) -> None:
    """In the words of any label space, also of classes that the grammar does not know."""
    labels = LabelSpace.named(name)
    for scene in scenes(3 * len(labels), labels=labels):
        assert scene.is_named_in(scene.sentence, labels), scene.sentence


def test_a_plain_sentence() -> None:
    assert SCENE.sentence == "A photo of a rainy highway at night with cars and a wall."


@pytest.mark.parametrize(
    ("caption", "named"),
    [
        ("On a wet motorway two taxis pass a brick wall at midnight.", True),
        ("Cars and walls in the rain at night", True),
        ("Cars beside a wall in the rain", False),  # no time of day
        ("Cars beside a wall at night", False),  # no weather
        ("Cars in the rain at night", False),  # a class is missing
        ("Cars beside a wall at night, rain and snow", False),  # another weather, too
        ("Carpets beside a wallet in the rain at night", False),
        ("", False),
    ],
)
def test_captions_are_checked_by_words(caption: str, named: bool) -> None:
    assert SCENE.is_named_in(caption, CITYSCAPES) is named


def save_index(path: Path, classes: tuple[str, ...], pixels: list[list[int]]) -> str:
    names = tuple(f"image{number}" for number in range(len(pixels)))
    sizes = (1,) * len(pixels)
    counts = tuple(map(tuple, pixels))
    ClassIndex(classes=classes, encoding="", names=names, bytes=sizes, pixels=counts).write(path)
    return str(path)


def test_rare_shares_are_those_of_all_indices(tmp_path: Path) -> None:
    files = tuple(save_index(tmp_path / str(number), FEW.names, [row]) for number, row in enumerate(COUNTS))
    shares = second_shares("rare", files, FEW)
    assert shares is not None
    assert shares.tolist() == class_probabilities(np.array(COUNTS), TEMPERATURE).tolist()
    assert shares[1] > shares[2] > shares[0]
    assert shares[3] == 0
    assert second_shares("even", (), FEW) is None


def test_indices_of_no_use_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"balance=rare with 0 class indices; expected index=\[FILE, .* --index FILE"):
        second_shares("rare", (), FEW)
    with pytest.raises(ConfigError, match=r"balance=even with 1 class indices; .* and none with balance=even"):
        second_shares("even", ("index.json",), FEW)
    with pytest.raises(ConfigError, match=r"nowhere: cannot be read as a class index .* clouds datasets check SPEC"):
        second_shares("rare", (str(tmp_path / "nowhere"),), FEW)
    other = save_index(tmp_path / "other", ("road", "deer"), [[1, 2]])
    with pytest.raises(ConfigError, match=r"other: counts other classes than label space 'custom'; write it with"):
        second_shares("rare", (other,), FEW)
    empty = save_index(tmp_path / "empty", FEW.names, [[0, 0, 0, 0]])
    with pytest.raises(ConfigError, match=r"empty: no pixel is labelled; give the index of a labelled source"):
        second_shares("rare", (empty,), FEW)
