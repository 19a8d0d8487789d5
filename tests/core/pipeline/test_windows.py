import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from clouds.core.pipeline import windows
from clouds.core.pipeline.windows import resampled, sliding_windows

SIDES = st.integers(2, 40)


@given(height=st.integers(1, 150), width=st.integers(1, 150), side=SIDES, share=st.floats(0, 0.6))
def test_cores_tile_the_image_and_keep_their_context(height: int, width: int, side: int, share: float) -> None:
    overlap = int(side * share)
    covered = np.zeros((height, width), int)
    for window in sliding_windows(height, width, side=side, overlap=overlap):
        covered[window.core] += 1
        for seen, core, inner, length in zip(
            window.seen, window.core, window.core_in_seen, (height, width), strict=True
        ):
            assert seen.stop - seen.start <= side
            assert core.stop - core.start == inner.stop - inner.start > 0
            assert inner.start >= 0
            assert inner.stop <= seen.stop - seen.start
            assert core.start == 0 or core.start - seen.start >= overlap // 2
            assert core.stop == length or seen.stop - core.stop >= overlap // 2
    assert (covered == 1).all()


LENGTHS = st.integers(1, 90)


@given(
    height=LENGTHS, width=LENGTHS, size=st.tuples(LENGTHS, LENGTHS), side=st.integers(8, 40), seed=st.integers(0, 99)
)
def test_windows_resize_as_the_whole(height: int, width: int, size: tuple[int, int], side: int, seed: int) -> None:
    whole = torch.randn(2, height, width, generator=torch.Generator().manual_seed(seed))
    found, made = torch.full((2, *size), torch.nan), 0
    rows, windows._ROWS = windows._ROWS, 16
    try:
        for window in sliding_windows(height, width, side=side, overlap=side // 4):
            for place, scores in resampled(window, whole[:, *window.seen], whole=(height, width), size=size):
                found[:, *place] = scores
                made += scores[0].numel()
    finally:
        windows._ROWS = rows
    assert made == size[0] * size[1]  # no pixel twice
    expected = functional.interpolate(whole[None].double(), size, mode="bilinear")[0]
    # Shares are rounded to float32; they multiply differences of a few standard deviations.
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)
