from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clouds import ConfigError
from clouds.data.mixing import endless, mixed_order

_sets = st.lists(st.tuples(st.integers(0, 20), st.floats(0, 4)), min_size=1, max_size=4).filter(
    lambda sets: sum(length * factor for length, factor in sets) > 0
)


def _counts(order: np.ndarray, lengths: list[int]) -> list[np.ndarray]:
    return [np.bincount(order[order[:, 0] == i, 1], minlength=length) for i, length in enumerate(lengths)]


@given(sets=_sets, seed=st.integers(0, 2**32), epoch=st.integers(0, 1000))
def test_every_record_occurs_as_often_as_its_factor_says(sets: list[tuple[int, float]], seed: int, epoch: int) -> None:
    lengths, factors = [length for length, _ in sets], [factor for _, factor in sets]
    order = mixed_order(lengths, factors, seed=seed, epoch=epoch)
    assert order.shape[1] == 2
    for counts, length, factor in zip(_counts(order, lengths), lengths, factors, strict=True):
        assert len(counts) == length
        assert np.all((counts == np.floor(factor)) | (counts == np.ceil(factor)))
    assert np.array_equal(order, mixed_order(lengths, factors, seed=seed, epoch=epoch))


@given(factor=st.sampled_from([0.2, 0.7, 1.5, 2.25]), seed=st.integers(0, 2**32))
def test_fractions_hold_on_average(factor: float, seed: int) -> None:
    n = 20_000
    drawn = len(mixed_order([n], [factor], seed=seed, epoch=0))
    # Binomial: standard deviation of at most sqrt(n) / 2; six of them are passed once in 5e8 draws.
    assert abs(drawn - n * factor) < 6 * np.sqrt(n) / 2


def test_epochs_and_seeds_differ_and_records_are_shuffled_across_sets() -> None:
    orders = [mixed_order([50, 50], [1, 1], seed=seed, epoch=epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert not any(np.array_equal(orders[i], orders[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert np.any(np.diff(orders[0][:, 0]) < 0)


def test_endless_is_one_epoch_after_the_other() -> None:
    draws = list(islice(endless([3, 2], [1, 2], seed=4), 20))
    assert [draw.position for draw in draws] == list(range(20))
    for epoch in range(2):
        rows = [[draw.dataset, draw.index] for draw in draws if draw.epoch == epoch]
        assert rows == mixed_order([3, 2], [1, 2], seed=4, epoch=epoch).tolist()


def test_endless_passes_over_empty_epochs() -> None:
    draws = list(islice(endless([1], [0.05], seed=0), 5))
    assert len({draw.epoch for draw in draws}) == 5


@pytest.mark.parametrize(
    ("lengths", "factors", "message"),
    [
        ([3], [1.0, 2.0], "2 repeat factors for 1 datasets"),
        ([3], [-1.0], "must be finite and not negative, got -1.0"),
        ([3], [float("nan")], "got nan"),
        ([-3], [1.0], "got -3"),
        ([3, 0], [0.0, 1.0], r"lengths \[3, 0\] with repeat factors \[0.0, 1.0\] give no sample at all"),
        ([], [], "give no sample at all"),
    ],
)
def test_errors(lengths: list[int], factors: list[float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mixed_order(lengths, factors, seed=0, epoch=0)
    with pytest.raises(ConfigError, match=message):
        next(endless(lengths, factors, seed=0))


def test_a_stream_of_hardly_any_samples_is_refused() -> None:
    """It would go through epoch after epoch without a sample, for ever with so small a factor."""
    with pytest.raises(ConfigError, match=r"give 3e-300 samples per epoch on average; expected at least 0\.01"):
        next(endless([3], [1e-300], seed=0))
