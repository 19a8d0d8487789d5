import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from clouds.refiners.prompt_points import Region, draw_points, find_regions, select_largest_component

MAPS = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.sampled_from((0, 1, 7, 255)))


def painted(regions: list[Region], shape: tuple[int, ...]) -> np.ndarray:
    """Each region drawn where it lies; a pixel of two regions would show."""
    picture = np.full(shape, 255, np.int64)
    for region in regions:
        height, width = region.mask.shape
        place = picture[region.top : region.top + height, region.left : region.left + width]
        assert (place[region.mask] == 255).all()
        place[region.mask] = region.label
    return picture


@given(MAPS)
def test_regions_are_the_label_map_in_pieces(label_map: np.ndarray) -> None:
    regions = find_regions(label_map)
    assert np.array_equal(painted(regions, label_map.shape), label_map)
    assert [region.label for region in regions] == sorted(region.label for region in regions)
    for region in regions:
        assert ndimage.label(region.mask)[1] == 1


@given(MAPS, st.integers(0, 20))
def test_regions_are_larger_than_the_threshold(label_map: np.ndarray, threshold: int) -> None:
    sizes = [int(region.mask.sum()) for region in find_regions(label_map)]
    kept = [int(region.mask.sum()) for region in find_regions(label_map, size_threshold=threshold)]
    assert kept == [size for size in sizes if size > threshold]


@pytest.mark.parametrize("selection", ["random", "center", "largest_component"])
@given(label_map=MAPS, points=st.integers(1, 6), erosion=st.integers(0, 3), seed=st.integers(0, 9))
def test_points_lie_in_the_eroded_region_and_differ(
    selection, label_map: np.ndarray, points: int, erosion: int, seed: int
) -> None:
    for region in find_regions(label_map):
        options = {"points": points, "selection": selection, "erosion": erosion}
        drawn = draw_points(region, np.random.default_rng(seed), **options)
        mask = painted([region], label_map.shape) != 255
        inside = ndimage.binary_erosion(mask, np.ones((erosion, erosion))) if erosion else mask
        if drawn is None:
            assert not inside.sum() > points or selection != "random"
            continue
        assert drawn.shape == (points, 2)
        assert len({tuple(point) for point in drawn.tolist()}) == points
        assert all(inside[int(y), int(x)] for x, y in drawn)
        assert np.array_equal(drawn, draw_points(region, np.random.default_rng(seed), **options))


def test_a_point_too_few_drops_the_region() -> None:
    region = Region(label=1, top=0, left=0, mask=np.ones((2, 3), bool))
    rng = np.random.default_rng(0)
    assert draw_points(region, rng, points=6, selection="random") is not None
    assert draw_points(region, rng, points=7, selection="random") is None
    for selection in ("center", "largest_component"):  # these want more than they take
        assert draw_points(region, rng, points=5, selection=selection) is not None
        assert draw_points(region, rng, points=6, selection=selection) is None


def test_the_largest_component_is_the_largest_wherever_it_lies() -> None:
    mask = np.zeros((5, 9), bool)
    mask[:, :4], mask[0, 6], mask[4, 8] = True, True, True
    pixels = select_largest_component(mask, 10, np.random.default_rng(0))
    assert pixels is not None
    assert pixels[:, 1].max() < 4


def test_points_of_the_center_are_near_it() -> None:
    region = Region(label=1, top=100, left=50, mask=np.ones((80, 60), bool))
    points = draw_points(region, np.random.default_rng(0), points=40, selection="center")
    assert points is not None
    assert np.linalg.norm(points - (50 + 29.5, 100 + 39.5), axis=1).max() < 10
