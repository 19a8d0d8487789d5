import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from clouds.refiners.prompt_masks import Overlaps, best_of, clear_overlaps, merge_masks

MASKS = st.integers(0, 5).flatmap(
    lambda n: st.tuples(arrays(bool, (n, 3, 4)), arrays(np.int64, n, elements=st.integers(0, 3)))
)


@given(MASKS)
def test_cleared_masks_do_not_overlap_and_keep_what_one_alone_claims(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    masks = torch.from_numpy(drawn[0])
    kept = masks.clone()
    cleared = clear_overlaps(masks)
    assert (cleared.sum(0) == (masks.sum(0) == 1)).all()
    assert not (cleared & ~masks).any()
    assert masks.equal(kept)


@given(MASKS)
def test_one_mask_for_each_class(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    masks, labels = map(torch.from_numpy, drawn)
    united = dict(zip(*merge_masks([(masks, labels)], overlaps="keep"), strict=True))
    assert [int(label) for label in united] == sorted(set(labels.tolist()))
    for label, mask in united.items():
        assert mask.equal(masks[labels == label].any(0))


@given(MASKS)
def test_overlaps_within_a_class_are_cleared_only_where_any_are(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    masks, labels = map(torch.from_numpy, drawn)
    classes, kept = merge_masks([(masks, labels)], overlaps="keep")
    between = merge_masks([(masks, labels)], overlaps="between_classes")
    cleared = merge_masks([(masks, labels)], overlaps="any")
    assert between[0].equal(classes)
    assert between[1].equal(kept & (kept.sum(0) <= 1))
    assert cleared[0].equal(classes)
    assert not (cleared[1] & ~between[1]).any()
    twice = masks.sum(0) > 1
    assert not cleared[1][:, twice].any()


@given(MASKS, st.integers(1, 5), st.sampled_from(["between_classes", "any", "keep"]))
def test_batches_are_merged_as_all_at_once(drawn: tuple[np.ndarray, np.ndarray], size: int, overlaps: Overlaps) -> None:
    masks, labels = map(torch.from_numpy, drawn)
    kept = masks.clone()
    classes, merged = merge_masks([(masks, labels)], overlaps=overlaps)
    batches = zip(masks.split(size), labels.split(size), strict=True)
    in_batches = merge_masks(batches, overlaps=overlaps)
    assert in_batches[0].equal(classes)
    assert in_batches[1].equal(merged)
    assert masks.equal(kept)


def test_the_best_of_equals_is_the_first() -> None:
    masks = torch.arange(6.0).view(2, 3, 1, 1)
    assert best_of(masks, torch.tensor([[0.1, 0.3, 0.3], [0.5, 0.2, 0.1]])).flatten().tolist() == [1, 3]
