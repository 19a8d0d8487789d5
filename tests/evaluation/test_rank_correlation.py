"""Rank correlation of scores with mIoU, against scipy and where the answer is known."""

from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import spearmanr

from clouds.evaluation.rank_correlation import Candidate, correlation_table, rank_correlations


def candidates(scores: Sequence[float], miou: Sequence[float | None], groups: str = "") -> list[Candidate]:
    named = groups or "abcdefghijkl"
    return [
        Candidate(name=f"{index}", group=named[index], scores={"s": score}, miou=one)
        for index, (score, one) in enumerate(zip(scores, miou, strict=True))
    ]


def test_the_correlation_is_that_of_scipy_also_with_equal_values() -> None:
    rng = np.random.default_rng(0)
    scores, miou = rng.integers(0, 5, 12).astype(float).tolist(), rng.integers(30, 36, 12).astype(float).tolist()
    found = rank_correlations(candidates(scores, miou))["s"]
    expected, _ = spearmanr(scores, miou)
    assert found.rho == pytest.approx(expected)
    assert found.rho is not None
    assert found.interval is not None
    assert -1 <= found.interval.low < found.rho < found.interval.high <= 1


def test_equal_order_is_one_and_the_reverse_minus_one() -> None:
    rising = rank_correlations(candidates([1.0, 2.0, 40.0, 41.0], [30.0, 31.0, 32.0, 39.0]))["s"]
    assert (rising.rho, rising.choice, rising.miou, rising.loss) == (pytest.approx(1), "3", 39.0, 0.0)
    assert rising.interval is not None
    assert (rising.interval.low, rising.interval.high) == pytest.approx((1, 1))
    falling = rank_correlations(candidates([4.0, 3.0, 2.0, 1.0], [30.0, 31.0, 32.0, 39.0]))["s"]
    assert (falling.rho, falling.choice, falling.loss) == (pytest.approx(-1), "0", 9.0)


def test_groups_are_resampled_as_a_whole() -> None:
    scores, miou = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [31.0, 30.0, 33.0, 32.0, 35.0, 34.0]
    alone = rank_correlations(candidates(scores, miou))["s"]
    seeds = rank_correlations(candidates(scores, miou, "aabbcc"))["s"]
    assert alone.rho == seeds.rho
    assert seeds.interval is not None
    assert seeds.interval.low == pytest.approx(-1)  # a resample of one group alone
    assert rank_correlations(candidates(scores, miou, "aaabbb"))["s"].interval is None


def test_candidates_without_miou_or_score_are_left_out() -> None:
    some = [*candidates([1.0, 2.0, 3.0], [30.0, 31.0, 32.0]), Candidate(name="x", group="x", scores={}, miou=99.0)]
    some.append(Candidate(name="y", group="y", scores={"s": 99.0}))
    found = rank_correlations(some)["s"]
    assert (found.rho, found.choice, found.loss) == (pytest.approx(1), "2", 0.0)


def test_what_is_undefined_is_none() -> None:
    assert rank_correlations(candidates([1.0, 2.0], [30.0, 31.0]))["s"].rho is None
    assert rank_correlations(candidates([1.0, 1.0, 1.0], [30.0, 31.0, 32.0]))["s"].rho is None
    assert rank_correlations(candidates([1.0, 2.0, 3.0], [None, None, None])) == {}


def test_the_table_says_what_it_is_over() -> None:
    note, header, rows = correlation_table(candidates([1.0, 2.0, 3.0, 4.0], [30.0, 31.0, 32.0, None], "aabc"))
    assert "over 3 checkpoints" in note
    assert "over 2 groups" in note
    assert rows == [["s", "1.00", None, "2", 32.0, 0.0]]
    assert len(header) == 6
