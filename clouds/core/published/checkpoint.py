"""Import of checkpoints of the published implementation."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (torch and numpy have incomplete types)

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from clouds.core.contract.catalog import Catalog
from clouds.core.contract.component import Kind
from clouds.core.contract.labels import LabelSpace
from clouds.core.pipeline.composer import compose
from clouds.core.pipeline.pipeline import Pipeline
from clouds.core.published.export import published_names, unused_tensors
from clouds.core.published.keys import (
    UNUSED,
    find_backbone,
    find_classes,
    find_head,
    unwrap_published,
)
from clouds.core.system.errors import WeightsError
from clouds.core.weights.files import unwrap_tables
from clouds.core.weights.loading import misfits, read_pickle
from clouds.core.weights.size_limit import built_for


def from_reference_checkpoint(
    path_or_state_dict: str | os.PathLike[str] | Mapping[str, Any],
    geometric_ensemble: bool = False,
    *,
    labels: str | LabelSpace = "cityscapes",
    device: str | torch.device = "auto",
    catalog: Catalog | None = None,
) -> Pipeline:
    """Build a pipeline from a checkpoint of the published implementation (github.com/yasserben/CLOUDS).

    Backbone, head and sizes are inferred from tensor names and shapes. Weights are converted to the modules' precision.
    Tensors that no module uses go to `Pipeline.kept`.

    Args:
        path_or_state_dict: a .pth file, read without running code, or its content: `{"model": state dict}` or a state
            dict of tensors or numpy arrays.
        geometric_ensemble: combine class probabilities with CLIP's, as published: for a ResNet only where a mask has
            any pixel.
        labels: label space; it must have the checkpoint's number of classes.
        device: see `clouds.compose`.
        catalog: see `clouds.compose`.

    Raises:
        WeightsError: the file is missing, damaged or carries code; it holds another model; or keys are missing,
            unexpected or of a wrong shape, all of which are named.
    """
    source, state = _read(path_or_state_dict)
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    family, backbone = find_backbone(shapes, source=source)
    head, options = find_head(shapes, source=source)
    space = LabelSpace.named(labels) if isinstance(labels, str) else labels
    classes = find_classes(shapes)
    if classes not in (None, len(space)):
        raise WeightsError(
            f"{source}: the checkpoint has {classes} classes, but label space {space.name!r} has {len(space)}; "
            "pass the label space it was trained with: labels=clouds.LabelSpace.from_names([...])"
        )
    ensemble = {"geometric_ensemble": geometric_ensemble, "ensemble_on_valid_mask": family == "ResNet"}
    with built_for(elements=sum(map(math.prod, shapes.values())), tensors=len(shapes), source=source):
        pipeline = compose(
            backbone=backbone,
            head={"name": head, **options, **ensemble},
            labels=space,
            pretrained=False,
            device=device,
            catalog=catalog,
        )
    _fill(pipeline, state, source=source)
    pipeline.trained = True
    return pipeline


def _read(content: str | os.PathLike[str] | Mapping[str, Any]) -> tuple[str, dict[str, Tensor]]:
    """The checkpoint's name for messages, and its tensors by key."""
    source = "the state dict" if isinstance(content, Mapping) else os.fspath(content)
    found = content if isinstance(content, Mapping) else read_pickle(content)
    found = unwrap_tables(found, source=source, kinds=(Tensor, np.ndarray, np.generic))
    if isinstance(found, Mapping):
        entries = {str(key): value for key, value in cast("Mapping[Any, Any]", found).items()}
        state = unwrap_published(entries, source=source)
        return source, {key: _to_tensor(value, f"{source}: {key}") for key, value in state.items()}
    raise WeightsError(f"{source}: holds a {type(found).__name__}; expected {{'model': state dict}} or a state dict")


def _to_tensor(value: Any, what: str) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    numpy = isinstance(value, (np.ndarray, np.generic))
    array: Any = np.array(value, value.dtype.newbyteorder("=")) if numpy else None
    try:
        return torch.from_numpy(array)
    except TypeError as error:
        kind = type(value).__name__ if array is None else f"{type(value).__name__} of {array.dtype}"
        raise WeightsError(f"{what} is a {kind}; expected a tensor or an array of numbers") from error


def _fill(pipeline: Pipeline, state: Mapping[str, Tensor], *, source: str) -> None:
    own = published_names(pipeline.backbone, pipeline.head)
    kept = {key: tensor for key, tensor in state.items() if key.startswith(UNUSED) and key not in own}
    known = {key: tensor for key, tensor in unused_tensors(pipeline.plan, own).items() if key in kept}
    faults = misfits({**known, **own}, {key: state[key] for key in state if key in known or key not in kept})
    if faults:
        listed = "; ".join(f"{len(found)} {what}: {', '.join(found)}" for what, found in faults.items())
        parts = " with ".join(str(pipeline.plan.parts[kind].name) for kind in (Kind.BACKBONE, Kind.HEAD))
        raise WeightsError(f"{source} was taken for {parts}, but does not fit it: {listed}")
    for key, tensor in own.items():
        tensor.copy_(state[key])
    pipeline.kept = {key: tensor.cpu().clone() for key, tensor in kept.items()}
