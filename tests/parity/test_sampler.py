"""Golden set 14: the published weighted sampler, given the numbers that it drew."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from golden import read_json

from clouds.core.system.processes import Processes
from clouds.data.mixing import mixed_order, repeated

LENGTHS = (5, 3)  # labelled, generated
CASES = ("target2.0_source1.0", "target1.5_source1.0", "target1.0_source0.5")


def _factors(case: dict[str, Any]) -> list[float]:
    (_, generated), (_, labelled) = case["TRAIN_REPEAT_FACTOR"]
    return [labelled, generated]


def _records(rows: np.ndarray) -> list[int]:
    """Numbers of the records as the published sampler counts them: one dataset after the other."""
    return (rows[:, 1] + np.array([0, LENGTHS[0]])[rows[:, 0]]).tolist()


def _published_stream(factors: list[float], seed: int) -> Iterator[int]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        coins = torch.rand(sum(LENGTHS), generator=generator).numpy().astype(float)
        records = _records(repeated(LENGTHS, factors, coins))
        yield from (records[index] for index in torch.randperm(len(records), generator=generator).tolist())


@pytest.mark.parametrize("name", CASES)
def test_the_same_numbers_give_the_same_stream(name: str) -> None:
    case = read_json("14_sampler")[name]
    assert list(islice(_published_stream(_factors(case), 42), 40)) == case["first_40_indices_seed42"]


@pytest.mark.parametrize("name", CASES)
def test_repeat_factors(name: str) -> None:
    case = read_json("14_sampler")[name]
    orders = [mixed_order(LENGTHS, _factors(case), seed=0, epoch=epoch) for epoch in range(4000)]
    counts = np.array([np.bincount(_records(order), minlength=sum(LENGTHS)) for order in orders])
    wanted = np.array(case["repeat_factors"])
    assert np.all((counts == np.floor(wanted)) | (counts == np.ceil(wanted)))
    # Six standard deviations of a mean of coins: 1 / (2 sqrt(n)) each; whole factors have none.
    assert np.all(np.abs(counts.mean(0) - wanted) <= 6 * (wanted % 1 > 0) / (2 * np.sqrt(4000)))


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_shares_of_processes_make_exactly_the_epoch(world: int) -> None:
    """The published sampler's ranks draw alike and take every world-th record; so do ours, from the same one order."""
    rows = mixed_order((50, 30), (1.0, 0.7), seed=0, epoch=3).tolist()
    shares = [Processes(rank, world).share(rows) for rank in range(world)]
    assert sorted(map(tuple, (row for share in shares for row in share))) == sorted(map(tuple, rows))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
