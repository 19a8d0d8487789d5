"""Memory and time of a joint training step with a frozen, adapted or trained ViT-L; sizes of checkpoints.

Weights are random. A step labels one generated image with the teacher, and trains on it (mask2former, AdamW). Each arm
runs in a process of its own, so that its peak of resident memory is its own.

    python -m benchmarks adapters
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import timm
import torch
from attrs import Factory, frozen
from safetensors.torch import save_file

import clouds
from benchmarks.rows import row, seconds
from clouds.core.pipeline.segmenter import Segmenter
from clouds.core.system.memory import peak_memory
from clouds.training.optimizer import build_optimizer, build_schedule
from clouds.training.recipe import load_recipe
from clouds.training.samples import Sample
from clouds.training.steps import State, train_step
from clouds.training.teacher import Teacher

ROOT = Path(__file__).parents[1]
MODEL = "vit_large_patch14_dinov2"
ADAPTERS = ("rein", "lora", "soma")
HEADS = ("linear", "mask2former")


@frozen(kw_only=True)
class Arm:
    """What is trained of the backbone.

    Attributes:
        adapter: what is trained on the frozen backbone, if anything.
        options: of the backbone.
        own_trunk: whether the teacher has a copy of the frozen backbone instead of sharing it.
    """

    adapter: str | None = None
    options: dict[str, Any] = Factory(dict)
    own_trunk: bool = False


_CHECKPOINTING = {"grad_checkpointing": True}
_FULL = {"trainable": True}
ARMS = {
    "frozen": Arm(),
    "rein": Arm(adapter="rein"),
    "lora": Arm(adapter="lora"),
    "soma": Arm(adapter="soma"),
    "full": Arm(options=_FULL),
    "rein, checkpointing": Arm(adapter="rein", options=_CHECKPOINTING),
    "lora, checkpointing": Arm(adapter="lora", options=_CHECKPOINTING),
    "full, checkpointing": Arm(options={**_FULL, **_CHECKPOINTING}),
    "rein, teacher with a full copy": Arm(adapter="rein", own_trunk=True),
}


def measure(name: str, model: str, size: int, repeats: int) -> dict[str, Any]:
    """Seconds per step, peak resident gigabytes before and after the steps, and parameters of one arm, here.

    Args:
        name: an arm.
        model: timm's name of a plain ViT.
        size: side of the image in pixels.
        repeats: timed steps, after a first one that allocates the optimizer's state.
    """
    state = joint_state(ARMS[name], model)
    image = torch.randint(0, 256, (3, size, size), dtype=torch.uint8)
    batch = [Sample(image=image, label_map=None, clean=image, position=0, name="random")]
    built = peak_memory() / 1e9
    times = seconds(lambda: train_step(state, batch), repeats=repeats)
    segmenter, teacher = state.pipeline.segmenter, state.teacher
    own = {id(one): one.numel() for one in segmenter.parameters()}
    copied = {id(one): one.numel() for one in teacher.segmenter.parameters()} if teacher else {}
    return {
        "seconds": times,
        "built": built,
        "peak": peak_memory() / 1e9,
        "trained": sum(one.numel() for one in segmenter.parameters() if one.requires_grad) / 1e6,
        "teacher": sum(count for key, count in copied.items() if key not in own) / 1e6,
    }


def joint_state(arm: Arm, model: str) -> State:
    """The state of a joint phase: student, teacher, optimizer."""
    recipe = load_recipe("folder")
    backbone = {"name": f"timm:{model}", "pretrained": False, **arm.options}
    pipeline = clouds.compose(backbone=backbone, head="mask2former", adapter=arm.adapter, device="cpu")
    pipeline.segmenter.train()
    optimizer = build_optimizer(pipeline.segmenter.parts, recipe.optimizer)
    teacher = Teacher(pipeline, decay=recipe.teacher.decay)
    if arm.own_trunk:
        teacher.segmenter = Segmenter(*copy.deepcopy((teacher.backbone, teacher.head, teacher.segmenter.adapter)))
    return State(
        pipeline=pipeline,
        optimizer=optimizer,
        schedule=build_schedule(optimizer, recipe.optimizer, steps=100),
        config=recipe.optimizer,
        seed=0,
        teacher=teacher,
        teacher_config=recipe.teacher,
    )


def checkpoint_sizes(adapter: str, head: str, model: str, weights: Path) -> dict[str, float]:
    """Megabytes on disk of the adapter, of a checkpoint without the frozen backbone, and of the whole one.

    Args:
        adapter, head: their names.
        model: timm's name of a plain ViT.
        weights: its "published" weights, see `write_weights`.
    """
    backbone = {"name": f"timm:{model}", "pretrained": str(weights)}
    pipeline = clouds.compose(backbone=backbone, head=head, adapter=adapter, device="cpu")
    with TemporaryDirectory() as folder:
        pipeline.save(Path(folder) / "light", include_frozen=False)
        pipeline.save(Path(folder) / "whole")
        return {
            "adapter": (Path(folder) / "light" / "adapter.safetensors").stat().st_size / 1e6,
            **{name: _megabytes(Path(folder) / name) for name in ("light", "whole")},
        }


def write_weights(model: str, path: Path) -> Path:
    """Write random weights of a timm model to a file, in the place of published ones."""
    save_file(timm.create_model(model, pretrained=False).state_dict(), path)
    return path


def run(
    arms: Sequence[str] = tuple(ARMS), *, model: str = MODEL, size: int = 512, repeats: int = 3
) -> list[dict[str, Any]]:
    """Rows of every arm, then of the checkpoints."""
    facts = {"model": model, "head": "mask2former", "shape": [size, size], "batch": 1, "dtype": "float32"}
    rows: list[dict[str, Any]] = []
    for name in arms:
        found = _in_own_process(name, model, size, repeats)
        rows.append(row("adapters", name, "joint step", "s", found["seconds"], **facts))
        for metric, key, unit in _FIGURES:
            rows.append(row("adapters", name, metric, unit, [found[key]], **facts))
    with TemporaryDirectory() as folder:
        weights = write_weights(model, Path(folder) / "weights.safetensors")
        for adapter in ADAPTERS:
            for head in HEADS:
                sizes = checkpoint_sizes(adapter, head, model, weights)
                about = {"model": model, "head": head}
                for metric, key in _SIZES.items():
                    rows.append(row("adapters", adapter, metric, "MB", [sizes[key]], **about))
                share = [100 * sizes["light"] / sizes["whole"]]
                rows.append(row("adapters", adapter, "checkpoint without frozen weights, share", "%", share, **about))
    return rows


_FIGURES = (
    ("peak memory, built", "built", "GB"),
    ("peak memory, joint step", "peak", "GB"),
    ("trained parameters", "trained", "M"),
    ("teacher's own parameters", "teacher", "M"),
)
_SIZES = {"adapter file": "adapter", "checkpoint without frozen weights": "light", "whole checkpoint": "whole"}


def _in_own_process(name: str, model: str, size: int, repeats: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.adapters", name, model, str(size), str(repeats)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
