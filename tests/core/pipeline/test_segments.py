"""Instances and panoptic segments: known answers, and equality with the same work done at full size."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

import clouds
from clouds.core.contract.labels import LabelSpace
from clouds.core.contract.records import HeadOutput
from clouds.core.pipeline.segments import ImageMasks, Panoptic, find_instances, find_panoptic
from clouds.core.system.errors import ClassMasksWarning, ConfigError, DataError

STREET = LabelSpace.from_names(["road", "sky", "person"], things=["person"])
ROAD, SKY, PERSON, NOTHING = range(4)
FAR = 20.0  # logit of a pixel that is certainly inside: the sigmoid is 1 in float32
ALL = (slice(None), slice(None))
LEFT, RIGHT = (slice(2, 4), slice(1, 5)), (slice(2, 4), slice(9, 13))
SIZE = (8, 16)
CLOSE = 1e-6  # log, softmax and the mean of probabilities round


def scene(*masks: tuple[int, float, tuple[slice, slice]], logit: float = FAR) -> ImageMasks:
    """One query per (class, P(class), where its mask is). The answer has the masks' own size: up and down by 4 moves
    an eighth of a neighbour into each pixel, which turns no sign."""
    probabilities = torch.tensor([[p if c == label else (1 - p) / 3 for c in range(4)] for label, p, _ in masks])
    logits = torch.full((len(masks), *SIZE), -FAR)
    for one, (_, _, where) in zip(logits, masks, strict=True):
        one[where] = logit
    output = HeadOutput(class_logits=probabilities.log().view(1, len(masks), 4), mask_logits=logits[None])
    return ImageMasks(output=output, valid_size=(SIZE[0] * 4, SIZE[1] * 4), size=SIZE)


def panoptic(found: ImageMasks, labels: LabelSpace = STREET, **thresholds: float) -> Panoptic:
    return find_panoptic(found, labels, **{"object_mask_threshold": 0.8, "overlap_threshold": 0.8, **thresholds})


def test_two_persons_on_a_road_are_two_segments() -> None:
    found = panoptic(scene((PERSON, 0.9, LEFT), (ROAD, 0.85, ALL), (PERSON, 0.95, RIGHT)))
    expected = np.full(SIZE, 2, np.int32)
    expected[LEFT], expected[RIGHT] = 1, 3
    assert found.segments.dtype == np.int32
    assert (found.segments == expected).all()
    assert [(one.id, one.label, one.is_thing, one.area) for one in found.infos] == [
        (1, PERSON, True, 8),
        (2, ROAD, False, 112),
        (3, PERSON, True, 8),
    ]
    assert [one.score for one in found.infos] == pytest.approx([0.9, 0.85, 0.95], abs=CLOSE)


def test_a_hidden_mask_is_left_out_and_its_pixels_belong_to_none() -> None:
    """The second person keeps 4 of 8 pixels: a share of exactly one half."""
    found = scene((PERSON, 0.95, LEFT), (PERSON, 0.9, (slice(2, 4), slice(3, 7))), (ROAD, 0.85, ALL))
    hidden = panoptic(found, overlap_threshold=0.51)
    assert [one.area for one in hidden.infos] == [8, 116]
    assert (hidden.segments[2:4, 5:7] == 0).all()
    assert [one.area for one in panoptic(found, overlap_threshold=0.5).infos] == [8, 4, 116]


def test_stuff_of_one_class_is_united() -> None:
    halves = (slice(None), slice(0, 8)), (slice(None), slice(8, 16))
    found = panoptic(scene((SKY, 0.9, halves[0]), (SKY, 0.95, halves[1])))
    assert (found.segments == 1).all()
    (sky,) = found.infos
    assert (sky.label, sky.is_thing, sky.area) == (SKY, False, 128)
    assert sky.score == pytest.approx(0.95, abs=CLOSE)


@pytest.mark.parametrize(
    "mask", [(NOTHING, 0.9, ALL), (ROAD, 0.7, ALL), (ROAD, 0.9, (slice(0), slice(0)))], ids=["none", "unsure", "empty"]
)
def test_nothing_found_is_no_segment(mask: tuple[int, float, tuple[slice, slice]]) -> None:
    found = panoptic(scene(mask))
    assert found.infos == ()
    assert found.segments.shape == SIZE
    assert (found.segments == 0).all()


def test_instances_are_things_ranked_by_class_and_mask() -> None:
    found = find_instances(scene((PERSON, 0.6, LEFT), (ROAD, 0.9, ALL), (PERSON, 0.8, RIGHT)), STREET, top=2)
    assert found.labels.tolist() == [PERSON, PERSON]
    assert found.scores == pytest.approx([0.8, 0.6], abs=CLOSE)
    expected = np.zeros((2, *SIZE), bool)
    expected[0][RIGHT], expected[1][LEFT] = True, True
    assert (found.masks == expected).all()


def test_a_mask_counts_with_its_mean_probability() -> None:
    found = find_instances(scene((PERSON, 0.9, ALL), logit=1.0), STREET, top=1)
    assert found.scores == pytest.approx([0.9 / (1 + np.exp(-1))], abs=CLOSE)


def test_without_things_every_class_has_instances() -> None:
    stuff = LabelSpace.from_names(STREET.names)
    found = find_instances(scene((PERSON, 0.9, LEFT), (ROAD, 0.9, (slice(0), slice(0)))), stuff, top=100)
    assert sorted(found.labels.tolist()) == [ROAD, SKY, PERSON]  # of the first query: the second has no pixel
    assert found.labels[0] == PERSON


def test_no_mask_is_no_instance() -> None:
    found = find_instances(scene((PERSON, 0.9, (slice(0), slice(0)))), STREET, top=5)
    assert (found.labels.shape, found.scores.shape, found.masks.shape) == ((0,), (0,), (0, *SIZE))


@st.composite
def random_masks(draw: st.DrawFn) -> ImageMasks:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    queries = draw(st.integers(1, 6))
    output = HeadOutput(
        class_logits=torch.randn(1, queries, 4, generator=generator) * 3,
        mask_logits=torch.randn(1, queries, 8, 16, generator=generator) * 3,
    )
    valid = draw(st.tuples(st.integers(1, 32), st.integers(1, 64)))
    size = draw(st.one_of(st.just(valid), st.tuples(st.integers(1, 90), st.integers(1, 90))))
    return ImageMasks(output=output, valid_size=valid, size=size)


def full_size(found: ImageMasks) -> tuple[torch.Tensor, torch.Tensor]:
    """Class probabilities and mask logits, all at once."""

    def resize(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)

    logits = resize(found.output.mask_logits, (32, 64))[..., : found.valid_size[0], : found.valid_size[1]]
    logits = logits if found.size == found.valid_size else resize(logits, found.size)
    return found.output.class_logits[0].softmax(-1), logits[0]


UNSURE = 2e-3  # positions differ by 1e-4 pixels at most (test_resize.py), logits between neighbours by some 15


@given(found=random_masks())
def test_instances_are_those_found_at_full_size(found: ImageMasks) -> None:
    probabilities, logits = full_size(found)
    assume((logits.abs() > UNSURE).all())  # else a pixel more or less is no fault
    inside = logits >= 0
    means = (logits.sigmoid() * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)
    scores = probabilities[:, PERSON] * means
    order = scores.argsort(descending=True)[: int((scores > 0).sum())]
    assume(len(order) < 2 or (-scores[order].diff()).min() > UNSURE)
    instances = find_instances(found, STREET, top=100)
    assert instances.scores == pytest.approx(scores[order].numpy(), abs=UNSURE)
    assert (instances.masks == inside[order].numpy()).all()
    assert (instances.labels == PERSON).all()


@given(found=random_masks(), threshold=st.floats(0, 0.9), overlap=st.floats(0, 1))
def test_segments_are_those_found_at_full_size(found: ImageMasks, threshold: float, overlap: float) -> None:
    probabilities, logits = full_size(found)
    weighted = probabilities.max(-1).values[:, None, None] * logits.sigmoid()
    kept = (probabilities.max(-1).values > threshold) & (probabilities.argmax(-1) != NOTHING)
    expected = torch.zeros(found.size, dtype=torch.long)
    if kept.any():
        weighted[~kept] = -1
        two = weighted.topk(min(2, len(weighted)), 0).values
        assume(len(two) < 2 or (two[0] - two[1]).min() > UNSURE)
        assume((logits.abs() > UNSURE).all())
        winner = weighted.argmax(0)
        for query in kept.nonzero()[:, 0].tolist():
            share = (winner == query).sum() / max(1, (logits[query] >= 0).sum())
            if share >= overlap:
                expected[(winner == query) & (logits[query] >= 0)] = query + 1
    segments = panoptic(found, object_mask_threshold=threshold, overlap_threshold=overlap)
    label_of = np.array([-1] + [one.label for one in segments.infos])
    expected_labels = np.array([-1, *probabilities[:, :3].argmax(-1).tolist()])[expected]
    assert (label_of[segments.segments] == expected_labels).all()
    for one in segments.infos:
        mine = segments.segments == one.id
        assert mine.sum() == one.area > 0
        queries = np.unique(expected[mine])
        assert one.label != PERSON or len(queries) == 1
        assert one.score == pytest.approx(float(probabilities[queries - 1, one.label].max()), abs=CLOSE)


class LargestFloat(TorchDispatchMode):
    """The elements of the largest float tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for one in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(one, torch.Tensor) and one.is_floating_point():
                self.elements = max(self.elements, one.numel())
        return result


@pytest.mark.parametrize("size", [(256, 512), (768, 1024)])
def test_no_float_tensor_has_the_images_size_for_every_query(size: tuple[int, int]) -> None:
    output = HeadOutput(class_logits=torch.randn(1, 40, 4) * 9, mask_logits=torch.randn(1, 40, 128, 256))
    found = ImageMasks(output=output, valid_size=(512, 1024), size=size)
    with LargestFloat() as seen:
        find_instances(found, STREET, top=3)
        panoptic(found, object_mask_threshold=0.0)
    # the masks themselves have 1.3 million, a strip 2 million and the rows it is made from some more
    assert 1 << 20 < seen.elements < 40 * size[0] * size[1] / 2


TINY = {"name": "tiny", "dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
MASKS = {"name": "mask2former", "queries": 8, "width": 64, "layers": 1, "encoder_layers": 1}


def test_predictions_have_instances_and_segments_of_the_images_size() -> None:
    pipeline = clouds.compose(backbone=TINY, head=MASKS, device="cpu")
    pipeline.trained = True
    image = np.random.default_rng(0).integers(0, 256, (45, 70, 3), np.uint8)
    for short_side in (None, 32):
        prediction = pipeline.predict(image, short_side=short_side)
        instances = prediction.instances(top=3)
        assert instances.masks.shape[1:] == (45, 70)
        assert set(instances.labels.tolist()) <= set(range(11, 19))
        segments = prediction.panoptic(object_mask_threshold=0.5)
        assert segments.segments.shape == (45, 70)
        assert [one.id for one in segments.infos] == list(range(1, len(segments.infos) + 1))


def test_images_segmented_in_windows_have_none() -> None:
    pipeline = clouds.compose(backbone=TINY, head=MASKS, device="cpu")
    pipeline.trained = True
    image = np.zeros((100, 144, 3), np.uint8)
    prediction = pipeline.predict(image, window=64)
    for ask in (prediction.instances, prediction.panoptic):
        with pytest.raises(DataError, match=r"an image of 100 x 144 .* in windows of 64 pixels.* window=120 or more"):
            ask()
    assert pipeline.predict(image, window=120).panoptic().segments.shape == (100, 144)


def test_a_head_of_one_mask_per_class_says_so() -> None:
    """Its segments are the classes of its label map, and none is a thing."""
    space = clouds.LabelSpace.from_names(["car", "road"], things=["car"])
    pipeline = clouds.compose(backbone=TINY, head="linear", labels=space, device="cpu")
    pipeline.trained = True
    prediction = pipeline.predict(np.random.default_rng(0).integers(0, 256, (45, 70, 3), np.uint8))
    with pytest.warns(ClassMasksWarning, match=r"panoptic: .*one mask per class, so each class .*data\.instances=true"):
        found = prediction.panoptic(overlap_threshold=0.0)
    assert len({one.label for one in found.infos}) == len(found.infos) > 0
    assert not any(one.is_thing for one in found.infos)
    for one in found.infos:
        assert (
            prediction.labels[found.segments == one.id] == one.label
        ).mean() > 0.9  # sigmoids are resized, not scores
    with pytest.warns(ClassMasksWarning, match="instances: the head predicts one mask per class"):
        instances = prediction.instances(top=3)
    assert set(instances.labels.tolist()) <= {0}


def test_wrong_arguments_are_named() -> None:
    found = scene((ROAD, 0.9, ALL))
    with pytest.raises(ConfigError, match="top is 0; expected at least 1 instance"):
        find_instances(found, STREET, top=0)
    for name in ("object_mask_threshold", "overlap_threshold"):
        with pytest.raises(ConfigError, match=rf"{name} is 1.5; expected a number in 0..1"):
            panoptic(found, **{name: 1.5})
