import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attrs import evolve
from training_helpers import TINY, compose, recipe, weights, write_source

import clouds
from clouds.core.system.errors import ConfigError, DataError, SeenDomainWarning
from clouds.core.system.images import write_png
from clouds.data.folder import open_dataset
from clouds.data.transforms import Augmentation
from clouds.evaluation.report import DomainResult
from clouds.training.recipe import LoopConfig, load_recipe
from clouds.training.samples import SampleReader, batches
from clouds.training.train import train

SETTINGS = Augmentation(crop=(32, 64))
RECIPE = load_recipe(
    "folder", ["data.crop=[32,64]", "warmup.steps=4", "warmup.batch_size=2", "joint.steps=3", "joint.batch_size=3"]
)


def test_both_phases_run_and_leave_everything_behind(source: str, generated: Path, tmp_path: Path) -> None:
    pipeline = compose()
    seen: list[tuple[str, int, int]] = []
    run = train(
        pipeline,
        source=source,
        generated=generated,
        recipe=RECIPE,
        out=tmp_path / "run",
        on_step=lambda phase, step, steps, numbers: seen.append((phase, step, steps)),
    )
    assert seen == [("warmup", i, 4) for i in range(1, 5)] + [("joint", i, 3) for i in range(1, 4)]
    lines = [json.loads(line) for line in run.log.read_text(encoding="utf-8").splitlines()]
    assert [(line["phase"], line["step"]) for line in lines] == [(phase, step) for phase, step, _ in seen]
    assert run.steps == 7
    assert run.loss == lines[-1]["loss"]
    assert pipeline.trained
    assert clouds.load(run.checkpoint).trained
    assert clouds.load(run.out / "warmup").trained
    assert json.loads((run.out / "recipe.json").read_text(encoding="utf-8"))["data"]["source"] == [source]


def test_training_is_repeatable_bit_by_bit(source: str, generated: Path, tmp_path: Path) -> None:
    runs = []
    for name in ("a", "b"):
        pipeline = compose()
        train(pipeline, source=source, generated=generated, recipe=RECIPE, out=tmp_path / name)
        runs.append(weights(pipeline))
    assert all(torch.equal(runs[0][key], runs[1][key]) for key in runs[0])


def test_the_control_makes_the_same_steps_without_generated_images(source: str, tmp_path: Path) -> None:
    pipeline = compose()
    before = weights(pipeline)
    run = train(pipeline, source=source, recipe=RECIPE, out=tmp_path / "run", phase="joint")
    assert run.steps == 3
    assert run.checkpoint == tmp_path / "run" / "joint"
    assert any(not torch.equal(before[key], value) for key, value in weights(pipeline).items())


def test_training_learns(source: str, tmp_path: Path) -> None:
    pipeline = compose()
    recipe = load_recipe("folder", ["data.crop=[32,64]", "warmup.steps=60", "warmup.batch_size=4"])
    train(pipeline, source=source, recipe=recipe, out=tmp_path / "run")
    report = clouds.evaluate(pipeline, [source])
    assert report.miou is not None
    assert report.miou > 80


def test_without_a_source_there_is_nothing_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no source to train on; give source=SPEC"):
        train(compose(), recipe=RECIPE, out=tmp_path / "run")


def test_the_parts_of_a_given_pipeline_are_no_settings(source: str, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"set has model\.head, but the pipeline is composed already; .*clouds\.compo"
    ):
        train(compose(), source=source, recipe=RECIPE, out=tmp_path / "run", set={"head": "fpn"})


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("source", [Path("photos"), 5, ["folder:a", Path("b")]])
def test_a_source_is_a_spec(tmp_path: Path, source: Any) -> None:
    with pytest.raises(ConfigError, match=r"source is a \w+; expected a SPEC such as 'folder:PATH', or a list of them"):
        train(compose(), source=source, recipe=RECIPE, out=tmp_path / "run")


def test_a_table_with_a_factor_per_source_takes_the_sources_of_the_call(source: str, tmp_path: Path) -> None:
    recipe = {"extends": "folder", "data": {"crop": [32, 64], "source_factors": [1.0, 2.0]}, "warmup": {"steps": 1}}
    run = train(compose(), source=[source, source], recipe=recipe, out=tmp_path / "run", phase="warmup")
    assert json.loads((run.out / "recipe.json").read_text(encoding="utf-8"))["data"]["source"] == [source, source]
    with pytest.raises(ConfigError, match=r"data\.source_factors has 2 values for 1 sources"):
        train(compose(), source=source, recipe=recipe, out=tmp_path / "other", phase="warmup")


def test_a_frozen_backbone_stays_as_it_was(source: str, tmp_path: Path) -> None:
    pipeline = clouds.compose(backbone={**TINY, "trainable": False}, head="linear", device="cpu")
    before = {key: value.clone() for key, value in pipeline.backbone.state_dict().items()}
    train(pipeline, source=source, recipe=RECIPE, out=tmp_path / "run")
    assert all(torch.equal(before[key], value) for key, value in pipeline.backbone.state_dict().items())


def test_samples_do_not_depend_on_workers_or_batches(source: str, generated: Path) -> None:
    dataset = open_dataset(source, clouds.LabelSpace.named("cityscapes"))
    pictures = sorted((generated / "images").iterdir())

    def stream(batch_size: int, steps: int, workers: int) -> list[torch.Tensor]:
        reader = SampleReader([dataset], pictures, SETTINGS, seed=3)
        made = batches(reader, factors=[1.0, 1.0], batch_size=batch_size, steps=steps, workers=workers)
        return [sample.image for batch in made for sample in batch]

    expected = stream(2, 6, 0)
    for other in (stream(3, 4, 0), stream(2, 6, 2)):
        assert all(torch.equal(one, two) for one, two in zip(expected, other, strict=True))


def test_sets_without_a_share_are_refused(source: str) -> None:
    dataset = open_dataset(source, clouds.LabelSpace.named("cityscapes"))
    reader = SampleReader([dataset], [], SETTINGS, seed=3)
    with pytest.raises(DataError, match=r"nothing to train on: datasets of \[5\] images with factors \[0\.0\]"):
        list(batches(reader, factors=[0.0], batch_size=2, steps=1, workers=0))


def test_data_without_a_labelled_pixel_are_refused_before_training(
    source: str, generated: Path, tmp_path: Path
) -> None:
    for path in (tmp_path / "void" / "labels" / "val" / "0.png", tmp_path / "void" / "images" / "val" / "0.png"):
        write_png(path, np.full((40, 70) if "labels" in path.parts else (40, 70, 3), 255, np.uint8))
    void = f"folder:{tmp_path / 'void'}"
    with pytest.raises(DataError, match="void:val: no labelled pixel in 1 label maps; encoding 'trainIds' ignores"):
        train(compose(), source=[source, void], recipe=RECIPE, out=tmp_path / "run")
    evaluating = evolve(RECIPE, data=evolve(RECIPE.data, evaluation=[void]), loop=LoopConfig(evaluate_every=2))
    with pytest.raises(DataError, match=r"data\.evaluation: .*void:val: no labelled pixel .*loop\.evaluate_every=0"):
        train(compose(), source=source, recipe=evaluating, out=tmp_path / "run")
    (generated / "manifest.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="generated: has no image for the joint phase; generate some, or omit it"):
        train(compose(), source=source, generated=generated, recipe=RECIPE, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_evaluation_of_nothing_is_not_logged_as_zero(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = np.zeros((2, 3), np.int64), np.zeros((2, 3), np.int64)
    nothing = DomainResult.from_counts(*counts, names=["road", "sky"], images=1)
    report = clouds.Report(protocol="native", domains={"void": nothing})
    monkeypatch.setattr("clouds.training.loop.evaluate", lambda *_: report)
    evaluating = evolve(
        RECIPE, data=evolve(RECIPE.data, evaluation=[f"{source}:train"]), loop=LoopConfig(evaluate_every=2)
    )
    run = train(compose(), source=source, recipe=evaluating, out=tmp_path / "run")
    lines = [json.loads(line) for line in run.log.read_text(encoding="utf-8").splitlines()]
    assert not any("miou" in line for line in lines)
    assert lines[1]["scores"] == {"void": {"images": 1, "miou": None, "iou": {"road": None, "sky": None}}}


def test_an_image_that_cannot_be_read_says_how_to_train_without_it(source: str, tmp_path: Path) -> None:
    for path in (tmp_path / "data" / "labels" / "train").iterdir():
        write_png(path, np.zeros((8, 8), np.uint8))
    with pytest.raises(DataError, match=r"is 40x70, but its label .* is 8x8 .*; .*, set data\.on_error=skip"):
        train(compose(), source=source, recipe=RECIPE, out=tmp_path / "run")


def test_photographs_of_a_scored_set_are_not_of_an_unseen_domain(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source")
    part = {"name": "photographs", "pictures": str(tmp_path / "source" / "images" / "train")}
    clouds.generate(compose(generator=part), 2, out=tmp_path / "generated", size=(32, 64))
    more = (
        f"data.source={source}",
        f"data.evaluation=['{source}:train']",
        f"data.generated='{tmp_path / 'generated'}'",
    )
    with pytest.warns(SeenDomainWarning, match=r"2 of 2 images are photographs of .*source, so the scores on folder:"):
        clouds.train(compose(), recipe=recipe(*more, "warmup.steps=0", "joint.steps=1"), out=tmp_path / "run")
