"""Runs with rare-class sampling, crops by class share, ClassMix, and weights of images."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from training_helpers import assert_same, compose, recipe, weights

import clouds
from clouds.core.system.errors import DataError
from clouds.core.system.images import write_png
from clouds.data.check import check_dataset
from clouds.data.folder import open_dataset
from clouds.training.interrupt import TrainingInterrupted
from clouds.training.recipe import Recipe
from clouds.training.train import train


@pytest.fixture
def settings(source: str, tmp_path: Path) -> Recipe:
    index = check_dataset(open_dataset(source, clouds.LabelSpace.named("cityscapes"))).class_index
    assert index is not None
    index.write(tmp_path / "index.json")
    rare = [
        "data.sampler=rare-classes",
        f'data.sampler.index=["{tmp_path / "index.json"}"]',
        "data.sampler.min_pixels=100",
    ]
    weights = ["data.source_weights=[0.5]", "data.generated_weight=2", "teacher.weight_threshold=0.08"]
    weights += ["teacher.class_confidence=1.0"]
    return recipe(f"data.source={source}", *rare, *weights, "data.cat_max_ratio=0.75", "data.class_mix=true")


def test_a_run_resumes_bitwise(settings: Recipe, generated: Path, tmp_path: Path) -> None:
    whole = compose()
    expected = train(whole, generated=generated, recipe=settings, out=tmp_path / "whole")

    def stop(name: str, now: int, steps: int, numbers: dict[str, float]) -> None:
        if (name, now) == ("joint", 2):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(TrainingInterrupted, match="stopped after step 2 of joint"):
        train(compose(), generated=generated, recipe=settings, out=tmp_path / "run", on_step=stop)
    again = clouds.load(tmp_path / "run" / "start", device="cpu")
    run = train(again, resume=tmp_path / "run")
    assert_same(weights(whole), weights(again))
    assert run.loss == expected.loss


def test_the_index_of_another_version_is_refused_before_training(settings: Recipe, tmp_path: Path) -> None:
    write_png(tmp_path / "data" / "labels" / "train" / "0.png", np.zeros((40, 70), np.uint8))
    with pytest.raises(DataError, match=r"index\.json is not the index of .*0\.png has \d+ bytes; the index says"):
        train(compose(), recipe=settings, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
