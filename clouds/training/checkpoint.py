"""Checkpoints: one file from which a run resumes exactly.

Each is written atomically, so that neither a kill nor a full disk harms the previous one. It holds only tensors and
plain values, so that reading it runs no code.
"""

from __future__ import annotations

import io
import os
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import asdict, field, frozen

from clouds.core.system.config import structure, within
from clouds.core.system.errors import ConfigError, DataError, NonFiniteError, WeightsError
from clouds.core.system.files import atomic_file
from clouds.core.weights.loading import check_finite, load_weights, read_pickle
from clouds.training.best import Scored
from clouds.training.recipe import MANY, Phase
from clouds.training.steps import State

FILE_NAME = "checkpoint.pt"
_KEYS = {"progress", "modules", "optimizer", "schedule", "random"}
_EARLIER = re.compile(r"checkpoint-(warmup|joint)-\d+\.pt")


def _to_phases(value: Iterable[Phase]) -> tuple[Phase, ...]:
    return tuple(value)


@frozen(kw_only=True)
class Progress:
    """Progress of a run.

    Attributes:
        phases: all phases of the run.
        phase: current phase.
        step: optimizer steps done in this phase; on resume, the sampler skips as many batches.
        taught: step of the last teacher update; -1 before the first.
        skipped: number of unreadable images in the whole run.
        log_size: bytes of the log up to this step.
        best: the best scores so far, best first, if `loop.best` names a score.
    """

    phases: tuple[Phase, ...] = field(converter=_to_phases)
    phase: Phase
    step: int = field(default=0, validator=within(0, MANY))
    taught: int = field(default=-1, validator=within(-1, MANY))
    skipped: int = field(default=0, validator=within(0))
    log_size: int = field(default=0, validator=within(0))
    best: tuple[Scored, ...] = ()

    def __attrs_post_init__(self) -> None:
        if self.phase not in self.phases:
            raise ConfigError(f"phase is {self.phase!r}; expected one of the run's phases {list(self.phases)}")


def save_checkpoint(folder: Path, state: State, progress: Progress, *, keep: int = 1) -> None:
    """Write the checkpoint of a run, replacing the previous one. Only the first process writes.

    Args:
        folder: folder of the run.
        state: training state to save.
        progress: progress of the run.
        keep: maximum number of checkpoints; earlier ones are `checkpoint-PHASE-STEP.pt`.

    Raises:
        DataError: the file cannot be written; the previous checkpoint is unchanged.
        NonFiniteError: weights are not finite; the previous checkpoint is unchanged.
    """
    if not state.processes.main:
        return
    for name, module in _modules(state).items():
        check_finite(module, source=f"step {progress.step} of {progress.phase}, {name}")
    document = {
        "progress": asdict(progress),
        "modules": {name: module.state_dict() for name, module in _modules(state).items()},
        "optimizer": state.optimizer.state_dict(),
        "schedule": state.schedule.state_dict(),
        "random": [global_random_state()],
    }
    buffer = io.BytesIO()  # writing the bytes ourselves raises an OSError with the system's reason
    torch.save(document, buffer)
    try:
        with atomic_file(folder / FILE_NAME) as temporary:
            temporary.write_bytes(buffer.getbuffer())
        keep_checkpoints(folder, progress, keep=keep)
    except OSError as error:
        raise DataError(
            f"{folder / FILE_NAME}: the checkpoint of step {progress.step} cannot be written: {error}; an earlier one "
            "is intact: free disk space, and resume"
        ) from error


def keep_checkpoints(folder: Path, progress: Progress, *, keep: int) -> None:
    """Link the newest checkpoint to its numbered name, and remove the oldest ones beyond `keep`.

    A resumed run repeats this, as its predecessor may have been killed in between.
    """
    if keep > 1:
        name = folder / f"checkpoint-{progress.phase}-{progress.step}.pt"
        name.unlink(missing_ok=True)
        os.link(folder / FILE_NAME, name)
    kept = [path for path in folder.iterdir() if _EARLIER.fullmatch(path.name)]
    for path in sorted(kept, key=lambda path: path.stat().st_mtime_ns)[: -keep if keep > 1 else None]:
        path.unlink()


def read_checkpoint(folder: Path) -> tuple[Progress, dict[str, Any]]:
    """Read the progress of a run and the content of its checkpoint; the folder is not changed.

    Raises:
        ConfigError: the folder has no checkpoint.
        WeightsError: the file is damaged, altered, or not a checkpoint.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise ConfigError(f"{folder}: has no {FILE_NAME}, so there is no run to resume; start a new run")
    document = read_pickle(path)
    if not (isinstance(document, dict) and document.keys() == _KEYS and _has_form(document)):
        raise WeightsError(f"{path}: not the checkpoint of a run; give the folder that was the run's --out")
    try:
        return structure(document["progress"], Progress, source=str(path)), document
    except ConfigError as error:
        raise WeightsError(f"{error}; the checkpoint was altered: start a new run") from error


def _has_form(document: dict[str, Any]) -> bool:
    modules, states = document["modules"], document["random"]
    return (
        all(isinstance(document[key], dict) for key in ("progress", "modules", "optimizer", "schedule"))
        and all(isinstance(module, Mapping) for module in modules.values())
        and isinstance(states, list)
        and all(isinstance(one, dict) for one in states)
    )


def restore_state(state: State, progress: Progress, document: dict[str, Any], *, folder: Path) -> None:
    """Restore a training state from a checkpoint. Call it last, because it sets all global random states.

    These are the first process's; steps do not depend on them, see `seed_global_generators`.

    Raises:
        ConfigError: the trained modules of pipeline and run differ.
        WeightsError: the tensors do not fit, or are not finite.
    """
    modules, path = _modules(state), folder / FILE_NAME
    if modules.keys() != document["modules"].keys():
        raise ConfigError(
            f"{path}: the run trains {sorted(document['modules'])}, but the pipeline trains {sorted(modules)}; "
            "compose it as at the start of the run"
        )
    for name, module in modules.items():
        load_weights(module, document["modules"][name], source=f"{path}, {name}")
    with _altered(path):
        for name, module in modules.items():
            check_finite(module, source=name)
        state.optimizer.load_state_dict(document["optimizer"])
        _check_optimizer(state.optimizer)
        state.schedule.load_state_dict(document["schedule"])
        if state.processes.main:
            set_global_random_state(document["random"][0])
    state.step, state.taught = progress.step, progress.taught


@contextmanager
def _altered(path: Path) -> Iterator[None]:
    """Turn the errors that torch raises for unfitting parts into a `WeightsError` that names the file."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, NonFiniteError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise WeightsError(f"{path}: damaged or altered ({reason}); start a new run") from error


def _check_optimizer(optimizer: torch.optim.Optimizer) -> None:
    document = optimizer.state_dict()
    numbers = [value for group in document["param_groups"] for value in group.values() if isinstance(value, float)]
    moments = [value for one in document["state"].values() for value in one.values() if value is not None]
    values = [torch.as_tensor(value) for value in (*numbers, *moments)]
    if not all(value.isfinite().all() for value in values):
        raise NonFiniteError("the optimizer's state is not finite")


def _modules(state: State) -> dict[str, torch.nn.Module]:
    """Modules with a state of the run, by name."""
    pipeline, teacher = state.pipeline, state.teacher
    found = dict(pipeline.segmenter.parts)
    if not any(parameter.requires_grad for parameter in pipeline.backbone.parameters()):
        del found["backbone"]
    if teacher is not None:
        found |= {f"teacher {name}": part for name, part in teacher.averaged.items()}
        found |= {"teacher thresholds": teacher.thresholds} if teacher.thresholds is not None else {}
    found |= {f"loss term {name}": term for name, term in state.terms.items() if term.state_dict()}
    return found


def global_random_state() -> dict[str, Any]:
    """States of this process's global random generators, as tensors and plain values."""
    name, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": (str(name), torch.from_numpy(np.asarray(keys, np.int64)), *(float(value) for value in rest)),
        "python": random.getstate(),
    }


def set_global_random_state(saved: dict[str, Any]) -> None:
    torch.set_rng_state(saved["torch"])
    if len(saved["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(saved["cuda"])
    name, keys, position, has_gauss, gauss = saved["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), int(position), int(has_gauss), gauss))
    random.setstate(saved["python"])
