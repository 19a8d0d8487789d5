"""Stopping a run from outside, such that it can go on later."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self

from clouds.core.errors import CloudsError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class TrainingInterrupted(CloudsError):
    """A run was stopped by a signal, after it had written a checkpoint."""


class StopSignal:
    """Within the block the first SIGINT or SIGTERM is only noted, in `name`; a second one acts as it did before.

    Signals can be caught in a process's main thread alone; in another one nothing is noted.
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
        self.name = signal.Signals(number).name
        self.__exit__()
