"""Signatures as option schemas."""

import collections.abc
import functools
import json
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clouds.core.contract.component import Component
from clouds.core.contract.schema import read_schema
from clouds.core.system.errors import ComponentError
from clouds.core.system.values import accepts, from_json_value, to_json_value


def plain(*, width: int = 8, path: Path | None = None, sizes: tuple[int, int] = (1, 2)) -> None: ...
def without_types(*, anything=3): ...
def head(features, labels: "NotImported", *, queries: int = 3) -> "NotImported": ...  # noqa: F821
def half_a_head(features, *, queries: int = 3): ...
def wild(*, width: int = 8, **rest: int) -> None: ...
def unreadable(*, width: "Missing" = 8): ...  # noqa: F821


@functools.wraps(plain)
def decorated(**options: Any) -> None: ...


class Factory:
    def __init__(self, *, width: int = 8) -> None: ...


NOT_CALLABLE = 3


def component(function: str, kind: str = "refiner", **fields: Any) -> Component:
    factory = function if ":" in function else f"{__name__}:{function}"
    return Component(kind=kind, name="mine", factory=factory, summary="a test", **fields)


def test_options_are_the_parameters_that_nobody_else_sets() -> None:
    schema = read_schema(component("plain", options={"width": 4}))
    assert list(schema.options) == ["path", "sizes"]
    assert str(schema) == "mine(*, path: pathlib.Path | None = None, sizes: tuple[int, int] = (1, 2))"
    assert read_schema(component("half_a_head", kind="refiner")).given == ()
    assert list(read_schema(component("Factory")).options) == ["width"]
    assert read_schema(component("decorated")).types["width"] is int


def test_heads_are_given_features_and_labels() -> None:
    schema = read_schema(component("plain", kind="prompter"))
    assert schema.given == ()
    with pytest.raises(
        ComponentError, match=r"no parameter 'labels', which the composer passes to every head; found \(f"
    ):
        read_schema(component("half_a_head", kind="head"))


@pytest.mark.parametrize(
    ("function", "fields", "message"),
    [
        ("NOT_CALLABLE", {}, "refiner 'mine': factory 'test_schema:NOT_CALLABLE' is not callable, but int"),
        ("missing", {}, "module 'test_schema' has no attribute 'missing'"),
        ("nowhere_at_all:factory", {}, "importing 'nowhere_at_all' failed: ModuleNotFoundError: No module"),
        ("builtins:dict", {}, "has no readable signature: .*; write a function with keyword options"),
        ("wild", {}, r"wrong signature: \*\*rest: int \(variadic keyword\) hides the options; name every option"),
        ("plain", {"options": {"depth": 3}}, "wrong signature: no parameter 'depth', which the component names"),
        ("unreadable", {}, "an annotation cannot be read: name 'Missing' is not defined; import the names in option"),
    ],
)
def test_wrong_factories_are_named(function: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ComponentError, match=message):
        read_schema(component(function, **fields))


def test_faults_name_the_option_and_the_signature() -> None:
    schema = read_schema(component("plain"))
    assert schema.faults({"width": 3, "path": "a.txt", "sizes": [3, 4]}) == []
    wrong, unknown = schema.faults({"width": 3.5, "sizess": 3})
    assert wrong.startswith("option width=3.5 is not of type int; the signature is mine(*, width: int = 8")
    assert unknown.startswith("unknown option 'sizess'; did you mean 'sizes'?; the signature is mine(")
    assert read_schema(component("without_types")).faults({"anything": object()}) == []
    (nothing,) = read_schema(component("plain", options={"width": 1, "path": None, "sizes": (1, 2)})).faults({"a": 1})
    assert nothing == "unknown option 'a'; it takes no options; the signature is mine()"


def test_options_are_completed_and_typed() -> None:
    schema = read_schema(component("plain"))
    options = schema.complete({"path": "a.txt", "sizes": [3, 4]}, pretrained=True)
    assert options == {"width": 8, "path": "a.txt", "sizes": [3, 4]}
    assert schema.arguments(options) == {"width": 8, "path": Path("a.txt"), "sizes": (3, 4)}


ACCEPTED: list[tuple[Any, list[Any], list[Any]]] = [
    (Any, [1, None, object()], []),
    (int, [0, -3], [True, 1.0, "1", None]),
    (float, [0, 1.5, float("inf")], [True, "1", None]),
    (bool, [True, False], [0, 1, "true"]),
    (str, ["", "a"], [b"a", 1, None, Path("a")]),
    (None, [None], [0, ""]),
    (int | None, [1, None], ["", 1.5]),
    (typing.Optional[int], [1, None], ["", 1.5]),  # noqa: UP045
    (Path, ["a", Path("a")], [1, None]),
    (Literal["a", 1], ["a", 1], ["b", True, 1.0]),
    (list[int], [[], [1, 2], (1, 2)], [[1, "2"], "12", 1]),
    (tuple[int, ...], [[], (1, 2), [1]], [[1.5], "12"]),
    (tuple[int, str], [(1, "a"), [1, "a"]], [(1,), ("a", 1), (1, "a", 2)]),
    (tuple[()], [(), []], [(1,)]),
    (Sequence[float], [[], (1, 2.5)], ["ab", [None]]),
    (dict[str, int], [{}, {"a": 1}], [{"a": "b"}, {1: 1}, [("a", 1)]]),
    (Mapping[str, list[int]], [{"a": [1]}], [{"a": 1}]),
    (collections.abc.Callable[[], int], [len, 3], []),  # left to the factory
]


@pytest.mark.parametrize(("hint", "good", "bad"), ACCEPTED, ids=[str(row[0]) for row in ACCEPTED])
def test_accepted_values(hint: Any, good: list[Any], bad: list[Any]) -> None:
    assert [value for value in good if not accepts(hint, value)] == []
    assert [value for value in bad if accepts(hint, value)] == []


numbers = st.integers() | st.floats(allow_nan=False)
HINTS: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (int, st.integers()),
    (str | None, st.none() | st.text()),
    (Path, st.text(alphabet="abc/", min_size=1).map(Path)),
    (tuple[int, ...], st.lists(st.integers()).map(tuple)),
    (tuple[float, str], st.tuples(numbers, st.text())),
    (list[tuple[int, int]], st.lists(st.tuples(st.integers(), st.integers()))),
    (dict[str, tuple[int, ...]], st.dictionaries(st.text(), st.lists(st.integers()).map(tuple))),
    (tuple[int, int] | None, st.none() | st.tuples(st.integers(), st.integers())),
    (Sequence[Path], st.lists(st.text(alphabet="abc", min_size=1).map(Path))),
]


@given(st.sampled_from(HINTS).flatmap(lambda pair: st.tuples(st.just(pair[0]), pair[1])))
def test_values_survive_json(pair: tuple[Any, Any]) -> None:
    hint, value = pair
    plain_value = json.loads(json.dumps(to_json_value(value)))
    assert accepts(hint, plain_value)
    assert from_json_value(hint, plain_value) == value


@pytest.mark.parametrize("value", [object(), {1, 2}, b"a", [object()], {"a": object()}, len])
def test_other_values_have_no_json(value: Any) -> None:
    with pytest.raises(TypeError, match="is not a plain value"):
        to_json_value(value)


def test_callables_are_left_alone() -> None:
    assert from_json_value(Callable[[], int], "len") == "len"


def test_signatures_read_as_they_are_written() -> None:
    import clouds

    schema = read_schema(clouds.catalog().find("head", "linear"))
    assert str(schema) == "linear(*, width: int = 128, detail: int | None = None, detail_weight: float = 0.1)"
