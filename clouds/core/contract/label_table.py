"""Reads label spaces as users write them: a name, class names, their number, a table, or a TOML file with a table.

names = ["background", "lesion"]             # the only required key
name = "skin"                                # shown in plans and reports
synonyms = [["skin"], ["lesion", "ulcer"]]   # for heads that classify by text
palette = [[0, 0, 0], [220, 20, 60]]
ids = [0, 255]                               # values in label files with encoding "ids"
ignore = 254                                 # "not labelled" in label files of train ids
things = ["lesion"]                          # classes whose instances can be counted
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from attrs import asdict, frozen

from clouds.core.contract.catalog import Catalog
from clouds.core.contract.labels import LabelSpace, built_in_names
from clouds.core.contract.offers import OfferKind, find_offer
from clouds.core.system.config import read_toml, structure
from clouds.core.system.errors import ConfigError

LabelsLike = LabelSpace | str | int | os.PathLike[str] | Sequence[str] | Mapping[str, Any]


@frozen(kw_only=True)
class LabelTable:
    """Arguments of `LabelSpace.from_names`, with the types of a TOML table."""

    names: tuple[str, ...]
    name: str = "custom"
    synonyms: tuple[tuple[str, ...], ...] | None = None
    palette: tuple[tuple[int, int, int], ...] | None = None
    ids: tuple[int, ...] | None = None
    ignore: int = 255
    things: tuple[str, ...] = ()


def read_labels(value: object) -> LabelSpace:
    """Convert a value from a recipe, a call or the command line to a label space.

    Args:
        value: a `LabelSpace`, the name of a built-in one or of a plugin, class names, their number (the names are then
            "class 0", "class 1", ...), a table, or the path of a TOML file.

    >>> read_labels(["background", "lesion"]).names
    ('background', 'lesion')

    Raises:
        ConfigError: the value has another type, or a wrong key or value, which the message names.
    """
    if isinstance(value, LabelSpace):
        return value
    value = label_document(value)
    if isinstance(value, str):
        return _named(value)
    if type(value) is int:
        return LabelSpace.from_names([f"class {index}" for index in range(value)])
    if not isinstance(value, (list, tuple, Mapping)):
        raise ConfigError(
            "expected a label space's name, class names, their number, a table or a TOML file, "
            f"got {type(value).__name__}"
        )
    table = cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {"names": cast("list[Any]", value)}
    return LabelSpace.from_names(**asdict(structure(table, LabelTable, source="labels"), recurse=False))


def _named(name: str) -> LabelSpace:
    """A built-in label space, or one of a plugin."""
    known = built_in_names()
    if name in known:
        return LabelSpace.named(name)
    offers = Catalog.from_environment().offers(OfferKind.LABEL_SPACE)
    return find_offer("label space", name, offers, built_in=known).load_as(LabelSpace)


def label_document(value: object) -> object:
    """Replace the path of a TOML file by the table in it, so that the result no longer needs the file."""
    if not isinstance(value, (str, Path)) or Path(value).suffix != ".toml":
        return value
    return {"name": Path(value).stem, **read_toml(value)}


def label_entry(space: LabelSpace) -> str | dict[str, Any]:
    """What a recipe says of a label space: the name of a built-in one, or a table. `read_labels` reads both."""
    if space.name in built_in_names() and LabelSpace.named(space.name) == space:
        return space.name
    return space.to_dict() | {
        "things": [name for name, counted in zip(space.names, space.things, strict=True) if counted]
    }
