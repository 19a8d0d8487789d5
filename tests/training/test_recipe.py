from pathlib import Path

import pytest
from attrs import evolve
from hypothesis import example, given
from hypothesis import strategies as st

from clouds.core.system.config import parse_toml, structure
from clouds.core.system.errors import ConfigError
from clouds.data.randomize import randomize_colors
from clouds.data.transforms import Augmentation
from clouds.training.recipe import DataConfig, PhaseConfig, Recipe, TeacherConfig, load_recipe, recipe_names


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads_and_prints(name: str) -> None:
    recipe = load_recipe(name)
    assert {"backbone", "head"} <= set(recipe.model)
    assert structure(parse_toml(recipe.to_toml()), Recipe, source=name) == recipe


_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x7f"))  # DEL: TOML wants it escaped
_options = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | _text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3),
    max_leaves=6,
)


@given(model=st.dictionaries(_text, _options, max_size=4))
@example(model={"\ufffe": []})
def test_options_of_any_kind_survive_printing(model: dict[str, object]) -> None:
    recipe = evolve(load_recipe("base"), model=model)
    assert parse_toml(recipe.to_toml())["model"] == model


def test_relative_paths_lie_below_the_root(tmp_path: Path) -> None:
    given = ["data.source=gta5:games/gta5:train", f"data.evaluation=['acdc-fog:acdc:val', 'folder:{tmp_path}']"]
    assert load_recipe("folder", given).data.source == ("gta5:games/gta5:train",)
    data = load_recipe("folder", [*given, "data.root=/sets", "data.generated=sd"]).data
    assert data.source == ("gta5:/sets/games/gta5:train",)
    assert data.generated == "/sets/sd"
    assert data.evaluation == ("acdc-fog:/sets/acdc:val", f"folder:{tmp_path}")
    assert data.located() == data
    index = ["data.sampler=rare-classes", 'data.sampler.index=["gta5.json"]', "data.root=/sets"]
    assert load_recipe("folder", [*given, *index]).data.sampler == {
        "name": "rare-classes",
        "index": ["/sets/gta5.json"],
    }
    relative = DataConfig(root="sets", source=("gta5:gta5",)).located()
    assert relative.source == (f"gta5:{Path.cwd()}/sets/gta5",)
    assert relative.located() == relative


def test_a_wrong_spec_below_a_root_is_named() -> None:
    with pytest.raises(ConfigError, match="dataset spec 'gta' names no kind"):
        load_recipe("folder", ["data.root=/sets", "data.source=gta"])


def test_every_choice_about_views_reaches_them() -> None:
    changed = {
        "crop": (64, 96),
        "scale": (1.0, 1.5),
        "flip": False,
        "distortion": False,
        "crop_offsets": "diagonal",
        "label_resize": "nearest",
        "cat_max_ratio": 0.75,
        "distort_padding": True,
    }
    assert DataConfig(**changed).augmentation() == Augmentation(**changed)
    assert DataConfig(augmentations=("randomize",)).augmentation().changes == (randomize_colors,)


def test_recipes_say_only_what_differs() -> None:
    base, folder = load_recipe("base"), load_recipe("folder")
    assert folder.teacher.decay != base.teacher.decay
    assert folder.optimizer.weight_decay == base.optimizer.weight_decay


def test_assignments_reach_every_depth() -> None:
    recipe = load_recipe("folder", ["warmup.steps=7", "data.source=folder:/photos", "model.head.width=32"])
    assert recipe.warmup.steps == 7
    assert recipe.data.source == ("folder:/photos",)
    assert recipe.model["head"] == {"name": "linear", "width": 32}


def test_a_table_sets_its_keys_and_leaves_the_others() -> None:
    changed = load_recipe(
        "folder", {"optimizer": {"lr": 0.5}, "warmup": {"steps": 7}, "model": {"refiner": "identity"}}
    )
    assert changed == load_recipe("folder", ["optimizer.lr=0.5", "warmup.steps=7", "refiner=identity"])
    head = {"name": "linear", "width": 32}
    assert load_recipe("folder", {"head": head}).model["head"] == head  # a part is one value


def test_keys_of_the_model_may_stand_alone() -> None:
    short = load_recipe("folder", ["refiner=identity", "head.width=32", "dtype=bfloat16", "seed=4"])
    whole = ["model.refiner=identity", "model.head.width=32", "model.dtype=bfloat16", "seed=4"]
    assert short == load_recipe("folder", whole)


def test_another_refiner_comes_with_its_defaults_or_with_the_published_options() -> None:
    published = load_recipe("gta-convnext-l").model["refiner"]
    assert load_recipe("gta-convnext-l", ["refiner=sam-vit-h"]).model["refiner"] == "sam-vit-h"
    kept = load_recipe("gta-convnext-l", ["refiner.name=sam-vit-h"]).model["refiner"]
    assert kept == {**published, "name": "sam-vit-h"}


def test_recipes_can_be_files(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('extends = "folder"\nseed = 3\n[joint]\nsteps = 5\n', encoding="utf-8")
    recipe = load_recipe(path)
    assert (recipe.seed, recipe.joint.steps, recipe.joint.batch_size) == (3, 5, 8)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("foldr", [], "unknown recipe 'foldr'; did you mean 'folder'"),
        ("folder", ["warmup.step=3"], r"extra fields found \(step\) @ \$\.warmup"),
        ("folder", ["warmup.steps=many"], r"'many' is not of type int @ \$\.warmup\.steps"),
        (
            "folder",
            ["data.randomize=true"],
            r'^recipe folder: data\.randomize has .*; write data\.augmentations = \["rand',
        ),
        (
            "folder",
            ["data.rare_classes.index=[]"],
            r'data\.rare_classes has .* data\.sampler = \{name = "rare-classes"',
        ),
        ("folder", ["data.crop=[100,64]"], r"data\.crop is \[100, 64\]; both sides must be multiples of 32"),
    ],
)
def test_faults_are_named(name: str, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe(name, overrides)


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="source_factors has 1 values for 2 sources"):
        DataConfig(source=("a", "b"), source_factors=(1.0,))
    with pytest.raises(ConfigError, match="source_weights has 3 values for 2 sources"):
        DataConfig(source=("a", "b"), source_weights=(1.0, 1.0, 0.5))
    with pytest.raises(ConfigError, match=r"scale is \[2\.0, 1\.0\]; expected low <= high"):
        DataConfig(scale=(2.0, 1.0))
    with pytest.raises(
        ConfigError, match=r"class_mix pastes source views, but all data\.source_factors are 0; raise one"
    ):
        DataConfig(source=("a",), source_factors=(0.0,), class_mix=True)
    with pytest.raises(ConfigError, match=r"data\.sampler\.index has 1 files for 2 sources"):
        DataConfig(source=("a", "b"), sampler={"name": "rare-classes", "index": ["c"]})
    with pytest.raises(ConfigError, match="batch_size is 0; expected at least 1 and at most 1e"):
        PhaseConfig(steps=1, batch_size=0)
    with pytest.raises(ConfigError, match=r"decay is 2\.0; expected at least 0 and at most 1"):
        TeacherConfig(decay=2.0, every=1)


NUMBERS = [
    *("data.cat_max_ratio", "data.generated_weight"),
    *("data.generated_factor", "data.workers", "optimizer.lr", "optimizer.weight_decay", "optimizer.clip_norm"),
    *("optimizer.momentum", "optimizer.layer_decay", "optimizer.lr_warmup", "optimizer.power", "optimizer.gamma"),
    *("warmup.steps", "warmup.batch_size", "joint.steps", "joint.batch_size"),
    *("teacher.decay", "teacher.every", "teacher.confidence", "teacher.class_confidence"),
    "teacher.weight_threshold",
    *("loop.accumulate", "loop.checkpoint_every", "loop.keep", "loop.evaluate_every", "loop.keep_best"),
    "seed",
]
TUPLES = [
    *("data.source_factors", "data.source_weights", "data.scale", "data.crop", "optimizer.milestones"),
    "teacher.scales",
]


def test_every_number_of_a_recipe_is_in_the_list_above() -> None:
    tables = {name: value for name, value in load_recipe("base").to_dict().items() if name != "model"}
    numbers = {
        f"{table}.{key}"
        for table, values in tables.items()
        if isinstance(values, dict)
        for key, value in values.items()
        if type(value) in (int, float)
    }
    assert numbers | {"seed"} == set(NUMBERS)


@pytest.mark.parametrize("value", ["-1", "-0.5", "1e30", "nan", "inf", "-inf", "1" + 30 * "0"])
@pytest.mark.parametrize("key", NUMBERS)
def test_every_number_of_a_recipe_has_a_range(key: str, value: str) -> None:
    table, _, name = key.rpartition(".")
    place = rf" @ \$\.{table}$" if table else r" @ \$$"
    with pytest.raises(ConfigError, match=rf"{name} is .*; expected .*{place}|is not of type int @ \$\.{key}"):
        load_recipe("folder", [f"{key}={value}"])


@pytest.mark.parametrize("key", TUPLES)
@pytest.mark.parametrize("value", ["-1", "1e30", "nan", "inf"])
def test_every_number_of_a_tuple_has_a_range(key: str, value: str) -> None:
    table, _, name = key.partition(".")
    with pytest.raises(ConfigError, match=rf"{name} is \(.*; expected .* @ \$\.{table}$|is not of type int"):
        load_recipe("folder", [f"{key}=[{value}, {value}]"])


@pytest.mark.parametrize("key", ["optimizer.lr", "optimizer.layer_decay"])
def test_a_recipe_that_would_train_nothing_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key.partition('.')[2]} is 0.*; expected more than 0"):
        load_recipe("folder", [f"{key}=0"])


def test_a_recipe_that_extends_itself_is_named(tmp_path: Path) -> None:
    first, second = tmp_path / "a.toml", tmp_path / "b.toml"
    first.write_text(f'extends = "{second}"\n', encoding="utf-8")
    second.write_text(f'extends = "{first}"\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"a\.toml extends itself: .*a\.toml -> .*b\.toml -> .*a\.toml; remove one"):
        load_recipe(first)
    first.write_text("extends = 3\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"a\.toml: extends is 3; expected one name or \.toml file"):
        load_recipe(first)


def test_a_home_folder_of_nobody_is_named() -> None:
    with pytest.raises(ConfigError, match=r"~nobody-here/x: no home folder of that user; give the path itself"):
        load_recipe("folder", ["data.root=~nobody-here/x"])
