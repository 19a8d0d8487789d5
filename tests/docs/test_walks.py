"""The walks through the architecture name what is there."""

from __future__ import annotations

import re
from functools import reduce
from importlib import import_module
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
NAME = re.compile(r"`(clouds(?:\.\w+)*):(\w+(?:\.\w+)*)`")
NAMES = sorted({match for page in DOCS.rglob("*.md") for match in NAME.findall(page.read_text(encoding="utf-8"))})


@pytest.mark.parametrize(("module", "path"), NAMES, ids=":".join)
def test_every_name_is_there(module: str, path: str) -> None:
    assert reduce(getattr, path.split("."), import_module(module)) is not None


def test_a_name_that_is_gone_is_noticed() -> None:
    ((module, path),) = NAME.findall("see `clouds.core.pipeline.pipeline:Pipeline.gone`")
    with pytest.raises(AttributeError, match="gone"):
        reduce(getattr, path.split("."), import_module(module))


def test_there_are_four_walks_of_real_functions() -> None:
    _, *walks = (DOCS / "architecture/walks.md").read_text(encoding="utf-8").split("\n## ")
    assert [walk.splitlines()[0] for walk in walks] == [
        "An image to labels",
        "A joint step",
        "A prompt to a manifest row",
        "An entry point to a module",
    ]
    assert all(len(NAME.findall(walk)) >= 8 for walk in walks)
