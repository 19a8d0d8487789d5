"""Golden set 11, `mask_utils`: from label maps to points, and from masks to targets, as published."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from golden import load, read_json
from torch import Tensor

from clouds.core.contract.records import Targets
from clouds.refiners.prompt_masks import best_of, clear_overlaps, merge_masks, unite_classes
from clouds.refiners.prompt_points import Region, draw_points, find_regions

MAPS = (0, 1)
COUNTS = {0: 2, 3: 0, 5: 1, 13: 4}  # of the masks of the helpers


@cache
def arrays() -> dict[str, np.ndarray]:
    return load("11_mask_utils")


@cache
def facts() -> Any:
    return read_json("11_mask_utils")


def label_map(number: int) -> np.ndarray:
    """A map whose 19 (the published "void") is what it is here: 255."""
    found = arrays()[f"map{number}"]
    return np.where(found == 19, np.uint8(255), found)


def unpack(name: str, shape: tuple[int, ...]) -> np.ndarray:
    packed = arrays()[name]
    bits = np.unpackbits(packed, axis=-1)[:, : shape[1] * shape[2]]
    return bits.reshape(shape).astype(bool)


def whole(region: Region, shape: tuple[int, ...]) -> np.ndarray:
    """The region's mask at the size of the image."""
    mask = np.zeros(shape, bool)
    height, width = region.mask.shape
    mask[region.top : region.top + height, region.left : region.left + width] = region.mask
    return mask


@pytest.mark.parametrize("number", MAPS)
def test_masks_of_a_label_map(number: int) -> None:
    targets = Targets.from_label_map(torch.from_numpy(label_map(number)))
    assert targets.labels.tolist() == arrays()[f"psm_labels{number}"].tolist()
    masks = unpack(f"psm_masks{number}_packed", tuple(targets.masks.shape))
    assert np.array_equal(targets.masks.numpy(), masks)


@pytest.mark.parametrize("number", MAPS)
@pytest.mark.parametrize("threshold", [0, 30, 150, 100000])
def test_areas_of_components(number: int, threshold: int) -> None:
    expected = facts()["separate"][f"thr{threshold}"][number]
    found: dict[str, list[int]] = {label: [] for label in expected}
    for region in find_regions(label_map(number), size_threshold=threshold):
        found[str(region.label)].append(int(region.mask.sum()))
    assert found == expected


@pytest.mark.parametrize("number", MAPS)
def test_components(number: int) -> None:
    shape = label_map(number).shape
    regions = find_regions(label_map(number), size_threshold=30)
    assert [region.label for region in regions] == facts()[f"separate_thr30_img{number}_keys"]
    masks = unpack(f"separate_thr30_img{number}_packed", (len(regions), *shape))
    assert all(np.array_equal(whole(region, shape), mask) for region, mask in zip(regions, masks, strict=True))


def drawn_and_expected(case: str) -> list[tuple[np.ndarray | None, list[list[float]]]]:
    """Our points and the published ones, component by component; one source of numbers for both maps."""
    mode, eroded, side, points = case.rsplit("_", 3)
    rng, pairs = np.random.RandomState(1110), []
    for number in MAPS:
        published = [points for label in facts()["points"][case][number].values() for points in label]
        regions = find_regions(label_map(number), size_threshold=30)
        for region, wanted in zip(regions, published, strict=True):
            got = draw_points(
                region,
                rng,
                points=int(points.removeprefix("n")),
                selection=mode,  # pyright: ignore[reportArgumentType]
                erosion=int(side) if eroded == "erosion1" else 0,
            )
            pairs.append((got, wanted))
    return pairs


def equal(got: np.ndarray | None, wanted: list[list[float]]) -> bool:
    return wanted == ([] if got is None else got.tolist())


CASES = [
    f"{mode}_erosion{e}_{n}" for mode in ("random", "center") for e in ("0_3", "1_3", "1_2") for n in ("n5", "n20")
]


@pytest.mark.parametrize("case", [*CASES, "largest_component_erosion0_3_n5", "largest_component_erosion0_3_n20"])
def test_points(case: str) -> None:
    pairs = drawn_and_expected(case)
    assert sum(got is not None for got, _ in pairs) > 0
    assert [number for number, pair in enumerate(pairs) if not equal(*pair)] == []


@pytest.mark.parametrize("case", [f"largest_component_erosion1_{s}_{n}" for s in (2, 3) for n in ("n5", "n20")])
def test_points_of_the_largest_component_are_not_those_of_the_last(case: str) -> None:
    """The published code takes the last component of an eroded region: equal until that is not the largest."""
    pairs = drawn_and_expected(case)
    different = [number for number, pair in enumerate(pairs) if not equal(*pair)]
    assert different
    assert different[0] > 0


def masks_and_quality() -> tuple[Tensor, Tensor]:
    masks = np.random.RandomState(1120).random_sample((7, 3, 24, 30)) < 0.35
    quality = np.random.RandomState(1121).standard_normal((7, 3)).astype(np.float32)
    assert np.array_equal(np.packbits(masks, axis=-1), arrays()["sel_masks_packed"])
    return torch.from_numpy(masks), torch.from_numpy(quality)


def labels() -> Tensor:
    return torch.tensor([label for label, count in COUNTS.items() for _ in range(count)])


def test_best_masks() -> None:
    masks, quality = masks_and_quality()
    best = best_of(masks.float(), quality)[:, 0] > 0
    assert np.array_equal(best.numpy(), unpack("sel_best_packed", (7, 24, 30)))


def test_cleared_overlaps() -> None:
    best = torch.from_numpy(unpack("sel_best_packed", (7, 24, 30)))
    assert np.array_equal(clear_overlaps(best).numpy(), unpack("rm_intersect_packed", (7, 24, 30)))


@pytest.mark.parametrize(("name", "overlaps"), [("best", "keep"), ("rm", "any")])
def test_one_mask_per_class(name: str, overlaps: Any) -> None:
    best = torch.from_numpy(unpack("sel_best_packed", (7, 24, 30)))
    classes, masks = merge_masks([(best, labels())], overlaps=overlaps)
    assert classes.tolist() == arrays()[f"transform_{name}_labels"].tolist()
    assert np.array_equal(masks.numpy(), unpack(f"transform_{name}_masks_packed", (3, 24, 30)))


def test_a_label_map_of_the_masks() -> None:
    """Where no mask overlaps another, the published picture of a target (19 = nothing) is our label map."""
    cleared = torch.from_numpy(unpack("rm_intersect_packed", (7, 24, 30)))
    classes, masks = unite_classes(cleared, labels())
    targets = Targets(labels=classes, masks=masks, valid=masks.any(0))
    assert np.array_equal(targets.to_label_map(ignore=19).numpy(), arrays()["union_rm"])
