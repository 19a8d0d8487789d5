"""From low-resolution maps to a segmentation, strip by strip, so that no [queries x H x W] tensor exists at full size.

Order of work, as published: upsample the maps to the network size, turn them into class scores there, crop to the valid
size, resize the scores to the size of the answer, argmax. With "masks_first" the maps themselves are cropped and
resized to the size of the answer, and turned into class scores there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from clouds.core.resize import answer_rows, resized_rows, strips


def segment(
    maps: Float[Tensor, "q h w"],
    to_scores: Callable[[Tensor], Tensor],
    *,
    stride: int,
    valid_size: tuple[int, int],
    size: tuple[int, int],
    scores: bool,
    postprocess: Literal["merge_first", "masks_first"] = "merge_first",
) -> Tensor:
    """Class scores or labels of one image, merged in float32 whatever the model runs in.

    Args:
        maps: logits at 1/stride of the network size.
        to_scores: turns upsampled logits "q y x" into class scores "k y x", pixel by pixel.
        stride: network pixels per map pixel.
        valid_size: (height, width) of the image within the network input.
        size: (height, width) of the answer.
        scores: return scores instead of labels.
        postprocess: what is resized to `size`, class scores or maps.

    Returns:
        float32 "k h w" scores or uint8 "h w" labels.
    """
    maps = maps.float()
    network_size = (maps.shape[1] * stride, maps.shape[2] * stride)

    def at_network(start: int, stop: int) -> Tensor:
        return to_scores(resized_rows(maps, network_size, start, stop))[..., : valid_size[1]]

    def at_answer(start: int, stop: int) -> Tensor:
        return to_scores(answer_rows(maps, network_size, valid_size, size, start, stop))

    if size == valid_size:
        return _strips(at_network, size, len(maps), network_size[1], scores=scores)
    if postprocess == "masks_first":
        return _strips(at_answer, size, len(maps), max(size[1], network_size[1]), scores=scores)
    whole = _strips(at_network, valid_size, len(maps), network_size[1], scores=True)
    return _strips(lambda start, stop: resized_rows(whole, size, start, stop), size, len(whole), size[1], scores=scores)


def _strips(
    compute: Callable[[int, int], Tensor], size: tuple[int, int], channels: int, width: int, *, scores: bool
) -> Tensor:
    computed = (compute(start, stop) for start, stop in strips(size[0], elements_per_row=channels * width))
    if scores:
        return torch.cat(list(computed), dim=1)
    return torch.cat([strip.argmax(0).to(torch.uint8) for strip in computed])
