"""Where the numbers of each step go: always `log.jsonl`, and what plugins offer (hook `clouds_trackers`)."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, final, runtime_checkable

from clouds.core.contract.catalog import Catalog
from clouds.core.system.errors import ConfigError, DataError, did_you_mean
from clouds.core.system.files import target_in

Numbers = Mapping[str, float]


@runtime_checkable
class Tracker(Protocol):
    """Takes the numbers of a run. Its factory is called with the run's folder and its recipe as plain values."""

    def log(self, phase: str, step: int, numbers: Numbers) -> None:
        """Note the numbers of a step; steps count from 1 in each phase."""
        ...

    def close(self) -> None:
        """Called once, at the end of the run, however it ends."""
        ...


@final
class JsonLines:
    """One JSON object per step and line, written at once, so that the file can be watched.

    Args:
        path: the file.
        size: bytes of it to keep, from an earlier part of the run. Of a file that is shorter its whole lines are kept.
    """

    def __init__(self, path: Path, *, size: int = 0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._stream = open(target_in(path.parent, path.name), "ab", buffering=0)  # noqa: SIM115 - open for the whole run
        there = self._stream.tell()
        if there < size:
            warnings.warn(f"{path} has {there} bytes; the checkpoint says {size}: lines of it are lost", stacklevel=2)
            size = path.read_bytes().rfind(b"\n") + 1
        self._stream.truncate(size)

    def log(self, phase: str, step: int, numbers: Numbers) -> None:
        """Write a line. Raises `DataError` naming the file when it cannot be written."""
        line, before = json.dumps({"phase": phase, "step": step, **numbers}).encode() + b"\n", self.size()
        try:
            while line:
                line = line[self._stream.write(line) :]
        except OSError as error:
            with suppress(OSError):  # half a line would stand in the middle of the log of the run that goes on
                self._stream.truncate(before)
                self._stream.seek(before)
            raise DataError(
                f"{self._path}: step {step} of {phase} cannot be written: {error}; make room, and go on with resume"
            ) from error

    def size(self) -> int:
        """Bytes so far."""
        return self._stream.tell()

    def close(self) -> None:
        self._stream.close()


@final
class Trackers:
    """Trackers whose faults never end a run: one that fails is warned of, and then left out.

    Args:
        trackers: each gets the numbers of every step.
    """

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = list(trackers)

    def log(self, phase: str, step: int, numbers: Numbers) -> None:
        """Pass on the numbers of a step."""
        self._call(lambda tracker: tracker.log(phase, step, numbers), f"at step {step} of {phase}")

    def close(self) -> None:
        """Close those that are left."""
        self._call(lambda tracker: tracker.close(), "when it was closed")

    def _call(self, call: Callable[[Tracker], None], when: str) -> None:
        for tracker in tuple(self._trackers):
            try:
                call(tracker)
            except Exception as error:  # noqa: BLE001 - a server that is away, a plugin's bug
                self._trackers.remove(tracker)
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                name = type(tracker).__name__
                warnings.warn(f"loop.trackers: {name} failed {when} and is left out: {reason}", stacklevel=2)


@final
class TensorBoard:
    """Scalars `phase/name`, for TensorBoard; event files in `tensorboard/` of the run's folder."""

    def __init__(self, folder: Path, recipe: Mapping[str, Any]) -> None:
        _needed("tensorboard", "tensorboard")
        writer = _needed("torch.utils.tensorboard", "tensorboard").SummaryWriter
        self._writer = writer(str(target_in(folder, "tensorboard")))

    def log(self, phase: str, step: int, numbers: Numbers) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(f"{phase}/{name}", value, step)

    def close(self) -> None:
        self._writer.close()


@final
class WeightsAndBiases:
    """Scalars `phase/name`, for Weights & Biases; its own settings (`WANDB_PROJECT`, `WANDB_MODE`) apply."""

    def __init__(self, folder: Path, recipe: Mapping[str, Any]) -> None:
        self._run = _needed("wandb", "wandb").init(dir=str(folder), name=folder.name, config=dict(recipe))

    def log(self, phase: str, step: int, numbers: Numbers) -> None:
        self._run.log({f"{phase}/step": step, **{f"{phase}/{name}": value for name, value in numbers.items()}})

    def close(self) -> None:
        self._run.finish()


def open_trackers(
    names: Sequence[str], folder: Path, recipe: Mapping[str, Any], *, catalog: Catalog | None = None
) -> list[Tracker]:
    """Build trackers by name.

    Args:
        names: as plugins offer them, or `dist::name`.
        folder: of the run.
        recipe: as plain values.
        catalog: where names are looked up; None takes built-ins and installed plugins.

    Raises:
        ConfigError: nothing has this name, two plugins have it, or its distribution is not installed.
    """
    if not names:
        return []
    offers = (catalog or Catalog.from_environment()).trackers()
    return [_factory(name, offers)(folder, recipe) for name in names]


def _factory(name: str, offers: Mapping[str, str]) -> Any:
    """`offers` has every tracker as `dist::name`."""
    matches = [key for key in offers if name in (key, key.rpartition("::")[2])]
    if not matches:
        known = [key.rpartition("::")[2] for key in offers]
        raise ConfigError(f"loop.trackers: unknown tracker {name!r}{did_you_mean(name, known)}")
    if len(matches) > 1:
        raise ConfigError(f"loop.trackers: {name!r} is offered twice; choose one: {' or '.join(matches)}")
    module, _, attribute = offers[matches[0]].partition(":")
    return getattr(import_module(module), attribute)


def _needed(module: str, distribution: str) -> ModuleType:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"loop.trackers: {distribution} is not installed; pip install {distribution}, or leave it out"
        ) from error
