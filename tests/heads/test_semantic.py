import pytest
import torch
from torch.nn import functional

from clouds.core import resize
from clouds.heads.semantic import segment


@pytest.mark.parametrize("strip", [1, 500, 1 << 21])
@pytest.mark.parametrize("size", [(50, 70), (23, 91)])
def test_strips_change_nothing(monkeypatch: pytest.MonkeyPatch, strip: int, size: tuple[int, int]) -> None:
    """Against the plain order of work: upsample, sigmoid, merge, crop, resize, argmax, all at full size."""
    monkeypatch.setattr(resize, "_STRIP", strip)
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


def test_reduced_precision_is_merged_in_float32() -> None:
    """bfloat16 has 8 bits: merged in it, scores would differ by some 1e-3."""
    masks = torch.randn(50, 16, 24, generator=torch.Generator().manual_seed(0)).bfloat16()

    def run(maps: torch.Tensor) -> torch.Tensor:
        return segment(maps, lambda x: x.sigmoid(), stride=4, valid_size=(60, 90), size=(33, 91), scores=True)

    assert torch.equal(run(masks), run(masks.float()))
