"""Bipartite matching of predictions and targets, in float32 whatever the model runs in."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from clouds.core.errors import NonFiniteError


def matching_cost(
    class_logits: Float[Tensor, "q k1"],
    labels: Int[Tensor, " n"],
    mask_values: Float[Tensor, "q p"],
    target_values: Float[Tensor, "n p"],
    valid: Float[Tensor, " p"],
    weights: tuple[float, float, float],
) -> Float[Tensor, "q n"]:
    """Cost of giving target n to query q: class, mask and dice terms (Mask2Former, section 3.3).

    Args:
        class_logits: of each query.
        labels: class of each target.
        mask_values: mask logits at the sampled points.
        target_values: target masks at the same points, 0..1.
        valid: 1 where a point counts, 0 on ignored pixels.
        weights: of the class, mask and dice terms.
    """
    class_logits, mask_values = class_logits.float(), mask_values.float()
    count = valid.sum().clamp(min=1)
    class_cost = -class_logits.softmax(-1)[:, labels]
    inside = functional.softplus(-mask_values) * valid
    outside = functional.softplus(mask_values) * valid
    mask_cost = (inside @ target_values.T + outside @ (1 - target_values).T) / count
    probability = mask_values.sigmoid() * valid
    targets = target_values * valid
    overlap = 2 * probability @ targets.T + 1
    dice_cost = 1 - overlap / (probability.sum(-1)[:, None] + targets.sum(-1)[None] + 1)
    return weights[0] * class_cost + weights[1] * mask_cost + weights[2] * dice_cost


def assign(cost: Float[Tensor, "q n"], *, image: int) -> tuple[Tensor, Tensor]:
    """Hungarian assignment: query and target indices of the pairs.

    Raises:
        NonFiniteError: a cost is not finite; the message names the image.
    """
    if not cost.isfinite().all():
        raise NonFiniteError(
            f"matching cost of image {image} of the batch is not finite: the network's output for it is NaN or "
            "infinite; look at that image, the learning rate and the precision"
        )
    queries, targets = linear_sum_assignment(cost.detach().cpu().numpy())
    return torch.from_numpy(queries.astype(np.int64)), torch.from_numpy(targets.astype(np.int64))
