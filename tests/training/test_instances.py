"""Runs that learn one mask per instance."""

import json
import os
import re
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from training_helpers import assert_same, compose, recipe, weights, write_coco, write_instances

import clouds
from clouds.core.contract.records import HeadOutput, Targets
from clouds.heads.mask2former import Mask2Former
from clouds.training.interrupt import TrainingInterrupted
from clouds.training.recipe import Recipe
from clouds.training.start import start_pipeline
from clouds.training.train import train

HEAD = {"name": "mask2former", "queries": 6, "width": 64, "layers": 2, "encoder_layers": 1, "points": 40}
VIEWS = ("data.crop=[64,96]", "data.scale=[1,1]", "data.flip=false", "data.distortion=false")
CAR, PERSON = 13, 11


@pytest.fixture
def instances(tmp_path: Path) -> str:
    return write_instances(tmp_path / "data")


def _recipe(instances: str, *more: str) -> Recipe:
    return recipe(f"data.source={instances}", "data.instances=true", *more)


def _seen_targets(monkeypatch: pytest.MonkeyPatch) -> list[Targets]:
    """All targets that heads get from now on."""
    seen: list[Targets] = []
    plain = Mask2Former.loss

    def loss(self: Mask2Former, output: HeadOutput, targets: Sequence[Targets], **options: object) -> object:
        seen.extend(targets)
        return plain(self, output, targets, **options)

    monkeypatch.setattr(Mask2Former, "loss", loss)
    return seen


def test_instances_of_a_class_get_masks_of_their_own(
    instances: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = _seen_targets(monkeypatch)
    settings = _recipe(instances, *VIEWS, "warmup.steps=2")
    train(compose(head=HEAD, refiner=None), recipe=settings, out=tmp_path / "run")
    assert len(seen) == 4
    for target in seen:
        assert sorted(target.labels.tolist()) == [0, 10, CAR, CAR]
        assert not (target.masks.sum(0) > 1).any()
        one, two = target.masks[target.labels == CAR]
        assert one[15:30, 5:25].all()
        assert one.sum() == 15 * 20
        assert two[15:30, 40:55].all()
        # a group of persons is no mask, and does not count; nor does the padding
        assert not target.valid[32:38, 5:15].any()
        assert target.valid.sum() == 40 * 70 - 6 * 10


def test_without_the_option_there_is_one_mask_per_class(
    instances: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = _seen_targets(monkeypatch)
    settings = recipe(f"data.source={instances}", *VIEWS, "warmup.steps=1")
    train(compose(head=HEAD, refiner=None), recipe=settings, out=tmp_path / "run")
    assert {tuple(sorted(target.labels.tolist())) for target in seen} == {(0, 10, PERSON, CAR)}


def test_a_run_resumes_bitwise(instances: str, tmp_path: Path) -> None:
    settings = _recipe(instances, "data.cat_max_ratio=0.75")
    whole = compose(head=HEAD, refiner=None)
    expected = train(whole, recipe=settings, out=tmp_path / "whole")

    def stop(phase: str, step: int, steps: int, numbers: dict[str, float]) -> None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(TrainingInterrupted, match="stopped after step 2 of warmup"):
        train(compose(head=HEAD, refiner=None), recipe=settings, out=tmp_path / "run", on_step=stop)
    again = clouds.load(tmp_path / "run" / "start", device="cpu")
    assert train(again, resume=tmp_path / "run").loss == expected.loss
    assert_same(weights(whole), weights(again))


def test_accumulated_parts_are_one_batch(instances: str, tmp_path: Path) -> None:
    losses = {}
    for parts in (1, 3):
        settings = _recipe(instances, f"loop.accumulate={parts}", "warmup.batch_size=5", "optimizer.lr=1e-4")
        run = train(compose(head=HEAD, refiner=None), recipe=settings, out=tmp_path / str(parts))
        losses[parts] = [json.loads(line)["loss"] for line in run.log.read_text(encoding="utf-8").splitlines()]
    # the order of float32 sums alone, as in test_loop
    assert losses[3] == pytest.approx(losses[1], rel=2e-5)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["head=linear"], "head linear predicts one mask per class; choose head=mask2former or eomt"),
        (["head=fpn"], "head fpn predicts one mask per class"),
        (['labels=["road", "car"]'], "label space 'custom' names no things, .* things = "),
        (['data.source=["folder:/x"]'], "folder:/x: label files of kind 'folder' number no instances; kinds that do: "),
        (["data.generated=/y"], r"labels of generated images know classes alone; train .* \(phase warmup\)"),
    ],
)
def test_what_cannot_learn_instances_is_refused_before_anything_is_built(
    more: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clouds.core.pipeline.composer.compose", None)
    settings = _recipe("cityscapes-panoptic:/data", "backbone=tiny", "head=mask2former", *more)
    with pytest.raises(clouds.ConfigError, match=f"^data.instances: {message}") as caught:
        start_pipeline(settings, "mine", None, None)
    assert "\n" not in str(caught.value)


def test_a_built_head_is_refused_too(instances: str, generated: Path, tmp_path: Path) -> None:
    with pytest.raises(clouds.ConfigError, match=r"head Linear\w* predicts one mask per class"):
        train(compose(), recipe=_recipe(instances), out=tmp_path / "run")
    with pytest.raises(clouds.ConfigError, match="labels of generated images know classes alone"):
        train(compose(head=HEAD), recipe=_recipe(instances), generated=generated, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    settings = _recipe(instances, "warmup.steps=1")
    train(compose(head=HEAD), recipe=settings, generated=generated, out=tmp_path / "run", phase="warmup")


def test_a_json_that_does_not_fit_its_pictures_stops_before_the_first_step(tmp_path: Path) -> None:
    spec = write_coco(tmp_path / "coco", described=[1])
    with pytest.raises(clouds.DataError, match=r"0\.png: has segments \[2\], which .*json does not describe") as caught:
        train(compose(head=HEAD), recipe=_recipe(spec), out=tmp_path / "run")
    assert re.search("\n", str(caught.value)) is None
    assert not (tmp_path / "run").exists()


def test_masks_of_targets_with_instances() -> None:
    segments = torch.tensor([[0, 256 + 3, 512 + 3], [255, 512 + 3, 4]], dtype=torch.int32)
    targets = Targets.from_label_map(segments)
    assert targets.labels.tolist() == [0, 4, 3, 3]
    assert targets.masks.sum((1, 2)).tolist() == [1, 1, 1, 2]
    assert targets.valid.tolist() == [[True] * 3, [False, True, True]]
    assert targets.to_label_map().tolist() == [[0, 3, 3], [255, 3, 4]]
