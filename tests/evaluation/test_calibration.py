"""Calibration against the definition written out, and cases whose error is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from clouds.evaluation.calibration import BINS, Calibration, confidence, count_confidences

_SIZE = (6, 7)
_confidences = arrays(np.float32, _SIZE, elements=st.floats(0, 1, width=32))
_flags = arrays(np.bool_, _SIZE)


def reference_ece(confidences: np.ndarray, correct: np.ndarray) -> float:
    """Guo et al., equation 3, bin by bin: B_m holds the samples with confidence in ((m-1)/M, m/M]."""
    total = 0.0
    for m in range(1, BINS + 1):
        low = -1.0 if m == 1 else (m - 1) / BINS  # 0 belongs to the first bin
        members = (confidences > low) & (confidences <= m / BINS)
        if members.any():
            total += members.sum() / confidences.size * abs(correct[members].mean() - confidences[members].mean())
    return 100 * total


@given(confidences=_confidences, correct=_flags, labelled=_flags)
def test_ece_is_that_of_the_definition(confidences: np.ndarray, correct: np.ndarray, labelled: np.ndarray) -> None:
    found = Calibration.from_counts(count_confidences(confidences, correct, labelled))
    if not labelled.any():
        assert found.ece is None
        return
    # Both are sums of at most 42 float64 values below 1.
    assert found.ece == pytest.approx(reference_ece(confidences[labelled].astype(float), correct[labelled]), abs=1e-9)
    assert sum(one.pixels for one in found.bins) == labelled.sum()


def test_a_model_that_is_sure_by_80_percent_and_right_in_60() -> None:
    correct = np.arange(100).reshape(10, 10) < 60
    found = Calibration.from_counts(count_confidences(np.full((10, 10), 0.8), correct, np.ones((10, 10), np.bool_)))
    assert found.ece == pytest.approx(20)
    (used,) = (one for one in found.bins if one.pixels)
    assert (used.pixels, used.confidence, used.accuracy) == (100, pytest.approx(80), 60)
    assert found.bins.index(used) == 11, "0.8 is in (11/15, 12/15]"


def test_a_calibrated_model_has_no_error() -> None:
    confidences = np.repeat([0.25, 0.75], 8)[None]
    correct = np.array([[True] * 2 + [False] * 6 + [True] * 6 + [False] * 2])
    assert Calibration.from_counts(count_confidences(confidences, correct, np.ones_like(correct))).ece == 0


def test_the_ends_of_the_range_are_in_the_first_and_last_bin() -> None:
    everything = np.ones((1, 3), np.bool_)
    counts = count_confidences(np.array([[0.0, 1e-6, 1.0]]), everything, everything)
    assert np.flatnonzero(counts[:, 0]).tolist() == [0, BINS - 1]
    assert counts[[0, -1], 0].tolist() == [2, 1]


@given(confidences=_confidences, correct=_flags)
def test_counts_of_images_add_up(confidences: np.ndarray, correct: np.ndarray) -> None:
    everything = np.ones(_SIZE, np.bool_)
    whole = count_confidences(confidences, correct, everything)
    halves = [count_confidences(confidences[rows], correct[rows], everything[rows]) for rows in (slice(3), slice(3, 6))]
    np.testing.assert_allclose(halves[0] + halves[1], whole, rtol=0, atol=1e-9)  # 42 float64 values below 1


def test_confidence_is_the_share_of_the_best_class() -> None:
    scores = np.array([[[0.2, 0.0]], [[0.6, 0.0]]], np.float32)
    np.testing.assert_allclose(confidence(scores), [[0.75, 0.0]], rtol=1e-6)
