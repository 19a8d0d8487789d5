"""Receivers of each step's metrics: `log.jsonl` always, and trackers from plugins (hook `clouds_trackers`)."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, final, runtime_checkable

from attrs import asdict

from clouds.core.contract.catalog import Catalog
from clouds.core.contract.offers import OfferKind, find_offer
from clouds.core.system.errors import ConfigError, DataError
from clouds.core.system.files import target_in
from clouds.evaluation.scores import Domains

Numbers = Mapping[str, float]


@runtime_checkable
class Tracker(Protocol):
    """Receives the metrics of a run. Its factory is called with the run's folder and its recipe as plain values."""

    def log(self, phase: str, step: int, numbers: Numbers) -> None:
        """Log the metrics of a step; steps count from 1 in each phase, and 0 is before the first step of the run.

        At an evaluation there are also `miou`, `miou/DOMAIN` and `iou/DOMAIN/CLASS`, in percent.
        """
        ...

    def close(self) -> None:
        """Called once when the run ends, even by an error."""
        ...


@final
class JsonLines:
    """Writes one JSON line per step, unbuffered, so that the file can be watched.

    Args:
        path: the file.
        size: bytes to keep from an earlier part of the run; of a shorter file, its complete lines are kept.
    """

    def __init__(self, path: Path, *, size: int = 0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._stream = open(target_in(path.parent, path.name), "ab", buffering=0)  # noqa: SIM115 - open for the whole run
        there = self._stream.tell()
        if there < size:
            warnings.warn(f"{path} has {there} bytes; the checkpoint says {size}: some lines are lost", stacklevel=2)
            size = path.read_bytes().rfind(b"\n") + 1
        self._stream.truncate(size)
        self._stream.seek(size)  # `truncate` leaves the position at the former end, which a checkpoint would record

    def log(self, phase: str, step: int, numbers: Numbers, domains: Domains | None = None) -> None:
        """Write a line, with the scores by domain if there are any.

        Raises:
            DataError: the file cannot be written; names it.
        """
        scores = {"scores": {name: asdict(one) for name, one in domains.items()}} if domains else {}
        line = json.dumps({"phase": phase, "step": step, **numbers, **scores}).encode() + b"\n"
        before = self.size()
        try:
            while line:
                line = line[self._stream.write(line) :]
        except OSError as error:
            with suppress(OSError):  # a partial line would corrupt the log of the resumed run
                self._stream.truncate(before)
                self._stream.seek(before)
            raise DataError(
                f"{self._path}: step {step} of {phase} cannot be written: {error}; free disk space, and resume"
            ) from error

    def size(self) -> int:
        """Bytes written so far."""
        return self._stream.tell()

    def close(self) -> None:
        self._stream.close()


@final
class Trackers:
    """Trackers whose errors never end a run: one that fails causes a warning and is dropped.

    Args:
        trackers: each receives the metrics of every step.
    """

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = list(trackers)

    def log(self, phase: str, step: int, numbers: Numbers) -> None:
        """Log the metrics of a step with every tracker."""
        self._call(lambda tracker: tracker.log(phase, step, numbers), f"at step {step} of {phase}")

    def close(self) -> None:
        """Close the remaining trackers."""
        self._call(lambda tracker: tracker.close(), "when it was closed")

    def _call(self, call: Callable[[Tracker], None], when: str) -> None:
        for tracker in tuple(self._trackers):
            try:
                call(tracker)
            except Exception as error:  # noqa: BLE001 - such as an unreachable server, or a plugin's bug
                self._trackers.remove(tracker)
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                name = type(tracker).__name__
                warnings.warn(f"loop.trackers: {name} failed {when} and is dropped: {reason}", stacklevel=2)


@final
class TensorBoard:
    """Scalars `phase/name` for TensorBoard; event files are in `tensorboard/` of the run's folder."""

    def __init__(self, folder: Path, recipe: Mapping[str, Any]) -> None:
        _import_from("tensorboard", "tensorboard")
        writer = _import_from("torch.utils.tensorboard", "tensorboard").SummaryWriter
        self._writer = writer(str(target_in(folder, "tensorboard")))

    def log(self, phase: str, step: int, numbers: Numbers) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(f"{phase}/{name}", value, step)

    def close(self) -> None:
        self._writer.close()


@final
class WeightsAndBiases:
    """Scalars `phase/name` for Weights & Biases; its own settings (`WANDB_PROJECT`, `WANDB_MODE`) apply."""

    def __init__(self, folder: Path, recipe: Mapping[str, Any]) -> None:
        self._run = _import_from("wandb", "wandb").init(dir=str(folder), name=folder.name, config=dict(recipe))

    def log(self, phase: str, step: int, numbers: Numbers) -> None:
        self._run.log({f"{phase}/step": step, **{f"{phase}/{name}": value for name, value in numbers.items()}})

    def close(self) -> None:
        self._run.finish()


def open_trackers(
    names: Sequence[str], folder: Path, recipe: Mapping[str, Any], *, catalog: Catalog | None = None
) -> list[Tracker]:
    """Build trackers by name.

    Args:
        names: tracker names, or `dist::name`.
        folder: folder of the run.
        recipe: recipe as plain values.
        catalog: where to look up names; None means built-ins and installed plugins.

    Raises:
        ConfigError: a name is unknown, two plugins offer it, or its distribution is not installed.
    """
    if not names:
        return []
    offers = (catalog or Catalog.from_environment()).offers(OfferKind.TRACKER)
    found = [find_offer("tracker", name, offers, where="loop.trackers") for name in names]
    return [offer.load()(folder, recipe) for offer in found]


def _import_from(module: str, distribution: str) -> ModuleType:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"loop.trackers: {distribution} is not installed; pip install {distribution}, or remove the tracker"
        ) from error
