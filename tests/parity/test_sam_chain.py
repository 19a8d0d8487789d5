"""Golden set 11, `sam_chain`: from the teacher's label map to targets, through a small SAM.

The published code drew the points of both generated images from one source of numbers. Masks of random weights are
noisy, and a pixel whose logit is nearly 0 may fall on either side: 99.9 % of the pixels must agree (GOLDEN.md).
"""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from golden import apply_recipe, assert_close, load, read_json
from torch import Tensor
from torch.nn import functional

from clouds.core.contract.records import Prepared, Targets
from clouds.refiners.prompted import PromptRefiner
from clouds.refiners.sam import SamSegmenter
from clouds.testing.tiny_sam import tiny_sam

SIZE = (768, 768)
GENERATED = (0, 2)  # images of the batch; 1 is a source image
SEEDS = {0: 1140, 2: 1144}
AGREEMENT = 0.999

# Measured in set 11 of no two runs (GOLDEN.md, section 0); set 4, the nearest in kind and depth, has 1.4e-6.
FLOOR = 1.4e-6


@cache
def arrays() -> dict[str, np.ndarray]:
    return load("11_sam_chain")


@cache
def facts() -> Any:
    return read_json("11_sam_chain")


@cache
def image(number: int) -> Tensor:
    seed = SEEDS[number]
    fine = np.random.RandomState(seed).randint(0, 256, (3, *SIZE))
    coarse = np.random.RandomState(seed + 1).randint(0, 256, (3, 12, 12)).repeat(64, 1).repeat(64, 2)
    return torch.from_numpy(np.floor(0.25 * fine + 0.75 * coarse).astype(np.uint8))


@cache
def label_map(number: int) -> Tensor:
    """What the teacher says. That of image 0 is stored as masks; that of image 2 is what the published merging of
    masks makes of one query per class, sure of its mask at a quarter of the size."""
    if number == 0:
        classes = torch.tensor(facts()["cases"]["sam_off"]["target0"]["labels"])
        return classes[unpack("sam_off_target0_masks_packed", len(classes)).argmax(0)].to(torch.uint8)
    quarter = torch.from_numpy(arrays()["mapB_stride4"]).long()
    logits = torch.full((20, 20), -4.0) + 10 * torch.eye(20)
    masks = 12 * functional.one_hot(quarter, 20).permute(2, 0, 1).float() - 6
    masks = functional.interpolate(masks[None], size=SIZE, mode="bilinear", align_corners=False)[0]
    scores = torch.einsum("qc,qhw->chw", logits.softmax(-1)[:, :-1], masks.sigmoid())
    return scores.argmax(0).to(torch.uint8)


@pytest.fixture(scope="module")
def segmenter() -> SamSegmenter:
    sam = tiny_sam()
    apply_recipe(sam)
    return SamSegmenter(sam)


@pytest.fixture(scope="module")
def prepared(segmenter: SamSegmenter) -> list[Prepared]:
    return PromptRefiner(segmenter).prepare([image(0), image(2)])


def make(segmenter: SamSegmenter, case: str) -> PromptRefiner:
    """With the options of the case, and the quirks that the released recipes set."""
    params = facts()["cases"][case]["params"]
    return PromptRefiner(
        segmenter,
        size_threshold=params["size_threshold"],
        points=params["num_points"],
        selection=params["selection_mode"],
        erosion=params["erosion_size"] if params["erosion"] else 0,
        refinement=params["refinement"],
        small_components="drop",
        overlaps="any" if params["rm_intersection"] else "keep",
        empty="keep",
    )


def refine(refiner: PromptRefiner, prepared: list[Prepared]) -> dict[int, Targets]:
    rng = np.random.RandomState(1150)
    maps = [label_map(0), label_map(2)]
    refined = refiner.refine([image(0), image(2)], maps, rngs=[rng, rng], prepared=prepared)
    return dict(zip(GENERATED, refined, strict=True))


def unpack(name: str, count: int) -> np.ndarray:
    return np.unpackbits(arrays()[name], axis=-1).reshape(count, *SIZE).astype(bool)


def assert_areas(case: str, number: int, targets: Targets) -> None:
    expected = facts()["cases"][case][f"target{number}"]
    assert targets.labels.tolist() == expected["labels"]
    areas = targets.masks.sum((1, 2)).numpy()
    assert np.abs(areas - expected["areas"]).max() <= (1 - AGREEMENT) * SIZE[0] * SIZE[1]


def test_the_network_is_the_one_of_the_golden_data(segmenter: SamSegmenter, prepared: list[Prepared]) -> None:
    shapes = {key: list(value.shape) for key, value in segmenter.sam.state_dict().items()}
    assert shapes == facts()["sam_state_dict"]
    embedding = prepared[0].tensors["embedding"]
    assert_close(embedding[:, ::2, ::4, ::4], arrays()["sam_features_slice"], floor=FLOOR)


@pytest.mark.parametrize("number", GENERATED)
def test_the_teacher_is_the_one_of_the_golden_data(number: int) -> None:
    targets = Targets.from_label_map(label_map(number))
    expected = facts()["cases"]["sam_off"][f"target{number}"]
    assert targets.labels.tolist() == expected["labels"]
    assert targets.masks.sum((1, 2)).tolist() == expected["areas"]


@pytest.mark.parametrize("case", ["default", "refinement", "keep_intersection", "erosion_center"])
def test_targets(case: str, segmenter: SamSegmenter, prepared: list[Prepared]) -> None:
    refined = refine(make(segmenter, case), prepared)
    for number, targets in refined.items():
        assert_areas(case, number, targets)
        name = f"{case}_target{number}_masks_packed"
        if name in arrays():
            masks = unpack(name, len(targets.labels))
            assert (targets.masks.numpy() == masks).mean((1, 2)).min() >= AGREEMENT


def test_an_image_without_a_prompt_keeps_its_label_map(segmenter: SamSegmenter, prepared: list[Prepared]) -> None:
    refined = refine(make(segmenter, "passthrough_second"), prepared)
    assert_areas("passthrough_second", 0, refined[0])
    assert refined[2].masks.equal(Targets.from_label_map(label_map(2)).masks)


def test_masks_stay_with_their_classes_after_a_component_without_points(
    segmenter: SamSegmenter, prepared: list[Prepared]
) -> None:
    """The published code shifts all later masks by one (quirk S5). Class 11 has no points, so that it drops out."""
    expected = facts()["cases"]["misaligned"]["target0"]
    targets = make(segmenter, "misaligned").refine(
        [image(0)], [label_map(0)], rngs=[np.random.RandomState(1150)], prepared=prepared[:1]
    )[0]
    published = unpack("misaligned_target0_masks_packed", len(expected["labels"]))
    before = expected["labels"].index(11)
    assert targets.labels.tolist() == [label for label in expected["labels"] if label != 11]
    assert (targets.masks[:before].numpy() == published[:before]).mean((1, 2)).min() >= AGREEMENT
    shifted = published[before:].any(0)  # what belongs to class 13, cut at the count of components
    assert (targets.masks[-1].numpy() == shifted).mean() >= AGREEMENT


@pytest.mark.parametrize("number", GENERATED)
def test_points_and_low_resolution_masks(number: int, segmenter: SamSegmenter, prepared: list[Prepared]) -> None:
    """Quality of all three masks, the slice of their logits, and their areas."""
    order = GENERATED.index(number)
    expected = facts()["cases"]["default"][f"predict{order}"]
    points = torch.tensor(expected["points"], dtype=torch.float32) * (SIZE[0] / 1024)
    with torch.no_grad():
        masks, quality = segmenter.decode(prepared[order].tensors, points, SIZE)
    assert_close(quality, np.array(expected["iou"]), floor=FLOOR)
    assert_close(masks[:, :, ::16, ::16], arrays()[f"default_predict{order}_lowres_slice"], floor=FLOOR)
    areas = torch.stack([(segmenter.upscale(each, SIZE) > 0).sum((2, 3))[:, 0] for each in masks.split(1, 1)], 1)
    assert np.abs(areas.numpy() - expected["areas"]).max() <= (1 - AGREEMENT) * SIZE[0] * SIZE[1]
