import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from clouds.heads import semantic
from clouds.heads.semantic import resized_rows, segment

SIDE = st.integers(1, 40)


@given(height=SIDE, width=SIDE, new_height=SIDE, new_width=SIDE, cut=st.floats(0, 1), seed=st.integers(0, 99))
def test_rows_of_a_resize_are_the_resize_of_rows(
    height: int, width: int, new_height: int, new_width: int, cut: float, seed: int
) -> None:
    maps = torch.randn(2, height, width, generator=torch.Generator().manual_seed(seed))
    whole = functional.interpolate(maps[None], size=(new_height, new_width), mode="bilinear", align_corners=False)[0]
    start = int(cut * (new_height - 1))
    # the source position is computed in float32 in another order: an error of some ulp of a position up to 40
    torch.testing.assert_close(
        resized_rows(maps, (new_height, new_width), start, new_height), whole[:, start:], rtol=0, atol=5e-5
    )


@pytest.mark.parametrize("strip", [1, 500, 1 << 21])
@pytest.mark.parametrize("size", [(50, 70), (23, 91)])
def test_strips_change_nothing(monkeypatch: pytest.MonkeyPatch, strip: int, size: tuple[int, int]) -> None:
    """Against the plain order of work: upsample, sigmoid, merge, crop, resize, argmax, all at full size."""
    monkeypatch.setattr(semantic, "_STRIP", strip)
    generator = torch.Generator().manual_seed(0)
    masks, probabilities = torch.randn(5, 16, 24, generator=generator), torch.rand(5, 3, generator=generator)
    upsampled = functional.interpolate(masks[None], scale_factor=4, mode="bilinear", align_corners=False)[0].sigmoid()
    merged = torch.einsum("qk,qyx->kyx", probabilities, upsampled)[:, :50, :70]
    expected = functional.interpolate(merged[None], size=size, mode="bilinear", align_corners=False)[0]

    def run(scores: bool) -> torch.Tensor:
        return segment(
            masks,
            lambda logits: torch.einsum("qk,qyx->kyx", probabilities, logits.sigmoid()),
            stride=4,
            valid_size=(50, 70),
            size=size,
            scores=scores,
        )

    scores = run(True)
    torch.testing.assert_close(scores, expected, rtol=0, atol=5e-5)
    labels = run(False)
    assert labels.dtype == torch.uint8
    assert (labels == scores.argmax(0)).all()
