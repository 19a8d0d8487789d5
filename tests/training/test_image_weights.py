"""Weights of images in the loss: by dataset, and by the teacher's confidence."""

from pathlib import Path

import numpy as np
import pytest
import torch
from attrs import evolve
from test_steps import make_state, parameters, sample
from torch.nn import functional
from training_helpers import compose, recipe

import clouds
from clouds.core.contract.interfaces import ImageGenerators
from clouds.core.contract.records import Targets
from clouds.core.system.errors import NonFiniteError
from clouds.data.folder import open_dataset
from clouds.data.transforms import Augmentation
from clouds.training.learner import Learner, item_counts
from clouds.training.optimizer import build_optimizer, build_schedule
from clouds.training.optimizer_config import OptimizerConfig
from clouds.training.samples import Sample, SampleReader
from clouds.training.steps import pseudo_targets, train_step
from clouds.training.targets import pasted_targets
from clouds.training.teacher import Teacher
from clouds.training.train import train

HEADS = {
    "linear": {"name": "linear", "width": 8},
    "detail": {"name": "linear", "width": 8, "detail": 32},
    "mask2former": {
        "name": "mask2former",
        "queries": 6,
        "width": 64,
        "layers": 1,
        "feedforward": 32,
        "points": 32,
        "encoder_layers": 1,
        "encoder_feedforward": 32,
    },
}
WEIGHTS = (1.0, 0.25, 2.0, 0.25)
# a sum of at most 8192 float32 terms in another order: sqrt(8192) roundings of 6e-8, doubled
ROUNDING = 1.1e-5


def _batch() -> tuple[list[torch.Tensor], list[Targets], ImageGenerators]:
    """Four images with one to four classes and a different number of labelled pixels each."""
    rng = np.random.default_rng(0)
    images = [torch.from_numpy(rng.integers(0, 256, (3, 64, 64), np.uint8)) for _ in WEIGHTS]
    maps = [torch.from_numpy(rng.integers(0, 1 + index, (64, 64), np.uint8)) for index in range(len(WEIGHTS))]
    for index, one in enumerate(maps):
        one[: 8 * index] = 255
    targets = [evolve(Targets.from_label_map(one), weight=weight) for one, weight in zip(maps, WEIGHTS, strict=True)]
    return images, targets, ImageGenerators([3, 1, 4, 1])


def _alike(targets: list[Targets], weight: float) -> list[Targets]:
    return [evolve(target, weight=weight) for target in targets]


def test_each_pixels_cross_entropy_has_the_weight_of_its_image() -> None:
    pipeline = compose()
    images, targets, rngs = _batch()
    logits = pipeline.forward(images).mask_logits.detach()
    maps = torch.stack([target.to_label_map().long() for target in targets])
    logits = functional.interpolate(logits, size=maps.shape[1:], mode="bilinear", align_corners=False)
    each = functional.cross_entropy(logits, maps, ignore_index=255, reduction="none")
    weighted = each * torch.tensor(WEIGHTS)[:, None, None]
    expected = weighted.sum() / (maps != 255).sum()
    found = Learner(pipeline)(images, targets, rngs)["cross_entropy"]
    assert found.item() == pytest.approx(float(expected), rel=ROUNDING)


@pytest.mark.parametrize("head", HEADS)
def test_each_items_loss_has_the_weight_of_its_image(head: str) -> None:
    """The reference sums the losses of single images, from their mean and their number of items."""
    pipeline = compose(head=HEADS[head])
    pipeline.head.train()
    images, targets, rngs = _batch()
    output, counts = pipeline.forward(images, rngs), item_counts(pipeline.head, targets)
    expected: dict[str, float] = {}
    for index, target in enumerate(targets):
        terms = pipeline.head.loss(output.images([index]), [target], generator=rngs.of([index]))
        for name, term in terms.items():
            items = item_counts(pipeline.head, [target])[name]
            expected[name] = expected.get(name, 0.0) + target.weight * term.item() * items / counts[name]
    found = Learner(pipeline)(images, targets, _batch()[2])
    assert {name: term.item() for name, term in found.items()} == pytest.approx(expected, rel=ROUNDING)


@pytest.mark.parametrize("head", HEADS)
def test_equal_weights_are_a_factor_and_one_changes_no_bit(head: str) -> None:
    pipeline = compose(head=HEADS[head])
    pipeline.head.train()
    images, targets, rngs = _batch()
    plain = pipeline.head.loss(pipeline.forward(images, rngs), targets, generator=rngs)
    for weight in (1.0, 0.5):
        found = Learner(pipeline)(images, _alike(targets, weight), _batch()[2])
        assert {name: term.item() for name, term in found.items()} == {
            name: weight * term.item() for name, term in plain.items()
        }


def test_an_image_of_weight_zero_has_no_gradient() -> None:
    pipeline = compose()
    images, targets, rngs = _batch()
    pixels = [image.float().requires_grad_() for image in images]
    output = pipeline.segmenter(torch.stack(pixels))
    pipeline.forward = lambda images, rngs: output
    learner = Learner(pipeline)
    targets[1] = evolve(targets[1], weight=0.0)
    learner(images, targets, rngs)["cross_entropy"].backward()
    gradients = [float(pixel.grad.abs().max()) for pixel in pixels if pixel.grad is not None]
    assert gradients[1] == 0 < min(gradients[0], gradients[2], gradients[3])


@pytest.mark.parametrize("head", HEADS)
def test_a_step_in_parts_equals_a_whole_one(head: str) -> None:
    losses, after = [], []
    for parts in (1, 3):
        state = make_state(refiner="identity")
        state.pipeline = compose(head=HEADS[head], refiner="identity")
        state.teacher = Teacher(state.pipeline, decay=0.5, weight_threshold=0.0925)
        state.learner = Learner(state.pipeline)
        state.pipeline.head.train()
        state.optimizer.param_groups[0]["params"] = list(state.pipeline.head.parameters())
        state.accumulate = parts
        batch = [evolve(sample(index, generated=index < 3), weight=w) for index, w in enumerate((1.0, 0.5, 1.0, 2.0))]
        confidences = [one.weight for one in pseudo_targets(state, batch[:3]).values()]
        assert len(set(confidences)) > 1
        losses.append(train_step(state, batch)["loss"])
        after.append(
            torch.cat([one.grad.flatten() for one in state.pipeline.head.parameters() if one.grad is not None])
        )
    assert losses[1] == pytest.approx(losses[0], rel=ROUNDING)
    assert float((after[0] - after[1]).norm() / after[0].norm()) < 10 * ROUNDING  # through some ten layers


def test_the_weight_is_the_share_of_sure_pixels() -> None:
    pipeline = compose()
    images, tau = _batch()[0], 0.08  # an untrained head of 19 classes is not sure
    logits = functional.interpolate(
        pipeline.forward(images).mask_logits, size=(64, 64), mode="bilinear", align_corners=False
    )
    best = logits.softmax(1).max(1).values
    found = Teacher(pipeline, decay=0.5, weight_threshold=tau).weighted_label_maps(images)
    expected = [float((one >= tau).double().mean()) for one in best]
    assert 0 < min(expected) < max(expected) < 1
    # pixels whose probability is within rounding of the threshold: at most a few of 4096
    assert [weight for _, weight in found] == pytest.approx(expected, abs=4 / 4096)
    plain = Teacher(pipeline, decay=0.5).weighted_label_maps(images)
    assert [weight for _, weight in plain] == [1.0] * 4
    assert all(torch.equal(one, two) for (one, _), (two, _) in zip(found, plain, strict=True))


def test_pseudo_labels_have_the_weight_after_refinement_and_labels_have_none() -> None:
    state = make_state(refiner="identity")
    state.teacher = Teacher(state.pipeline, decay=0.5, weight_threshold=0.08)
    one = sample(1, generated=True)
    assert one.clean is not None
    ((_, weight),) = state.teacher.weighted_label_maps([one.clean])
    assert 0 < weight < 1
    assert pseudo_targets(state, [one])[1].weight == weight
    state.teacher_config = evolve(state.teacher_config, decay=1.0)
    state.taught = 0
    (target,) = pseudo_targets(state, [one]).values()
    plain = state.pipeline.head.loss(state.pipeline.forward([one.image]), [target])["cross_entropy"].item()
    assert train_step(state, [evolve(one, weight=0.5)])["loss"] == pytest.approx(0.5 * weight * plain, rel=ROUNDING)


def test_pasted_pixels_count_fully_in_the_mean_weight() -> None:
    """DAFormer's weights of pixels are 1 where something was pasted and q elsewhere; an image has their mean."""
    target = evolve(Targets.from_label_map(torch.zeros((4, 8), dtype=torch.uint8)), weight=0.3)
    pasted = torch.full((4, 8), 255, dtype=torch.uint8)
    pasted[0, :6] = 2
    per_pixel = torch.where(pasted != 255, 1.0, 0.3)
    assert pasted_targets(target, pasted).weight == pytest.approx(float(per_pixel.mean()), rel=1e-6)
    assert pasted_targets(evolve(target, weight=1.0), pasted).weight == 1.0
    assert target.to("cpu").weight == 0.3


def test_samples_have_the_weight_of_their_dataset(source: str, generated: Path) -> None:
    dataset = open_dataset(source, clouds.LabelSpace.named("cityscapes"))
    pictures = sorted((generated / "images").iterdir())
    settings = Augmentation(crop=(32, 64))
    reader = SampleReader([dataset, dataset], pictures, settings, seed=0, weights=(1.0, 0.5, 0.25))
    read = [reader[which, 0, which] for which in range(3)]
    assert [one.weight for one in read if isinstance(one, Sample)] == [1.0, 0.5, 0.25]


@pytest.mark.parametrize(
    ("more", "phase"),
    [
        (["data.source_weights=[0]"], "warmup"),
        (["data.source_weights=[0]", "data.generated_weight=0"], "joint"),
        (["data.source_factors=[0]", "data.generated_weight=0"], "joint"),
    ],
)
def test_a_phase_whose_images_have_no_weight_is_refused(
    more: list[str], phase: str, source: str, generated: Path, tmp_path: Path
) -> None:
    message = f"^{phase}: all images that are drawn have weight 0, .*; raise data.source_weights"
    arguments = {"source": source, "generated": generated, "phase": phase}
    settings = recipe(*more, f"data.source={source}")
    with pytest.raises(clouds.ConfigError, match=message):
        train(compose(), recipe=settings, out=tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


def test_images_that_are_not_finite_are_named_by_their_group() -> None:
    pipeline = compose()
    images, targets, rngs = _batch()
    output = pipeline.forward(images)
    output.mask_logits = output.mask_logits.detach().clone()
    output.mask_logits[3] = torch.nan
    pipeline.forward = lambda images, rngs: output
    message = r"not finite for images \[1\] of the batch.* \(counted among the images \[1, 3\], which have one weight\)"
    with pytest.raises(NonFiniteError, match=message):
        Learner(pipeline)(images, targets, rngs)


def test_parameters_follow_the_weights() -> None:
    """Half the weight of every image is half the gradient: without clipping, half of an SGD step."""
    changes = []
    for weight in (1.0, 0.5):
        state = make_state()
        trained = list(state.pipeline.head.parameters())
        config = OptimizerConfig(name="sgd", lr=0.1, weight_decay=0.0, clip_norm=0.0)
        state.config = config
        state.optimizer = build_optimizer({"head": state.pipeline.head}, config)
        state.schedule = build_schedule(state.optimizer, config, steps=10)
        before = parameters(state.pipeline.head)
        train_step(state, [evolve(sample(0, generated=False), weight=weight)])
        changes.append(torch.cat([(a - b).flatten() for a, b in zip(trained, before, strict=True)]).detach())
    # rounding of the parameters themselves, of at most 1 in size
    torch.testing.assert_close(changes[1], 0.5 * changes[0], rtol=0, atol=2**-23)
