"""What is written can be read: every string, in TOML and JSON, whatever a file name or a user put into it."""

from __future__ import annotations

import json
import math
import os
from datetime import date, datetime, time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clouds.core.system.config import parse_assignment, parse_toml, read_toml, to_json, to_toml
from clouds.core.system.errors import ConfigError

ANY = st.text(st.characters(exclude_categories=()))  # lone surrogates, too
NAMES = st.binary().map(os.fsdecode)  # every name that a file can have
VALUES = st.recursive(
    ANY | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(ANY | NAMES, VALUES | st.dictionaries(ANY, VALUES, max_size=3), max_size=4))
def test_toml_is_read_as_it_was_written(document: dict[str, object]) -> None:
    text = to_toml(document)
    assert parse_toml(text.encode("utf-8").decode("utf-8")) == document


@given(st.dictionaries(st.text() | NAMES, st.text() | NAMES))
def test_json_is_read_as_it_was_written(document: dict[str, str]) -> None:
    text = to_json(document)
    assert "\n" not in text
    assert json.loads(text.encode("utf-8")) == document


def test_other_values_of_toml() -> None:
    document = {"a": math.inf, "b": -math.inf, "d": date(2024, 2, 29), "t": time(1, 2, 3), "w": datetime(2024, 1, 2, 3)}
    assert parse_toml(to_toml(document)) == document
    assert math.isnan(parse_toml(to_toml({"a": math.nan}))["a"])


def test_a_mark_at_the_start_of_a_file_is_no_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"\xef\xbb\xbfseed = 1\n")
    assert read_toml(tmp_path / "a.toml") == {"seed": 1}


@pytest.mark.parametrize(
    ("text", "reason"),
    [("a = " + "9" * 5000, "limit"), ("a = " + "[" * 3000, "nested too deep"), ('a = "\ud800"', "utf-8")],
)
def test_what_the_parser_cannot_take_is_an_error_with_the_file(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "a.toml").write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(ConfigError, match=rf"a\.toml: cannot be read as TOML: .*{reason}"):
        read_toml(tmp_path / "a.toml")


def test_assignments_that_the_parser_cannot_take() -> None:
    for value, reason in (("9" * 5000, "limit"), ("[" * 3000, "nested too deep")):
        with pytest.raises(ConfigError, match=reason):
            parse_assignment(f"seed={value}")


def test_further_lines_of_an_assignment_are_not_dropped() -> None:
    assert parse_assignment("seed=1\nother=2") == (["seed"], "1\nother=2")
    assert parse_assignment("seed=1\n[other]") == (["seed"], "1\n[other]")
