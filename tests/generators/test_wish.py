"""What is read from a prompt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clouds.core.contract.prompt_words import LAYOUT_WORDS, LIGHT_WORDS, OBJECT_WORDS, WEATHER_WORDS
from clouds.generators.procedural import LIGHTS, WEATHERS
from clouds.generators.wish import Wish, read_prompt
from clouds.streets.kits.promptable.kit import KIT
from clouds.streets.records import OBJECTS


def test_the_published_kind_of_prompt() -> None:
    wish = read_prompt("A photo of a busy road in daylight with sunny weather.")
    assert wish == Wish(light="day", weather="clear", busy=True)


def test_of_several_words_for_one_thing_the_first_counts() -> None:
    assert read_prompt("rain, then snow").weather == "rain"
    assert read_prompt("snow, then rain").weather == "snow"


@pytest.mark.parametrize(
    ("prompt", "objects"),
    [
        ("a bus", {"bus": 1}),
        ("two buses", {"bus": 2}),
        ("people at a traffic light", {"person": 2, "traffic light": 1}),
        ("heavy traffic under traffic lights", {"car": 2, "traffic light": 2}),
        ("no cars, without a truck but with one without trucks", {"car": 0, "truck": 1}),
        ("a CAR and cars", {"car": 1}),
        ("carpet, carts and oscar", {}),
    ],
)
def test_objects(prompt: str, objects: dict[str, int]) -> None:
    assert read_prompt(prompt).objects == objects


def test_every_known_word_means_something_that_can_be_drawn() -> None:
    assert set(LIGHT_WORDS) == set(LIGHTS)
    assert set(LIGHTS.values()) == set(KIT.lights)
    assert set(WEATHER_WORDS) == set(WEATHERS)
    assert set(WEATHERS.values()) == set(KIT.weathers)
    assert set(LAYOUT_WORDS) == set(KIT.layouts)
    assert set(OBJECT_WORDS) == set(OBJECTS)


@given(st.text())
def test_any_text_can_be_read(prompt: str) -> None:
    wish = read_prompt(prompt)
    assert wish.light is None or wish.light in LIGHTS
    assert set(wish.objects) <= set(OBJECTS)


@given(st.text(alphabet="qxz .,"))
def test_unknown_words_mean_nothing(prompt: str) -> None:
    assert read_prompt(prompt) == Wish()
