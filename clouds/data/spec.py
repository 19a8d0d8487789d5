"""Dataset SPECs: `KIND:PATH[:SPLIT]` names a dataset in recipes, calls and commands."""

from __future__ import annotations

from pathlib import Path

from attrs import frozen

from clouds.core.contract.catalog import Catalog
from clouds.core.contract.offers import OfferKind, find_offer
from clouds.core.system.errors import ConfigError
from clouds.core.system.files import without_tilde
from clouds.data.layouts import LAYOUTS, Layout


@frozen
class Spec:
    """A parsed dataset spec.

    Attributes:
        kind: a name of `clouds.data.layouts.LAYOUTS`, or one of a plugin.
        path: the dataset's root folder.
        split: subset of the dataset, or None if the SPEC has none.
    """

    kind: str
    path: Path
    split: str | None = None

    def __str__(self) -> str:
        return f"{self.kind}:{self.path}" + (f":{self.split}" if self.split else "")


def find_layout(kind: str, *, where: str = "dataset kind") -> Layout:
    """The layout of a kind of dataset, built-in or of a plugin.

    Raises:
        ConfigError: the kind is unknown, or what a plugin offers is no layout.
    """
    if kind in LAYOUTS:
        return LAYOUTS[kind]
    offers = Catalog.from_environment().offers(OfferKind.DATASET)
    return find_offer("kind", kind, offers, built_in=LAYOUTS, where=where).load_as(Layout)


def lacks_instances(kind: str) -> str:
    """Message about a kind of dataset whose label files number no instances."""
    known = [name for name, layout in LAYOUTS.items() if layout.segments]
    return f"label files of kind {kind!r} number no instances; kinds that do: {', '.join(known)}"


def _offered_names() -> set[str]:
    return {offer.name for offer in Catalog.from_environment().offers(OfferKind.DATASET).values()}


def is_spec(text: str) -> bool:
    """Whether a text starts with a known kind and a colon."""
    kind, colon, _ = text.partition(":")
    return bool(colon) and (kind in LAYOUTS or kind in _offered_names())


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
    find_layout(kind, where=f"dataset spec {text!r}")
    path, colon, split = rest.rpartition(":")
    if not colon or "/" in split:
        path, split = rest, None
    if not path or split == "":
        raise ConfigError(f"dataset spec {text!r} has an empty part; expected {kind}:PATH[:SPLIT]")
    return Spec(kind=kind, path=without_tilde(path), split=split)
