"""The engine `ray`: workers are actors of a Ray cluster (Moritz et al., Ray: A Distributed Framework for Emerging AI
Applications, OSDI 2018).

Only the calling process writes files, so the machines need no shared file system. Each needs `clouds`, and all files
that options name (weights, a checkpoint) at the same path.
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

RETRIES = 3  # a batch that kills more workers than this is itself at fault
_QUEUE = 2  # batches per worker: the current and the next
_AHEAD = 4  # submitted batches per worker whose results are not yielded yet, so that a slow one does not block others
_GRACE = 2.0  # seconds to wait for resources that an earlier run has released
_STORE = 512 * 1024**2  # bytes of shared memory; batches in flight take some tens of megabytes
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # do not send usage reports
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # do not hide GPUs from CPU workers; see Ray's FutureWarning
}


class BusyClusterWarning(UserWarning):
    """Other jobs use resources that the workers need."""


@contextmanager
def open_ray(
    build: Callable[[], Model], *, count: int | None = None, device: str = "auto"
) -> Generator[Workers[Model]]:
    """Yield workers on a Ray cluster.

    The cluster is the one that the caller is connected to, else that at `RAY_ADDRESS`, else a new one on this machine
    for the duration of the block. Warns `BusyClusterWarning` if other jobs use resources that the workers need.

    Args:
        build: builds a worker's model on its machine, at its first call.
        count: number of workers; None means one per GPU of the cluster, or one without GPUs.
        device: each worker gets its own GPU if the cluster has any, unless this is "cpu" or "mps".

    Raises:
        ConfigError: Ray is not installed or not reachable, or the cluster has too few CPUs or GPUs.
    """
    if count is not None and count < 1:
        raise ConfigError(f"workers={count}: expected at least 1")
    with redirect_stdout(sys.stderr), _connected(count) as ray:  # Ray reports dead workers on stdout
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
    """Fail or warn if resources are short, because Ray itself would wait silently."""
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
            f"Ray at {address}: {error}; RAY_ADDRESS names the cluster, without it one starts here; a cluster with "
            "tokens also needs RAY_AUTH_MODE=token"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


@frozen
class _Outcome(Generic[Result]):
    """Result of a call, and the category and text of its warnings, which would be lost in Ray's logs."""

    result: Result
    warned: list[tuple[type[Warning], str]]

    @classmethod
    def of(cls, call: Callable[[], Result]) -> _Outcome[Result]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = call()
        return cls(result, [(one.category, str(one.message)) for one in caught])


@final
class _Worker(Generic[Model]):
    """A Ray actor with a model, which is built at the first call, and again after a restart."""

    def __init__(self, build: Callable[[], Model]) -> None:
        self._build = build

    @cached_property
    def _model(self) -> Model:
        return self._build()

    def ask(self, function: Callable[[Model], Result]) -> _Outcome[Result]:
        return _Outcome.of(lambda: function(self._model))

    def apply(self, function: Callable[[Model, Item], Result], item: Item) -> _Outcome[Result]:
        return _Outcome.of(lambda: function(self._model, item))


@final
class RayWorkers(Workers[Model]):
    """Actors of a Ray cluster.

    An actor that dies is restarted, and its unfinished items are repeated up to `RETRIES` times. Each actor has at most
    two items at a time, and at most four results per actor wait to be yielded.

    Args:
        actors: handles of `_Worker` actors.
    """

    def __init__(self, actors: Sequence[Any]) -> None:
        self._actors = tuple(actors)

    def ask(self, function: Callable[[Model], Result]) -> Result:
        return _result(self._actors[0].ask.remote(function))

    def map(self, function: Callable[[Model, Item], Result], items: Iterable[Item]) -> Iterator[tuple[Item, Result]]:
        import ray

        waiting = iter(items)
        asked: deque[tuple[Item, Any]] = deque()  # items and references of their results, in order
        running: dict[Any, Any] = {}  # reference -> actor
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
    """The result of a remote call; its warnings are repeated here, and a `CloudsError` is raised again.

    Other errors carry the remote traceback.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        outcome: Any = ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, CloudsError):
            raise error.cause from None
        raise
    except RayError as error:
        raise WorkerError(
            f"Ray's workers died {RETRIES + 1} times on one batch, or the cluster is gone: {error}; see Ray's logs; if "
            "memory is short, use smaller batches or fewer workers"
        ) from error
    for category, text in outcome.warned:
        warnings.warn(text, category, stacklevel=3)
    return outcome.result
