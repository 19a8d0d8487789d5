"""The teacher's labels from views of several sizes."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from training_helpers import compose

from clouds.core.system.errors import ConfigError
from clouds.training.recipe import TeacherConfig
from clouds.training.teacher import Teacher


def pictures() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (3, 64, 96), generator=generator, dtype=torch.uint8) for _ in range(2)]


def test_scores_of_all_sizes_are_averaged() -> None:
    """Written out with the pipeline's own prediction of the resized pictures."""
    pipeline = compose()
    found = Teacher(pipeline, decay=0.5, scales=(0.5, 1.0)).label_maps(pictures())
    for picture, label_map in zip(pictures(), found, strict=True):
        height, width = picture.shape[1:]
        small = functional.interpolate(
            picture[None].float(), (height // 2, width // 2), mode="bilinear", antialias=True, align_corners=False
        )
        small = small[0].round().to(torch.uint8)
        scores = pipeline.head.segment(
            pipeline.forward([small]), (height // 2, width // 2), (height, width), scores=True
        ) + pipeline.head.segment(pipeline.forward([picture]), (height, width), (height, width), scores=True)
        # a batch rounds otherwise than one picture: pixels whose two best classes are equal to rounding may differ
        assert (label_map == scores.argmax(0)).double().mean() > 0.999


def test_one_size_changes_nothing_and_another_does() -> None:
    pipeline = compose()
    plain = Teacher(pipeline, decay=0.5).label_maps(pictures())
    for scales, equal in (((1.0,), True), ((0.5,), False)):
        found = Teacher(pipeline, decay=0.5, scales=scales).label_maps(pictures())
        assert all(torch.equal(one, two) for one, two in zip(plain, found, strict=True)) is equal
        assert [one.shape for one in found] == [one.shape for one in plain]


def test_the_weight_is_that_of_the_averaged_scores() -> None:
    pipeline = compose()
    teacher = Teacher(pipeline, decay=0.5, weight_threshold=0.08, scales=(0.5, 1.0))
    alone = Teacher(pipeline, decay=0.5, weight_threshold=0.08)
    weights, other = ([weight for _, weight in one.weighted_label_maps(pictures())] for one in (teacher, alone))
    assert weights != other
    assert all(0 <= weight <= 1 for weight in weights)


@pytest.mark.parametrize("scales", [(), (1.0, 1.0)])
def test_sizes_must_differ(scales: tuple[float, ...]) -> None:
    with pytest.raises(
        ConfigError, match=r"teacher\.scales is \[.*\]; expected different numbers such as \[0\.5, 1\.0\]"
    ):
        TeacherConfig(scales=scales)
