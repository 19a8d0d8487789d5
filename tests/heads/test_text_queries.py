"""One query per class, made from text and bound to its class."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve
from torch.nn import functional

sys.path.append(str(Path(__file__).parents[1] / "training"))
from training_helpers import recipe, write_generated, write_source

import clouds
from clouds.core.contract.interfaces import Head, ImageGenerators
from clouds.core.contract.plan import PlanError
from clouds.core.contract.records import HeadOutput, Targets
from clouds.core.pipeline.build import build_part
from clouds.core.system.errors import ConfigError
from clouds.heads.criterion import Criterion, Weights
from clouds.heads.masked_decoder import MaskedDecoder
from clouds.testing import check_head
from clouds.testing.head import random_classifier, random_features
from clouds.training.train import train

SPECS = {f"res{i + 2}": clouds.FeatureSpec(channels=8 * (i + 1), stride=4 * 2**i) for i in range(4)}
SMALL = {"name": "text-queries", "width": 64, "layers": 3, "encoder_layers": 1, "points": 50}
LABELS = clouds.LabelSpace.from_names(["road", "sky", "car"], synonyms=[["road", "street"], ["sky"], ["car"]])
TINY = {"name": "tiny", "dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}


def make(**options: Any) -> Head:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_part("head", {**SMALL, **options}, features=SPECS, text_width=16, labels=LABELS)


def stripes(*classes: int, ignored: int = 0) -> Targets:
    """Vertical stripes of 32 pixels, one mask each."""
    masks = torch.zeros(len(classes), 64, 96, dtype=torch.bool)
    for index in range(len(classes)):
        masks[index, :, 32 * index : 32 * index + 32] = True
    valid = torch.ones(64, 96, dtype=torch.bool)
    valid[:ignored] = False
    return Targets(labels=torch.tensor(classes, dtype=torch.long), masks=masks, valid=valid)


def test_the_contract_holds_for_synonyms() -> None:
    check_head(make(), SPECS, labels=LABELS, classifier=random_classifier(LABELS, 16))


@torch.no_grad()
def test_a_query_is_an_mlp_of_the_mean_embedding_of_its_class() -> None:
    head, words = make().eval(), random_classifier(LABELS, 16)
    weights, e = head.text_queries.state_dict(), words.embeddings
    mean = torch.stack([functional.normalize(e[0] + e[1], dim=0), e[2], e[3]])
    hidden = (mean @ weights["content.layers.0.weight"].T + weights["content.layers.0.bias"]).relu()
    content = hidden @ weights["content.layers.1.weight"].T + weights["content.layers.1.bias"]
    # float32 sums of at most 64 terms of order 1
    torch.testing.assert_close(head.text_queries(words)[0], content, rtol=1e-5, atol=1e-5)
    features = random_features(SPECS, batch=2, height=64, width=96)
    queries = torch.stack([content, weights["position.weight"]])
    expected = head.predictor(head.pixel_decoder(features), None, queries)
    torch.testing.assert_close(head(features, words).mask_logits, expected.mask_logits, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_the_loss_of_a_query_is_that_of_its_class() -> None:
    """Written out at given points: no matching, absent classes are "no object", two masks of a class are one."""
    torch.manual_seed(0)
    weights = Weights(class_=2, mask=5, dice=5, no_object=0.1)
    criterion = Criterion(weights=weights, points=50, ignored="exclude", pairs="class")
    output = HeadOutput(class_logits=torch.randn(1, 3, 4), mask_logits=torch.randn(1, 3, 16, 24))
    target, points = stripes(2, 0, 2), torch.rand(1, 50, 2)
    found = criterion(output, [target], points=points)
    wanted = {2: target.masks[0] | target.masks[2], 0: target.masks[1]}
    # Classes of the queries 0, 1, 2
    each = functional.cross_entropy(output.class_logits[0], torch.tensor([0, 3, 2]), reduction="none")
    assert found["class"].item() == pytest.approx(2 * float((each * torch.tensor([1, 0.1, 1])).sum()) / 2.1, rel=1e-5)
    grid = (2 * points - 1)[:, None]

    def at(one: torch.Tensor) -> torch.Tensor:
        return functional.grid_sample(one[None, None], grid, align_corners=False)[0, 0, 0]

    masks, dices = [], []
    for k, mask in wanted.items():
        logits, inside = at(output.mask_logits[0, k]), at(mask.float())
        masks.append(functional.binary_cross_entropy_with_logits(logits, inside))
        share = logits.sigmoid()
        dices.append(1 - (2 * (share * inside).sum() + 1) / (share.sum() + inside.sum() + 1))
    # float32 sums of 50 terms
    assert found["mask"].item() == pytest.approx(5 * float(sum(masks)) / 2, rel=1e-5)
    assert found["dice"].item() == pytest.approx(5 * float(sum(dices)) / 2, rel=1e-5)


@torch.no_grad()
def test_parts_of_a_batch_are_joined() -> None:
    head, words = make().train(), random_classifier(LABELS, 16)
    targets = [stripes(0, 1, 0), stripes(2), stripes(ignored=64)]
    output = head(random_features(SPECS, batch=3, height=64, width=96), words)
    whole = head.loss(output, targets, generator=ImageGenerators([1, 2, 3]))
    joined, counts = dict.fromkeys(whole, 0.0), head.loss_counts(targets)
    for index in range(3):
        part, one = targets[index : index + 1], slice(index, index + 1)
        terms = head.loss(output.images([index]), part, generator=ImageGenerators([1, 2, 3][one]))
        share = head.loss_counts(part)
        joined = {name: joined[name] + float(terms[name]) * share[name] / counts[name] for name in joined}
    # float32 sums of some hundred terms in another order
    assert joined == pytest.approx({name: float(term) for name, term in whole.items()}, rel=1e-5)
    assert counts["mask"] == 3


def test_a_pipeline_trains_and_is_saved(tmp_path: Path) -> None:
    source, generated = write_source(tmp_path / "source"), write_generated(tmp_path / "generated")
    pipeline = clouds.compose(backbone=TINY, head=SMALL, refiner="regions", device="cpu")
    before = pipeline.head.text_queries.content.layers[0].weight.clone()
    train(pipeline, source=source, generated=generated, recipe=recipe(), out=tmp_path / "run")
    assert not torch.equal(pipeline.head.text_queries.content.layers[0].weight, before)
    assert all(one.requires_grad for one in pipeline.head.parameters())
    pipeline.save(tmp_path / "saved")
    loaded = clouds.load(tmp_path / "saved", device="cpu")
    image = torch.randint(0, 256, (3, 50, 70), dtype=torch.uint8)
    assert (pipeline.predict(image).scores() == loaded.predict(image).scores()).all()


@torch.no_grad()
def test_the_network_is_exported() -> None:
    torch.manual_seed(0)
    network = clouds.compose(backbone=TINY, head=SMALL, device="cpu").as_module()
    images = torch.rand(1, 3, 64, 96) * 255
    captured = torch.export.export(network, (images,)).module()(images)
    for one, other in zip(captured, network(images), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)  # fused float32 operations under masked attention


class TestFaults:
    def test_it_needs_a_text_tower(self) -> None:
        with pytest.raises(PlanError, match="text-queries needs text-encoder from the backbone, but dinov2-large"):
            clouds.plan(backbone="dinov2-large", head="text-queries")
        clouds.plan(backbone={"name": "dinov2-large", "text": "clip-rn50"}, head="text-queries")

    def test_it_needs_the_width_of_texts(self) -> None:
        with pytest.raises(ConfigError, match="text-queries needs the width of the backbone's text embeddings"):
            build_part("head", SMALL, features=SPECS, labels=LABELS)

    def test_it_needs_the_classes_it_was_built_for(self) -> None:
        features = random_features(SPECS, batch=1, height=64, width=96)
        words = random_classifier(LABELS, 16)
        with pytest.raises(ConfigError, match="one query for each of 3 classes, but forward got classifier=None"):
            make()(features)
        with pytest.raises(ConfigError, match="but forward got 2 classes"):
            make()(features, evolve(words, seen=words.seen[:2]))

    def test_a_decoder_without_queries_says_so(self) -> None:
        head = make()
        assert isinstance(head.predictor, MaskedDecoder)
        pixels = head.pixel_decoder(random_features(SPECS, batch=1, height=64, width=96))
        with pytest.raises(ConfigError, match="this decoder has no queries of its own; pass queries="):
            head.predictor(pixels)
