"""The loss of a batch is joined from the losses of its parts, and an image draws the same points in any batch."""

import pytest
import torch

import clouds
from clouds.core.contract.interfaces import Head, ImageGenerators
from clouds.core.contract.records import HeadOutput, Targets
from clouds.core.pipeline.build import build_part
from clouds.testing.head import random_features

FEATURES = {f"res{i + 2}": clouds.FeatureSpec(channels=8 << i, stride=4 << i) for i in range(4)}
SMALL = {"name": "mask2former", "queries": 6, "width": 64, "layers": 2, "encoder_layers": 1, "points": 40}
SIZE = (64, 96)


def make(name: str) -> Head:
    head = build_part("head", SMALL if name == "mask2former" else name, features=FEATURES)
    return head.train()  # earlier layers have a loss of their own in training alone


def targets() -> list[Targets]:
    """More masks than queries, a usual image, one that is ignored, one with a single class."""
    maps = torch.full((4, *SIZE), 255, dtype=torch.uint8)
    for index in range(9):
        maps[0, :, 10 * index : 10 * index + 10] = index
    maps[1, :32], maps[1, 32:, :40] = 3, 5
    maps[3] = 7
    return [Targets.from_label_map(label_map) for label_map in maps]


def part(output: HeadOutput, images: slice) -> HeadOutput:
    layers = [
        HeadOutput(class_logits=o.class_logits[images], mask_logits=o.mask_logits[images]) for o in output.auxiliary
    ]
    return HeadOutput(
        class_logits=output.class_logits[images], mask_logits=output.mask_logits[images], auxiliary=tuple(layers)
    )


@pytest.mark.parametrize("name", ["linear", "fpn", "mask2former"])
@pytest.mark.parametrize("cut", [1, 2, 3])
def test_parts_are_joined(name: str, cut: int) -> None:
    head, wanted, seeds = make(name), targets(), [3, 1, 4, 1]
    with torch.no_grad():
        output = head(random_features(FEATURES, batch=4, height=SIZE[0], width=SIZE[1]))
        whole = head.loss(output, wanted, generator=ImageGenerators(seeds))
        joined = dict.fromkeys(whole, 0.0)
        for images in (slice(0, cut), slice(cut, None)):
            terms = head.loss(part(output, images), wanted[images], generator=ImageGenerators(seeds[images]))
            counts = head.loss_counts(wanted[images])
            assert counts.keys() == terms.keys()
            joined = {name: joined[name] + float(terms[name]) * counts[name] for name in joined}
    counts = head.loss_counts(wanted)
    # sums of at most 6144 float32 numbers in another order: sqrt(6144) roundings of 6e-8, doubled
    assert {name: value / counts[name] for name, value in joined.items()} == pytest.approx(
        {name: float(value) for name, value in whole.items()}, rel=1e-5
    )


def test_a_single_generator_serves_a_whole_batch() -> None:
    head, wanted = make("mask2former"), targets()
    output = head(random_features(FEATURES, batch=4, height=SIZE[0], width=SIZE[1]))
    one, same, other = (
        head.loss(output, wanted, generator=torch.Generator().manual_seed(seed))["mask"] for seed in (0, 0, 1)
    )
    assert one == same != other


def test_generators_of_images_are_a_generator_for_the_batch() -> None:
    one, same, other = (torch.rand(3, generator=ImageGenerators(seeds)) for seeds in ([1, 2], [1, 2], [2, 1]))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_a_term_without_a_count_is_a_mean_over_images() -> None:
    class Plain(Head):
        def forward(self, features, classifier=None): ...
        def loss(self, output, targets, *, points=None, generator=None): ...
        def segment(self, output, valid_size, size, *, scores=False): ...

    assert Plain().loss_counts(targets()) == {}
