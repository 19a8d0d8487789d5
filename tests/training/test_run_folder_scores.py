"""Runs that were trained, read back from their folders and compared."""

import json
from pathlib import Path

import pytest
from training_helpers import compose, recipe

import clouds
from clouds.core.system.errors import ConfigError, DataError
from clouds.training.run_folder import read_run
from clouds.training.train import train

EVALUATED = ("loop.evaluate_every=2", "loop.evaluate_start=true", "warmup.steps=3", "joint.steps=2")


def write_run(folder: Path, *lines: object) -> Path:
    """A run's folder with a recipe and these lines of a log."""
    folder.mkdir(parents=True)
    (folder / "recipe.json").write_text(json.dumps(recipe("warmup.steps=100").to_dict()), encoding="utf-8")
    (folder / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    return folder


def line(step: int, phase: str = "warmup", **more: object) -> dict[str, object]:
    scores = {"day": {"images": 2, "miou": 50.0 + step, "iou": {"road": 50.0 + step}}}
    return {"phase": phase, "step": step, "loss": 1.0, "scores": scores, **more}


def test_trained_runs_are_compared(source: str, generated: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        settings = recipe(*EVALUATED, f'data.evaluation=["{source}"]', f"seed={seed}")
        train(compose(), source=source, generated=generated, recipe=settings, out=tmp_path / f"plain-{seed}")
    settings = recipe(*EVALUATED, f'data.evaluation=["{source}"]', "optimizer.lr=1e-2", "data.workers=1")
    train(compose(), source=source, recipe=settings, out=tmp_path / "faster")
    comparison = clouds.compare([tmp_path / name for name in ("plain-0", "plain-1", "faster")])
    plain, faster = comparison.arms
    assert (plain.name, plain.seeds, plain.steps) == ("plain", (0, 1), (0, 2, 5))
    assert (faster.name, faster.steps) == ("faster", (0, 2))
    assert comparison.differences.keys() == {"data.generated", "data.workers", "optimizer.lr"}
    pipeline = clouds.load(tmp_path / "plain-1" / "joint", device="cpu")
    (name,) = comparison.domains
    last = json.loads(comparison.to_json())["arms"][0]["runs"][1]["per_domain"][name]
    assert last == pytest.approx(clouds.evaluate(pipeline, [source]).miou)


def test_steps_count_over_the_phases_that_a_run_had(tmp_path: Path) -> None:
    both = write_run(tmp_path / "both", line(50), {"phase": "warmup", "step": 100}, line(10, "joint"))
    joint = write_run(tmp_path / "joint", line(0, "joint"), line(10, "joint"))
    assert [one.step for one in read_run(both, name="a").evaluations] == [50, 110]
    assert [one.step for one in read_run(joint, name="b").evaluations] == [0, 10]


def test_a_run_that_still_writes_can_be_read(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", line(1))
    with open(run / "log.jsonl", "a", encoding="utf-8") as stream:
        stream.write('{"phase": "warmup", "step": 2, "scores": {"day"')
    assert [one.step for one in read_run(run, name="a").evaluations] == [1]


def test_runs_of_one_name_are_told_apart_by_their_path(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / one / "run", line(step, extra=step)) for step, one in ((1, "a"), (2, "b"))]
    comparison = clouds.compare(runs)
    assert [arm.name for arm in comparison.arms] == list(map(str, runs))


@pytest.mark.parametrize(
    ("spoiled", "message"),
    [
        ('{"scores"', r"log\.jsonl, line 2: not a line of a log \(JSONDecodeError: .*\); remove the line"),
        ('["scores"]', r"log\.jsonl, line 2: not a line of a log \(TypeError: .*\); remove the line"),
        ('{"step": 1, "scores": {}}', r"log\.jsonl, line 2: not a line of a log \(KeyError: 'phase'\); remove the"),
        ('{"phase": "x", "step": 1, "scores": {}}', r"log\.jsonl, line 2: .*phase.*; remove the line"),
        (json.dumps(line(60)), r"log\.jsonl, line 2: .*miou is 110\.0; expected at least 0 and at most 100.*; remove"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, spoiled: str, message: str) -> None:
    run = write_run(tmp_path / "run", line(1))
    with open(run / "log.jsonl", "a", encoding="utf-8") as stream:
        stream.write(spoiled + "\n")
    with pytest.raises(DataError, match=message):
        read_run(run, name="a")


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=f"^{tmp_path}: not the folder of a run: has no recipe.json; give the --out of"
    ):
        clouds.compare([tmp_path])
    run = write_run(tmp_path / "run", line(1))
    with pytest.raises(ConfigError, match=f"^{run} is listed twice; list each run once"):
        clouds.compare([run, run])
    (run / "log.jsonl").unlink()
    with pytest.raises(ConfigError, match=f"^{run}: not the folder of a run: has no log.jsonl; give the --out of"):
        clouds.compare([run])


def test_a_run_of_before_there_were_scores_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"phase": "warmup", "step": 1, "loss": 1.0, "miou": 50.0})
    with pytest.raises(
        ConfigError, match=r"^run: has no evaluation with scores per domain; train with data\.evaluation"
    ):
        clouds.compare([run])
