import kornia
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clouds.core.pipeline.build import build_part
from clouds.refiners.regions import superpixels, vote


def random_case(height: int, width: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
    classes = torch.tensor([0, 3, 18, 255], dtype=torch.uint8)
    return image, classes[torch.randint(0, 4, (height, width), generator=generator)]


@settings(deadline=None, max_examples=30)
@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 99))
def test_never_invents_a_class(height: int, width: int, seed: int) -> None:
    image, label_map = random_case(height, width, seed)
    (targets,) = build_part("refiner", "regions").refine([image], [label_map], rngs=[np.random.default_rng(0)])
    assert set(targets.labels.tolist()) <= set(label_map.unique().tolist()) - {255}
    assert targets.masks.shape[1:] == label_map.shape


@settings(deadline=None, max_examples=20)
@given(height=st.integers(1, 60), width=st.integers(1, 60), cell=st.integers(1, 12))
def test_every_pixel_has_a_region_near_it(height: int, width: int, cell: int) -> None:
    image, _ = random_case(height, width, 0)
    regions = superpixels(image, cell, 0.3, 3)
    rows, columns = max(1, round(height / cell)), max(1, round(width / cell))
    assert regions.shape == (height, width)
    y = ((torch.arange(height) + 0.5) * (rows / height)).long()[:, None]
    x = ((torch.arange(width) + 0.5) * (columns / width)).long()[None]
    assert ((regions // columns - y).abs() <= 1).all()
    assert ((regions % columns - x).abs() <= 1).all()


@pytest.mark.parametrize(("height", "width", "cell"), [(12, 20, 4), (11, 17, 3), (5, 4, 9)])
def test_a_pixel_takes_the_nearest_of_nine_centres(height: int, width: int, cell: int) -> None:
    image, _ = random_case(height, width, 1)
    rows, columns = max(1, round(height / cell)), max(1, round(width / cell))
    lab = kornia.color.rgb_to_lab(image[None].double() / 255)[0]
    spots = [(row, column) for row in range(height) for column in range(width)]
    points = {
        (row, column): torch.tensor(
            [*lab[:, row, column], 30 * (row + 0.5) * rows / height, 30 * (column + 0.5) * columns / width]
        )
        for row, column in spots
    }
    home = {
        (row, column): (int((row + 0.5) * rows / height), int((column + 0.5) * columns / width))
        for row, column in spots
    }
    cells = {cell: [points[spot] for spot in spots if home[spot] == cell] for cell in home.values()}
    centres = {cell: torch.stack(found).mean(0) for cell, found in cells.items()}
    regions = superpixels(image, cell, 0.3, 1)
    for spot in spots:
        near = {
            c: centre for c, centre in centres.items() if max(abs(c[0] - home[spot][0]), abs(c[1] - home[spot][1])) < 2
        }
        best = min(near, key=lambda c: (points[spot] - near[c]).square().sum().item())
        assert regions[spot] == best[0] * columns + best[1]


def test_regions_follow_an_edge_that_the_grid_does_not() -> None:
    image = torch.zeros(3, 48, 48, dtype=torch.uint8)
    edge = torch.arange(48)[:, None] + torch.arange(48)[None] > 50
    image[:, edge] = 255
    regions = superpixels(image, 6, 0.3, 5)
    mixed = [region for region in regions.unique() if 0 < edge[regions == region].float().mean() < 1]
    assert mixed == []


def test_a_shifted_label_map_moves_back_to_the_edge() -> None:
    image = torch.zeros(3, 48, 48, dtype=torch.uint8)
    image[:, :, 25:] = 255
    truth = (image[0] > 0).to(torch.uint8)
    shifted = torch.roll(truth, 2, dims=1)
    shifted[:, :2] = 0
    (targets,) = build_part("refiner", "regions").refine([image], [shifted], rngs=[np.random.default_rng(0)])
    assert (targets.to_label_map() == truth).all()


def test_regions_that_do_not_agree_keep_their_labels() -> None:
    regions = torch.zeros(1, 4, dtype=torch.int32)
    labels = torch.tensor([[1, 1, 2, 2]], dtype=torch.uint8)
    assert vote(labels, regions, 0.6).tolist() == [[1, 1, 2, 2]]
    assert vote(torch.tensor([[1, 1, 1, 2]], dtype=torch.uint8), regions, 0.6).tolist() == [[1, 1, 1, 1]]


def test_unlabelled_pixels_count_against_a_class_but_never_win() -> None:
    regions = torch.zeros(1, 4, dtype=torch.int32)
    assert vote(torch.tensor([[255, 255, 255, 4]], dtype=torch.uint8), regions, 0.2).tolist() == [[4, 4, 4, 4]]
    assert vote(torch.tensor([[255, 255, 255, 4]], dtype=torch.uint8), regions, 0.6).tolist() == [[255, 255, 255, 4]]


@pytest.mark.parametrize("name", ["regions", "identity"])
def test_prepared_gives_the_same(name: str) -> None:
    refiner = build_part("refiner", name)
    cases = [random_case(20, 30, seed) for seed in range(2)]
    images, label_maps = [c[0] for c in cases], [c[1] for c in cases]
    rngs = [np.random.default_rng(0)] * 2
    fresh = refiner.refine(images, label_maps, rngs=rngs)
    cached = refiner.refine(images, label_maps, rngs=rngs, prepared=refiner.prepare(images))
    for one, other in zip(fresh, cached, strict=True):
        assert (one.masks == other.masks).all()
        assert (one.labels == other.labels).all()
