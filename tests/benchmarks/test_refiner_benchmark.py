"""What the refiner benchmark measures, in small: regions bring coarse labels nearer to the true boundaries."""

import numpy as np
import pytest
import torch

from benchmarks.refiners import band_accuracy, coarse, scenes
from benchmarks.rows import row
from clouds.core.pipeline.build import build_part


@pytest.mark.parametrize("block", [4, 8])
def test_regions_improve_boundaries(block: int) -> None:
    """Accuracy within 4 pixels of a true boundary, mean over drawn scenes that no parameter was fitted to."""
    before, after = [], []
    for image, truth in scenes(6, (128, 256)):
        label_map = torch.from_numpy(coarse(truth, block))
        tensor = torch.from_numpy(image.transpose(2, 0, 1).copy())
        (targets,) = build_part("refiner", "regions").refine([tensor], [label_map], rngs=[np.random.default_rng(0)])
        before.append(band_accuracy(label_map.numpy(), truth, 4))
        after.append(band_accuracy(targets.to_label_map().numpy(), truth, 4))
    assert np.mean(after) > np.mean(before)


def test_coarse_labels_keep_the_size_and_add_nothing() -> None:
    labels = np.arange(35, dtype=np.uint8).reshape(5, 7)
    made = coarse(labels, 4)
    assert made.shape == labels.shape
    assert set(made.ravel()) <= set(labels.ravel())


def test_rows_say_what_was_measured_and_where() -> None:
    made = row("b", "p", "m", "s", [3.0, 1.0, 2.0], shape=[1])
    assert (made["p20"], made["p50"], made["p80"]) == (1.4, 2.0, 2.6)
    assert {"torch", "device", "commit", "shape", "threads"} <= set(made)
