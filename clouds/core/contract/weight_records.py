"""Records of published weights: URL, licence, size and hash."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from attrs import Factory, frozen


@final
@frozen(kw_only=True)
class FileWeights:
    """Weights in one file at a URL.

    Attributes:
        name: name in `clouds weights list`; for a component with one model, the component's name.
        licence: licence of the weights.
        url: URL that ends with the file's name.
        sha256: hash of the whole file, in hex.
        size: size in bytes.
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
    """Size in bytes and sha256 in hex of a hub file, known independently of the hub."""

    size: int
    sha256: str


@final
@frozen(kw_only=True)
class HubWeights:
    """Weights in files of a Hugging Face hub repository; the hub publishes their hashes.

    Attributes:
        name, licence: as in `FileWeights`.
        repo: "owner/name".
        files: names or patterns of required files; each matches at least one file.
        instead: alternative names or patterns if some of `files` are missing.
        revision: the commit to fetch; "" fetches the newest.
        pinned: files with known size and hash, by name.
        note: remark for lists and messages, such as a withdrawn repository; usually "".
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
    """Weights on a web page that requires a manual download, without hashes.

    Attributes:
        name, licence: as in `FileWeights`.
        url: URL of the page.
        remedy: how to use the downloaded file.
    """

    name: str
    licence: str
    url: str
    remedy: str


Weights = FileWeights | HubWeights | PageWeights
