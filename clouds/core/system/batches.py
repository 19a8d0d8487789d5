"""Processing of streams: items are read ahead in threads, processed in batches of one group, and answered in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from attrs import define, field

from clouds.core.system.errors import DataError

Item = TypeVar("Item")
Read = TypeVar("Read")
Answer = TypeVar("Answer")


def read_ahead(read: Callable[[Item], Read], items: Iterable[Item], *, count: int, threads: int = 1) -> Iterator[Read]:
    """Yield `read(item)` for each item, in order.

    While the caller works, `threads` threads read up to `count` further items. One more thread takes the items, so that
    the caller does not wait for a slow iterator. If the iterator is closed early, it waits for the current reads, and
    takes and reads no more items.
    """
    remaining = iter(items)

    def begin_next() -> list[Future[Read]]:
        for item in remaining:
            return [readers.submit(read, item)]
        return []

    readers, taker = ThreadPoolExecutor(max_workers=threads), ThreadPoolExecutor(max_workers=1)
    try:
        begun: deque[Future[list[Future[Read]]]] = deque(taker.submit(begin_next) for _ in range(1 + count))
        while found := begun.popleft().result():
            yield found[0].result()
            begun.append(taker.submit(begin_next))
    finally:
        taker.shutdown(wait=False, cancel_futures=True)
        readers.shutdown(cancel_futures=True)  # before waiting for the taker; an item that it still takes is not read
        taker.shutdown()


def answer_in_batches(
    items: Iterable[Item],
    answer: Callable[[Sequence[Item]], Sequence[Answer]],
    *,
    group_of: Callable[[Item], Hashable],
    size: int,
) -> Iterator[Answer]:
    """Yield the answer to each item, in the order of the items.

    A batch holds items of one group; items of group None are answered alone. A batch is answered once it has `size`
    items. When 2 x `size` items wait, or the stream ends, the oldest item's batch is answered incomplete. Endless
    streams of many groups thus make progress with bounded memory.

    Raises:
        DataError: an item cannot be read; raised after the answers to all earlier items.
    """
    line: _Line[Item, Answer] = _Line(answer)
    failure: DataError | None = None
    stream = iter(items)
    while True:
        try:
            item = next(stream)
        except StopIteration:
            break
        except DataError as error:  # earlier items are answered first
            failure = error
            break
        group = group_of(item)
        if line.add(item, group) == (1 if group is None else size):
            line.finish(group)
        if len(line.places) >= 2 * size:
            line.finish_oldest()
        yield from line.take_answers()
    while line.places:
        line.finish_oldest()
        yield from line.take_answers()
    if failure is not None:
        raise failure


@define(eq=False)
class _Place(Generic[Item, Answer]):
    """An item in the line; `found` is empty until it is answered."""

    item: Item
    group: Hashable
    found: list[Answer] = field(factory=list[Any])


@define(eq=False)
class _Line(Generic[Item, Answer]):
    """Items in order; unanswered items also by group."""

    answer: Callable[[Sequence[Item]], Sequence[Answer]]
    places: deque[_Place[Item, Answer]] = field(factory=deque[Any])
    batches: dict[Hashable, list[_Place[Item, Answer]]] = field(factory=dict[Hashable, Any])

    def add(self, item: Item, group: Hashable) -> int:
        """Append an item. Returns the number of unanswered items in its group."""
        place = _Place[Item, Answer](item, group)
        self.places.append(place)
        self.batches.setdefault(group, []).append(place)
        return len(self.batches[group])

    def finish(self, group: Hashable) -> None:
        """Answer all items of a group."""
        batch = self.batches.pop(group)
        for place, found in zip(batch, self.answer([place.item for place in batch]), strict=True):
            place.found.append(found)

    def finish_oldest(self) -> None:
        """Answer the first item with its group, unless it has an answer."""
        if not self.places[0].found:
            self.finish(self.places[0].group)

    def take_answers(self) -> Iterator[Answer]:
        """Remove answered items from the front."""
        while self.places and self.places[0].found:
            yield from self.places.popleft().found
