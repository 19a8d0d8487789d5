"""The engine `ray`: workers are actors of a Ray cluster (Moritz et al., Ray: A Distributed Framework for Emerging AI
Applications, OSDI 2018).

Results come back to the process that asked, which alone writes files. So machines need no common file system, but what
options name by a path (weights, a checkpoint) must be at that path on each, and `clouds` installed.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import cached_property
from itertools import islice
from typing import Any, Generic, final

from attrs import frozen

from clouds.core.system.errors import CloudsError, ConfigError, WorkerError
from clouds.synthesis.workers import Item, Model, Result, Workers

RETRIES = 3  # a batch that kills more workers than this is to blame itself
_QUEUE = 2  # batches that a worker has: one that it works on, and the next
_AHEAD = 4  # batches for each worker that are asked for and not handed out yet, so that a slow one holds up no other
_GRACE = 2.0  # seconds after which all is free that a run before has given back
_STORE = 512 * 1024**2  # bytes of shared memory; batches in flight take some tens of megabytes
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # Ray's reports about its use leave the machine
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # workers without a GPU are told their device; see Ray's FutureWarning
}


class BusyClusterWarning(UserWarning):
    """Other jobs hold a part of what the workers need."""


@contextmanager
def open_ray(
    build: Callable[[], Model], *, count: int | None = None, device: str = "auto"
) -> Generator[Workers[Model]]:
    """Yield workers on the cluster that `RAY_ADDRESS` names, or else on a cluster of this machine alone, which is
    started and ended with the block. A cluster that the caller is connected to is used as it is.

    Args:
        build: makes a worker's model there, when the worker is first asked.
        count: how many workers; None takes one for each GPU of the cluster, and one where there is none.
        device: a worker gets a GPU of its own where the cluster has some, unless this is "cpu" or "mps".

    Raises:
        ConfigError: Ray is not installed or not reached, or the cluster has fewer CPUs or GPUs than it takes.

    Warns `BusyClusterWarning` when other jobs hold some of them.
    """
    if count is not None and count < 1:
        raise ConfigError(f"workers={count}: expected at least 1")
    with redirect_stdout(sys.stderr), _connected(count) as ray:  # Ray prints to stdout which workers died
        gpus = int(ray.cluster_resources().get("GPU", 0))
        gpu = gpus > 0 and device not in ("cpu", "mps")
        count = count or (gpus if gpu else 1)
        for unit in ("CPU", "GPU") if gpu else ("CPU",):
            _require_room(ray, unit, count)
        remote = ray.remote(num_cpus=1, num_gpus=int(gpu), max_restarts=-1, max_task_retries=RETRIES)(_Worker)
        actors = [remote.remote(build) for _ in range(count)]
        try:
            yield RayWorkers(actors)
        finally:
            for actor in actors:
                ray.kill(actor)


def _require_room(ray: Any, unit: str, count: int) -> None:
    """Ray itself waits without a word, for more machines and for other jobs to end."""
    has = ray.cluster_resources().get(unit, 0)
    if count > has:
        raise ConfigError(
            f"workers={count} need a {unit} each, but the Ray cluster has {has:g}; give fewer"
            + (", or device='cpu'" if unit == "GPU" else "")
        )
    deadline = time.monotonic() + _GRACE
    while count > (free := ray.available_resources().get(unit, 0)) and time.monotonic() < deadline:
        time.sleep(_GRACE / 20)
    if count > free:
        text = f"workers={count} need a {unit} each, but {free:g} of the Ray cluster's {has:g} are free: others wait"
        warnings.warn(text, BusyClusterWarning, stacklevel=2)


@contextmanager
def _connected(count: int | None) -> Generator[Any]:
    """Ray, connected to a cluster for the block."""
    try:
        import ray
    except ModuleNotFoundError:
        raise ConfigError(
            "the engine 'ray' needs Ray, which is not installed: pip install 'clouds-dgss[ray]'"
        ) from None
    if ray.is_initialized():
        yield ray
        return
    address = os.environ.get("RAY_ADDRESS", "local")
    own: dict[str, Any] = {"num_cpus": count, "object_store_memory": _STORE, "include_dashboard": False}
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **(own if address == "local" else {}))
    except (ConnectionError, RuntimeError, TimeoutError, ValueError) as error:
        raise ConfigError(
            f"Ray at {address}: {error}; RAY_ADDRESS names the cluster, without it one starts here. One that asks "
            "for a token wants RAY_AUTH_MODE=token, too"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


@frozen
class _Answer(Generic[Result]):
    """What a call gave, and the category and text of its warnings, which would be lost in Ray's logs."""

    result: Result
    said: list[tuple[type[Warning], str]]

    @classmethod
    def of(cls, call: Callable[[], Result]) -> _Answer[Result]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = call()
        return cls(result, [(one.category, str(one.message)) for one in caught])


@final
class _Worker(Generic[Model]):
    """What an actor is: a model that is built when it is first asked for, again after a restart."""

    def __init__(self, build: Callable[[], Model]) -> None:
        self._build = build

    @cached_property
    def _model(self) -> Model:
        return self._build()

    def ask(self, function: Callable[[Model], Result]) -> _Answer[Result]:
        return _Answer.of(lambda: function(self._model))

    def apply(self, function: Callable[[Model, Item], Result], item: Item) -> _Answer[Result]:
        return _Answer.of(lambda: function(self._model, item))


@final
class RayWorkers(Workers[Model]):
    """Actors of a Ray cluster.

    One that dies is started again, and what it had not finished is done again, up to `RETRIES` times. Each has at most
    two items at a time, and of all results at most four for each worker wait to be handed out.

    Args:
        actors: handles of actors that were made from `_Worker`.
    """

    def __init__(self, actors: Sequence[Any]) -> None:
        self._actors = tuple(actors)

    def ask(self, function: Callable[[Model], Result]) -> Result:
        return _result(self._actors[0].ask.remote(function))

    def map(self, function: Callable[[Model, Item], Result], items: Iterable[Item]) -> Iterator[tuple[Item, Result]]:
        import ray

        waiting = iter(items)
        asked: deque[tuple[Item, Any]] = deque()  # with the reference of its result, in order
        running: dict[Any, Any] = {}  # actors by what they work on
        free = deque(self._actors * _QUEUE)
        while True:
            for item in islice(waiting, min(len(free), _AHEAD * len(self._actors) - len(asked))):
                actor = free.popleft()
                reference = actor.apply.remote(function, item)
                running[reference] = actor
                asked.append((item, reference))
            if not asked:
                return
            if asked[0][1] in running:
                (done,), _ = ray.wait([*running], num_returns=1)
                free.append(running.pop(done))
            else:
                item, reference = asked.popleft()
                yield item, _result(reference)


def _result(reference: Any) -> Any:
    """The value, or the very `CloudsError` that was raised there; other errors come with their traceback from there.
    Warnings of there are warned here."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        answer: Any = ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, CloudsError):
            raise error.cause from None
        raise
    except RayError as error:
        raise WorkerError(
            f"Ray's workers died {RETRIES + 1} times on one batch, or their cluster is gone: {error}; Ray's logs say "
            "why; often memory is short, then smaller batches or fewer workers help"
        ) from error
    for category, text in answer.said:
        warnings.warn(text, category, stacklevel=3)
    return answer.result
