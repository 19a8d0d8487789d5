"""Small pipelines and pictures for tests of training."""

from pathlib import Path

import numpy as np
import torch

import clouds
from clouds.core.system.images import write_png
from clouds.training.recipe import Recipe, load_recipe

TINY = {"name": "tiny", "dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "trainable": True}
BASE = [
    *("data.crop=[32,64]", "warmup.steps=4", "warmup.batch_size=2", "joint.steps=4", "joint.batch_size=3"),
    *("loop.checkpoint_every=3", "teacher.every=2"),
]


def recipe(*more: str) -> Recipe:
    return load_recipe("folder", [*BASE, *more])


def compose(**parts: object) -> clouds.Pipeline:
    given = {"head": {"name": "linear", "width": 8}, "refiner": "regions", **parts}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return clouds.compose(backbone=TINY, device="cpu", **given)


def write_source(folder: Path, count: int = 5) -> str:
    """Pictures whose left half is dark road and right half bright sky."""
    rng = np.random.default_rng(0)
    for index in range(count):
        labels = np.zeros((40, 70), np.uint8)
        labels[:, 35:] = 10
        image = np.where(labels[..., None] == 10, 220, 40) + rng.integers(-20, 20, (40, 70, 3))
        write_png(folder / "images" / "train" / f"{index}.png", image.astype(np.uint8))
        write_png(folder / "labels" / "train" / f"{index}.png", labels)
    return f"folder:{folder}"


class Noise(clouds.Generator):
    """Pictures that depend on the seed alone."""

    def generate(self, requests):
        for request in requests:
            pixels = np.random.default_rng(request.seed).integers(0, 256, (*request.size, 3), np.uint8)
            yield clouds.GeneratedImage(request=request, image=pixels)


def write_generated(folder: Path) -> Path:
    pipeline = compose(generator=Noise())
    return clouds.generate(pipeline, 4, out=folder, prompts=["noise"], size=(32, 64)).folder


def weights(pipeline: clouds.Pipeline) -> dict[str, torch.Tensor]:
    found = {**pipeline.backbone.state_dict(), **{f"head.{k}": v for k, v in pipeline.head.state_dict().items()}}
    return {key: value.clone() for key, value in found.items()}


def assert_same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    assert [key for key in one if not torch.equal(one[key], two[key])] == []
