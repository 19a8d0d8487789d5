"""Released recipes train and evaluate on data as they are downloaded; only sizes are those of a test."""

import json
from pathlib import Path

import numpy as np
import pytest
from attrs import evolve
from layout_helpers import TREES, Tree

import clouds
from clouds.cli.app import main

SMALL = [
    *("backbone=tiny", "device=cpu", "head.queries=8", "head.width=64", "head.layers=2", "head.encoder_layers=1"),
    *("head.points=64", "data.crop=[64,64]", "data.workers=0", "loop.evaluate_every=2"),
    *("warmup.steps=2", "warmup.batch_size=2", "joint.steps=2", "joint.batch_size=4"),
]


def in_val(tree: Tree) -> Tree:
    image, label = (path.replace("/train/", "/val/") for path in (tree.image, tree.label))
    return evolve(tree, image=image, label=label, split="val", beside=())


EVALUATED = {
    "gta-r50": {name: in_val(TREES[name]) for name in ("mapillary", "bdd100k", "cityscapes")},
    "synthia-convnext-l": {name: in_val(TREES[name]) for name in ("mapillary", "bdd100k", "cityscapes")},
    "cityscapes-r101": {"cityscapes": in_val(TREES["cityscapes"]), **{k: t for k, t in TREES.items() if "acdc" in k}},
}


def fill(tree: Tree, root: Path) -> None:
    rng = np.random.default_rng(0)
    for name in tree.names:
        tree.add(root, name, rng.choice(np.array(tree.ids, np.uint8), (5, 6)).repeat(8, 0).repeat(8, 1))


def train(recipe: str, out: Path, *words: object) -> list[dict[str, float]]:
    settings = [word for setting in SMALL for word in ("--set", setting)]
    assert main(["train", recipe, "--out", str(out), *settings, *map(str, words)]) == 0
    return [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def root(tmp_path: Path, recipe: str) -> Path:
    source = recipe.partition("-")[0].replace("gta", "gta5")
    fill(TREES[source], tmp_path / source)
    for name, tree in EVALUATED[recipe].items():
        fill(tree, tmp_path / name.partition("-")[0])
    return tmp_path


@pytest.mark.parametrize("recipe", EVALUATED)
def test_the_warm_up_of_a_released_recipe(recipe: str, root: Path, tmp_path: Path) -> None:
    lines = train(recipe, tmp_path / "run", "--phase", "warmup", "--set", f"data.root={root}")
    assert len(lines) == 2
    assert all(np.isfinite(line["loss"]) for line in lines)
    assert "miou" in lines[1]


@pytest.mark.parametrize("recipe", ["gta-r50"])
def test_the_joint_phase_goes_on_from_the_warm_up(recipe: str, root: Path, tmp_path: Path) -> None:
    pipeline = clouds.compose(backbone="tiny", head="linear", generator="procedural", prompter="grammar", device="cpu")
    clouds.generate(pipeline, 2, out=root / "generated", size=(64, 64))
    train(recipe, tmp_path / "warm", "--phase", "warmup", "--set", f"data.root={root}")
    words = ["--phase", "joint", "--init", tmp_path / "warm" / "warmup", "--set", "refiner=regions"]
    lines = train(recipe, tmp_path / "run", *words, "--set", f"data.root={root}")
    assert [line["phase"] for line in lines] == ["joint", "joint"]
    assert clouds.load(tmp_path / "run" / "joint").plan.parts[clouds.Kind.REFINER].name == "regions"
