"""Workers: models that apply functions to items, in this process or elsewhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar, final

Model = TypeVar("Model")
Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers(ABC, Generic[Model]):
    """One or many workers, each with a model of its own, which apply functions to that model.

    Functions, items and results of workers elsewhere travel as copies: functions belong to modules, and give the same
    result for the same item whenever they are called, since a worker that dies has its item done again by another.
    """

    @abstractmethod
    def ask(self, function: Callable[[Model], Result]) -> Result:
        """What the function gives for the model of one worker."""

    @abstractmethod
    def map(self, function: Callable[[Model, Item], Result], items: Iterable[Item]) -> Iterator[tuple[Item, Result]]:
        """Apply the function to every item: each once, in order. Items are taken as workers become free.

        Raises:
            WorkerError: workers died over and over on one item.
        """


@final
class Here(Workers[Model]):
    """A model in this process, which does one item after the other."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def ask(self, function: Callable[[Model], Result]) -> Result:
        return function(self._model)

    def map(self, function: Callable[[Model, Item], Result], items: Iterable[Item]) -> Iterator[tuple[Item, Result]]:
        return ((item, function(self._model, item)) for item in items)
