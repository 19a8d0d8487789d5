"""Checkpoints of a run that is under way: one file with all that it takes to go on exactly.

They are written in one piece, so that neither a kill nor a full disk harms the one before, and hold tensors and plain
values alone, so that reading one runs no code.
"""

from __future__ import annotations

import io
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import asdict, field, frozen

from clouds.core.errors import ConfigError, DataError, WeightsError
from clouds.core.files import atomic_file
from clouds.core.weights import load_weights, read_pickle
from clouds.training.recipe import Phase
from clouds.training.steps import State

FILE_NAME = "checkpoint.pt"
_KEYS = {"progress", "modules", "optimizer", "schedule", "random"}


def _to_phases(value: Iterable[Phase]) -> tuple[Phase, ...]:
    return tuple(value)


@frozen(kw_only=True)
class Progress:
    """How far a run has come.

    Attributes:
        phases: of the run.
        phase: the one it was in.
        step: optimizer steps made in it; the sampler goes on after as many batches.
        skipped: images that could not be read, in the whole run.
        log_size: bytes of the log that belong to these steps.
    """

    phases: tuple[Phase, ...] = field(converter=_to_phases)
    phase: Phase
    step: int = 0
    skipped: int = 0
    log_size: int = 0


@frozen(kw_only=True)
class Checkpoint:
    """How far a run has come, and what that was made of; without `document` it is the start."""

    progress: Progress
    document: dict[str, Any] | None = None


def save_checkpoint(folder: Path, state: State, progress: Progress) -> None:
    """Write the checkpoint of a run, in the place of the one before. All processes call it; the first one writes.

    Raises:
        DataError: it cannot be written; the one before is as it was.
    """
    random_states = state.processes.gather(_random_state())
    if not state.processes.main:
        return
    document = {
        "progress": asdict(progress),
        "modules": {name: module.state_dict() for name, module in _modules(state).items()},
        "optimizer": state.optimizer.state_dict(),
        "schedule": state.schedule.state_dict(),
        "random": random_states,
    }
    buffer = io.BytesIO()  # so that it is the operating system that says why a file cannot be written
    torch.save(document, buffer)
    try:
        with atomic_file(folder / FILE_NAME) as temporary:
            temporary.write_bytes(buffer.getbuffer())
    except OSError as error:
        raise DataError(
            f"{folder / FILE_NAME}: the checkpoint of step {progress.step} cannot be written: {error}; an earlier one "
            "is still whole: make room, and go on with resume"
        ) from error


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read the checkpoint of a run.

    Raises:
        ConfigError: there is none.
        WeightsError: the file is damaged, or something else.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise ConfigError(f"{folder}: no {FILE_NAME} here, so there is no run to go on with; start it anew")
    for unfinished in folder.glob(f".{path.stem}.*.tmp{path.suffix}"):  # of a run that was killed as it wrote
        unfinished.unlink(missing_ok=True)
    document = read_pickle(path)
    if not (isinstance(document, dict) and document.keys() == _KEYS):
        raise WeightsError(f"{path}: not the checkpoint of a run; give the folder that was its --out")
    return Checkpoint(progress=Progress(**document["progress"]), document=document)


def restore_state(state: State, checkpoint: Checkpoint, *, folder: Path) -> None:
    """Bring a state to where the checkpoint was written. Call it last: it sets all random states.

    With another number of processes than before the random states of those that are new stay as they are; what is
    drawn for samples does not depend on them.

    Raises:
        ConfigError: the pipeline trains other modules than the run's.
        WeightsError: the tensors do not fit.
    """
    modules, document = _modules(state), checkpoint.document
    if document is None:
        return
    if modules.keys() != document["modules"].keys():
        raise ConfigError(
            f"{folder / FILE_NAME}: trains {sorted(document['modules'])}, but the pipeline trains {sorted(modules)}; "
            "compose it as at the start of the run"
        )
    for name, module in modules.items():
        load_weights(module, document["modules"][name], source=f"{folder / FILE_NAME}, {name}")
    state.optimizer.load_state_dict(document["optimizer"])
    state.schedule.load_state_dict(document["schedule"])
    state.step = checkpoint.progress.step
    states = document["random"]
    if state.processes.rank < len(states):
        _set_random_state(states[state.processes.rank])


def _modules(state: State) -> dict[str, torch.nn.Module]:
    """What training changes, by name."""
    pipeline, teacher = state.pipeline, state.teacher
    found: dict[str, torch.nn.Module] = {"head": pipeline.head}
    if any(parameter.requires_grad for parameter in pipeline.backbone.parameters()):
        found["backbone"] = pipeline.backbone
    if teacher is not None:
        found["teacher head"] = teacher.head
        if teacher.backbone is not pipeline.backbone:
            found["teacher backbone"] = teacher.backbone
    return found


def _random_state() -> dict[str, Any]:
    """The states of this process's global random number generators, as tensors and plain values."""
    name, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": (str(name), torch.from_numpy(np.asarray(keys, np.int64)), *(float(value) for value in rest)),
        "python": random.getstate(),
    }


def _set_random_state(saved: dict[str, Any]) -> None:
    torch.set_rng_state(saved["torch"])
    if len(saved["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(saved["cuda"])
    name, keys, position, has_gauss, gauss = saved["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), int(position), int(has_gauss), gauss))
    random.setstate(saved["python"])
