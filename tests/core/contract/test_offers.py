"""Label spaces, dataset kinds and recipes of plugins, found by name at every door."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import clouds
from clouds.core.contract.catalog import Catalog
from clouds.core.contract.hookspecs import hookimpl
from clouds.core.contract.label_table import read_labels
from clouds.core.contract.offers import Offer, OfferKind, find_offer
from clouds.core.system.errors import ConfigError
from clouds.core.system.images import write_png
from clouds.data.folder import open_dataset
from clouds.data.spec import is_spec, parse_spec
from clouds.training.recipe import load_recipe

HARBOUR = clouds.LabelSpace.from_names(["water", "ship"], name="harbour")
LAYOUT = None  # set when the layouts' module, which is not needed elsewhere, is imported below
RECIPE = Path(__file__).parent / "missing.toml"


@pytest.fixture
def harbour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A catalog with a plugin that offers one thing of each kind, in the place of the installed plugins."""
    from clouds.data.layouts import LAYOUTS

    recipe = tmp_path / "mine.toml"
    recipe.write_text('extends = "folder"\n[warmup]\nsteps = 7\n', encoding="utf-8")
    monkeypatch.setattr(sys.modules[__name__], "LAYOUT", LAYOUTS["folder"])
    monkeypatch.setattr(sys.modules[__name__], "RECIPE", recipe)
    plugin = ModuleType("harbour")
    plugin.clouds_label_spaces = hookimpl(lambda: offers("HARBOUR", "NUMBER"), specname="clouds_label_spaces")
    plugin.clouds_datasets = hookimpl(lambda: offers("LAYOUT", "NUMBER"), specname="clouds_datasets")
    plugin.clouds_recipes = hookimpl(lambda: offers("RECIPE", "NOWHERE"), specname="clouds_recipes")
    catalog = Catalog({"harbour": plugin})
    monkeypatch.setattr(Catalog, "from_environment", lambda: catalog)


NUMBER = 7


def offers(*names: str) -> list[Offer]:
    return [Offer(name.lower(), f"{__name__}:{name}") for name in names]


@pytest.mark.usefixtures("harbour")
def test_a_label_space_of_a_plugin() -> None:
    assert read_labels("harbour") is HARBOUR
    with pytest.raises(ConfigError, match=r"'number': '.*:NUMBER' is a int; expected a LabelSpace"):
        read_labels("number")
    with pytest.raises(ConfigError, match=r"unknown label space 'harbor'; did you mean 'harbour'\?"):
        read_labels("harbor")


@pytest.mark.usefixtures("harbour")
def test_a_kind_of_dataset_of_a_plugin(tmp_path: Path) -> None:
    for kind in ("images", "labels"):
        (tmp_path / "town" / kind / "train").mkdir(parents=True)
    write_png(tmp_path / "town" / "images" / "train" / "a.png", np.zeros((4, 6, 3), np.uint8))
    write_png(tmp_path / "town" / "labels" / "train" / "a.png", np.ones((4, 6), np.uint8))
    spec = f"layout:{tmp_path / 'town'}"
    assert is_spec(spec)
    assert not is_spec(f"harbour:{tmp_path}")
    assert parse_spec(spec).kind == "layout"
    dataset = open_dataset(spec, HARBOUR)
    assert (dataset.read(0)[1] == 1).all()
    with pytest.raises(ConfigError, match=r"dataset spec 'layuot:x': unknown kind 'layuot'; did you mean 'layout'\?"):
        parse_spec("layuot:x")


@pytest.mark.usefixtures("harbour")
def test_a_recipe_of_a_plugin() -> None:
    recipe = load_recipe("recipe", ["joint.steps=3"])
    assert (recipe.warmup.steps, recipe.joint.steps) == (7, 3)
    with pytest.raises(ConfigError, match=r"unknown recipe 'recip'; did you mean 'recipe'\?, or give a .toml file"):
        load_recipe("recip")
    with pytest.raises(ConfigError, match=r"'nowhere': importing '.*:NOWHERE' failed \(AttributeError: .*NOWHERE"):
        load_recipe("nowhere")


def test_two_offers_of_one_name_are_told_apart() -> None:
    both = {"a::x": Offer("x", "a:X"), "b::x": Offer("x", "b:X")}
    with pytest.raises(ConfigError, match="loop: two plugins offer 'x'; choose one: a::x or b::x"):
        find_offer("tracker", "x", both, where="loop")
    assert find_offer("tracker", "b::x", both).source == "b:X"


def test_a_wrong_offer_is_recorded() -> None:
    plugin = ModuleType("bad")
    plugin.clouds_recipes = hookimpl(lambda: [3, ("pair", "a:b")], specname="clouds_recipes")
    catalog = Catalog({"bad": plugin})
    assert list(catalog.offers(OfferKind.RECIPE)) == ["bad::pair"]
    assert "clouds_recipes returned 3; expected a pair of a name and an import path" in catalog.broken[0].error
