"""Sources of diffusion pipelines and ControlNets: the hub, a local folder, or random weights."""

# pyright: reportPrivateImportUsage=false
# (diffusers is only partly typed, and exports lazily)

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, final

import torch
from diffusers import AutoPipelineForText2Image, ControlNetModel, DiffusionPipeline
from huggingface_hub import snapshot_download

from clouds.core.system.errors import ConfigError, WeightsError
from clouds.core.system.files import without_tilde
from clouds.core.system.reach import hub_access
from clouds.core.weights.catalog import hub_note
from clouds.core.weights.store import hub_folder
from clouds.generators.tiny_diffusion import tiny_control, tiny_pipeline

_INDEX = "model_index.json"
_CONFIG = "config.json"
_CONTROL_FILES = (_CONFIG, "diffusion_pytorch_model.safetensors")
_FITTING = ("cross_attention_dim", "block_out_channels", "addition_embed_type")  # differ between families
_REMEDY = "or give a local save_pretrained folder: {option}=FOLDER, or owner/name in CLOUDS_WEIGHTS"
_MODEL_REMEDY, _CONTROL_REMEDY = (_REMEDY.format(option=option) for option in ("model", "control"))


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
            raise WeightsError(f"{folder}: not a diffusion pipeline, because it has no {_INDEX}; {_MODEL_REMEDY}")
        _require_safetensors(folder)
        self.folder, self.name, self.revision = folder, name, revision
        self._index = _read_config(folder / _INDEX, _MODEL_REMEDY)
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
                f"{_MODEL_REMEDY}"
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

    @property
    def unet(self) -> dict[str, Any] | None:
        """Configuration of the denoiser; None if it is no U-Net."""
        path = self.folder / "unet" / _CONFIG
        return _read_config(path, _MODEL_REMEDY) if path.is_file() else None


@final
class FolderControl:
    """A ControlNet in a folder of `save_pretrained` or of the hub, with weights as safetensors.

    Args:
        folder: folder with `config.json`.
        name, revision: as for `FolderSource`.
        base: the pipeline that it shall control.

    Raises:
        WeightsError: the folder has no ControlNet or no safetensors, its configuration is damaged, or it was made for
            another base.
    """

    def __init__(self, folder: Path, *, name: str, revision: str | None, base: FolderSource) -> None:
        if not (folder / _CONFIG).is_file():
            raise WeightsError(f"{folder}: not a ControlNet, because it has no {_CONFIG}; {_CONTROL_REMEDY}")
        _require_safetensors(folder)
        self.folder, self.name, self.revision = folder, name, revision
        self._check_fit(_read_config(folder / _CONFIG, _CONTROL_REMEDY), base)

    def load(self, base: Any, dtype: torch.dtype) -> Any:
        """Load the ControlNet on the CPU. Raises `WeightsError` if files are damaged."""
        try:
            return ControlNetModel.from_pretrained(
                str(self.folder), dtype=dtype, use_safetensors=True, local_files_only=True
            )
        except Exception as error:  # a damaged file may raise anything
            reason = " ".join(str(error).split())[:300]
            raise WeightsError(
                f"{self.folder}: cannot be loaded as a ControlNet ({type(error).__name__}: {reason}); {_CONTROL_REMEDY}"
            ) from error

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Provenance for manifests, as for `FolderSource`."""
        weights = None if self.revision else _hash_weights(self.folder)
        return {"model": self.name, "revision": self.revision, "weights": weights}

    def _check_fit(self, config: dict[str, Any], base: FolderSource) -> None:
        if config["_class_name"] != ControlNetModel.__name__:
            raise WeightsError(f"{self.name}: is a {config['_class_name']}, no ControlNetModel; {_CONTROL_REMEDY}")
        if base.unet is None:
            raise WeightsError(f"{base.name}: has no U-Net, which ControlNets control; choose another model")
        for key in _FITTING:
            if config.get(key) != base.unet.get(key):
                raise WeightsError(
                    f"ControlNet {self.name} does not fit {base.name}: it was made for a base with {key} "
                    f"{config.get(key)}, not {base.unet.get(key)}; choose one of the base's family (SD 1.5, SD 2.1, "
                    "SDXL)"
                )


def _require_safetensors(folder: Path) -> None:
    if not any(folder.rglob("*.safetensors")):
        raise WeightsError(
            f"{folder}: has no .safetensors, and other formats may run code; if you trust it, load the pipeline "
            "with diffusers and save_pretrained(FOLDER, safe_serialization=True)"
        )


def _read_config(path: Path, remedy: str) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError(f"{path}: is damaged ({error}); {remedy}") from error
    if not isinstance(config, dict) or "_class_name" not in config:
        raise WeightsError(f"{path}: not a configuration of diffusers, because it has no _class_name; {remedy}")
    return config


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


@final
class TinyControl:
    """A small ControlNet with random weights for a tiny pipeline; see `tiny_control`."""

    def load(self, base: Any, dtype: torch.dtype) -> Any:
        return tiny_control(base.unet).to(dtype=dtype)

    @property
    def facts(self) -> dict[str, Any]:
        return {"model": "tiny ControlNet, random weights", "revision": None, "weights": None}


def find_source(model: str, *, revision: str | None, safety_checker: bool) -> FolderSource:
    """Find a local folder, or the files of a hub id in `CLOUDS_WEIGHTS` or on the hub.

    Raises:
        WeightsError: the model is unavailable, or a file in `CLOUDS_WEIGHTS` differs from the published hash.
        ConfigError: a revision is given for a local folder, or `safety_checker` is set, but the pipeline has none.
    """

    def fetch(**asked: Any) -> str:
        return str(DiffusionPipeline.download(model, use_safetensors=True, **asked))

    folder, commit = _find_folder(model, revision, fetch, what="diffusion model", remedy=_MODEL_REMEDY)
    return FolderSource(folder, name=model, revision=commit, safety_checker=safety_checker)


def find_control(control: str, *, revision: str | None, base: FolderSource) -> FolderControl:
    """Find the ControlNet of a base, as `find_source` finds pipelines.

    Raises:
        WeightsError: it is unavailable, or does not fit the base.
        ConfigError: a revision is given for a local folder.
    """

    def fetch(**asked: Any) -> str:
        return str(snapshot_download(control, allow_patterns=[*_CONTROL_FILES], **asked))

    folder, commit = _find_folder(control, revision, fetch, what="ControlNet", remedy=_CONTROL_REMEDY)
    return FolderControl(folder, name=control, revision=commit, base=base)


def _find_folder(
    name: str, revision: str | None, fetch: Callable[..., str], *, what: str, remedy: str
) -> tuple[Path, str | None]:
    """A local folder, or the folder and commit of a hub id."""
    local = without_tilde(name)
    if local.is_dir():
        if revision:
            raise ConfigError(f"model {name} is a local folder, which has no revision {revision!r}; remove it")
        return local, None
    if revision is None and (stored := hub_folder(name)):
        return stored, None
    try:
        with hub_access() as cached:
            folder = Path(fetch(revision=revision, local_files_only=cached))
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        hint = hub_note(name) or "check the name and the connection"
        raise WeightsError(
            f"{what} {name!r} is not a local folder and cannot be downloaded from the hub "
            f"({type(error).__name__}: {reason}); {hint}; {remedy}"
        ) from error
    return folder, folder.name


def _hash_weights(folder: Path) -> str:
    whole = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        with open(path, "rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        whole.update(f"{path.relative_to(folder).as_posix()} {digest}\n".encode())
    return whole.hexdigest()
