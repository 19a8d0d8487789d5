import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from clouds.core.windows import sliding_windows

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
