"""Finds, downloads and verifies published weights.

`CLOUDS_WEIGHTS=FOLDER` names a folder that is searched first, for machines without a network. Files of a URL have their
own name in it; files of a hub repository are in `FOLDER/owner/name`. `clouds weights fetch --out FOLDER` creates it.
"""

# pyright: reportUnknownVariableType=false
# (huggingface_hub has incomplete types)

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal

from attrs import frozen

from clouds.core.contract.weight_records import FileWeights, HubWeights, PageWeights, Weights
from clouds.core.system.errors import WeightsError
from clouds.core.system.files import cache_folder, without_tilde
from clouds.core.system.reach import hub_access
from clouds.core.weights.catalog import find_weights, published_weights
from clouds.core.weights.download import download, require_sha256, sha256_of

VARIABLE = "CLOUDS_WEIGHTS"
_REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_SHA256, _GIT_SHA1 = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")


@frozen
class Verdict:
    """Result of hashing a file.

    Attributes:
        path: the file.
        expected: published hash in hex (sha256; git's sha1 for small hub files), or None if unknown.
        found: hash of the content in hex, or None if there is nothing to compare it with.
    """

    path: Path
    expected: str | None
    found: str | None

    @property
    def damaged(self) -> bool:
        return self.expected != self.found


def weights_folder() -> Path | None:
    """The folder of `CLOUDS_WEIGHTS`, or None. Raises `WeightsError` if it does not exist."""
    named = os.environ.get(VARIABLE)
    if not named:
        return None
    folder = without_tilde(named)
    if not folder.is_dir():
        raise WeightsError(f"{VARIABLE}={named}: no such folder; make it with `clouds weights fetch NAME --out FOLDER`")
    return folder


def obtain(weights: FileWeights) -> Path:
    """The verified file of a URL, from `CLOUDS_WEIGHTS`, the user's cache, or the network.

    Raises:
        WeightsError: the file is unavailable or has another hash.
    """
    found = next(iter(locate(weights)), None)
    return _require_hash(found or _download(weights, cache_folder("weights")), weights)


def weights_file(name: str, pretrained: Literal[True] | Path) -> Path:
    """The verified file for a component's option `pretrained`: the published one, or the user's.

    Args:
        name: name of weights in one file, as in `clouds weights list`.
        pretrained: True, or a path.

    Raises:
        WeightsError: no published file or those of two plugins have the name; it is unavailable or has another hash.
    """
    if isinstance(pretrained, Path):
        return require_published(pretrained)
    weights = find_weights(name)
    if not isinstance(weights, FileWeights):
        raise WeightsError(f"no published weights in one file are named {name!r}; `clouds weights list` names all")
    return obtain(weights)


def require_published(path: Path) -> Path:
    """Verify a file that has a published name, and return its path.

    Raises:
        WeightsError: the file is missing, or differs from the published one.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such weight file")
    listed = [weights for weights in published_weights().values() if isinstance(weights, FileWeights)]
    return _require_hash(path, *(weights for weights in listed if weights.file == path.name))


def hub_folder(repo: str) -> Path | None:
    """The folder of a hub repository in `CLOUDS_WEIGHTS`, verified where hashes are known; None if missing.

    Raises:
        WeightsError: a file has another hash.
    """
    folder = _carried_folder(repo)
    weights = _listed_weights(repo) if folder else None
    for path in sorted(folder.rglob("*")) if folder else ():
        if path.is_file():
            _require_sound(path, weights)
    return folder


def hub_file(repo: str, name: str) -> Path | None:
    """A file of a hub repository in `CLOUDS_WEIGHTS`, verified if its hash is known; None if missing.

    Raises:
        WeightsError: the file has another hash.
    """
    folder = _carried_folder(repo)
    return _require_sound(folder / name, _listed_weights(repo)) if folder and (folder / name).is_file() else None


def open_clip_file(tag: Mapping[str, Any]) -> Path | None:
    """open_clip's weight file in `CLOUDS_WEIGHTS`, as .safetensors or else .bin; see `hub_file`.

    Args:
        tag: open_clip's record of the weights; its `hf_hub` is OWNER/NAME/FILE, or OWNER/NAME/ for the default file.
    """
    repo, _, name = tag.get("hf_hub", "").rpartition("/")
    bare = name.removesuffix(".bin")
    safe = "open_clip_model.safetensors" if bare in ("", "open_clip_pytorch_model") else f"{bare}.safetensors"
    return hub_file(repo, safe) or hub_file(repo, name or "open_clip_pytorch_model.bin")


def locate(weights: Weights) -> list[Path]:
    """The local files of published weights; empty if a required one is missing."""
    if isinstance(weights, FileWeights):
        folders = [folder for folder in (weights_folder(), cache_folder("weights")) if folder]
        return [folder / weights.file for folder in folders if (folder / weights.file).is_file()][:1]
    if isinstance(weights, HubWeights):
        folder = _carried_folder(weights.repo) or _cached(weights)
        return (_needed(weights.files, folder) or _needed(weights.instead, folder)) if folder else []
    return []


def fetch(weights: Weights, out: Path | None = None) -> list[Path]:
    """Download missing files and verify all; broken downloads are resumed.

    Args:
        weights: a record of published weights.
        out: a folder for later use as `CLOUDS_WEIGHTS`; None uses that folder, or else the caches.

    Raises:
        WeightsError: a file is unavailable or has another hash.
    """
    folder = out or weights_folder()
    if isinstance(weights, PageWeights):
        raise WeightsError(f"{weights.name} is published on a page, without hashes: {weights.url}; {weights.remedy}")
    if isinstance(weights, FileWeights):
        return [_require_hash(_download(weights, folder or cache_folder("weights")), weights)]
    root = place = folder / weights.repo if folder else None
    for files in (weights.files, weights.instead):
        if files:
            root = _download_hub(weights, files, place)
            if paths := _needed(files, root):
                return [_require_sound(path, weights) for path in paths]
    raise WeightsError(f"hub repository {weights.repo} has not all of {', '.join(weights.files)}; got {root}")


def _listed_weights(repo: str) -> Weights | None:
    """The catalog entry of a hub repository, or None."""
    listed = published_weights().values()
    return next((one for one in listed if isinstance(one, HubWeights) and one.repo == repo), None)


def _carried_folder(repo: str) -> Path | None:
    """The folder of a hub repository in `CLOUDS_WEIGHTS`, not verified; or None."""
    folder = weights_folder()
    if folder is None or not _REPOSITORY.fullmatch(repo):
        return None
    return folder / repo if (folder / repo).is_dir() else None


def judge(weights: Weights, path: Path) -> Verdict:
    """Hash one of the files that `locate` found."""
    return _judge(path, weights.sha256 if isinstance(weights, FileWeights) else _expected_hash(path, weights))


def _judge(path: Path, expected: str | None) -> Verdict:
    if expected is None:
        return Verdict(path, None, None)
    return Verdict(path, expected, sha256_of(path) if _SHA256.fullmatch(expected) else _git_sha1(path))


def _require_hash(path: Path, *published: FileWeights) -> Path:
    """Check that a file has the hash of one of these; with none, accept any file."""
    if published:
        remedy = "it is damaged or not the published one: remove it and get it again, or rename your own file"
        require_sha256(path, *(weights.sha256 for weights in published), remedy=remedy)
    return path


def _require_sound(path: Path, weights: Weights | None = None) -> Path:
    """Verify a hub file if its hash is known."""
    verdict = _judge(path, _expected_hash(path, weights))
    if verdict.damaged:
        raise WeightsError(
            f"{path}: hash is {verdict.found}, expected {verdict.expected}; the file is not used: remove it and get it "
            "again"
        )
    return path


def _expected_hash(path: Path, weights: Weights | None) -> str | None:
    """The pinned hash, or else the hub's."""
    pinned = weights.pinned.get(path.name) if isinstance(weights, HubWeights) else None
    return pinned.sha256 if pinned else _published_hash(path)


def _published_hash(path: Path) -> str | None:
    """The hub's hash of a file: sha256 of large files, git's sha1 of small ones.

    In the hub's cache, links point to blobs named by hash; folders of `snapshot_download(local_dir=...)` have metadata
    files.
    """
    hashes: list[str] = [path.resolve().name] if path.is_symlink() else []
    for root in path.parents:
        note = root / ".cache" / "huggingface" / "download" / f"{path.relative_to(root)}.metadata"
        if note.is_file():
            hashes = note.read_text(encoding="utf-8").splitlines()[1:2]
            break
    return next((text for text in hashes if _SHA256.fullmatch(text) or _GIT_SHA1.fullmatch(text)), None)


def _git_sha1(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _needed(files: Sequence[str], root: Path) -> list[Path]:
    """The required files in a folder with the repository's layout; empty if a pattern matches none."""
    found = [sorted(path for path in root.glob(pattern) if path.is_file()) for pattern in files]
    return [path for paths in found for path in paths] if all(found) else []


def _cached(weights: HubWeights) -> Path | None:
    """The repository in the hub's own cache."""
    from huggingface_hub import snapshot_download

    try:
        revision, files = weights.revision or None, [*weights.files, *weights.instead]
        return Path(snapshot_download(weights.repo, revision=revision, allow_patterns=files, local_files_only=True))
    except OSError:  # LocalEntryNotFoundError
        return None


def _download_hub(weights: HubWeights, files: Sequence[str], folder: Path | None) -> Path:
    from huggingface_hub import snapshot_download

    revision = weights.revision or None
    try:
        with hub_access():
            return Path(
                snapshot_download(weights.repo, revision=revision, allow_patterns=list(files), local_dir=folder)
            )
    except Exception as error:  # the hub's client passes on errors of its HTTP library; the cause is kept
        what = f"hub repository {weights.repo}" + (f" ({weights.note})" if weights.note else "")
        raise _unavailable(what, error, f"{weights.repo}/ in {VARIABLE}=FOLDER") from error


def _download(weights: FileWeights, folder: Path) -> Path:
    try:
        return download(weights.url, folder / weights.file, sha256=weights.sha256, size=weights.size)
    except (OSError, HTTPException) as error:
        raise _unavailable(weights.url, error, f"{weights.file} in {VARIABLE}=FOLDER") from error


def _unavailable(what: str, error: Exception, place: str) -> WeightsError:
    reason = " ".join(str(error).split())[:300]
    return WeightsError(
        f"could not get weights from {what} ({type(error).__name__}: {reason}); check the connection, or get them "
        f"on another machine (`clouds weights fetch NAME --out FOLDER`) and put them at {place}, or use "
        "pretrained=FILE, or pretrained=False for random weights"
    )
