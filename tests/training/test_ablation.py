"""Ablations of tiny models: shared warm-ups, equal steps, exact continuation, and what they write."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from attrs import evolve
from training_helpers import TINY, assert_same, compose, recipe, weights, write_source

import clouds
from clouds.core.contract.plan import PlanError
from clouds.core.system.errors import ConfigError, DataError
from clouds.training.ablation import COUNTS, ablate
from clouds.training.recipe import Recipe
from clouds.training.run_folder import read_recipe

SAMPLER = {"name": "rare-classes", "index": ["index.json"]}
OWN = "sure=teacher.confidence=0.5+optimizer.lr=2e-3"


@pytest.fixture
def settings(source: str, tmp_path: Path) -> Recipe:
    """A recipe with a source of 5 images and 3 generated ones with exact labels."""
    drawn = compose(generator="procedural")
    made = clouds.generate(drawn, 3, out=tmp_path / "drawn", prompts=["a street"], size=(32, 64), keep_labels=True)
    return recipe(
        *(f'data.source=["{source}"]', f"data.generated={made.folder}", "joint.batch_size=4", "device=cpu"),
        "data.generated_weight=0.5",
        *('head={name="linear",width=8}', f"backbone={json.dumps(TINY).replace(':', '=')}"),
        *("warmup.steps=2", "joint.steps=2", "loop.checkpoint_every=1", "loop.evaluate_every=1"),
    )


@pytest.fixture
def target(tmp_path: Path) -> str:
    return f"{write_source(tmp_path / 'target', count=3)}:train"


def test_arms_share_the_warm_up_and_the_number_of_source_images(settings: Recipe, target: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arms = ["source", "generated", "refined", "exact", "ceiling", OWN]
    result = ablate(settings, arms=arms, seeds=[0], data=[target], ceiling=[target], out=out)
    assert [arm.name for arm in result.comparison.arms] == [
        "source",
        "generated",
        "refined",
        "exact",
        "ceiling",
        "sure",
    ]
    assert len(list((out / "warmup").iterdir())) == 2  # one for all arms but `ceiling`
    recipes = {name: read_recipe(out / "arms" / name / "seed-0") for name in ("source", "generated", "exact", "sure")}
    assert [one.joint.batch_size for one in recipes.values()] == [2, 4, 4, 4]
    assert recipes["generated"].data.generated_factor == 5 / 3
    assert recipes["exact"].data.source_factors == (1.0, 5 / 3)
    assert recipes["exact"].data.source_weights == (1.0, 0.5)
    assert (recipes["sure"].teacher.confidence, recipes["sure"].optimizer.lr) == (0.5, 2e-3)
    starts = [
        clouds.load(out / "arms" / name / "seed-0" / "start", trust=["refiner"]) for name in ("source", "refined")
    ]
    assert_same(weights(starts[0]), weights(starts[1]))
    assert [one.refiner is None for one in starts] == [True, False]
    for row in map(json.loads, (out / "rows.jsonl").read_text(encoding="utf-8").splitlines()):
        assert (row["seed"], row["step"]) == (0, 4)
        report = clouds.evaluate(
            clouds.load(out / "arms" / row["arm"] / "seed-0" / "joint", trust=["refiner"]), [target]
        )
        assert row["miou"] == report.miou
    assert [point[0] for point in result.comparison.arms[0].curve(lambda one: one.miou)] == [1, 2, 3, 4]


def test_a_killed_ablation_continues_with_the_same_bits(settings: Recipe, target: str, tmp_path: Path) -> None:
    call = {"arms": ["source", "refined"], "seeds": [0, 1], "data": [target]}
    whole = ablate(settings, out=tmp_path / "whole", **call)
    for stop in (1, 3, 4):  # steps of this call, of 12 in all, until it is killed
        done = iter(range(stop))

        def kill(*_: object, done: Iterator[int] = done) -> None:
            if next(done, None) is None:
                raise KeyboardInterrupt

        with pytest.raises((KeyboardInterrupt, clouds.CloudsError)):
            ablate(settings, out=tmp_path / "killed", on_step=kill, **call)
    said: list[str] = []
    again = ablate(settings, out=tmp_path / "killed", say=said.append, **call)
    assert said
    assert again.to_json() == whole.to_json()
    for name in ("rows.jsonl", "table.txt"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    runs = [clouds.load(tmp_path / one / "arms/refined/seed-1/joint", trust=["refiner"]) for one in ("whole", "killed")]
    assert_same(weights(runs[0]), weights(runs[1]))


def test_more_arms_and_seeds_are_added(settings: Recipe, target: str, tmp_path: Path) -> None:
    ablate(settings, arms=["source"], seeds=[0], data=[target], out=tmp_path / "out")
    said: list[str] = []
    arms = ["source", "generated"]
    result = ablate(settings, arms=arms, seeds=[0, 1], data=[target], out=tmp_path / "out", say=said.append)
    assert len(said) == 4  # a warm-up and three runs
    assert "/seed-0" not in "".join(line for line in said if "source" in line)
    source, generated = result.comparison.arms
    gain = generated.gain(source)
    own, base = ({run.seed: run.evaluations[-1].miou or 0.0 for run in arm.runs} for arm in (generated, source))
    assert gain is not None
    assert gain.mean == pytest.approx(np.mean([own[seed] - base[seed] for seed in (0, 1)]))
    assert result.intervals["source"][1] is None
    table, page = ((tmp_path / "out" / name).read_text(encoding="utf-8") for name in ("table.txt", "report.html"))
    assert "gain, over images" in table
    for words in (
        "Arms",
        "mIoU during training",
        "Labels of the first teacher",
        "Confusions",
        "Image by image",
        "data:image/png",
    ):
        assert words in page


def test_the_first_teacher_is_measured_on_pictures_with_labels(settings: Recipe, target: str, tmp_path: Path) -> None:
    result = ablate(settings, arms=["source"], seeds=[0], data=[target], out=tmp_path / "one")
    (warm,) = (tmp_path / "one" / "warmup").iterdir()
    report = clouds.evaluate(clouds.load(warm / "warmup"), [f"folder:{tmp_path / 'one' / 'exact'}:train"])
    expected = report.domains["exact:train"].accuracy
    assert {name: value and value.mean for name, value in result.teacher["exact:train"].items()} == expected
    measured = ablate(settings, arms=["source"], seeds=[0], data=[target], ceiling=[target], out=tmp_path / "two")
    assert list(measured.teacher) == ["target:train"]


def test_an_arm_with_another_model_has_its_own_warm_up(settings: Recipe, target: str, tmp_path: Path) -> None:
    arms = ["source", "wide=source+head.width=16"]
    ablate(settings, arms=arms, seeds=[0], data=[target], out=tmp_path / "out")
    assert len(list((tmp_path / "out" / "warmup").iterdir())) == 2
    wide = clouds.load(tmp_path / "out" / "arms" / "wide" / "seed-0" / "joint")
    assert any(16 in value.shape for value in wide.head.state_dict().values())


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ([], "an ablation needs arms: source, generated, refined, exact, ceiling, or NAME=key=value"),
        (["sauce"], "arm 'sauce' is unknown; did you mean 'source'.*NAME=key=value"),
        (["own=refind+teacher.every=1"], "arm 'own': 'refind' is no built-in arm"),
        (["own=refined"], "arm 'own' changes nothing; write own=refined.key=value"),
        (["source=teacher.every=1"], "arm 'source' is built in and cannot be changed"),
        (["source", "source"], "arm 'source' is listed twice"),
        (["own=teacher.evry=1"], "evry"),
        (["ceiling"], "arm 'ceiling' needs the target's own labels; give ceiling=SPEC"),
        (["source", 'own=loss.terms=["feature-distanse"]'], "unknown loss 'feature-distanse'; did you mean"),
        (["source", "own=data.sampler=rare"], "unknown sampler 'rare'"),
        (["source", "own=head=liner"], "unknown head 'liner'; did you mean 'linear'"),
        (["source", "own=seed=7"], "arm 'own' sets the seed; all arms have those of `seeds`: leave it out"),
    ],
)
def test_bad_arms_are_named_before_anything_is_trained(
    settings: Recipe, target: str, tmp_path: Path, arms: list[str], message: str
) -> None:
    with pytest.raises((ConfigError, PlanError), match=message):
        ablate(settings, arms=arms, data=[target], out=tmp_path / "out")
    assert not (tmp_path / "out" / "warmup").exists()


@pytest.mark.parametrize(
    ("values", "arm", "message"),
    [
        ({"data.generated": ""}, "generated", "arm 'generated' needs generated images; set data.generated=FOLDER"),
        ({"data.sampler": SAMPLER}, "ceiling", "arm 'ceiling' needs other sources than data.sampler.index counts"),
        ({"joint.batch_size": 3}, "source", "joint.batch_size is 3; an ablation needs an even number"),
        ({"data.source": []}, "source", "no source to train on; set data.source=folder:PATH"),
    ],
)
def test_what_the_recipe_lacks_is_named(
    settings: Recipe, target: str, tmp_path: Path, values: dict[str, object], arm: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        ablate(settings, arms=[arm], data=[target], out=tmp_path / "out", set=values)


def test_a_refiner_must_be_there(settings: Recipe, target: str, tmp_path: Path) -> None:
    without = evolve(settings, model={key: value for key, value in settings.model.items() if key != "refiner"})
    with pytest.raises(ConfigError, match="arm 'refined' needs a refiner; set refiner=NAME"):
        ablate(without, arms=["refined"], data=[target], out=tmp_path / "out")


def test_exact_labels_must_be_there(settings: Recipe, generated: Path, target: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"arm 'exact' needs an exact label map for each image of {generated}"):
        ablate(settings, arms=["exact"], data=[target], out=tmp_path / "out", set={"data.generated": str(generated)})


def test_seeds_must_differ(settings: Recipe, target: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"seeds: expected one or more different numbers, got \[1, 1\]"):
        ablate(settings, arms=["source"], data=[target], out=tmp_path / "out", seeds=[1, 1])


def test_a_folder_of_something_else_is_refused(settings: Recipe, target: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ablate(settings, arms=["source", OWN], seeds=[0], data=[target], out=out)
    with pytest.raises(ConfigError, match=f"{out} holds another ablation: its ablation.json differs"):
        ablate(settings, arms=["source"], seeds=[0], data=[target], out=out, set={"optimizer.lr": 0.5})
    with pytest.raises(ConfigError, match="sure/seed-0 holds a run with another recipe; give the arm another name"):
        ablate(settings, arms=["sure=teacher.confidence=0.1"], seeds=[0], data=[target], out=out)
    (out / "arms" / "source" / "seed-0" / COUNTS).write_bytes(b"PK no archive")
    with pytest.raises(DataError, match=r"images.npz: cannot be read .*; remove it, and repeat the call"):
        ablate(settings, arms=["source"], seeds=[0], data=[target], out=out)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "note.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(DataError, match=r"is not empty and has no ablation\.json"):
        ablate(settings, arms=["source"], seeds=[0], data=[target], out=tmp_path / "other")


@pytest.mark.parametrize("arm", ["generated", "refined", "exact"])
def test_a_generated_set_without_images_is_named(settings: Recipe, target: str, tmp_path: Path, arm: str) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "manifest.jsonl").touch()  # as a run leaves it that was killed before its first image
    none = {"data.generated": str(tmp_path / "none")}
    with pytest.raises(ConfigError, match=f"arm '{arm}' needs generated images, but {tmp_path / 'none'} has none"):
        ablate(settings, arms=[arm], data=[target], out=tmp_path / "out", set=none)
