"""Loss terms of plugins, by name in a recipe."""

import json
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from training_helpers import compose, recipe

import clouds
from clouds.core.contract.catalog import Catalog
from clouds.core.contract.hookspecs import hookimpl
from clouds.core.contract.offers import Offer
from clouds.core.system.errors import ConfigError
from clouds.training import components
from clouds.training.train import train


class Sharp(clouds.LossTerm):
    """The mean absolute mask logit of an image; it counts images with labels twice."""

    def __init__(self, pipeline: clouds.Pipeline, *, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, inputs: clouds.LossInputs) -> torch.Tensor:
        return self.weight * inputs.output.mask_logits.abs().mean((1, 2, 3))


def nothing(pipeline: clouds.Pipeline) -> str:
    return "nothing"


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("sharp")
    found = {"sharp": "Sharp", "cross_entropy": "Sharp", "nothing": "nothing", "gone": "Gone"}
    module.clouds_losses = hookimpl(
        lambda: [Offer(name, f"{__name__}:{source}", "sharp masks") for name, source in found.items()],
        specname="clouds_losses",
    )
    catalog = Catalog({"sharp": module, "clouds-dgss:training": components})
    monkeypatch.setattr("clouds.training.train.Catalog", SimpleNamespace(from_environment=lambda: catalog))


@pytest.mark.usefixtures("plugin")
def test_a_term_of_a_plugin_is_added_to_the_loss(source: str, tmp_path: Path) -> None:
    settings = recipe('loss.terms=[{name="sharp", weight=0.5}]', f"data.source={source}")
    run = train(compose(), recipe=settings, out=tmp_path / "run")
    for line in map(json.loads, run.log.read_text(encoding="utf-8").splitlines()):
        assert line["sharp"] > 0
        # one addition in float32
        assert line["loss"] == pytest.approx(line["cross_entropy"] + line["sharp"], rel=1e-6)


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ('["shrap"]', r"loss\.terms: unknown loss term 'shrap'; did you mean 'sharp'\?"),
        ('["gone"]', r"'gone': importing '.*:Gone' failed \(AttributeError"),
        ('["nothing"]', r"loss\.terms: 'nothing' made a str; expected a clouds\.LossTerm"),
        ('["sharp", "sharp"]', r"loss\.terms: 'sharp' is listed twice; list it once"),
        ('["cross_entropy"]', r"loss\.terms: 'cross_entropy' is also a loss term of LinearHead; rename it"),
        ("[{weight=1}]", r"loss\.terms: {'weight': 1} has no name; write a name, or a table of `name` and options"),
        ('[{name="sharp", wieght=1}]', r"sharp: unknown option 'wieght'; did you mean 'weight'\?; the signature is sh"),
        ('[{name="sharp", weight="a"}]', r"loss\.terms: sharp: option weight='a' is not of type float"),
        ("[3]", r"3 is neither a name nor a table @ \$\.loss\.terms"),
        ('"sharp"', r"'sharp' is not of type .* @ \$\.loss\.terms"),
    ],
)
def test_wrong_terms_are_named(terms: str, message: str, source: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        train(compose(), recipe=recipe(f"loss.terms={terms}", f"data.source={source}"), out=tmp_path / "run")


def test_a_misspelt_hook_disables_that_hook_alone() -> None:
    module = ModuleType("sharp")
    module.clouds_loses = hookimpl(lambda: [Offer("sharp", "a:b")], specname="clouds_loses")
    module.clouds_losses = hookimpl(lambda: [Offer("sharp", "a:b")], specname="clouds_losses")
    catalog = Catalog({"sharp": module})
    assert list(catalog.offers(clouds.core.contract.offers.OfferKind.LOSS)) == ["sharp::sharp"]
    assert "unknown hook 'clouds_loses'; did you mean 'clouds_losses'?; known hooks: " in catalog.broken[0].error
