import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from cli_helpers import SMALL_RECIPE, Outcome, Run, assert_one_line
from PIL import Image

import clouds
from clouds.core.contract.labels import CITYSCAPES
from clouds.training.recipe import load_recipe
from clouds.training.steps import train_step

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (40, 50, 3), np.uint8)
RELEASED = [
    f"{source}-{backbone}" for source in ("gta", "synthia", "cityscapes") for backbone in ("convnext-l", "r50", "r101")
]


class TestPlan:
    def test_it_prints_the_parts(self, run: Run) -> None:
        outcome = run("plan", "folder", "--set", "model.head.width=32")
        assert outcome.code == 0
        assert "# head: linear(width=32, detail=None, detail_weight=0.1)" in outcome.out

    def test_what_it_prints_is_the_whole_recipe(self, run: Run, tmp_path: Path) -> None:
        path = tmp_path / "mine.toml"
        path.write_text(run("plan", "folder", "--set", "seed=7").out, encoding="utf-8")
        assert load_recipe(path) == load_recipe("folder", ["seed=7"])

    def test_json_is_a_plan_with_its_recipe(self, run: Run) -> None:
        text = run("plan", "folder", "--json").out
        assert clouds.Plan.from_json(text).parts[clouds.Kind.BACKBONE].name == "tiny"
        assert json.loads(text)["recipe"]["warmup"]["steps"] == 1500

    def test_a_phase_needs_less(self, run: Run) -> None:
        kinds = {
            phase: list(clouds.Plan.from_json(run("plan", "folder", "--json", *option).out).parts)
            for phase, option in (("all", ()), ("warmup", ("--phase", "warmup")), ("joint", ("--phase", "joint")))
        }
        assert kinds["all"] == ["backbone", "generator", "refiner", "head", "prompter"]
        assert kinds["warmup"] == ["backbone", "head"]
        assert kinds["joint"] == ["backbone", "refiner", "head"]

    def test_a_released_recipe_prints_and_names_what_is_missing(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CLOUDS_PLUGINS", "")
        outcome = run("plan", "gta-convnext-l", "--phase", "joint")
        assert outcome.code == 1
        assert 'crop_offsets = "diagonal"' in outcome.out
        assert "unknown refiner 'mobile-sam'" in outcome.err
        assert "-> pip install plugins/clouds-mobile-sam" in outcome.err

    def test_the_warm_up_of_every_released_recipe_can_be_planned(self, run: Run) -> None:
        for name in RELEASED:
            outcome = run("plan", name, "--phase", "warmup", "--set", "data.root=/datasets")
            assert (outcome.code, outcome.err) == (0, "")
            assert f":/datasets/{name.split('-')[0]}" in outcome.out

    def test_all_problems_come_at_once(self, run: Run) -> None:
        outcome = run("plan", "folder", "--set", "model.head=liner", "--set", "model.backbone.dims=wide")
        assert outcome.code == 1
        assert "error: the plan has 2 problems:" in outcome.err
        assert "unknown head 'liner'; did you mean 'linear'?" in outcome.err
        assert "dims='wide' is not of type" in outcome.err

    def test_a_wrong_key_of_the_model_is_named(self, run: Run) -> None:
        outcome = run("plan", "folder", "--json", "--set", "model.bakcbone=tiny")
        assert_one_line(outcome, "recipe folder: model.bakcbone is unknown; did you mean 'backbone'?")

    def test_a_model_without_parts_is_a_problem_of_the_plan(self, run: Run, tmp_path: Path) -> None:
        recipe = tmp_path / "empty.toml"
        recipe.write_text("[warmup]\nsteps = 1\nbatch_size = 1\n[joint]\nsteps = 1\nbatch_size = 1\n", encoding="utf-8")
        outcome = run("plan", recipe)
        assert outcome.code == 1
        assert "backbone: is None, but every pipeline has one -> clouds list backbone" in outcome.err

    def test_an_unknown_recipe_is_named(self, run: Run) -> None:
        assert_one_line(run("plan", "foldr"), "unknown recipe 'foldr'; did you mean 'folder'?")


def train_step_and_interrupt(*arguments: object) -> dict[str, float]:
    os.kill(os.getpid(), signal.SIGTERM)
    return train_step(*arguments)


class TestTrain:
    @pytest.fixture
    def recipe(self, tmp_path: Path) -> Path:
        path = tmp_path / "small.toml"
        path.write_text(SMALL_RECIPE, encoding="utf-8")
        return path

    def train(self, run: Run, recipe: Path, photos: Path, out: Path, *more: object) -> Outcome:
        source = f"data.source=folder:{photos}"
        return run("train", recipe, "--set", source, "--set", "model.device=cpu", "--out", out, *more)

    def test_a_trained_pipeline_can_be_loaded(self, run: Run, recipe: Path, photos: Path, tmp_path: Path) -> None:
        outcome = self.train(run, recipe, photos, tmp_path / "run", "--json")
        assert outcome.code == 0, outcome.err
        document = json.loads(outcome.out)
        assert document["steps"] == 2
        assert clouds.load(document["checkpoint"]).trained

    def test_two_runs_of_one_seed_are_equal(self, run: Run, recipe: Path, photos: Path, tmp_path: Path) -> None:
        losses = [
            json.loads(self.train(run, recipe, photos, tmp_path / name, "--json").out)["loss"] for name in ("a", "b")
        ]
        assert losses[0] == losses[1]
        other = json.loads(self.train(run, recipe, photos, tmp_path / "c", "--json", "--set", "seed=1").out)["loss"]
        assert other != losses[0]

    def test_a_phase_goes_on_from_a_saved_pipeline(
        self, run: Run, recipe: Path, photos: Path, tmp_path: Path, checkpoint: Path
    ) -> None:
        outcome = self.train(run, recipe, photos, tmp_path / "run", "--phase", "joint", "--init", checkpoint)
        assert outcome.code == 0, outcome.err
        assert outcome.out.startswith("1 steps, last loss ")
        assert (tmp_path / "run" / "joint" / "plan.json").is_file()

    def test_the_joint_phase_takes_its_refiner_from_the_recipe(
        self, run: Run, recipe: Path, photos: Path, tmp_path: Path
    ) -> None:
        self.train(run, recipe, photos, tmp_path / "a", "--phase", "warmup")
        warm = clouds.load(tmp_path / "a" / "warmup")
        assert warm.refiner is None
        refiner = ("--set", "model.refiner.cell=4")
        outcome = self.train(
            run, recipe, photos, tmp_path / "b", "--phase", "joint", "--init", tmp_path / "a" / "warmup", *refiner
        )
        assert outcome.code == 0, outcome.err
        for saved in ("start", "joint"):  # the start too, so that a resumed run has it
            part = clouds.load(tmp_path / "b" / saved).plan.parts[clouds.Kind.REFINER]
            assert (part.name, part.options["cell"]) == ("regions", 4)

    def test_a_run_goes_on_from_its_folder(self, run: Run, recipe: Path, photos: Path, tmp_path: Path) -> None:
        first = self.train(run, recipe, photos, tmp_path / "run", "--json")
        outcome = run("train", "--resume", tmp_path / "run", "--json")
        assert outcome.code == 0, outcome.err
        one, two = json.loads(first.out), json.loads(outcome.out)
        assert (two["steps"], two["checkpoint"]) == (one["steps"], one["checkpoint"])

    def test_an_interrupted_run_is_not_begun_anew(
        self, run: Run, recipe: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out = tmp_path / "run"
        monkeypatch.setattr("clouds.training.loop.train_step", train_step_and_interrupt)
        outcome = self.train(run, recipe, photos, out)
        monkeypatch.undo()
        assert_one_line(outcome, f"SIGTERM: stopped after step 1 of warmup; resume with: clouds train --resume {out}")
        again = self.train(run, recipe, photos, out)
        assert_one_line(
            again, f"{out} has a run that stopped after step 1 of warmup; continue it with clouds train --resume {out}"
        )
        refused = run("train", "--resume", out, "--set", "optimizer.lr=1")
        assert_one_line(refused, "optimizer.lr cannot change when a run resumes")
        assert run("train", "--resume", out, "--set", "data.on_error=skip").code == 0
        assert json.loads((out / "recipe.json").read_text(encoding="utf-8"))["data"]["on_error"] == "skip"
        assert_one_line(
            self.train(run, recipe, photos, out), f"{out} already has a finished run; choose another folder"
        )

    def test_a_new_run_and_one_to_go_on_with_exclude_each_other(self, run: Run, recipe: Path, tmp_path: Path) -> None:
        outcome = run("train", recipe, "--resume", tmp_path)
        assert_one_line(outcome, "--resume continues a run with its own settings; omit RECIPE", code=2)
        assert_one_line(run("train"), "a new run needs RECIPE, see clouds train --list; to continue", code=2)
        assert_one_line(run("train", "--resume", tmp_path), "recipe.json: cannot be read")

    def test_a_part_can_be_named_without_its_table(self, run: Run, recipe: Path, photos: Path, tmp_path: Path) -> None:
        outcome = self.train(run, recipe, photos, tmp_path / "run", "--phase", "joint", "--set", "refiner=identity")
        assert outcome.code == 0, outcome.err
        assert clouds.load(tmp_path / "run" / "joint").plan.parts[clouds.Kind.REFINER].name == "identity"

    def test_a_recipe_without_source_is_refused(self, run: Run, tmp_path: Path) -> None:
        assert_one_line(run("train", "folder", "--out", tmp_path / "run"), "no source to train on")
        assert not (tmp_path / "run").exists()


class TestEvaluate:
    def test_it_writes_table_json_and_report(self, run: Run, checkpoint: Path, photos: Path, tmp_path: Path) -> None:
        figures, report = tmp_path / "figures.json", tmp_path / "report"
        outcome = run("evaluate", checkpoint, "--data", f"folder:{photos}", "--json", figures, "--report", report)
        assert outcome.code == 0, outcome.err
        assert "photos:val" in outcome.out
        assert "native" in outcome.out
        document = json.loads(figures.read_text(encoding="utf-8"))
        assert set(document["per_domain"]) == {"photos:val"}
        assert json.loads((report / "report.json").read_text(encoding="utf-8")) == document
        assert "<html" in (report / "report.html").read_text(encoding="utf-8")

    def test_several_datasets_make_several_domains(
        self, run: Run, checkpoint: Path, photos: Path, tmp_path: Path
    ) -> None:
        shutil.copytree(photos, tmp_path / "more")
        specs = [f"folder:{photos}", f"folder:{tmp_path / 'more'}"]
        together = run("evaluate", checkpoint, "--data", *specs, "--json", tmp_path / "figures.json")
        repeated = run("evaluate", checkpoint, "--data", specs[0], "--data", specs[1])
        figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
        assert list(figures["per_domain"]) == ["photos:val", "more:val"]
        assert repeated == together

    def test_augmentation_is_reported(self, run: Run, checkpoint: Path, photos: Path, tmp_path: Path) -> None:
        figures, data = tmp_path / "figures.json", ("--data", f"folder:{photos}")
        outcome = run("evaluate", checkpoint, *data, "--scales", 0.5, 1, "--flip", "--window", 32, "--json", figures)
        assert outcome.code == 0, outcome.err
        assert "scores averaged over scales 0.5, 1 and their mirror images; windows of 32 x 32" in outcome.out
        assert json.loads(figures.read_text(encoding="utf-8"))["views"] == {
            "scales": [0.5, 1.0],
            "flip": True,
            "window": 32,
        }
        assert_one_line(run("evaluate", checkpoint, *data, "--scales", 0), "scales: expected different positive")

    def test_batches(self, run: Run, checkpoint: Path, photos: Path) -> None:
        """That they change nothing beyond rounding is tested with `clouds.evaluate`."""
        outcome = run("evaluate", checkpoint, "--data", f"folder:{photos}", "--batch-size", 2)
        assert (outcome.code, outcome.err) == (0, "")
        outcome = run("evaluate", checkpoint, "--data", f"folder:{photos}", "--batch-size", 0)
        assert_one_line(outcome, "--batch-size", "Must be >= 1", code=2)

    def test_a_dataset_config_folds_predictions(self, run: Run, checkpoint: Path, photos: Path, tmp_path: Path) -> None:
        config = tmp_path / "fold.toml"
        config.write_text(
            "[fold]\n" + "".join(f'"{name}" = "road"\n' for name in CITYSCAPES.names[1:]), encoding="utf-8"
        )
        figures = tmp_path / "figures.json"
        run("evaluate", checkpoint, "--data", f"folder:{photos}", "--dataset-config", config, "--json", figures)
        result = json.loads(figures.read_text(encoding="utf-8"))["domains"]["photos:val"]
        assert result["iou"]["road"] > 0  # every prediction is road now, and a third of the pixels is
        assert result["iou"]["sidewalk"] == 0

    def test_a_folder_without_pipeline_is_named(self, run: Run, photos: Path, tmp_path: Path) -> None:
        outcome = run("evaluate", tmp_path, "--data", f"folder:{photos}")
        assert_one_line(outcome, str(tmp_path), "no saved pipeline here")


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


DAMAGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "image is no picture": ("images/val/b.png", lambda path: path.write_text("hello", encoding="utf-8")),
    "image is truncated": ("images/val/b.png", damage),
    "image has 16 bits": ("images/val/b.png", lambda p: Image.fromarray(np.zeros((40, 50), np.uint16)).save(p)),
    "image has another size": ("images/val/b.png", lambda path: Image.fromarray(PIXELS[:30]).save(path)),
    "label is missing": ("images/val/b.png", lambda path: Path(str(path).replace("images", "labels")).unlink()),
    "label is truncated": ("labels/val/b.png", damage),
    "label has an unknown id": ("labels/val/b.png", lambda p: Image.fromarray(np.full((40, 50), 77, np.uint8)).save(p)),
    "label has 16 bits": ("labels/val/b.png", lambda p: Image.fromarray(np.zeros((40, 50), np.uint16)).save(p)),
    "label has colours": ("labels/val/b.png", lambda path: Image.fromarray(PIXELS).save(path)),
}


@pytest.mark.parametrize("fault", DAMAGES)
class TestDamagedDataset:
    """Every fault of a dataset: exit code 1, the file named, nothing written."""

    def test_evaluate_names_the_file(
        self, run: Run, checkpoint: Path, photos: Path, tmp_path: Path, fault: str
    ) -> None:
        name, spoil = DAMAGES[fault]
        spoil(photos / name)
        figures, report = tmp_path / "figures.json", tmp_path / "report"
        outcome = run("evaluate", checkpoint, "--data", f"folder:{photos}", "--json", figures, "--report", report)
        assert_one_line(outcome, str(photos / name))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]

    def test_datasets_check_names_the_file(self, run: Run, photos: Path, fault: str) -> None:
        name, spoil = DAMAGES[fault]
        spoil(photos / name)
        outcome = run("datasets", "check", f"folder:{photos}")
        assert (outcome.code, outcome.err) == (1, "")
        (line,) = [line for line in outcome.out.splitlines() if line.startswith("fault: ")]
        assert str(photos / name) in line
        assert outcome.out.endswith("photos:val: 2 images, 1 faults\n")


def test_the_demo_prints_its_table(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run_module = pytest.importorskip("clouds.demo.run")

    class Result:
        steps, seed, seconds, report = 20, 3, 1.5, tmp_path / "report.html"
        missing = "without frozen features"
        quality = run_module.PseudoLabelQuality(images=6, before=40.04, after=41.96)
        trained = (SimpleNamespace(title="from scratch", pseudo_labels=quality),)

        def by_arm(self) -> tuple[tuple[str, ...], list[tuple[str, float | None, float | None]]]:
            return ("mIoU in percent", "fog", "mean"), [("from scratch: source only", 31.25, None)]

        def to_json(self) -> str:
            return '{"seed": 3}\n'

    def run_demo(out: Path, *, seed: int, steps: int, on_step: Callable[..., None], say: Callable[..., None]) -> Result:
        assert (out, seed, steps) == (tmp_path, 3, 20)
        say("drawing")
        on_step("warmup", 1, 10, {"loss": 2.0})
        return Result()

    monkeypatch.setattr(run_module, "run_demo", run_demo)
    outcome = run("demo", "--out", tmp_path, "--seed", 3, "--steps", 20)
    assert outcome.code == 0
    for words in ("fog", "31.2", "from scratch: source only", "without frozen features"):
        assert words in outcome.out
    assert (
        "from scratch: pseudo-labels of 6 generated images, mIoU against the exact labels: 40.0 before" in outcome.out
    )
    assert "20 optimizer steps each, seed 3, 2 s; report: " in outcome.out
    assert outcome.err == "drawing\n"
    outcome = run("demo", "--out", tmp_path, "--seed", 3, "--steps", 20, "--json")
    assert json.loads(outcome.out) == {"seed": 3}
