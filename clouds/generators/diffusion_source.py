"""Sources of diffusion pipelines: the hub, a local folder, or random weights."""

# pyright: reportPrivateImportUsage=false
# (diffusers is only partly typed, and exports lazily)

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any, final

import torch
from diffusers import AutoPipelineForText2Image, DiffusionPipeline

from clouds.core.system.errors import ConfigError, WeightsError
from clouds.core.system.files import without_tilde
from clouds.core.system.reach import hub_access
from clouds.core.weights.catalog import hub_note
from clouds.core.weights.store import hub_folder
from clouds.generators.tiny_diffusion import tiny_pipeline

_INDEX = "model_index.json"
_REMEDY = "or give a local save_pretrained folder: model=FOLDER, or owner/name in CLOUDS_WEIGHTS"


@final
class FolderSource:
    """A pipeline in a folder of `save_pretrained` or of the hub, with weights as safetensors.

    Args:
        folder: folder with `model_index.json`.
        name: name in the manifest.
        revision: the hub's commit, if it comes from there.
        safety_checker: keep the pipeline's safety checker.

    Raises:
        WeightsError: the folder has no pipeline or no safetensors, or its index is damaged.
        ConfigError: `safety_checker` is set, but the pipeline has none.
    """

    def __init__(self, folder: Path, *, name: str, revision: str | None, safety_checker: bool) -> None:
        if not (folder / _INDEX).is_file():
            raise WeightsError(f"{folder}: not a diffusion pipeline, because it has no {_INDEX}; {_REMEDY}")
        if not any(folder.rglob("*.safetensors")):
            raise WeightsError(
                f"{folder}: has no .safetensors, and other formats may run code; if you trust it, load the pipeline "
                "with diffusers and save_pretrained(FOLDER, safe_serialization=True)"
            )
        self.folder, self.name, self.revision = folder, name, revision
        self._index = _read_index(folder / _INDEX)
        checker = self._index.get("safety_checker", [None])[0]
        if safety_checker and not checker:
            raise ConfigError(f"{name}: safety_checker=true, but the pipeline has none; remove the option")
        self._without: dict[str, Any] = {}
        if not safety_checker and "safety_checker" in self._index:
            self._without = {"safety_checker": None, "requires_safety_checker": False}

    def load(self, dtype: torch.dtype) -> Any:
        """Load the pipeline on the CPU. Raises `WeightsError` if files are damaged or it is not text-to-image."""
        try:
            return AutoPipelineForText2Image.from_pretrained(
                str(self.folder), dtype=dtype, use_safetensors=True, local_files_only=True, **self._without
            )
        except Exception as error:  # a damaged file may raise anything
            reason = " ".join(str(error).split())[:300]
            raise WeightsError(
                f"{self.folder}: cannot be loaded as a text-to-image pipeline ({type(error).__name__}: {reason}); "
                f"{_REMEDY}"
            ) from error

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Provenance for manifests: name, commit (or else SHA-256 of the weight files), and pipeline class."""
        return {
            "model": self.name,
            "revision": self.revision,
            "weights": None if self.revision else _hash_weights(self.folder),
            "pipeline": self._index["_class_name"],
        }


def _read_index(path: Path) -> dict[str, Any]:
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError(f"{path}: is damaged ({error}); {_REMEDY}") from error
    if not isinstance(index, dict) or "_class_name" not in index:
        raise WeightsError(f"{path}: not the index of a pipeline, because it has no _class_name; {_REMEDY}")
    return index


@final
class TinySource:
    """A small pipeline with random weights; see `tiny_pipeline`."""

    def __init__(self, family: str) -> None:
        self.family = family

    def load(self, dtype: torch.dtype) -> Any:
        return tiny_pipeline(self.family).to(dtype=dtype)

    @property
    def facts(self) -> dict[str, Any]:
        return {"model": f"tiny {self.family}, random weights", "revision": None, "weights": None, "pipeline": None}


def find_source(model: str, *, revision: str | None, safety_checker: bool) -> FolderSource:
    """Find a local folder, or the files of a hub id in `CLOUDS_WEIGHTS` or on the hub.

    Raises:
        WeightsError: the model is unavailable, or a file in `CLOUDS_WEIGHTS` differs from the published hash.
        ConfigError: a revision is given for a local folder, or `safety_checker` is set, but the pipeline has none.
    """
    local = without_tilde(model)
    if local.is_dir():
        if revision:
            raise ConfigError(f"model {model} is a local folder, which has no revision {revision!r}; remove it")
        return FolderSource(local, name=model, revision=None, safety_checker=safety_checker)
    if revision is None and (stored := hub_folder(model)):
        return FolderSource(stored, name=model, revision=None, safety_checker=safety_checker)
    try:
        with hub_access() as cached:
            asked = {"revision": revision, "use_safetensors": True, "local_files_only": cached}
            folder = Path(DiffusionPipeline.download(model, **asked))
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        hint = hub_note(model) or "check the name and the connection"
        raise WeightsError(
            f"diffusion model {model!r} is not a local folder and cannot be downloaded from the hub "
            f"({type(error).__name__}: {reason}); {hint}; {_REMEDY}"
        ) from error
    return FolderSource(folder, name=model, revision=folder.name, safety_checker=safety_checker)


def _hash_weights(folder: Path) -> str:
    whole = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        with open(path, "rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        whole.update(f"{path.relative_to(folder).as_posix()} {digest}\n".encode())
    return whole.hexdigest()
