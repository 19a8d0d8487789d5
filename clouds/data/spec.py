"""Dataset SPECs: `KIND:PATH[:SPLIT]` names a dataset in recipes, calls and commands."""

from __future__ import annotations

from pathlib import Path

from attrs import frozen

from clouds.core.system.errors import ConfigError, did_you_mean
from clouds.core.system.files import without_tilde
from clouds.data.layouts import LAYOUTS


@frozen
class Spec:
    """A parsed dataset spec.

    Attributes:
        kind: a name of `clouds.data.layouts.LAYOUTS`.
        path: the dataset's root folder.
        split: subset of the dataset, or None if the SPEC has none.
    """

    kind: str
    path: Path
    split: str | None = None

    def __str__(self) -> str:
        return f"{self.kind}:{self.path}" + (f":{self.split}" if self.split else "")


def is_spec(text: str) -> bool:
    """Whether a text starts with a known kind and a colon."""
    kind, colon, _ = text.partition(":")
    return bool(colon) and kind in LAYOUTS


def parse_spec(text: str) -> Spec:
    """Parse `KIND:PATH[:SPLIT]`; text after the last colon is the split unless it contains a slash.

    >>> parse_spec("folder:photos/town:val").split
    'val'

    Raises:
        ConfigError: the kind is unknown, or a part is missing or empty.
    """
    kind, colon, rest = text.partition(":")
    if not colon:
        raise ConfigError(
            f"dataset spec {text!r} names no kind; expected KIND:PATH[:SPLIT], for example 'folder:{text}'"
        )
    if kind not in LAYOUTS:
        raise ConfigError(f"dataset spec {text!r}: unknown kind {kind!r}{did_you_mean(kind, LAYOUTS)}")
    path, colon, split = rest.rpartition(":")
    if not colon or "/" in split:
        path, split = rest, None
    if not path or split == "":
        raise ConfigError(f"dataset spec {text!r} has an empty part; expected {kind}:PATH[:SPLIT]")
    return Spec(kind=kind, path=without_tilde(path), split=split)
