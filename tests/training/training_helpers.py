"""Small pipelines and pictures for tests of training."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

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


def write_instances(folder: Path, count: int = 5) -> str:
    """Cityscapes with instances: two bright cars and a group of persons on a dark road, under the sky."""
    rng = np.random.default_rng(0)
    for index in range(count):
        ids = np.full((40, 70), 7, np.uint16)
        ids[:10], ids[15:30, 5:25], ids[15:30, 40 : 55 + index], ids[32:38, 5:15] = 23, 26000, 26001, 24
        levels = np.select([ids == 7, ids == 23, ids == 24], [40, 120, 80], 220)
        image = (levels[..., None] + rng.integers(-20, 20, (40, 70, 3))).astype(np.uint8)
        write_png(folder / "leftImg8bit" / "train" / f"{index}_leftImg8bit.png", image)
        truth = folder / "gtFine" / "train" / f"{index}_gtFine_instanceIds.png"
        truth.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(ids).save(truth)
    return f"cityscapes-panoptic:{folder}"


def write_coco(folder: Path, described: Sequence[int]) -> str:
    """One picture of COCO's panoptic format with the segments 1 and 2, of which the JSON describes some."""
    segments = np.zeros((40, 70, 3), np.uint8)
    segments[..., 0] = np.arange(70) // 40 + 1
    write_png(folder / "train2017" / "0.png", segments * 100)
    (folder / "train2017" / "0.png").rename(folder / "train2017" / "0.jpg")
    write_png(folder / "annotations" / "panoptic_train2017" / "0.png", segments)
    infos = [{"id": one, "category_id": 3, "iscrowd": 0} for one in described]
    document = {"annotations": [{"file_name": "0.png", "segments_info": infos}]}
    (folder / "annotations" / "panoptic_train2017.json").write_text(json.dumps(document), encoding="utf-8")
    return f"coco-panoptic:{folder}"


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
