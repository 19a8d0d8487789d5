"""`clouds.evaluate` on a torch Dataset of pairs (image, label map)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset

import clouds
from clouds.core.system.images import write_png

TINY = {"name": "tiny", "dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}


class Streets(Dataset[Any]):
    """Pairs in memory."""

    def __init__(self, pairs: list[Any]) -> None:
        self.pairs = pairs

    def __getitem__(self, index: int) -> Any:
        return self.pairs[index]

    def __len__(self) -> int:
        return len(self.pairs)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(())


@pytest.fixture(scope="module")
def pipeline() -> clouds.Pipeline:
    made = clouds.compose(backbone=TINY, head="linear", labels=["road", "sky", "car"], device="cpu")
    made.trained = True
    return made


def random_pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    images = (rng.integers(0, 256, (40 + index, 60, 3), np.uint8) for index in range(3))
    maps = (rng.choice(np.array([0, 1, 2, 255], np.uint8), (40 + index, 60)) for index in range(3))
    return list(zip(images, maps, strict=True))


def test_it_scores_as_files_with_the_same_pixels(pipeline: clouds.Pipeline, tmp_path: Path) -> None:
    pairs = random_pairs()
    for index, (image, labels) in enumerate(pairs):
        write_png(tmp_path / "images" / "val" / f"{index}.png", image)
        write_png(tmp_path / "labels" / "val" / f"{index}.png", labels)
    files = clouds.evaluate(pipeline, [f"folder:{tmp_path}:val"])
    tensors = Streets([(torch.from_numpy(i).permute(2, 0, 1), torch.from_numpy(m).long()) for i, m in pairs])
    found = clouds.evaluate(pipeline, [Streets(pairs)])
    assert list(found.per_domain) == ["Streets"]
    assert found.miou == files.miou == clouds.evaluate(pipeline, [tensors]).miou


def test_the_attribute_name_names_the_domain(pipeline: clouds.Pipeline) -> None:
    night, day = Streets(random_pairs()), Streets(random_pairs())
    with pytest.raises(clouds.ConfigError, match="dataset 'Streets' is listed twice; list it once, or rename one"):
        clouds.evaluate(pipeline, [night, day])
    night.name = "night"
    assert list(clouds.evaluate(pipeline, [night, day]).per_domain) == ["night", "Streets"]


IMAGE, MAP = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (IMAGE, r"Streets\[0\]: expected a pair \(image, label map\), got ndarray"),
        ((IMAGE / 255, MAP), r"Streets\[0\]: expected a non-empty uint8 array h x w x 3, got float64"),
        ((IMAGE, MAP / 2), r"Streets\[0\]: expected a label map of integers h x w, got float64 of shape \(8, 8\)"),
        ((IMAGE, MAP + 3), r"Streets\[0\]: the label map has the value 3; expected train ids 0\.\.2, or 255 where"),
        ((IMAGE, MAP[:4]), r"Streets\[0\]: the image has \(height, width\) \(8, 8\), but its label map \(4, 8\)"),
    ],
)
def test_wrong_items_are_named(pipeline: clouds.Pipeline, item: object, message: str) -> None:
    with pytest.raises(clouds.DataError, match=message):
        clouds.evaluate(pipeline, [Streets([item])])


@pytest.mark.usefixtures("unchecked_types")
def test_what_is_no_dataset_is_named(pipeline: clouds.Pipeline) -> None:
    with pytest.raises(
        clouds.ConfigError, match="Stream is no dataset; expected a SPEC, or a torch Dataset with a len"
    ):
        clouds.evaluate(pipeline, [Stream()])
    with pytest.raises(clouds.ConfigError, match="Streets is empty; expected at least one pair"):
        clouds.evaluate(pipeline, [Streets([])])
    with pytest.raises(clouds.ConfigError, match=r"expected a list of dataset specs, got .*; write \[SPEC, \.\.\.\]"):
        clouds.evaluate(pipeline, Streets(random_pairs()))
