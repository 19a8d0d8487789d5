"""The teacher's label maps: one value for "no label" in memory, whatever label files use."""

from pathlib import Path

import numpy as np
import pytest
import torch
from training_helpers import compose, recipe, write_generated

import clouds
from clouds.core.system.images import write_png
from clouds.training.teacher import Teacher
from clouds.training.train import train

SPACE = clouds.LabelSpace.from_names(["road", "sky", "car"], ignore=3)
LINEAR = {"name": "linear", "width": 8}
MASK2FORMER = {
    "name": "mask2former",
    "queries": 6,
    "width": 64,
    "layers": 1,
    "feedforward": 32,
    "points": 32,
    "encoder_layers": 1,
    "encoder_feedforward": 32,
}


@pytest.mark.parametrize("head", [LINEAR, MASK2FORMER], ids=["linear", "mask2former"])
def test_pixels_that_the_teacher_is_not_sure_of_are_255(head: dict[str, object]) -> None:
    pipeline = compose(head=head, labels=SPACE)
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    (label_map,) = Teacher(pipeline, decay=0.9, confidence=0.999).label_maps([image])
    assert label_map.unique().tolist() == [255]
    (label_map,) = Teacher(pipeline, decay=0.9).label_maps([image])
    assert set(label_map.unique().tolist()) <= {0, 1, 2}


@pytest.mark.parametrize("head", [LINEAR, MASK2FORMER], ids=["linear", "mask2former"])
def test_the_joint_phase_does_not_depend_on_the_value_that_files_use(head: dict[str, object], tmp_path: Path) -> None:
    rng, losses = np.random.default_rng(0), []
    pictures = rng.integers(0, 256, (3, 40, 70, 3), dtype=np.uint8)
    maps = rng.integers(0, 4, (3, 40, 70), dtype=np.uint8)
    generated = write_generated(tmp_path / "generated")
    for ignore in (3, 255):
        root = tmp_path / str(ignore)
        for index, (image, label_map) in enumerate(zip(pictures, maps, strict=True)):
            write_png(root / "images" / "train" / f"{index}.png", image)
            write_png(
                root / "labels" / "train" / f"{index}.png", np.where(label_map == 3, ignore, label_map).astype("u1")
            )
        space = clouds.LabelSpace.from_names(SPACE.names, ignore=ignore)
        run = train(
            compose(head=head, labels=space, refiner="identity"),
            source=f"folder:{root}",
            generated=generated,
            recipe=recipe("teacher.confidence=0.9", "joint.steps=2", "warmup.steps=1"),
            out=root / "run",
        )
        losses.append(run.loss)
    assert losses[0] == losses[1]
