"""The arms of the evidence, the rows that it appends, and their table, without training."""

import json
from pathlib import Path

import pytest

from benchmarks import evidence, generalization
from benchmarks.table import ablation_table, read_rows
from clouds.core.system.config import to_toml
from clouds.training.ablation_arms import Inputs, arm_recipes, parse_arms
from clouds.training.recipe import load_recipe


@pytest.mark.parametrize("arms", [evidence.PLAIN, evidence.SAMPLED], ids=["plain", "sampled"])
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


def test_rows_are_appended_once_and_make_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "RESULTS", tmp_path)
    monkeypatch.setattr(evidence, "append", lambda name, rows: _append(tmp_path / f"{name}.jsonl", rows))
    scores = {"source": (30.0, 32.0), "clouds": (36.0, 37.0)}
    for seeds in ((0,), (0, 1)):
        (tmp_path / evidence.ROWS).write_text(
            "".join(
                json.dumps({"arm": arm, "seed": seed, "miou": found[seed], "domains": {"val": {"iou": {"road": 1.0}}}})
                + "\n"
                for arm, found in scores.items()
                for seed in seeds
            ),
            encoding="utf-8",
        )
        evidence._append(tmp_path, {"source": "source only", "clouds": "photographs"})
    rows = read_rows("ablation", tmp_path)
    assert [(one["provider"], one["seed"]) for one in rows] == [
        ("source only", 0),
        ("photographs", 0),
        ("source only", 1),
        ("photographs", 1),
    ]
    assert ablation_table(rows).splitlines() == [
        "| arm | mIoU in percent, by seed | mean | gain over the first |",
        "| --- | --- | --- | --- |",
        "| source only | 30.0, 32.0 | 31.0 ± 1.4 |  |",
        "| photographs | 36.0, 37.0 | 36.5 ± 0.7 | 5.5 ± 0.7 |",
    ]


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
