import numpy as np
import pytest
import torch
from torch import Tensor

from clouds.core.pipeline.build import build_part
from clouds.core.system.errors import ConfigError


def refined(image: Tensor, label_map: Tensor, **options: float) -> Tensor:
    refiner = build_part("refiner", {"name": "guided", **options})
    (targets,) = refiner.refine([image], [label_map], rngs=[np.random.default_rng(0)])
    return targets.to_label_map()


def halves() -> tuple[Tensor, Tensor]:
    """A dark and a light half, and their labels 0 and 1."""
    image = torch.zeros(3, 48, 48, dtype=torch.uint8)
    image[:, :, 25:] = 255
    return image, (image[0] > 0).to(torch.uint8)


@pytest.mark.parametrize("subsample", [1, 2])
def test_a_shifted_label_map_moves_back_to_the_edge(subsample: int) -> None:
    image, truth = halves()
    shifted = torch.roll(truth, 2, dims=1)
    shifted[:, :2] = 0
    assert (refined(image, shifted, subsample=subsample) == truth).all()


def test_without_balance_specks_take_the_label_around_them() -> None:
    image, truth = halves()
    specked = truth.clone()
    specked[5, 5], specked[40, 40] = 7, 255
    assert (refined(image, specked, balance=0) == truth).all()


def test_balance_lets_a_rare_class_win_with_less_support() -> None:
    """On one colour, the filter is a mean of means over windows."""
    image = torch.full((3, 60, 60), 90, dtype=torch.uint8)
    label_map = torch.zeros(60, 60, dtype=torch.uint8)
    label_map[::3, :12] = 5
    # Windows of 9 rows hold 3 rows of the rare class: in columns 0 to 3 its support is 1/3. Shares are 1/15 and 14/15.
    window, inner = {"radius": 4, "subsample": 1}, (slice(12, 48), slice(0, 4))
    assert (refined(image, label_map, balance=0, **window)[inner] == 0).all()
    # The weights' ratio, 14 ** 0.5 = 3.7, exceeds that of support, 2
    balanced = refined(image, label_map, balance=0.5, **window)
    assert (balanced[inner] == 5).all()
    assert (balanced[:, 20:] == 0).all()


def test_ignored_areas_stay_ignored() -> None:
    image, truth = halves()
    truth[:, 25:] = 255
    assert (refined(image, truth) == truth).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radius": 0}, "radius is 0; expected at least 1"),
        ({"epsilon": 0.0}, "epsilon is 0.0; expected more than 0"),
        ({"balance": 1.5}, "balance is 1.5; expected at least 0 and at most 1"),
        ({"subsample": 3}, "subsample is 3; expected at least 1 and at most 2"),
    ],
)
def test_an_option_out_of_range_is_named(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_part("refiner", {"name": "guided", **options})


@pytest.mark.parametrize("subsample", [1, 2])
@pytest.mark.parametrize("radius", [1, 2, 5, 7, 16])
def test_edges_on_one_colour_stay_where_they_are(radius: int, subsample: int) -> None:
    """An even window of the subsampled image would move them by `subsample`."""
    image = torch.full((3, 64, 64), 90, dtype=torch.uint8)
    for edge in range(28, 36):
        label_map = torch.zeros(64, 64, dtype=torch.uint8)
        label_map[:, edge:] = 1
        for turned in (label_map, label_map.T):
            made = refined(image, turned, radius=radius, subsample=subsample, balance=0)
            moved = ((made == 0).sum() - (turned == 0).sum()).item() / 64
            assert 0 <= moved <= subsample - 1
