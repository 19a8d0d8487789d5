"""The best pipeline of a run by a score that needs no labels."""

import json
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from training_helpers import compose, recipe, weights

import clouds
from clouds.core.system.errors import ConfigError
from clouds.evaluation.label_free import NAMES, label_free_scores
from clouds.synthesis.generated_set import open_generated
from clouds.training.ablation import ablate
from clouds.training.checkpoint import read_checkpoint
from clouds.training.recipe import LoopConfig
from clouds.training.train import train


def test_a_recipe_takes_miou_and_every_label_free_score_of_one_pipeline() -> None:
    assert get_args(get_type_hints(LoopConfig)["best"]) == ("", "miou", *NAMES)


def test_the_best_has_the_highest_score_on_the_generated_images(source: str, generated: Path, tmp_path: Path) -> None:
    settings = recipe("loop.evaluate_every=2", "loop.best=information", "loop.keep_best=9", "optimizer.lr=0.01")
    run = train(compose(), source=source, generated=generated, recipe=settings, out=tmp_path / "run")
    lines = [json.loads(line) for line in run.log.read_text(encoding="utf-8").splitlines()]
    logged = {f"best-{line['phase']}-{line['step']}": line["information"] for line in lines if "information" in line}
    assert list(logged) == ["best-warmup-2", "best-warmup-4", "best-joint-2", "best-joint-4"]
    assert not any("scores" in line or "miou" in line for line in lines)
    images = open_generated(generated).images
    for name, value in {**logged, "best": max(logged.values())}.items():
        pipeline = clouds.load(run.out / name, device="cpu", trust=["refiner"])
        assert label_free_scores(pipeline, images, names=["information"]) == {"information": value}


def test_a_label_free_score_changes_no_bit_of_the_training(source: str, generated: Path, tmp_path: Path) -> None:
    found = []
    for name, more in {"with": ["loop.evaluate_every=1", "loop.best=stability"], "without": []}.items():
        pipeline = compose()
        train(pipeline, source=source, generated=generated, recipe=recipe(*more), out=tmp_path / name)
        found.append(weights(pipeline))
    assert all((found[0][key] == found[1][key]).all() for key in found[0])


def test_another_score_starts_another_ranking(source: str, generated: Path, tmp_path: Path) -> None:
    settings = recipe("loop.evaluate_every=1", "loop.best=confidence", "loop.keep_best=99")

    def stop(phase: str, step: int, *_: object) -> None:
        if (phase, step) == ("joint", 2):
            raise KeyboardInterrupt

    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(compose(), source=source, generated=generated, recipe=settings, out=out, on_step=stop)
    pipeline = clouds.load(out / "start", device="cpu", trust=["refiner"])
    train(pipeline, resume=out, set={"loop.best": "diversity"})
    progress, _ = read_checkpoint(out)
    steps = {(one.phase, one.step) for one in progress.best}
    assert ("joint", 4) in steps
    assert ("warmup", 1) not in steps


@pytest.mark.parametrize(
    ("best", "message"),
    [
        (
            "information",
            "loop.best is 'information', which is computed on generated images without labels, but this run has none",
        ),
        ("informaton", "informaton"),
    ],
)
def test_a_score_that_cannot_be_computed_is_refused(source: str, tmp_path: Path, best: str, message: str) -> None:
    settings = {"extends": "folder", "loop": {"evaluate_every": 1, "best": best}}
    with pytest.raises(ConfigError, match=message):
        train(compose(), source=source, recipe=settings, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_refinement_needs_a_refiner(source: str, generated: Path, tmp_path: Path) -> None:
    settings = recipe("loop.evaluate_every=1", "loop.best=refinement")
    with pytest.raises(ConfigError, match=r"loop\.best is 'refinement', but the pipeline has no refiner; set refiner="):
        train(compose(refiner=None), source=source, generated=generated, recipe=settings, out=tmp_path / "run")


def test_an_ablation_scores_its_last_checkpoints_instead(source: str, tmp_path: Path) -> None:
    settings = recipe(f'data.source=["{source}"]', "joint.batch_size=4", "loop.evaluate_every=1", "loop.best=stability")
    with pytest.raises(ConfigError, match=r"loop\.best is 'stability', but an ablation compares the last checkpoints"):
        ablate(settings, arms=["source"], data=[source], out=tmp_path / "out")
