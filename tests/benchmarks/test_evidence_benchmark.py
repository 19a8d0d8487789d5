"""The arms of the evidence, the rows that it appends, and their table, without training."""

import json
from pathlib import Path

import pytest

from benchmarks import evidence, generalization
from benchmarks.arm_tables import ablation_classes_table, ablation_table, label_free_table
from benchmarks.rows import read_rows
from clouds.core.system.config import to_toml
from clouds.evaluation.spread import Spread
from clouds.training.ablation_arms import Inputs, arm_recipes, parse_arms
from clouds.training.recipe import load_recipe


@pytest.mark.parametrize("arms", [evidence.PLAIN, evidence.SAMPLED])
def test_every_arm_is_valid_and_starts_from_the_same_warm_up(arms: dict[str, str]) -> None:
    recipe = load_recipe("folder", {**evidence.RECIPE, "data.source": ["folder:a", "folder:b"], "data.generated": "c"})
    inputs = Inputs(recipe=recipe, images=3421.0, generated=734, exact="", ceiling=("folder:d",))
    made = {arm.name: arm_recipes(arm, inputs, seed=0) for arm in parse_arms(list(arms))}
    assert len({one.start for name, one in made.items() if name != "ceiling"}) == 1
    assert {one.joint.joint.steps for one in made.values()} == {150}
    alone = {name for name, one in made.items() if not one.joint.data.generated}
    assert alone == {"source", "ceiling"} & made.keys()
    for name, one in made.items():
        assert one.joint.joint.batch_size == (8 if name in alone else 16)


def test_the_arm_with_everything_is_the_recipe_photographs() -> None:
    data = {"data.source": ["folder:a", "folder:b"], "data.generated": "c"}
    inputs = Inputs(
        recipe=load_recipe("folder", {**evidence.RECIPE, **data}), images=1.0, generated=1, exact="", ceiling=()
    )
    (full,) = (arm for arm in parse_arms(list(evidence.PLAIN)) if arm.name == "clouds")
    mine, released = arm_recipes(full, inputs, seed=0).joint, load_recipe("photographs", data)
    for part in ("optimizer", "warmup", "joint", "teacher", "loss"):
        assert getattr(mine, part) == getattr(released, part)
    assert {key: mine.model[key] for key in released.model if key not in ("generator", "prompter")} == {
        key: value for key, value in released.model.items() if key not in ("generator", "prompter")
    }


TITLES = {
    "plain": {"source": "source only", "clouds": "photographs", "ceiling": "own labels"},
    "sampled": {"source": "source only; rare classes", "clouds": "photographs; rare classes"},
}
SCORES = {
    "plain": {"source": (30.0, 32.0), "clouds": (36.0, 37.0), "ceiling": (60.0, 60.0)},
    "sampled": {"source": (34.0, 33.0), "clouds": (38.0, 39.0)},
}


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """Rows of two seeds of both ablations, of which the first seed was written before."""
    monkeypatch.setattr(evidence, "RESULTS", tmp_path)
    monkeypatch.setattr(evidence, "append", lambda name, rows: _append(tmp_path / f"{name}.jsonl", rows))
    for seeds in ((0,), (0, 1)):
        for ablation, scores in SCORES.items():
            made = [_row(arm, seed, found[seed]) for arm, found in scores.items() for seed in seeds]
            (tmp_path / ablation).mkdir(exist_ok=True)
            (tmp_path / ablation / evidence.ROWS).write_text(
                "".join(f"{json.dumps(one)}\n" for one in made), encoding="utf-8"
            )
            evidence._append(tmp_path / ablation, TITLES[ablation])
            for _ in range(2 if seeds == (0, 1) and ablation == "plain" else 0):  # the second call finds the row
                evidence._append_teacher({"train": {"road": Spread(mean=80.0, deviation=1.0), "train": None}}, [0, 1])
    return read_rows("ablation", tmp_path)


def _row(arm: str, seed: int, miou: float) -> dict[str, object]:
    iou = {"road": miou + 1, "train": None}
    found = {"arm": arm, "seed": seed, "miou": miou, "domains": {"val": {"iou": iou}}}
    return found if arm == "ceiling" else {**found, "label_free": {"sure": -miou}}


def test_rows_are_appended_once(rows: list[dict[str, object]]) -> None:
    arms = [(one["provider"], one["seed"]) for one in rows if "seed" in one]
    assert len(arms) == len(set(arms)) == 10
    assert arms[:2] == [("source only", 0), ("photographs", 0)]
    (teacher,) = (one for one in rows if one["provider"] == evidence.TEACHER)
    assert teacher["classes"] == {"road": 80.0}


def test_the_table_has_gains_over_the_first_and_over_the_own_source_arm(rows: list[dict[str, object]]) -> None:
    assert ablation_table(rows).splitlines() == [
        "| arm | mIoU in percent, by seed | mean | gain over the first | over its own source only |",
        "| --- | --- | --- | --- | --- |",
        "| source only | 30.0, 32.0 | 31.0 ± 1.4 |  |  |",
        "| photographs | 36.0, 37.0 | 36.5 ± 0.7 | 5.5 ± 0.7 | 5.5 ± 0.7 |",
        "| own labels | 60.0, 60.0 | 60.0 ± 0.0 | 29.0 ± 1.4 | 29.0 ± 1.4 |",
        "| source only; rare classes | 34.0, 33.0 | 33.5 ± 0.7 | 2.5 ± 2.1 |  |",
        "| photographs; rare classes | 38.0, 39.0 | 38.5 ± 0.7 | 7.5 ± 0.7 | 5.0 ± 1.4 |",
    ]


def test_the_table_of_classes_ends_with_the_first_teacher(rows: list[dict[str, object]]) -> None:
    lines = ablation_classes_table(rows).splitlines()
    assert lines[0] == "| IoU in percent | road |"
    assert lines[2] == "| source only | 32.0 |"
    assert lines[-1] == "| first teacher, correct pixels | 80.0 |"


def test_scores_are_ranked_without_the_arm_that_has_seen_labels(rows: list[dict[str, object]]) -> None:
    lines = label_free_table(rows).splitlines()
    assert lines[0] == "| score | rank correlation | 95 % interval | its choice | mIoU | below the best |"
    assert lines[2] == "| sure | -1.00 | -1.00 to -1.00 | source only, seed 0 | 30.0 | 9.0 |"
    assert "over 8 checkpoints" in lines[-1]
    assert "over 4 groups" in lines[-1]


def _append(path: Path, rows: list[dict[str, object]]) -> None:
    with path.open("a", encoding="utf-8") as stream:
        stream.writelines(json.dumps(one) + "\n" for one in rows)


def test_the_folding_of_the_photographs_is_written_as_toml(tmp_path: Path) -> None:
    (tmp_path / "data" / "images").mkdir(parents=True)
    (tmp_path / "data" / "labels").mkdir()
    spec = generalization.photographs(tmp_path / "data", tmp_path / "links")
    assert spec == f"folder:{tmp_path / 'links'}"
    assert (tmp_path / "links" / "dataset.toml").read_text(encoding="utf-8") == to_toml({"fold": generalization.FOLD})
    assert (tmp_path / "links" / "images").resolve() == tmp_path / "data" / "images"
