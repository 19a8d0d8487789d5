"""Saved pipelines: a folder with the plan as JSON and one safetensors file per module, without pickle."""

# pyright: reportUnknownVariableType=false
# (torch and safetensors have incomplete types)

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from attrs import asdict, field, frozen
from attrs.validators import instance_of
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from clouds.core.contract.interfaces import MaskPooler, TextClassifier
from clouds.core.contract.plan import Plan
from clouds.core.system.config import parse_json
from clouds.core.system.errors import DataError, WeightsError
from clouds.core.system.files import atomic_folder
from clouds.core.weights.loading import check_finite, digest, load_weights, read_safetensors, safetensors_sizes
from clouds.core.weights.size_limit import built_for

MARKER = "plan.json"
BACKBONE, HEAD, ADAPTER = "backbone.safetensors", "head.safetensors", "adapter.safetensors"
PUBLISHED = "backbone.json"
KEPT, CLASSIFIER = "kept.safetensors", "classifier.safetensors"
FILES = (MARKER, PUBLISHED, BACKBONE, HEAD, ADAPTER, KEPT, CLASSIFIER)  # all that a checkpoint may consist of
_CLASSIFIER_TENSORS = ("embeddings", "class_of", "seen")


@frozen(kw_only=True)
class PublishedWeights:
    """Published weights of a frozen backbone that a checkpoint omits.

    Attributes:
        pretrained: the backbone's option that loads them: True, or a file.
        sha256: their digest (`clouds.core.weights.loading.digest`).
    """

    pretrained: bool | str = field(validator=instance_of((bool, str)))
    sha256: str = field(validator=instance_of(str))


@frozen(kw_only=True)
class Checkpoint:
    """A saved pipeline whose plan could be read.

    Attributes:
        folder: folder of the checkpoint.
        plan: plan of the pipeline.
        trained: whether the head was trained.
        published: published weights to build the backbone with; None if the folder holds the weights.
    """

    folder: Path
    plan: Plan
    trained: bool
    published: PublishedWeights | None = None

    def restore(self, backbone: nn.Module, head: nn.Module, adapter: nn.Module | None = None) -> None:
        """Load the saved weights; published weights of a backbone are verified by their digest.

        Raises:
            WeightsError: the weights do not fit, or the backbone's differ from the omitted ones.
            NonFiniteError: a weight is NaN or infinite.
        """
        if self.published is None:
            self._fill(backbone, BACKBONE)
        elif digest(backbone.state_dict()) != self.published.sha256:
            raise WeightsError(
                f"{self.folder / PUBLISHED}: weights of pretrained={self.published.pretrained!r} are not those that "
                "the pipeline was saved with (their sha256 differs); restore the earlier ones"
            )
        self._fill(head, HEAD)
        if adapter is not None and adapter.state_dict():
            self._fill(adapter, ADAPTER)

    @contextmanager
    def size_limit(self) -> Generator[None]:
        """Limit networks built within the block to the size of the saved weights."""
        if self.published is not None:  # published weights of unknown size, with the caller's consent
            yield
            return
        sizes = [size for name in self._networks() for size in safetensors_sizes(_file(self.folder, name))]
        with built_for(elements=sum(sizes), tensors=len(sizes), source=str(self.folder / MARKER)):
            yield

    def read_kept(self) -> dict[str, Tensor]:
        """Tensors of a published checkpoint that no module uses, in the checkpoint's order."""
        path = _file(self.folder, KEPT)
        if not path.is_file():
            return {}
        tensors, metadata = read_safetensors(path)
        with _as_weights_errors(path):
            return {key: tensors[key] for key in json.loads(metadata["order"])}

    def read_classifier(self, backbone: nn.Module, device: torch.device) -> TextClassifier | None:
        """The saved text embeddings of the label space, which replace tokenizer and text tower; None if not saved."""
        path = _file(self.folder, CLASSIFIER)
        if not path.is_file():
            return None
        tensors, metadata = read_safetensors(path)
        with _as_weights_errors(path):
            return TextClassifier(
                **{name: tensors[name].to(device) for name in _CLASSIFIER_TENSORS},
                logit_scale=float(metadata["logit_scale"]),
                pooler=backbone if isinstance(backbone, MaskPooler) else None,
            )

    def files(self) -> list[Path]:
        """The files of the checkpoint. Of weights, the headers are read.

        Raises:
            WeightsError: a file is missing, is not safetensors, or links out of the folder.
        """
        required = (MARKER, HEAD, PUBLISHED if self.published else BACKBONE)
        paths = [_file(self.folder, name) for name in FILES]
        found = [path for path in paths if path.name in required or path.is_file()]
        for path in found:
            if path.suffix == ".safetensors":
                safetensors_sizes(path)
        return found

    def _networks(self) -> list[str]:
        return [BACKBONE, HEAD, *([ADAPTER] if _file(self.folder, ADAPTER).is_file() else [])]

    def _fill(self, module: nn.Module, name: str) -> None:
        path = _file(self.folder, name)
        load_weights(module, read_safetensors(path)[0], source=str(path))
        check_finite(module, source=str(path))


def save_checkpoint(
    folder: str | Path,
    *,
    plan: Plan,
    backbone: nn.Module,
    head: nn.Module,
    adapter: nn.Module | None,
    trained: bool,
    kept: Mapping[str, Tensor],
    classifier: TextClassifier | None,
    published: PublishedWeights | None,
) -> None:
    """Write a checkpoint atomically; an earlier checkpoint in the same folder is replaced.

    Args:
        folder: the target folder.
        plan, backbone, head, adapter, trained, kept, classifier: parts of the pipeline.
        published: the published weights of the backbone, which are then omitted; None saves the backbone's weights.

    Raises:
        DataError: the folder exists and is no checkpoint, or cannot be written.
        NonFiniteError: weights are NaN or infinite.
    """
    networks = {BACKBONE: backbone, HEAD: head} | ({} if adapter is None else {ADAPTER: adapter})
    for name, module in networks.items():
        check_finite(module, source=f"{folder}/{name}")
    with _as_data_errors(folder), atomic_folder(folder, marker=MARKER) as temporary:
        if published is None:
            _write(temporary / BACKBONE, backbone.state_dict(), {})
        else:
            (temporary / PUBLISHED).write_text(json.dumps(asdict(published)), encoding="utf-8")
        _write(temporary / HEAD, head.state_dict(), {"trained": str(trained)})
        if adapter is not None and adapter.state_dict():  # an empty file is not valid safetensors
            _write(temporary / ADAPTER, adapter.state_dict(), {})
        if kept:
            _write(temporary / KEPT, kept, {"order": json.dumps(list(kept))})  # safetensors sorts its tensors
        if classifier is not None:
            tensors = {name: getattr(classifier, name) for name in _CLASSIFIER_TENSORS}
            _write(temporary / CLASSIFIER, tensors, {"logit_scale": repr(classifier.logit_scale)})
        (temporary / MARKER).write_text(plan.to_json(), encoding="utf-8")
        for path in temporary.iterdir():
            path.chmod(0o644)  # safetensors makes files that only their owner can read


def read_checkpoint(folder: str | Path) -> Checkpoint:
    """Read a checkpoint's plan and metadata, without its weights.

    Raises:
        WeightsError: the plan is missing or damaged.
    """
    folder = Path(folder)
    marker = _file(folder, MARKER)
    if not marker.is_file():
        below = sorted(str(path.parent) for path in folder.glob(f"*/{MARKER}"))
        hint = f"; saved pipelines are in {', '.join(below)}" if below else ""
        raise WeightsError(f"{folder}: no saved pipeline here ({MARKER} is missing){hint}")
    try:
        plan = Plan.from_json(marker.read_text(encoding="utf-8"))
    except (WeightsError, UnicodeDecodeError) as error:
        raise WeightsError(f"{marker}: {error}") from error
    _, metadata = read_safetensors(_file(folder, HEAD))
    trained = metadata.get("trained") == "True"
    return Checkpoint(folder=folder, plan=plan, trained=trained, published=_read_published(_file(folder, PUBLISHED)))


def _file(folder: Path, name: str) -> Path:
    """Path of a checkpoint file. In the hub's cache, files in `snapshots/REVISION` link to its `blobs` folder.

    Raises:
        WeightsError: the file links to another place.
    """
    root = folder.resolve()
    root = root.parents[1] if root.parent.name == "snapshots" and (root.parents[1] / "blobs").is_dir() else root
    path = folder / name
    if not path.resolve().is_relative_to(root):
        raise WeightsError(f"{path} is a link out of the folder; replace it by a copy of the file")
    return path


def _read_published(path: Path) -> PublishedWeights | None:
    if not path.is_file():
        return None
    with _as_weights_errors(path):
        return PublishedWeights(**parse_json(path.read_text(encoding="utf-8")))


@contextmanager
def _as_weights_errors(path: Path) -> Generator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{path}: not as Pipeline.save writes it ({type(error).__name__}: {error})") from error


@contextmanager
def _as_data_errors(folder: str | Path) -> Generator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors raises its own error for a full disk
        raise DataError(f"{folder}: the pipeline cannot be written: {error}; an earlier one is unchanged") from error


def _write(path: Path, state: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    save_file({key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}, path, metadata=metadata)
