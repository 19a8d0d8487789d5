"""Costs of matching queries to targets, for all layers and images at once (Cheng et al., Mask2Former, CVPR 2022, 3.3).

cost[l, q, t] = - w_class softmax(class_logits[l, i, q])[label_t]
                + w_mask  mean over points of BCE(x, y)
                + w_dice  (1 - (2 sum(sigmoid(x) y) + 1) / (sum(sigmoid(x)) + sum(y) + 1))

where i is the image of target t, x the mask logits of query q and y the mask of t at the points of layer l and image i.
Sums and the mean are over valid points.
Axis letters: l layers, b images, q queries, k classes with "no object", p points, t targets of all images.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clouds.kernels.backends import Backend, choose

_QUERIES = 16  # per step, so that intermediates (0.8 MB at 12,544 points) stay in cache


@torch.no_grad()
def matching_cost(
    class_logits: Float[Tensor, "l b q k"],
    mask_values: Float[Tensor, "l b q p"],
    labels: Int[Tensor, " t"],
    target_values: Float[Tensor, "l t p"],
    valid: Float[Tensor, "l b p"],
    counts: Sequence[int],
    weights: tuple[float, float, float],
    *,
    backend: Backend = "auto",
) -> Float[Tensor, "l q t"]:
    """Costs without gradient, in at least float32. Columns of one image are contiguous.

    Args:
        class_logits: class logits of each query.
        mask_values: mask logits at the points.
        labels: class of each target, 0..k-2. Not checked, because that would synchronise: an invalid label costs NaN
            (Triton), or raises an index error or counts as another class (torch).
        target_values: target masks at the points of their image, 0..1.
        valid: 1 for points that count, 0 on ignored pixels.
        counts: number of targets per image; they sum to t.
        weights: weights of the class, mask and dice terms.
        backend: see `clouds.kernels.backends`.

    Raises:
        ValueError: shapes or devices do not match, or Triton was requested and cannot run.
        TypeError: labels are not integers, or another tensor does not have a floating dtype.
    """
    tensors = {
        "class_logits": class_logits,
        "mask_values": mask_values,
        "labels": labels,
        "target_values": target_values,
        "valid": valid,
    }
    _check_shapes({name: tuple(tensor.shape) for name, tensor in tensors.items()}, counts)
    _check_tensors(tensors)
    doubles = [name for name, tensor in tensors.items() if tensor.dtype == torch.float64]
    objection = f"it computes in float32, and {doubles} are float64" if doubles else None
    if choose("matching_cost", backend, mask_values.device, objection=objection) == "triton":
        return _costs(class_logits, mask_values, labels, target_values, valid, list(counts), list(weights))
    return reference(class_logits, mask_values, labels, target_values, valid, counts, weights)


def reference(
    class_logits: Float[Tensor, "l b q k"],
    mask_values: Float[Tensor, "l b q p"],
    labels: Int[Tensor, " t"],
    target_values: Float[Tensor, "l t p"],
    valid: Float[Tensor, "l b p"],
    counts: Sequence[int],
    weights: tuple[float, float, float],
) -> Float[Tensor, "l q t"]:
    """The formula, layer by layer and image by image; matrix products give cross entropy and dice of all pairs."""
    dtype = torch.promote_types(mask_values.dtype, torch.float32)
    cost = mask_values.new_empty(*mask_values.shape[:3:2], len(labels), dtype=dtype)
    class_logits, mask_values, valid = class_logits.to(dtype), mask_values.to(dtype), valid.to(dtype)
    sizes = list(counts)
    of_images = zip(cost.split(sizes, 2), labels.split(sizes), target_values.to(dtype).split(sizes, 1), strict=True)
    for image, (columns, chosen, masks) in enumerate(of_images):
        for layer, one in enumerate(masks):
            logits, values, counted = class_logits[layer, image], mask_values[layer, image], valid[layer, image]
            columns[layer] = _image_costs(logits, values, counted, chosen, one, weights)
    return cost


def _image_costs(
    class_logits: Float[Tensor, "q k"],
    mask_values: Float[Tensor, "q p"],
    valid: Float[Tensor, " p"],
    labels: Int[Tensor, " n"],
    target_values: Float[Tensor, "n p"],
    weights: tuple[float, float, float],
) -> Float[Tensor, "q n"]:
    # Class cost "q n"
    class_cost = -class_logits.softmax(-1)[:, labels]
    # Mask and dice costs "q n", some queries at a time
    of_masks = [_pair_costs(part, valid, target_values) for part in mask_values.split(_QUERIES)]
    mask_cost, dice_cost = (torch.cat(parts) for parts in zip(*of_masks, strict=True))
    return weights[0] * class_cost + weights[1] * mask_cost + weights[2] * dice_cost


def _pair_costs(
    mask_values: Float[Tensor, "q p"], valid: Float[Tensor, " p"], target_values: Float[Tensor, "n p"]
) -> tuple[Float[Tensor, "q n"], Float[Tensor, "q n"]]:
    # Target masks and their complements at valid points "n p"
    targets, others = target_values * valid, (1 - target_values) * valid
    # BCE(x, y) = y relu(-x) + (1 - y) relu(x) - log(sigmoid(|x|)): one logarithm per query and point for all targets
    either = mask_values.abs().sigmoid_().log_() @ valid
    mask_cost = mask_values.neg().relu_() @ targets.T + mask_values.relu() @ others.T - either[:, None]
    # Dice "q n"
    probability = mask_values.sigmoid()
    overlap = 2 * (probability @ targets.T) + 1
    dice_cost = 1 - overlap / ((probability @ valid)[:, None] + targets.sum(-1) + 1)
    return mask_cost / valid.sum().clamp(min=1), dice_cost


def _check_shapes(shapes: dict[str, tuple[int, ...]], counts: Sequence[int]) -> None:
    layers, images, queries, points = shapes["mask_values"] if len(shapes["mask_values"]) == 4 else (-1,) * 4
    targets = sum(counts)
    expected = {
        "class_logits": (layers, images, queries, *shapes["class_logits"][3:4]),
        "mask_values": (layers, images, queries, points),
        "labels": (targets,),
        "target_values": (layers, targets, points),
        "valid": (layers, images, points),
    }
    if shapes != expected or len(counts) != images or len(shapes["class_logits"]) != 4 or min(counts, default=0) < 0:
        raise ValueError(
            f'matching_cost: shapes {shapes} and counts {list(counts)}; expected class_logits "l b q k", mask_values '
            '"l b q p", labels "t", target_values "l t p", valid "l b p", and b counts that sum to t'
        )


def _check_tensors(tensors: dict[str, Tensor]) -> None:
    devices = {name: str(tensor.device) for name, tensor in tensors.items()}
    if len(set(devices.values())) > 1:
        raise ValueError(f"matching_cost: tensors on {devices}; expected one device")
    wrong = {
        name: tensor.dtype for name, tensor in tensors.items() if name != "labels" and not tensor.is_floating_point()
    }
    if wrong or tensors["labels"].dtype not in (torch.int32, torch.int64):
        raise TypeError(
            f"matching_cost: labels of {tensors['labels'].dtype}, and {wrong} are not floating point; expected int32 "
            "or int64 labels, and floating point for all others"
        )


@torch.library.custom_op(
    "clouds::matching_cost",
    mutates_args=(),
    schema="(Tensor class_logits, Tensor mask_values, Tensor labels, Tensor target_values, Tensor valid, int[] counts, "
    "float[] weights) -> Tensor",
)
def _costs(
    class_logits: Tensor,
    mask_values: Tensor,
    labels: Tensor,
    target_values: Tensor,
    valid: Tensor,
    counts: list[int],
    weights: list[float],
) -> Tensor:
    from clouds.kernels._triton.matching_cost import forward

    return forward(class_logits, mask_values, labels, target_values, valid, counts, weights)


@_costs.register_fake
def _(
    class_logits: Tensor,
    mask_values: Tensor,
    labels: Tensor,
    target_values: Tensor,
    valid: Tensor,
    counts: list[int],
    weights: list[float],
) -> Tensor:
    return mask_values.new_empty(*mask_values.shape[:3:2], len(labels), dtype=torch.float32)
