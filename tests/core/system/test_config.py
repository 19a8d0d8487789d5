from pathlib import Path
from typing import Any

import pytest
from attrs import field, frozen
from hypothesis import given
from hypothesis import strategies as st

from clouds.core.system.config import merge, override, parse_assignment, read_toml, structure
from clouds.core.system.errors import ConfigError


@frozen
class Inner:
    number: int = 1
    pair: tuple[int, int] = (1, 2)


@frozen
class Outer:
    inner: Inner = field(factory=Inner)
    free: dict[str, Any] = field(factory=dict)
    maybe: float | None = None


def test_structure_builds_typed_records() -> None:
    made = structure({"inner": {"pair": [3, 4]}, "free": {"a": [1]}, "maybe": 2.5}, Outer, source="file")
    assert made == Outer(Inner(1, (3, 4)), {"a": [1]}, 2.5)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"inner": {"number": 5, 7: 1}}, r"file: extra fields found \(7\) @ \$\.inner"),
        ({"inner": {"number": "5"}}, r"file: '5' is not of type int @ \$\.inner\.number"),
        ({"inner": {"numbr": 5}}, r"file: extra fields found \(numbr\) @ \$\.inner"),
        ({"inner": {"number": True}}, r"True is not of type int"),
        ({"inner": 3}, r"file: .* @ \$\.inner"),
    ],
)
def test_faults_name_the_path_of_the_key(document: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        structure(document, Outer, source="file")


def test_toml_faults_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: no such file"):
        read_toml(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("a = ", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"bad\.toml: cannot be read as TOML"):
        read_toml(tmp_path / "bad.toml")


@pytest.mark.parametrize(
    ("text", "message"), [("9" * 5000, "Exceeds the limit"), ("[" * 3000, "it is nested too deeply")]
)
def test_numbers_and_nesting_that_the_parser_cannot_take_are_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.toml").write_text(f"a = {text}", encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"bad\.toml: cannot be read as TOML: {message}"):
        read_toml(tmp_path / "bad.toml")
    with pytest.raises(ConfigError, match=f"a.b: {message}"):
        parse_assignment(f"a.b={text}")


@pytest.mark.parametrize("text", ["nothing", "=3", "a..b=3"])
def test_assignments_have_a_form(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is not an assignment; write it as a\.b=value"):
        parse_assignment(text)


@given(st.one_of(st.integers(-9, 9), st.booleans(), st.lists(st.integers(0, 9))))
def test_toml_values_keep_their_type(value: Any) -> None:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    path, parsed = parse_assignment(f"a.b={text}")
    assert path == ["a", "b"]
    assert parsed == value
    assert type(parsed) is type(value)


def test_overrides_turn_a_named_component_into_a_table_and_leave_the_original_alone() -> None:
    document = {"model": {"head": "linear"}}
    assert override(document, ["model.head.width=3"]) == {"model": {"head": {"name": "linear", "width": 3}}}
    assert document == {"model": {"head": "linear"}}


def test_overriding_below_a_value_is_an_error() -> None:
    with pytest.raises(ConfigError, match="'seed' is a value, not a table"):
        override({"seed": 3}, ["seed.x=1"])


TABLES = st.recursive(st.integers(), lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3))


@given(st.dictionaries(st.sampled_from("abc"), TABLES), st.dictionaries(st.sampled_from("abc"), TABLES))
def test_merge_takes_every_change(base: dict[str, Any], changes: dict[str, Any]) -> None:
    merged = merge(base, changes)
    assert merge(merged, changes) == merged
    assert set(merged) == set(base) | set(changes)
    assert all(merged[key] == value for key, value in changes.items() if not isinstance(value, dict))
