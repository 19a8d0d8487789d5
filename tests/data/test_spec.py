from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clouds import ConfigError, DataError
from clouds.core.contract.labels import CITYSCAPES
from clouds.data.folder import open_dataset
from clouds.data.spec import Spec, is_spec, parse_spec

_word = st.text(st.characters(categories=["L", "N"], include_characters="-_. "), min_size=1)


@pytest.mark.parametrize(
    ("text", "path", "split"),
    [
        ("folder:photos", "photos", None),
        ("folder:/data/photos:val", "/data/photos", "val"),
        ("folder:/data/a:b/photos", "/data/a:b/photos", None),
        ("folder:/data/a:b:val", "/data/a:b", "val"),
        ("folder:.", ".", None),
    ],
)
def test_parts(text: str, path: str, split: str | None) -> None:
    assert parse_spec(text) == Spec("folder", Path(path), split)


@given(path=st.lists(_word, min_size=1), split=st.none() | _word)
def test_round_trip(path: list[str], split: str | None) -> None:
    spec = Spec("folder", Path("/", *path), split)
    assert parse_spec(str(spec)) == spec


def test_home_is_expanded() -> None:
    assert parse_spec("folder:~/photos").path == Path.home() / "photos"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("photos", r"spec 'photos' names no kind; expected KIND:PATH\[:SPLIT\], for example 'folder:photos'"),
        ("foldr:photos", r"spec 'foldr:photos': unknown kind 'foldr'; did you mean 'folder'\?"),
        ("zip:photos", r"unknown kind 'zip'; known: acdc-fog, .*, folder, gta5, .*, wilddash2"),
        ("folder:", "has an empty part"),
        ("folder:photos:", r"has an empty part; expected folder:PATH\[:SPLIT\]"),
    ],
)
def test_errors(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_spec(text)


@pytest.mark.parametrize("path", ["x" * 5000, "/x\0y"])
def test_names_that_no_file_has_are_a_fault_of_the_spec(path: str) -> None:
    with pytest.raises(DataError, match=r"(cannot be read \(.*\); give the root folder)|no folder"):
        open_dataset(f"folder:{path}", CITYSCAPES)


def test_a_spec_begins_with_a_kind() -> None:
    assert all(map(is_spec, ("folder:photos", "cityscapes:/data:val", "folder:")))
    assert not any(map(is_spec, ("folder", "photos/a.png", "foldr:photos", "a:b.png", "")))
