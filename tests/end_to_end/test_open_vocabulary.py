"""Pipelines that classify by text, from composition to another label space."""

from pathlib import Path

import numpy as np
import pytest
import torch

import clouds
from clouds.core.contract.records import Targets
from clouds.core.system.errors import ConfigError

TINY = {"name": "tiny", "dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
SMALL = {"queries": 20, "width": 64, "layers": 2, "encoder_layers": 1, "points": 60}
IMAGE = np.random.default_rng(0).integers(0, 256, (37, 61, 3), np.uint8)  # an odd size
MANY = clouds.LabelSpace.from_names([f"thing {i}" for i in range(200)], name="many")


def composed(head: str = "mask2former-text", **options: object) -> clouds.Pipeline:
    pipeline = clouds.compose(backbone=TINY, head={"name": head, **SMALL, **options}, device="cpu")
    pipeline.trained = True
    return pipeline


def test_a_trained_head_serves_another_label_space() -> None:
    pipeline = composed()
    other = pipeline.with_labels(MANY)
    other.trained = True
    assert pipeline.predict(IMAGE).scores().shape == (19, 37, 61)
    prediction = other.predict(IMAGE)
    assert prediction.scores().shape == (200, 37, 61)
    assert (prediction.scores().argmax(0) == prediction.labels).all()
    assert other.head is pipeline.head
    assert other.plan.trained_labels == pipeline.labels
    assert other.with_labels(pipeline.labels).plan == pipeline.plan


def test_helpers_stay_with_another_label_space(tmp_path: Path) -> None:
    pipeline = clouds.compose(
        backbone=TINY, head={"name": "mask2former-text", **SMALL}, refiner="regions", prompter="grammar", device="cpu"
    )
    other = pipeline.with_labels(MANY)
    assert other.refiner is pipeline.refiner
    assert other.prompter is pipeline.prompter
    other.save(tmp_path / "out")
    loaded = clouds.load(tmp_path / "out", device="cpu")
    assert loaded.with_labels(pipeline.labels).refiner is not None


def test_classes_are_seen_when_they_share_a_word_with_the_training() -> None:
    other = composed().with_labels(clouds.LabelSpace.from_names(["street", "car"], synonyms=[["street"], ["cars"]]))
    assert other.classifier is not None
    assert other.classifier.seen.tolist() == [False, True]


def test_a_head_with_fixed_classes_serves_no_others() -> None:
    with pytest.raises(ConfigError, match="the head Mask2Former was made for the classes of 'cityscapes' and cannot"):
        composed("mask2former").with_labels(MANY)


@pytest.mark.parametrize("head", ["mask2former", "mask2former-pooled", "linear", "fpn"])
def test_200_classes(head: str) -> None:
    part = {"name": head, **(SMALL if head.startswith("mask2former") else {})}
    pipeline = clouds.compose(backbone=TINY, head=part, labels=MANY, device="cpu")
    pipeline.trained = True
    assert pipeline.predict(IMAGE).scores().shape == (200, 37, 61)


@pytest.mark.parametrize("head", ["mask2former", "mask2former-text"])
def test_the_ensemble_from_composition_to_a_saved_pipeline(head: str, tmp_path: Path) -> None:
    # CLIP alone decides, also for masks that are empty at its size, so that the difference is not a matter of chance.
    alone = {"ensemble_alpha": 1.0, "ensemble_on_valid_mask": False}
    pipeline = composed(head, geometric_ensemble=True, **alone)
    expected = pipeline.predict(IMAGE).scores()
    pipeline.save(tmp_path / "saved")
    loaded = clouds.load(tmp_path / "saved", device="cpu")
    np.testing.assert_array_equal(loaded.predict(IMAGE).scores(), expected)
    plain = composed(head)
    plain.backbone.load_state_dict(pipeline.backbone.state_dict())
    plain.head.load_state_dict(pipeline.head.state_dict())
    assert np.abs(plain.predict(IMAGE).scores() - expected).max() > 1e-4


def test_a_saved_open_vocabulary_keeps_both_label_spaces(tmp_path: Path) -> None:
    other = composed().with_labels(MANY)
    other.trained = True
    other.save(tmp_path / "saved")
    loaded = clouds.load(tmp_path / "saved", device="cpu")
    assert loaded.plan == other.plan
    np.testing.assert_array_equal(loaded.predict(IMAGE).labels, other.predict(IMAGE).labels)


def test_text_heads_learn() -> None:
    """A step along the gradient at fixed points lowers the loss; the texts get no gradient."""
    pipeline = composed()
    label_map = torch.zeros(64, 96, dtype=torch.uint8)
    label_map[:, 40:] = 13
    targets, points = [Targets.from_label_map(label_map)], torch.rand(1, 60, 2)
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    head = pipeline.head.train()
    optimizer = torch.optim.SGD(head.parameters(), lr=1e-4)
    losses = []
    for _ in range(2):
        terms = head.loss(pipeline.forward([image]), targets, points=points)
        loss = torch.stack(list(terms.values())).sum()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[1] < losses[0]
    assert all(parameter.grad is not None for parameter in head.parameters())
    assert all(parameter.grad is None for parameter in pipeline.backbone.parameters())


def test_a_ready_backbone_without_texts_is_named() -> None:
    pipeline = composed()
    trunk = clouds.compose(backbone="timm:convnext_atto", head="linear", pretrained=False, device="cpu").backbone
    pipeline.backbone = trunk
    with pytest.raises(ConfigError, match="compares with text embeddings, but the backbone TimmPyramid embeds no"):
        _ = pipeline.classifier
