"""Records of published weights: where they are, under which terms, and the hashes that prove them whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from attrs import Factory, frozen


@final
@frozen(kw_only=True)
class FileWeights:
    """One file at an address.

    Attributes:
        name: as in `clouds weights list`; for a component with one model, the component's name.
        licence: of the weights.
        url: ends with the file's name.
        sha256: of the whole file, in hex.
        size: in bytes.
    """

    name: str
    licence: str
    url: str
    sha256: str
    size: int

    @property
    def file(self) -> str:
        """The file's name."""
        return self.url.rpartition("/")[2]


@final
@frozen
class Pinned:
    """What is known of a file of the hub by other ways than the hub's own word: size in bytes, and sha256 in hex."""

    size: int
    sha256: str


@final
@frozen(kw_only=True)
class HubWeights:
    """Files of a repository of the Hugging Face hub, which publishes the hash of each beside it.

    Attributes:
        name, licence: as for `FileWeights`.
        repo: "owner/name".
        files: names or patterns of those that are needed; each stands for at least one file.
        instead: names or patterns that do where some of `files` are not there.
        revision: the commit that is fetched; "" takes the newest.
        pinned: files whose content is known, by name.
        note: what lists and messages add, such as that the repository was withdrawn; mostly nothing.
    """

    name: str
    licence: str
    repo: str
    files: tuple[str, ...]
    instead: tuple[str, ...] = ()
    revision: str = ""
    pinned: Mapping[str, Pinned] = Factory(dict[str, Pinned])
    note: str = ""


@final
@frozen(kw_only=True)
class PageWeights:
    """Files that are published on a page for people, without hashes.

    Attributes:
        name, licence: as for `FileWeights`.
        url: of the page.
        remedy: what to do with a file that was downloaded there.
    """

    name: str
    licence: str
    url: str
    remedy: str


Weights = FileWeights | HubWeights | PageWeights
