import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from clouds.core.pipeline.resampling import answer_rows, resized_rows, strips

SIDE = st.integers(1, 40)
# source positions are computed in float32 in another order: an error of some ulp of a position up to 40, twice
TOLERANCE = {"rtol": 0, "atol": 1e-4}


def bilinear(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return functional.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]


@given(height=SIDE, width=SIDE, new_height=SIDE, new_width=SIDE, cut=st.floats(0, 1), seed=st.integers(0, 99))
def test_rows_of_a_resize_are_the_resize_of_rows(
    height: int, width: int, new_height: int, new_width: int, cut: float, seed: int
) -> None:
    maps = torch.randn(2, height, width, generator=torch.Generator().manual_seed(seed))
    whole = bilinear(maps, (new_height, new_width))
    start = int(cut * (new_height - 1))
    rows = resized_rows(maps, (new_height, new_width), start, new_height)
    torch.testing.assert_close(rows, whole[:, start:], **TOLERANCE)


@given(
    valid=st.tuples(st.integers(1, 32), st.integers(1, 64)),
    size=st.tuples(SIDE, SIDE),
    cuts=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    seed=st.integers(0, 99),
)
def test_rows_of_an_answer_are_upsampled_cropped_and_resized(
    valid: tuple[int, int], size: tuple[int, int], cuts: tuple[float, float], seed: int
) -> None:
    maps = torch.randn(3, 8, 16, generator=torch.Generator().manual_seed(seed))
    whole = bilinear(bilinear(maps, (32, 64))[:, : valid[0], : valid[1]], size)
    start, stop = sorted(round(cut * size[0]) for cut in cuts)
    if start < stop:
        rows = answer_rows(maps, (32, 64), valid, size, start, stop)
        torch.testing.assert_close(rows, whole[:, start:stop], **TOLERANCE)


@given(height=st.integers(0, 5000), elements=st.integers(1, 1 << 22))
def test_strips_tile_the_rows_and_are_small(height: int, elements: int) -> None:
    cut = list(strips(height, elements_per_row=elements))
    assert [row for start, stop in cut for row in range(start, stop)] == list(range(height))
    assert all(stop - start == 1 or (stop - start) * elements <= 1 << 21 for start, stop in cut)
