"""Two processes that hold a part of every trained tensor compute what two whole ones do, and write whole files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from test_distributed_training import LOSS, WEIGHTS, change, data, launch, read_log, run  # noqa: F401 - `data`

import clouds
from clouds.core.system.processes import join
from clouds.training.checkpoint import read_checkpoint
from clouds.training.learner import Learner
from clouds.training.recipe import load_recipe
from clouds.training.sharded_tensors import local
from clouds.training.sharding import own_copy, shard_learner, shard_teacher
from clouds.training.teacher import Teacher
from clouds.training.train import train

SHARD = "loop.shard=true"
EVERY = ("loop.checkpoint_every=2", "loop.keep=9", "loop.accumulate=2", "teacher.every=1", "teacher.result=true")
# Gradients are means of the same two numbers. Only the gradient's norm is summed in another order, in double precision:
# one rounding of float32, 6e-8, in each step's factor, and so in the weights that the next loss is computed with.
FIRST = 1e-6

RESUME = """
import sys
sys.path.insert(0, sys.argv[1])
import test_sharded_training as here
here.resume(sys.argv[2])
"""


HELD = """
import sys
sys.path.insert(0, sys.argv[1])
import test_sharded_training as here
here.write_held(sys.argv[2])
"""


def write_held(out: str) -> None:
    """Write how many of the learner's and teacher's elements a process holds, and how many there are."""
    processes = join("cpu")
    backbone = {"name": "tiny", "trainable": True}
    pipeline = own_copy(clouds.compose(backbone=backbone, head="mask2former", device="cpu"))
    learner, teacher = Learner(pipeline), Teacher(pipeline, decay=0.99)
    total = sum(one.numel() for one in (*learner.parameters(), *teacher.segmenter.parameters()))
    shard_learner(learner)
    shard_teacher(teacher)
    held = sum(local(one).numel() for one in (*learner.parameters(), *teacher.segmenter.parameters()))
    Path(f"{out}-{processes.rank}").write_text(f"{held / total}", encoding="utf-8")


def resume(out: str) -> None:
    train(clouds.load(Path(out) / "start", device="cpu"), resume=out)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory, data: tuple[str, str]) -> Path:  # noqa: F811
    folder = tmp_path_factory.mktemp("sharded") / "run"
    outcome = launch(folder, (*data, *EVERY, SHARD))
    assert outcome.returncode == 0, outcome.stderr
    return folder


def form(value: Any) -> Any:
    """Types, shapes and names of a document, without its numbers."""
    if isinstance(value, torch.Tensor):
        return type(value), value.dtype, tuple(value.shape)
    if isinstance(value, dict):
        return type(value), {key: form(one) for key, one in value.items()}
    return [form(one) for one in value] if isinstance(value, list | tuple) else type(value)


@pytest.mark.slow  # starts two processes
def test_each_process_holds_half_of_the_weights(tmp_path: Path) -> None:
    outcome = launch(tmp_path / "held", (), HELD)
    assert outcome.returncode == 0, outcome.stderr
    shares = [float((tmp_path / f"held-{rank}").read_text(encoding="utf-8")) for rank in range(2)]
    assert sum(shares) == pytest.approx(1, abs=1e-3)  # scalars are held by both
    assert max(shares) < 0.51  # a tensor of odd length is not split in equal parts


@pytest.mark.slow  # starts two processes, twice
def test_shards_equal_whole_processes(tmp_path: Path, data: tuple[str, str], sharded: Path) -> None:  # noqa: F811
    outcome = launch(tmp_path / "whole", (*data, *EVERY))
    assert outcome.returncode == 0, outcome.stderr
    ours, theirs = read_log(sharded), read_log(tmp_path / "whole")
    assert [(line["phase"], line["step"]) for line in ours] == [(line["phase"], line["step"]) for line in theirs]
    for name in ("loss", "class", "mask", "dice", "class_0", "mask_1", "gradient_norm"):
        assert ours[0][name] == pytest.approx(theirs[0][name], rel=FIRST), name
    assert [line["loss"] for line in ours] == pytest.approx([line["loss"] for line in theirs], rel=LOSS)
    for phase in ("warmup", "joint"):  # the teacher's weights
        mine, other = change(sharded, phase), change(tmp_path / "whole", phase)
        assert float((mine - other).norm() / other.norm()) < WEIGHTS
    (progress, ours_document), (_, theirs_document) = (read_checkpoint(one) for one in (sharded, tmp_path / "whole"))
    assert progress.step == 4
    for key in ("modules", "optimizer", "schedule"):
        assert form(ours_document[key]) == form(theirs_document[key])


@pytest.mark.slow  # starts two processes, and one
def test_a_run_goes_on_sharded_or_whole(tmp_path: Path, sharded: Path) -> None:
    for name in ("again", "alone"):
        shutil.copytree(sharded, tmp_path / name)
        shutil.copyfile(sharded / "checkpoint-joint-2.pt", tmp_path / name / "checkpoint.pt")
    outcome = launch(tmp_path / "again", (), RESUME)
    assert outcome.returncode == 0, outcome.stderr
    assert [line["loss"] for line in read_log(tmp_path / "again")] == [line["loss"] for line in read_log(sharded)]
    assert torch.equal(change(tmp_path / "again", "joint"), change(sharded, "joint"))
    resume(str(tmp_path / "alone"))  # one process, which splits nothing
    expected = change(sharded, "joint")
    assert float((change(tmp_path / "alone", "joint") - expected).norm() / expected.norm()) < WEIGHTS


def test_a_frozen_backbone_has_nothing_to_split(tmp_path: Path, data: tuple[str, str]) -> None:  # noqa: F811
    pipeline = clouds.compose(backbone="tiny", head="linear", device="cpu")
    recipe = load_recipe("folder", [SHARD])
    with pytest.raises(clouds.ConfigError, match=r"loop\.shard splits a trained backbone, but TinyBackbone is frozen"):
        train(pipeline, source=data[0], recipe=recipe, out=tmp_path / "run")
    with pytest.raises(clouds.ConfigError, match=r"loop\.shard and loop\.channels_last exclude each other"):
        load_recipe("folder", [SHARD, "loop.channels_last=true"])
