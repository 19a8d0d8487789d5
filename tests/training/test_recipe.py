from pathlib import Path

import pytest

from clouds.core.errors import ConfigError
from clouds.training.recipe import DataConfig, PhaseConfig, TeacherConfig, load_recipe, recipe_names


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads(name: str) -> None:
    recipe = load_recipe(name)
    assert {"backbone", "head"} <= set(recipe.model)


def test_recipes_say_only_what_differs() -> None:
    base, folder = load_recipe("base"), load_recipe("folder")
    assert folder.teacher.decay != base.teacher.decay
    assert folder.optimizer.weight_decay == base.optimizer.weight_decay


def test_assignments_reach_every_depth() -> None:
    recipe = load_recipe("folder", ["warmup.steps=7", "data.source=folder:/photos", "model.head.width=32"])
    assert recipe.warmup.steps == 7
    assert recipe.data.source == ("folder:/photos",)
    assert recipe.model["head"] == {"name": "linear", "width": 32}


def test_recipes_can_be_files(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('extends = "folder"\nseed = 3\n[joint]\nsteps = 5\n')
    recipe = load_recipe(path)
    assert (recipe.seed, recipe.joint.steps, recipe.joint.batch_size) == (3, 5, 8)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("foldr", [], "unknown recipe 'foldr'; did you mean 'folder'"),
        ("folder", ["warmup.step=3"], r"extra fields found \(step\) @ \$\.warmup"),
        ("folder", ["warmup.steps=many"], r"'many' is not of type int @ \$\.warmup\.steps"),
        ("folder", ["data.crop=[100,64]"], r"data\.crop is \[100, 64\]; both sides must be multiples of 32"),
    ],
)
def test_faults_are_named(name: str, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe(name, overrides)


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="source_factors has 1 values for 2 sources"):
        DataConfig(source=("a", "b"), source_factors=(1.0,))
    with pytest.raises(ConfigError, match=r"scale is \[2\.0, 1\.0\]; expected 0 < low <= high"):
        DataConfig(scale=(2.0, 1.0))
    with pytest.raises(ConfigError, match="steps >= 0 and batch_size >= 1, got 1 and 0"):
        PhaseConfig(steps=1, batch_size=0)
    with pytest.raises(ConfigError, match=r"decay in 0\.\.1, .* got 2\.0, 0\.0 and 1"):
        TeacherConfig(decay=2.0, every=1)
