"""The Lightning module of the documentation computes the loss and the gradient of the library's own loop."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from doc_blocks import find_blocks

import clouds
from clouds.training.optimizer import build_optimizer, build_schedule
from clouds.training.optimizer_config import OptimizerConfig
from clouds.training.recipe import TeacherConfig
from clouds.training.samples import Sample
from clouds.training.steps import State, train_step

PAGE = Path(__file__).parents[2] / "docs" / "tutorials" / "module.md"
TINY = {"name": "tiny", "dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "trainable": True}


def documented(folder: Path) -> dict[str, Any]:
    """Names that the documentation's block defines."""
    (block,) = [one for one in find_blocks(PAGE) if "class Segmentation(" in one.text]
    assert 20 <= len(block.text.splitlines()) <= 40
    (folder / "segmentation.py").write_text(block.text, encoding="utf-8")
    return runpy.run_path(str(folder / "segmentation.py"))


def compose() -> clouds.Pipeline:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return clouds.compose(backbone=TINY, head={"name": "fpn", "width": 32}, labels=5, device="cpu").train()


def own_step(pipeline: clouds.Pipeline, pixels: np.ndarray, label_maps: np.ndarray, lr: float) -> dict[str, float]:
    config = OptimizerConfig(lr=lr, weight_decay=0, clip_norm=0)
    optimizer = build_optimizer(pipeline.segmenter.parts, config)
    samples = [
        Sample(
            position=index,
            name=str(index),
            image=torch.tensor(one).permute(2, 0, 1),
            label_map=torch.tensor(label_map),
            clean=None,
        )
        for index, (one, label_map) in enumerate(zip(pixels, label_maps, strict=True))
    ]
    schedule = build_schedule(optimizer, config, steps=2)
    teacher = TeacherConfig()
    state = State(
        pipeline=pipeline, optimizer=optimizer, schedule=schedule, config=config, seed=0, teacher_config=teacher
    )
    return train_step(state, samples)


def test_loss_and_gradient_are_those_of_the_librarys_loop(tmp_path: Path) -> None:
    import lightning

    names, rng = documented(tmp_path), np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2, 64, 128, 3), np.uint8)
    label_maps = rng.integers(0, 5, (2, 4, 8)).repeat(16, 1).repeat(16, 2).astype(np.uint8)
    theirs, ours = compose(), compose()
    before = [one.detach().clone() for one in theirs.parameters()]
    losses: list[dict[str, float]] = []
    norms: list[float] = []

    class Recorded(names["Segmentation"]):
        def log_dict(self, values: dict[str, torch.Tensor], **options: object) -> None:
            losses.append({name: value.item() for name, value in values.items()})

        def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
            norms.append(
                float(torch.nn.utils.get_total_norm([one.grad for one in self.parameters() if one.requires_grad]))
            )

    batches = torch.utils.data.DataLoader(
        list(zip(pixels, label_maps, strict=True)), batch_size=2, collate_fn=names["collate"]
    )
    trainer = lightning.Trainer(
        max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(Recorded(theirs), batches)
    assert trainer.global_step == 2
    assert any(not torch.equal(a, b) for a, b in zip(before, theirs.parameters(), strict=True))
    numbers = own_step(ours, pixels, label_maps, lr=1e-3)
    assert losses[0] == {name: numbers[name] for name in losses[0]}  # the same sums in the same order
    assert losses[1]["loss"] < losses[0]["loss"]
    # AdamW's first step follows the gradient's signs alone, so compare the norm, too; sums in another order
    assert norms[0] == pytest.approx(numbers["gradient_norm"], rel=1e-5)
