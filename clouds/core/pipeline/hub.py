"""Saved pipelines in repositories of the Hugging Face hub: found by name, and pushed with a model card."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# (huggingface_hub has incomplete types)

from __future__ import annotations

import io
import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol, runtime_checkable

from PIL import Image

from clouds.core.contract.catalog import Catalog
from clouds.core.pipeline.checkpoint import FILES, MARKER, read_checkpoint
from clouds.core.pipeline.model_card import CARD, PICTURE, Scores, model_card
from clouds.core.system.errors import CloudsError, ConfigError, WeightsError
from clouds.core.system.images import open_image
from clouds.core.system.reach import hub_access, unreachable

_NAME = re.compile(r"(?!.*\.\.)(?P<repo>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>\w[\w./-]*))?", re.ASCII)
_OURS = {*FILES, CARD, PICTURE}
_LOGIN = "log in with `hf auth login`, or set HF_TOKEN"
_PICTURE_SIDE = 1024  # pixels
_SHOWN = 300  # characters of another library's error


def find_checkpoint(path: str | Path) -> Path:
    """The folder of a saved pipeline: `path` if it exists, else that of the hub's repository of this name.

    Only the files that `Pipeline.save` writes are downloaded, into the hub's own cache. Without a connection, the
    revision in the cache is used.

    Args:
        path: a folder, or `owner/name` or `owner/name@revision` (branch, tag or commit).

    Raises:
        WeightsError: the repository does not exist, needs a login, or is no saved pipeline; or the hub is unreachable.
    """
    named = _NAME.fullmatch(str(path))
    return Path(path) if named is None or Path(path).exists() else _download(named["repo"], named["revision"])


@runtime_checkable
class Saved(Protocol):
    """What can be pushed: a `clouds.Pipeline`."""

    def save(self, path: str | Path, include_frozen: bool = True, *, catalog: Catalog | None = None) -> None:
        """See `Pipeline.save`."""
        ...


def push_pipeline(
    self: Saved,
    name: str,
    *,
    include_frozen: bool = True,
    recipe: str | Path | None = None,
    reports: Sequence[Scores] = (),
    picture: str | Path | Image.Image | None = None,
    private: bool = False,
    catalog: Catalog | None = None,
) -> str:
    """Push a pipeline to the Hugging Face hub with a model card, in one commit. This is `Pipeline.push_to_hub`.

    Files of an earlier pipeline in the repository are replaced. The login is huggingface_hub's.

    Args:
        self: the pipeline.
        name: `owner/name` of the repository; it is created if it does not exist.
        include_frozen: see `Pipeline.save`.
        recipe: `recipe.json` of the training run, for the card.
        reports: results of `clouds.evaluate`, for the card.
        picture: a picture for the card, such as `prediction.overlay()`.
        private: create the repository as a private one.
        catalog: see `Pipeline.save`; also has the licences for the card.

    Returns:
        `owner/name@commit`, which `clouds.load` accepts.

    Raises:
        ConfigError: the name or the recipe is invalid, or the repository holds something else.
        DataError: the picture cannot be read.
        WeightsError: as `Pipeline.save`; or the hub is unreachable or refuses. The repository is unchanged.
    """
    with TemporaryDirectory() as place:
        folder = Path(place) / "pipeline"
        self.save(folder, include_frozen, catalog=catalog)
        return push_checkpoint(
            folder, name, recipe=recipe, reports=reports, picture=picture, private=private, catalog=catalog
        )


def push_checkpoint(
    folder: Path,
    name: str,
    *,
    recipe: str | Path | None = None,
    reports: Sequence[Scores] = (),
    picture: str | Path | Image.Image | None = None,
    private: bool = False,
    catalog: Catalog | None = None,
) -> str:
    """Push a saved pipeline as `push_pipeline` does. Nothing else that the folder holds is uploaded."""
    if _NAME.fullmatch(name) is None or "@" in name:
        raise ConfigError(f"{name!r} is no name of a repository; expected 'owner/name'")
    checkpoint = read_checkpoint(folder)
    contents: dict[str, str | bytes] = {path.name: str(path) for path in checkpoint.files()}
    if picture is not None:
        contents[PICTURE] = _png(picture)
    card = model_card(name, checkpoint, recipe=recipe, reports=reports, picture=picture is not None, catalog=catalog)
    contents[CARD] = card.encode()
    return f"{name}@{_commit(name, contents, private=private)}"


def _commit(name: str, contents: dict[str, str | bytes], *, private: bool) -> str:
    """Make a repository hold these files (paths, or bytes); returns the hash of the commit."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants

    api = HfApi()
    with _explained(f"{name}: cannot be pushed to the hub"):
        if reason := unreachable(constants.ENDPOINT):
            raise ConnectionError(reason)
        api.create_repo(name, private=private or None, exist_ok=True)
        present = set(api.list_repo_files(name))
        strange = sorted(present - _OURS - {".gitattributes"})
        if strange and MARKER not in present:
            raise ConfigError(
                f"{name}: the repository has other files ({', '.join(strange[:3])}) and no {MARKER}; choose another"
            )
        added = [CommitOperationAdd(path_in_repo=key, path_or_fileobj=content) for key, content in contents.items()]
        dropped = [CommitOperationDelete(path_in_repo=key) for key in sorted(present & _OURS - contents.keys())]
        made = api.create_commit(name, [*added, *dropped], commit_message="Push a pipeline of clouds")
    return made.oid


def _download(repo: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download, snapshot_download

    name = f"{repo}@{revision}" if revision else repo
    with _explained(f"{name}: no such folder, and none of the hub could be used"), hub_access():
        marker = Path(hf_hub_download(repo, MARKER, revision=revision))
        commit = marker.parent.name  # all files are of one commit, even if the branch moves meanwhile
        return Path(snapshot_download(repo, revision=commit, allow_patterns=list(FILES)))


@contextmanager
def _explained(what: str) -> Generator[None]:
    """Convert what the hub's client raises to a `WeightsError` of one line."""
    try:
        yield
    except CloudsError:
        raise
    except Exception as error:  # the hub's client passes on errors of its HTTP library; the cause is kept
        raise WeightsError(f"{what}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    from huggingface_hub import errors

    match error:
        case errors.GatedRepoError():
            return f"its owner must grant you access, on its page; then {_LOGIN}"
        case errors.RepositoryNotFoundError():
            return f"the hub has no such repository, or shows it only after a login: {_LOGIN}"
        case errors.RevisionNotFoundError():
            return "the repository has no such revision"
        case errors.RemoteEntryNotFoundError():
            return f"the repository is no saved pipeline: it has no {MARKER}"
        case errors.HfHubHTTPError() if error.response.status_code in (401, 403):
            return f"the hub refuses it without a login that may do it: {_LOGIN}"
        case ConnectionError():
            return str(error)
        case _:
            told = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
            return f"{type(told).__name__}: {' '.join(str(told).split())[:_SHOWN]}"


def _png(picture: str | Path | Image.Image) -> bytes:
    """A picture as PNG, with at most `_PICTURE_SIDE` pixels a side and without metadata."""
    image = (picture if isinstance(picture, Image.Image) else open_image(picture)).convert("RGB")
    image.thumbnail((_PICTURE_SIDE, _PICTURE_SIDE))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()
