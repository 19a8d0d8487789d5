"""Label spaces."""

import json
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from clouds.core.contract.labels import CITYSCAPES, LabelSpace, distinct_palette
from clouds.core.system.errors import ConfigError


@given(st.lists(st.text(min_size=1), min_size=1, max_size=255, unique=True))
def test_names_make_a_label_space(names: list[str]) -> None:
    space = LabelSpace.from_names(names)
    assert space.names == tuple(names)
    assert space.ids == tuple(range(len(names)))
    assert [space.index(name) for name in names] == list(space.ids)
    assert LabelSpace(**json.loads(json.dumps(space.to_dict()))) == space


@given(st.integers(0, 255))
def test_colours_are_distinct(count: int) -> None:
    palette = distinct_palette(count)
    assert len(set(palette)) == len(palette) == count
    assert all(0 <= channel <= 255 for color in palette for channel in color)


def test_cityscapes_has_its_published_numbers() -> None:
    """Cordts et al., CVPR 2016: 19 classes; cityscapesScripts' labels.py gives ids and colours."""
    assert len(CITYSCAPES) == 19
    assert CITYSCAPES.ids[CITYSCAPES.index("bicycle")] == 33
    assert CITYSCAPES.palette[CITYSCAPES.index("sky")] == (70, 130, 180)
    assert CITYSCAPES.index("train") == 16
    assert LabelSpace.named("cityscapes") is CITYSCAPES


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": []}, r"label space 'mine' has 0 classes; expected 1 to 255"),
        ({"names": [str(i) for i in range(256)]}, r"has 256 classes; expected 1 to 255"),
        ({"names": ["a", "b", "a"]}, r"label space 'mine' names classes twice: a"),
        ({"names": ["a", ""]}, r"has an empty class name or an empty synonym"),
        ({"synonyms": [["a"], []]}, r"has an empty class name or an empty synonym"),
        ({"synonyms": [["a"], [""]]}, r"has an empty class name or an empty synonym"),
        ({"synonyms": [["a"]]}, r"label space 'mine': 1 synonyms for 2 classes"),
        ({"palette": [(1, 2, 3)]}, r"1 palette for 2 classes"),
        ({"palette": [(1, 2, 3), (1, 2)]}, r"palette: \(1, 2\) is not a colour; expected \(red, green, blue\)"),
        ({"palette": [(1, 2, 3), (1, 2, 256)]}, r"palette values must be in 0..255"),
        ({"ids": [1, 2, 3]}, r"3 ids for 2 classes"),
        ({"ids": [7, 7]}, r"ids are not distinct: \[7, 7\]"),
        ({"things": ["a", "bb"]}, r"label space 'mine': things has 'bb', which is not a class; did you mean 'b'\?"),
        ({"things": "ab"}, r"things must be a list, not the string 'ab'; write \['ab'\]"),
        ({"synonyms": "ab"}, r"synonyms must be a list, not the string 'ab'"),
        ({"synonyms": ["a", "b"]}, r"synonyms of a class must be a list, not the string 'a'; write \['a'\]"),
        ({"ignore": 1}, r"ignore=1 must lie in 2..255"),
        ({"ignore": 256}, r"ignore=256 must lie in 2..255"),
    ],
)
def test_faults_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LabelSpace.from_names(**{"names": ["a", "b"], "name": "mine", **changes})


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"palette": "ab"}, r"palette must be a list, not the string 'ab'"),
        ({"palette": ["red", "sky"]}, r"a colour of the palette must be a list, not the string 'red'"),
        ({"ids": "12"}, r"ids must be a list, not the string '12'"),
    ],
)
def test_strings_are_no_lists_of_numbers(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LabelSpace.from_names(["a", "b"], **changes)


def test_things_are_flags_per_class() -> None:
    space = LabelSpace.from_names(["road", "person", "car"], things=("car", "person"))
    assert space.things == (False, True, True)
    assert LabelSpace(**json.loads(json.dumps(space.to_dict()))) == space
    assert CITYSCAPES.things == (False,) * 11 + (True,) * 8
    with pytest.raises(ConfigError, match="label space 'cityscapes': 2 things for 19 classes"):
        evolve(CITYSCAPES, things=(True, False))


def test_label_spaces_written_before_there_were_things_have_none() -> None:
    written = CITYSCAPES.to_dict()
    del written["things"]
    assert LabelSpace(**written).things == (False,) * 19


def test_unknown_names_have_a_nearest() -> None:
    with pytest.raises(ConfigError, match="label space 'cityscapes' has no class 'rode'; did you mean 'road'"):
        CITYSCAPES.index("rode")
    with pytest.raises(ConfigError, match="unknown label space 'cityscape'; did you mean 'cityscapes'"):
        LabelSpace.named("cityscape")
    with pytest.raises(ConfigError, match=r"class names must be a list, not the string 'road'; write \['road'\]"):
        LabelSpace.from_names("road")
    with pytest.raises(ConfigError, match=r"class names must be a list, not the string 'abc'"):
        LabelSpace(**{**LabelSpace.from_names(["a", "b", "c"]).to_dict(), "names": "abc"})


def test_the_colour_table_has_a_colour_for_every_value() -> None:
    space = LabelSpace.from_names(["one", "two"], palette=[(1, 2, 3), (4, 5, 6)])
    table = space.color_table(other=(7, 8, 9))
    assert (table.shape, table.dtype) == ((256, 3), "uint8")
    assert table[:2].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert table[2:].tolist() == [[7, 8, 9]] * 254
    assert space.color_table()[255].tolist() == [0, 0, 0]
