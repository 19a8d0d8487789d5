"""`clouds.train` with recipes made in code: a name with values, a table, a `Recipe`."""

import json
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from training_helpers import BASE, compose, write_source

import clouds

TINY, HEAD = {"name": "tiny", "dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}, {"name": "linear", "width": 16}
TABLE: dict[str, Any] = {
    "extends": "folder",
    "data": {"crop": [32, 64]},
    "warmup": {"steps": 2, "batch_size": 2},
}


@pytest.mark.parametrize("form", ["set", "table", "recipe"])
def test_every_form_of_a_recipe_trains(form: str, tmp_path: Path) -> None:
    chosen: dict[str, Any] = {
        "set": {"recipe": "folder", "set": {"warmup.steps": 2, "warmup.batch_size": 2, "data.crop": [32, 64]}},
        "table": {"recipe": TABLE},
        "recipe": {"recipe": clouds.load_recipe(TABLE)},
    }[form]
    pipeline = compose()
    run = clouds.train(pipeline, source=write_source(tmp_path / "data"), out=tmp_path / "run", **chosen)
    assert run.steps == 2
    assert pipeline.trained
    written = json.loads((tmp_path / "run" / "recipe.json").read_text(encoding="utf-8"))
    assert (written["warmup"], written["data"]["crop"]) == ({"steps": 2, "batch_size": 2}, [32, 64])


def test_a_table_is_the_file_with_its_keys(tmp_path: Path) -> None:
    text = 'extends = "folder"\ndata.crop = [32, 64]\nwarmup = { steps = 2, batch_size = 2 }\n'
    (tmp_path / "short.toml").write_text(text, encoding="utf-8")
    assert clouds.load_recipe(TABLE) == clouds.load_recipe(tmp_path / "short.toml")
    recipe = clouds.load_recipe("folder", BASE)
    assert isinstance(evolve(recipe, seed=3), clouds.Recipe)
    assert TABLE["extends"] == "folder"  # the caller's table is as it was


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"extends": "folder", "warmup": {"stpes": 2}}, r"recipe given as a table: extra fields found \(stpes\)"),
        ({"extends": "foldr"}, r"unknown recipe 'foldr'; did you mean 'folder'"),
        ({"extends": 3}, r"recipe given as a table: extends is 3; expected one name or \.toml file"),
    ],
)
def test_a_wrong_table_is_named(table: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(clouds.ConfigError, match=message):
        clouds.train(compose(), source=write_source(tmp_path / "data"), recipe=table, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def written_model(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "recipe.json").read_text(encoding="utf-8"))["model"]


def test_a_recipe_that_means_the_pipeline_is_written_as_it_is(tmp_path: Path) -> None:
    recipe = clouds.load_recipe({**TABLE, "model": {"head": "linear", "generator": "procedural"}})
    pipeline = clouds.compose(backbone=recipe.model["backbone"], head="linear", device="cpu")
    clouds.train(pipeline, source=write_source(tmp_path / "data"), recipe=recipe, out=tmp_path / "run")
    assert written_model(tmp_path / "run") == recipe.model


def test_the_parts_of_another_pipeline_are_written_in_place_of_the_recipes(tmp_path: Path) -> None:
    recipe = {**TABLE, "model": {"backbone": "clip-convnext-l", "head": "mask2former", "dtype": "float16"}}
    pipeline = clouds.compose(backbone=TINY, head=HEAD, refiner="regions", device="cpu")
    source = write_source(tmp_path / "data")
    clouds.train(pipeline, source=source, recipe=recipe, out=tmp_path / "run")
    model = written_model(tmp_path / "run")
    assert clouds.compose(**model).plan == pipeline.plan
    assert "dtype" not in model

    built = clouds.compose(backbone=pipeline.backbone, head=HEAD, device="cpu")
    clouds.train(built, source=source, recipe=recipe, out=tmp_path / "ready")
    assert written_model(tmp_path / "ready")["backbone"] == {"ready": built.plan.parts["backbone"].ready}
