"""Streams of work in batches: order, groups, bounds, and what happens at an error."""

import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clouds.core.system.batches import answer_in_batches, read_ahead
from clouds.core.system.errors import DataError


def same(item: int) -> int:
    return item


class Watched:
    """Numbers, one after the other: how many were taken."""

    def __init__(self, numbers: Iterator[int]) -> None:
        self.numbers = numbers
        self.taken = 0

    def __iter__(self) -> Iterator[int]:
        for number in self.numbers:
            self.taken += 1
            yield number


@given(groups=st.lists(st.sampled_from([None, "a", "b", "c"]), max_size=40), size=st.integers(1, 5))
def test_answers_come_in_order_in_batches_of_one_group_and_little_waits(groups: list[str | None], size: int) -> None:
    batches: list[list[int]] = []

    def answer(batch: Sequence[int]) -> list[str]:
        batches.append(list(batch))
        return [f"answer {item}" for item in batch]

    source = Watched(iter(range(len(groups))))
    answered: list[str] = []
    for found in answer_in_batches(source, answer, group_of=lambda item: groups[item], size=size):
        answered.append(found)
        assert source.taken - len(answered) < 2 * size
    assert answered == [f"answer {item}" for item in range(len(groups))]
    assert sorted(item for batch in batches for item in batch) == list(range(len(groups)))
    for batch in batches:
        kinds = {groups[item] for item in batch}
        assert len(kinds) == 1
        assert len(batch) <= (1 if kinds == {None} else size)


def _batches_of(groups: Sequence[Hashable], size: int) -> list[list[int]]:
    batches: list[list[int]] = []

    def answer(batch: Sequence[int]) -> Sequence[int]:
        batches.append(list(batch))
        return batch

    list(answer_in_batches(range(len(groups)), answer, group_of=lambda item: groups[item], size=size))
    return batches


def test_batches_are_as_full_as_the_bound_allows() -> None:
    assert _batches_of("aaaaa", 2) == [[0, 1], [2, 3], [4]]
    assert _batches_of("abab", 2) == [[0, 2], [1, 3]]
    # after four items the oldest one is answered with what there is of its group
    assert _batches_of("abcda", 2) == [[0], [1], [2], [3], [4]]
    assert _batches_of(["a", None, "a"], 2) == [[1], [0, 2]]


@pytest.mark.parametrize("group_of", [same, lambda item: item % 3, lambda item: None], ids=["all differ", "3", "none"])
def test_an_endless_stream_is_answered_as_it_comes(group_of: Callable[[int], Hashable]) -> None:
    source = Watched(count())
    answers = answer_in_batches(source, lambda batch: batch, group_of=group_of, size=4)
    for expected in range(100):
        assert next(answers) == expected
        assert source.taken <= expected + 8


def test_items_before_one_that_cannot_be_read_are_answered() -> None:
    def items() -> Iterator[int]:
        yield from (1, 2, 3)
        raise DataError("the fourth is damaged")

    answers = answer_in_batches(items(), lambda batch: batch, group_of=lambda item: "all", size=2)
    assert list(islice(answers, 3)) == [1, 2, 3]
    with pytest.raises(DataError, match="the fourth is damaged"):
        next(answers)


def test_other_errors_are_not_held_back() -> None:
    """Such as memory that is too small for a batch."""

    def answer(batch: Sequence[int]) -> Sequence[int]:
        raise MemoryError

    with pytest.raises(MemoryError):
        next(answer_in_batches(iter([1, 2]), answer, group_of=same, size=1))


@pytest.mark.parametrize("ahead", [1, 3])
def test_a_few_items_are_read_ahead_by_one_thread(ahead: int) -> None:
    threads: list[str] = []

    def read(item: int) -> int:
        threads.append(threading.current_thread().name)
        return item

    source = Watched(iter(range(10)))
    for number, found in enumerate(read_ahead(read, source, count=ahead)):
        assert found == number
        assert source.taken <= number + 1 + ahead
    assert source.taken == 10
    assert len(set(threads)) == 1
    assert threads[0] != threading.current_thread().name


def test_reading_goes_on_while_the_caller_works() -> None:
    begun = threading.Event()

    def read(item: int) -> int:
        if item == 1:
            begun.set()
        return item

    answers = read_ahead(read, count(), count=1)
    assert next(answers) == 0
    assert begun.wait(60), "the second item was not read while the first one was worked on"
    answers.close()


def test_a_reader_that_is_closed_takes_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is closed while it reads the second item; the three more that it may have taken are not read."""
    closed = threading.Event()
    begun: list[int] = []

    pools: list[ThreadPoolExecutor] = []  # the one that reads is made first

    class Executor(ThreadPoolExecutor):
        def __init__(self, max_workers: int) -> None:
            super().__init__(max_workers)
            pools.append(self)

        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            if self is pools[0]:
                closed.set()
            super().shutdown(wait=wait)

    def read(item: int) -> int:
        begun.append(item)
        assert item == 0 or closed.wait(60)
        return item

    monkeypatch.setattr("clouds.core.system.batches.ThreadPoolExecutor", Executor)
    source = Watched(count())
    answers = read_ahead(read, source, count=4)
    assert next(answers) == 0
    answers.close()
    assert source.taken <= 1 + 4
    assert len(begun) <= 2
    assert not any("ThreadPoolExecutor" in thread.name and thread.is_alive() for thread in threading.enumerate())


def test_threads_read_at_the_same_time_and_answer_in_order() -> None:
    together = threading.Barrier(3, timeout=60)  # breaks if fewer than three threads read at a time

    def read(item: int) -> int:
        together.wait()
        return item

    assert list(read_ahead(read, range(9), count=3, threads=3)) == list(range(9))


def test_an_error_comes_where_its_item_comes() -> None:
    def read(item: int) -> int:
        if item == 2:
            raise DataError("item 2 is damaged")
        return item

    answers = read_ahead(read, count(), count=3)
    assert list(islice(answers, 2)) == [0, 1]
    with pytest.raises(DataError, match="item 2 is damaged"):
        next(answers)
