"""Stopping a run by a signal so that it can resume."""

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
    """A signal stopped the run, after it wrote a checkpoint."""


def ignore_signals(worker: int) -> None:
    """Ignore SIGINT and SIGTERM in a data loader process; only the training process handles them."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Suspend torch's SIGCHLD handler, which raises when a data loader process dies.

    It could raise anywhere in the main thread, even halfway through an optimizer step. The loader itself notices the
    dead process when it next waits for data.
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
    """Records SIGINT and SIGTERM within the block, instead of acting on them; `name` is the first one.

    A second Ctrl-C acts as usual. A second SIGTERM is recorded again, since batch systems and torchrun may both send
    it. Only the main thread can catch signals; in another thread the block has no effect.
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
