"""Thresholds on the teacher's certainty, one per class."""

import numpy as np
import pytest
import torch
from torch import Tensor
from training_helpers import compose

from clouds.core.system.processes import Processes
from clouds.training.class_thresholds import ClassThresholds
from clouds.training.teacher import Teacher


def drawn(seed: int, classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shares = torch.rand(8, 12, generator=generator)
    return shares, torch.randint(0, classes, (8, 12), generator=generator, dtype=torch.uint8)


def test_thresholds_are_a_running_mean_per_class() -> None:
    """Written out in numpy: the mean of each class over earlier steps, each step weighted by decay to its age."""
    thresholds = ClassThresholds(3, decay=0.5, fraction=0.8)
    sums, counts = np.zeros(3), np.zeros(3)
    for step in range(4):
        shares, label_map = drawn(step)
        kept = thresholds.keeps(shares, label_map).numpy()
        values, labels = shares.double().numpy(), label_map.numpy()
        limits = 0.8 * sums / np.maximum(counts, 1e-300)
        assert np.array_equal(kept, values >= limits[labels])
        assert step == 0 or 0 < kept.sum() < kept.size
        thresholds.update(Processes())
        sums = 0.5 * sums + [values[labels == one].sum() for one in range(3)]
        counts = 0.5 * counts + [(labels == one).sum() for one in range(3)]


def test_a_class_that_no_step_has_seen_keeps_all_pixels() -> None:
    thresholds = ClassThresholds(4, decay=0.9, fraction=1.0)
    thresholds.keeps(*drawn(0))
    thresholds.update(Processes())
    low, unseen = torch.full((8, 12), 0.01), torch.full((8, 12), 3, dtype=torch.uint8)
    assert thresholds.keeps(low, unseen).all()
    assert not thresholds.keeps(low, torch.zeros_like(unseen)).any()


def test_the_parts_of_a_step_do_not_change_its_thresholds() -> None:
    whole, parts = (ClassThresholds(3, decay=0.9, fraction=1.0) for _ in range(2))
    for step in range(3):
        shares, label_map = drawn(step)
        expected = whole.keeps(shares, label_map)
        halves = [parts.keeps(shares[rows], label_map[rows]) for rows in (slice(0, 3), slice(3, 8))]
        assert torch.equal(torch.cat(halves), expected)
        for one in (whole, parts):
            one.update(Processes())
    # float64 sums of 96 values below 1 in another order: 96 roundings of 1e-16 each
    assert torch.allclose(whole.sums, parts.sums, rtol=1e-14, atol=0)


@pytest.mark.parametrize("head", ["linear", "fpn"])
def test_the_teacher_ignores_pixels_below_their_class_s_mean(head: str) -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = [torch.randint(0, 256, (3, 64, 96), generator=generator, dtype=torch.uint8) for _ in range(2)]
    pipeline = compose(head={"name": head, "width": 32})
    teacher = Teacher(pipeline, decay=0.9, class_confidence=1.0)
    plain = Teacher(pipeline, decay=0.9).label_maps(pictures)
    assert teacher.thresholds is not None
    first = teacher.label_maps(pictures)  # nothing seen yet: every pixel has a label
    assert all(torch.equal(one, two) for one, two in zip(first, plain, strict=True))
    teacher.thresholds.update(Processes())
    found, other = torch.stack(teacher.label_maps(pictures)), torch.stack(plain)
    kept = found != 255
    assert 0.1 < kept.double().mean() < 0.9
    assert torch.equal(found[kept], other[kept])
    assert set(other.unique().tolist()) == set(found[kept].unique().tolist())  # no class loses all pixels


def test_pixels_without_any_score_are_unsure_and_do_not_spoil_the_thresholds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all masks underflow, shares are 0 and no NaN, which would stay in the running mean."""
    pipeline = compose(head={"name": "linear", "width": 8})
    scores, image = torch.zeros(19, 4, 6), torch.zeros(3, 4, 6, dtype=torch.uint8)
    scores[0, :2] = 1.0
    teachers = [Teacher(pipeline, decay=0.9, class_confidence=1.0), Teacher(pipeline, decay=0.9, confidence=0.5)]
    for teacher in teachers:
        monkeypatch.setattr(teacher, "_scores", lambda images, scale: [scores])
        if teacher.thresholds is not None:
            teacher.label_maps([image])
            teacher.thresholds.update(Processes())
            assert (teacher.thresholds.sums[0], teacher.thresholds.counts[0]) == (12.0, 24.0)
        (label_map,) = teacher.label_maps([image])
        assert (label_map[:2] == 0).all()
        assert (label_map[2:] == 255).all()
