"""What the SAM benchmark compares, in small: the same prompts get the same masks."""

import numpy as np
import torch

from benchmarks.sam import IMAGES, POINTS, measure, one_by_one, pictures, tiles
from clouds.refiners.prompt_points import find_regions
from clouds.refiners.prompted import PromptRefiner
from clouds.refiners.sam import SamSegmenter
from clouds.testing.tiny_sam import tiny_sam

SIDE = 60


def test_both_ways_answer_the_same_prompts() -> None:
    segmenter = SamSegmenter(tiny_sam(image_size=64))
    images, label_maps = pictures(SIDE, torch.device("cpu")), [tiles(SIDE)] * IMAGES
    assert len(find_regions(label_maps[0].numpy())) == 20
    loop = one_by_one(segmenter.sam, images, label_maps)()
    refiner = PromptRefiner(
        segmenter, size_threshold=0, points=POINTS, overlaps="keep", small_components="drop", empty="keep"
    )
    rngs = [np.random.default_rng(number) for number in range(IMAGES)]
    for targets, masks, label_map in zip(refiner.refine(images, label_maps, rngs=rngs), loop, label_maps, strict=True):
        labels = torch.tensor([region.label for region in find_regions(label_map.numpy())])
        united = torch.stack([torch.stack(masks)[labels == label].any(0) for label in targets.labels])
        assert (targets.masks == united).float().mean() > 0.999  # a logit of nearly 0 may fall on either side


def test_every_way_has_its_row() -> None:
    rows = measure(SamSegmenter(tiny_sam(image_size=64)), size=SIDE, repeats=1)
    assert [one["metric"] for one in rows] == ["time"] * 6 + ["ratio"] * 3
    assert all(one["p50"] > 0 for one in rows)
