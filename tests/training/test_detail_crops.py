"""HRDA's detail crops in training: drawn per sample, so that resume and accumulation change nothing."""

import json
import os
import signal
from pathlib import Path

import pytest
from training_helpers import assert_same, compose, recipe, weights

import clouds
from clouds.training.interrupt import TrainingInterrupted
from clouds.training.train import train

HEAD = {"name": "linear", "width": 8, "detail": 32}


def test_a_resumed_run_draws_the_same_crops(source: str, generated: Path, tmp_path: Path) -> None:
    whole, data = compose(head=HEAD), {"source": source, "generated": generated, "recipe": recipe()}
    expected = train(whole, **data, out=tmp_path / "whole")

    def stop(phase: str, step: int, steps: int, numbers: dict[str, float]) -> None:
        assert {"cross_entropy", "detail"} <= numbers.keys()
        if (phase, step) == ("joint", 2):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(TrainingInterrupted, match=r"SIGTERM: stopped after step 2 of joint"):
        train(compose(head=HEAD), **data, out=tmp_path / "run", on_step=stop)
    again = clouds.load(tmp_path / "run" / "start", device="cpu")
    assert train(again, resume=tmp_path / "run").loss == expected.loss
    assert_same(weights(whole), weights(again))


def test_accumulated_parts_are_one_batch(source: str, generated: Path, tmp_path: Path) -> None:
    losses = {}
    for parts in (1, 3):
        settings = recipe(f"loop.accumulate={parts}", "joint.batch_size=5", "joint.steps=3", "optimizer.lr=1e-4")
        data = {"source": source, "generated": generated, "recipe": settings}
        run = train(compose(head=HEAD), **data, out=tmp_path / str(parts), phase="joint")
        losses[parts] = [json.loads(line)["loss"] for line in run.log.read_text(encoding="utf-8").splitlines()]
    # the order of float32 sums alone, as in test_loop
    assert losses[3] == pytest.approx(losses[1], rel=2e-5)
