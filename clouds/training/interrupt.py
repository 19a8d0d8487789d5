"""Stopping a run from outside, such that it can go on later."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

from clouds.core.system.errors import CloudsError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class TrainingInterrupted(CloudsError):
    """A run was stopped by a signal, after it had written a checkpoint."""


def ignore_signals(worker: int) -> None:
    """For processes that read images: signals to a whole group of processes are for the one that trains."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep torch's handler of SIGCHLD from raising within the block that a reading process has ended.

    It would raise anywhere in the main thread, also between the parts of an optimizer's step. Nothing is lost: the
    loader itself finds that the process is gone when it next waits for its data.
    """
    handler = signal.getsignal(signal.SIGCHLD)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler)


class StopSignal:
    """Within the block SIGINT and SIGTERM are only noted, the first one in `name`.

    After that Ctrl-C acts as it did before. SIGTERM stays noted: batch systems and torchrun may both send it. Signals
    can be caught in a process's main thread alone; in another one nothing is noted.
    """

    def __init__(self) -> None:
        self.name = ""
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.name = self.name or signal.Signals(number).name
        signal.signal(signal.SIGINT, self._previous[signal.SIGINT])
