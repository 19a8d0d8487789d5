"""ClassMix in training: views, targets and steps."""

from pathlib import Path

import numpy as np
import pytest
import torch
from attrs import evolve
from test_steps import make_state, parameters, sample

import clouds
from clouds.core.contract.records import Targets
from clouds.data.folder import open_dataset
from clouds.data.transforms import Augmentation
from clouds.training.samples import Sample, SampleReader, batches
from clouds.training.steps import train_step
from clouds.training.targets import pasted_targets

SETTINGS = Augmentation(crop=(32, 64))


def _maps() -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    label_map = torch.from_numpy(rng.integers(0, 4, (32, 64), np.uint8))
    pasted = torch.from_numpy(np.where(rng.random((32, 64)) < 0.4, rng.integers(2, 6, (32, 64)), 255).astype(np.uint8))
    label_map[:4] = 255
    return label_map, pasted


def test_label_maps_are_mixed_as_images_are() -> None:
    label_map, pasted = _maps()
    mixed = pasted_targets(Targets.from_label_map(label_map), pasted)
    assert torch.equal(mixed.to_label_map(), torch.where(pasted != 255, pasted, label_map))
    assert sorted(mixed.labels.tolist()) == [0, 1, 2, 3, 4, 5]
    assert torch.equal(mixed.valid, (label_map != 255) | (pasted != 255))


def test_masks_of_other_classes_may_overlap_and_covered_ones_are_dropped() -> None:
    masks = torch.zeros((3, 4, 4), dtype=torch.bool)
    masks[0, :2], masks[1, 1:3], masks[2, 0, 0] = True, True, True
    before = Targets(labels=torch.tensor([1, 2, 3]), masks=masks, valid=torch.ones((4, 4), dtype=torch.bool))
    pasted = torch.full((4, 4), 255, dtype=torch.uint8)
    pasted[0] = 2
    after = pasted_targets(before, pasted)
    assert after.labels.tolist() == [1, 2]
    assert after.masks[0].sum(1).tolist() == [0, 4, 0, 0]
    assert after.masks[1].sum(1).tolist() == [4, 4, 4, 0]
    nothing = pasted_targets(before, torch.full_like(pasted, 255))
    assert torch.equal(nothing.masks, before.masks)


def _stream(source: str, generated: Path, shares: tuple[float, ...], size: int = 4, workers: int = 0) -> list[Sample]:
    dataset = open_dataset(source, clouds.LabelSpace.named("cityscapes"))
    pictures = sorted((generated / "images").iterdir())
    reader = SampleReader([dataset], pictures, SETTINGS, seed=3, paste_shares=shares)
    made = batches(reader, factors=[1.0, 1.0], batch_size=size, steps=12 // size, workers=workers)
    return [one for batch in made for one in batch]


def test_only_the_students_view_of_generated_images_is_mixed(source: str, generated: Path) -> None:
    plain, mixed = _stream(source, generated, ()), _stream(source, generated, (1.0,))
    shares: list[float] = []
    for one, two in zip(plain, mixed, strict=True):
        if one.clean is None or two.clean is None or two.pasted is None:
            assert two.pasted is None
            assert torch.equal(one.image, two.image)
            continue
        inside = two.pasted != 255
        assert torch.equal(one.clean, two.clean)
        assert torch.equal(one.image[:, ~inside], two.image[:, ~inside])
        assert not torch.equal(one.image[:, inside], two.image[:, inside]) or not inside.any()
        shares.append(inside.float().mean().item())
    assert max(shares) > 0.2


def test_mixed_samples_do_not_depend_on_workers_or_batches(source: str, generated: Path) -> None:
    expected = _stream(source, generated, (1.0,))
    for other in (_stream(source, generated, (1.0,), 3), _stream(source, generated, (1.0,), 4, 2)):
        assert all(torch.equal(one.image, two.image) for one, two in zip(expected, other, strict=True))


def _mixed_batch() -> list[Sample]:
    pasted = _maps()[1]
    return [evolve(sample(index, generated=True), pasted=pasted if index else None) for index in range(3)]


def test_a_step_in_parts_equals_a_whole_one() -> None:
    losses, after = [], []
    for parts in (1, 3):
        state = make_state(refiner="identity")
        state.accumulate = parts
        losses.append(train_step(state, [*_mixed_batch(), sample(3, generated=False)])["loss"])
        after.append(parameters(state.pipeline.backbone, state.pipeline.head))
    # sums of 8192 float32 terms in another order: sqrt(8192) roundings of 6e-8, doubled
    assert losses[1] == pytest.approx(losses[0], rel=1.1e-5)


def test_the_loss_is_that_of_the_mixed_labels() -> None:
    state = make_state(refiner="identity")
    assert state.teacher is not None
    (one,) = _mixed_batch()[1:2]
    assert one.clean is not None
    assert one.pasted is not None
    mixed = torch.where(one.pasted != 255, one.pasted, state.teacher.label_maps([one.clean])[0])
    expected = state.pipeline.head.loss(state.pipeline.forward([one.image]), [Targets.from_label_map(mixed)])
    state.teacher_config = evolve(state.teacher_config, decay=1.0)
    state.taught = 0
    assert train_step(state, [one])["loss"] == pytest.approx(expected["cross_entropy"].item(), rel=1e-5)
