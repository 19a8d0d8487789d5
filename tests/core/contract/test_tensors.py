import numpy as np
import pytest

from clouds.core.contract.tensors import image_tensor


@pytest.mark.parametrize("size", [(4, 5), (1, 5), (4, 1), (1, 1)])
def test_an_image_becomes_a_contiguous_copy(size: tuple[int, int]) -> None:
    """An array of one row or column is contiguous either way; a read-only one makes torch warn unless it is copied."""
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    pixels.setflags(write=False)
    tensor = image_tensor(pixels)
    assert tensor.is_contiguous()
    assert (tensor.permute(1, 2, 0).numpy() == pixels).all()
    tensor[:] = 0
    assert pixels.any()
