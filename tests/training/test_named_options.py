"""Loss terms, samplers and augmentations of plugins, by name in a recipe."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from training_helpers import compose, recipe

import clouds
from clouds.core.contract.catalog import Catalog
from clouds.core.contract.hookspecs import hookimpl
from clouds.core.contract.named_options import build_offer
from clouds.core.contract.offers import Offer, OfferKind
from clouds.core.system.errors import ConfigError
from clouds.data.folder import Dataset, open_dataset
from clouds.training import components
from clouds.training.samples import SampleReader, batches
from clouds.training.start import recipe_plan
from clouds.training.train import train


class Sharp(clouds.LossTerm):
    """The mean absolute mask logit of an image; it counts images with labels twice."""

    def __init__(self, pipeline: clouds.Pipeline, *, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, inputs: clouds.LossInputs) -> torch.Tensor:
        return self.weight * inputs.output.mask_logits.abs().mean((1, 2, 3))


class Whole(Sharp):
    """One number for the batch."""

    def forward(self, inputs: clouds.LossInputs) -> torch.Tensor:
        return super().forward(inputs).mean()


def nothing(pipeline: clouds.Pipeline) -> str:
    return "nothing"


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("sharp")
    found = {"sharp": "Sharp", "cross_entropy": "Sharp", "whole": "Whole", "nothing": "nothing", "gone": "Gone"}
    module.clouds_losses = hookimpl(
        lambda: [Offer(name, f"{__name__}:{source}", "sharp masks") for name, source in found.items()],
        specname="clouds_losses",
    )
    module.clouds_samplers = hookimpl(lambda: [Offer("newest", f"{__name__}:Newest")], specname="clouds_samplers")
    module.clouds_augmentations = hookimpl(
        lambda: [Offer(name, f"{__name__}:{name}") for name in ("darker", "grey")], specname="clouds_augmentations"
    )
    catalog = Catalog({"sharp": module, "clouds-dgss:training": components})
    monkeypatch.setattr("clouds.core.contract.named_options.Catalog", SimpleNamespace(from_environment=lambda: catalog))


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
        ('["shrap"]', r"loss\.terms: unknown loss 'shrap'; did you mean 'sharp'\?"),
        ('["gone"]', r"'gone': importing '.*:Gone' failed \(AttributeError"),
        ('["nothing"]', r"loss\.terms: 'nothing' made a str; expected a LossTerm"),
        ('["sharp", "sharp"]', r"loss\.terms: 'sharp' is listed twice; list it once"),
        ('["cross_entropy"]', r"loss\.terms: 'cross_entropy' is also a loss term of LinearHead; rename it"),
        ('["whole"]', r"loss\.terms: 'whole' made a tensor \(\) for 2 images; return one sum for each image"),
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
    assert list(catalog.offers(OfferKind.LOSS)) == ["sharp::sharp"]
    assert "unknown hook 'clouds_loses'; did you mean 'clouds_losses'?; known hooks: " in catalog.broken[0].error


class Newest(clouds.Sampler):
    """Always the last image of a source."""

    def __init__(self, datasets: Sequence[Dataset], *, back: int = 1) -> None:
        self.last = [len(dataset) - back for dataset in datasets]

    def draw(self, source: int, index: int, rng: np.random.Generator) -> tuple[int, None]:
        return self.last[source], None


def _darker(image: np.ndarray, rng: np.random.Generator, *, least: float) -> np.ndarray:
    return (image * rng.uniform(least, 1)).astype(np.uint8)


def darker(*, least: float = 0.5) -> Callable[..., np.ndarray]:
    return partial(_darker, least=least)


def grey() -> Callable[..., np.ndarray]:
    return lambda image, rng: image.mean(2)


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_sampler_of_a_plugin_chooses_the_images(source: str, workers: int) -> None:
    data = recipe('data.sampler={name="newest", back=2}', f"data.source={source}", f"data.workers={workers}").data
    dataset = open_dataset(source, clouds.LabelSpace.named("cityscapes"))
    sampler = build_offer(OfferKind.SAMPLER, data.sampler, [dataset], wanted=clouds.Sampler, where="data.sampler")
    reader = SampleReader([dataset], (), data.augmentation(), seed=0, sampler=sampler)
    made = batches(reader, factors=[1.0], batch_size=2, steps=2, workers=workers)
    assert {Path(one.name).stem for batch in made for one in batch} == {"3"}


@pytest.mark.usefixtures("plugin")
def test_an_augmentation_of_a_plugin_changes_the_students_view_alone(source: str, generated: Path) -> None:
    dataset = open_dataset(source, clouds.LabelSpace.named("cityscapes"))
    pictures = sorted((generated / "images").iterdir())
    views = []
    for more in ([], ['data.augmentations=[{name="darker", least=0.2}, "randomize"]']):
        reader = SampleReader([dataset], pictures, recipe(*more, "data.distortion=false").data.augmentation(), seed=0)
        views.append([reader.read(which, 0, which) for which in range(2)])
    for plain, changed in zip(*views, strict=True):
        assert not torch.equal(plain.image, changed.image)
        for one, two in ((plain.clean, changed.clean), (plain.label_map, changed.label_map)):
            assert one is two is None or torch.equal(one, two)


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.sampler=newst"], r"data\.sampler: unknown sampler 'newst'; did you mean 'newest'\?"),
        (["data.sampler.name=rare-classes"], r"data\.sampler: rare-classes: option 'index' is required"),
        (["data.sampler={name='newest', back=0}"], r"data\.sampler drew image \d of folder:.*; expected 0 to \d"),
        (['data.sampler={name="newest", back="a"}'], r"newest: option back='a' is not of type int"),
        (['data.augmentations=["drker"]'], r"data\.augmentations: unknown augmentation 'drker'; did you mean 'darker'"),
        (['data.augmentations=["grey"]'], r"augmentation .* made float64 \(32, 64\) of uint8 \(32, 64, 3\); expected"),
    ],
)
def test_wrong_samplers_and_augmentations_are_named(
    overrides: list[str], message: str, source: str, tmp_path: Path
) -> None:
    with pytest.raises((ConfigError, clouds.CloudsError), match=message):
        train(compose(), recipe=recipe(*overrides, f"data.source={source}"), out=tmp_path / "run")


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize("where", ["loss.terms", "data.augmentations"])
def test_a_plan_names_what_is_unknown(where: str) -> None:
    with pytest.raises(ConfigError, match=rf"{where}: unknown (loss|augmentation) 'nowhere'"):
        recipe_plan(recipe(f'{where}=["nowhere"]'), "mine", None)
    with pytest.raises(ConfigError, match=r"data\.sampler: unknown sampler 'nowhere'"):
        recipe_plan(recipe("data.sampler=nowhere"), "mine", None)


@pytest.mark.parametrize(("key", "value"), [("temperature", 0.0), ("min_pixels", -1), ("min_crop_share", 1.5)])
def test_numbers_of_rare_classes_have_a_range(key: str, value: float, source: str, tmp_path: Path) -> None:
    sampler = f'data.sampler={{name="rare-classes", index=["i.json"], {key}={value}}}'
    with pytest.raises(ConfigError, match=rf"data\.sampler: rare-classes: {key} is .*; expected"):
        train(compose(), recipe=recipe(sampler, f"data.source={source}"), out=tmp_path / "run")
