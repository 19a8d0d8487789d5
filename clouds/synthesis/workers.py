"""Workers: models that apply functions to items, in this process or elsewhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar, final

Model = TypeVar("Model")
Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers(ABC, Generic[Model]):
    """One or more workers that apply functions to their own model.

    Remote workers receive and return pickled copies, so functions must be module-level. They must also be deterministic
    per item, because the item of a worker that dies is repeated.
    """

    @abstractmethod
    def ask(self, function: Callable[[Model], Result]) -> Result:
        """Apply the function to the model of one worker."""

    @abstractmethod
    def map(self, function: Callable[[Model, Item], Result], items: Iterable[Item]) -> Iterator[tuple[Item, Result]]:
        """Apply the function to every item, in order. Items are consumed as workers become free.

        Raises:
            WorkerError: workers died repeatedly on one item.
        """


@final
class Here(Workers[Model]):
    """A model in this process that handles one item after the other.

    Args:
        model: the model, also an attribute.
    """

    def __init__(self, model: Model) -> None:
        self.model = model

    def ask(self, function: Callable[[Model], Result]) -> Result:
        return function(self.model)

    def map(self, function: Callable[[Model, Item], Result], items: Iterable[Item]) -> Iterator[tuple[Item, Result]]:
        return ((item, function(self.model, item)) for item in items)
