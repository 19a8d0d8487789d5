"""Multi-scale deformable attention (Zhu et al., Deformable DETR, ICLR 2021, equation 3).

output[b, q, m] = sum over levels l and points p of weight[b, q, m, l, p] x value_l[b, m] at location[b, q, m, l, p]

where value_l is a map of "height width" cells, sampled bilinearly: cell centres are at (i + 0.5) / size, and values
outside the map are 0 (`align_corners=False`, zero padding).

`deformable_attention` computes weights (a softmax) and locations (reference points plus offsets);
`deformable_sampling` gets them as arguments. Both use the same code: one Triton kernel on CUDA, one weighted gather on
CPU.

Axis letters: b images, s cells of all levels (coarse to fine, row by row), q queries, m heads, d channels per head,
l levels, p points.

Dtypes: inputs may have any floating dtypes. Locations and sums are in float32 (float64 for float64 values); the output
has the values' dtype.

Determinism: only the Triton backward pass is not deterministic. It adds the values' gradient atomically in float32.
Under `torch.use_deterministic_algorithms(True)` it sorts the additions instead, which takes more time and about 460 MB
for a 1024x2048 image.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from clouds.kernels import deformable_gather
from clouds.kernels.backends import Backend, choose
from clouds.kernels.deformable_gather import Shapes

_WIDTHS = (16, 32, 64, 128)  # channels per head supported by Triton
_REACH = 2**31  # elements per image including strides; kernels use 32-bit offsets within an image


def deformable_attention(
    value: Float[Tensor, "b s m d"],
    spatial_shapes: Shapes,
    reference_points: Float[Tensor, "_ q l r"],
    offsets: Float[Tensor, "b q m l p 2"],
    attention_logits: Float[Tensor, "b q m l p"],
    *,
    backend: Backend = "auto",
) -> Float[Tensor, "b q md"]:
    """Weighted sums of bilinear samples around reference points, computed per head; heads are concatenated.

    Args:
        value: values of the cells of all levels.
        spatial_shapes: (height, width) of each level; their areas sum to s.
        reference_points: (x, y) in 0..1 per level, or boxes (x, y, width, height); shared by all images or per image.
        offsets: (x, y) relative to the reference point, in cells of the level; for boxes in units of half a box size
            / p.
        attention_logits: weights before the softmax over all levels and points.
        backend: see `clouds.kernels.backends`; Triton supports d of 16, 32, 64 and 128, and no float64.

    Raises:
        TypeError: a tensor does not have a floating dtype.
        ValueError: ranks, sizes or devices do not match, or Triton was requested and cannot run.
    """
    name = "deformable_attention"
    _check(name, value, spatial_shapes, {"offsets": offsets, "attention_logits": attention_logits})
    _check_reference(reference_points, offsets)
    way = choose(name, backend, value.device, objection=_objection(value, reference_points, offsets, attention_logits))
    if way == "reference" or (way == "torch" and value.device.type != "cpu"):
        locations = _locations(spatial_shapes, reference_points, offsets, _wide(value))
        weights = attention_logits.to(_wide(value)).flatten(-2).softmax(-1).view_as(attention_logits)
        if way == "torch":
            weights = _nan_where_not_finite(weights, locations)
        return reference(value, spatial_shapes, locations, weights)
    if reference_points.shape[-1] == 4:
        box = reference_points[..., 2:].to(_wide(value)) * deformable_gather.sizes(spatial_shapes, value)
        box = box * (0.5 / offsets.shape[4])
        offsets = offsets * box[:, :, None, :, None]
    centers = reference_points[..., :2]
    if way == "triton":
        centers = centers.expand(value.shape[0], -1, -1, -1)
        return _sample(value, _flat(spatial_shapes), centers, offsets, attention_logits)
    positions = deformable_gather.positions(spatial_shapes, centers.to(_wide(value)), offsets)
    weights = deformable_gather.softmax(attention_logits.to(_wide(value)).flatten(-2))
    return deformable_gather.gather(value, spatial_shapes, positions, weights.flatten(2))


def deformable_sampling(
    value: Float[Tensor, "b s m d"],
    spatial_shapes: Shapes,
    sampling_locations: Float[Tensor, "b q m l p 2"],
    attention_weights: Float[Tensor, "b q m l p"],
    *,
    backend: Backend = "auto",
) -> Float[Tensor, "b q md"]:
    """Weighted sums of bilinear samples, computed per head; heads are concatenated.

    Args:
        value: values of the cells of all levels.
        spatial_shapes: (height, width) of each level; their areas sum to s.
        sampling_locations: (x, y) in 0..1 within the level; samples outside read 0.
        attention_weights: weight of each sample.
        backend: see `clouds.kernels.backends`; Triton supports d of 16, 32, 64 and 128, and no float64.

    Raises:
        TypeError: a tensor does not have a floating dtype.
        ValueError: ranks, sizes or devices do not match, or Triton was requested and cannot run.
    """
    name = "deformable_sampling"
    samples = {"sampling_locations": sampling_locations, "attention_weights": attention_weights}
    _check(name, value, spatial_shapes, samples)
    way = choose(name, backend, value.device, objection=_objection(value, sampling_locations, attention_weights))
    if way == "triton":
        return _sample(value, _flat(spatial_shapes), None, sampling_locations, attention_weights)
    if way == "reference":
        return reference(value, spatial_shapes, sampling_locations, attention_weights)
    if value.device.type != "cpu":
        weights = _nan_where_not_finite(attention_weights, sampling_locations)
        return reference(value, spatial_shapes, sampling_locations, weights)
    positions = sampling_locations.to(_wide(value)) * deformable_gather.sizes(spatial_shapes, value)[:, None]
    return deformable_gather.gather(value, spatial_shapes, positions.flatten(2), attention_weights.flatten(2))


def reference(
    value: Float[Tensor, "b s m d"],
    spatial_shapes: Shapes,
    sampling_locations: Float[Tensor, "b q m l p 2"],
    attention_weights: Float[Tensor, "b q m l p"],
) -> Float[Tensor, "b q md"]:
    """The formula, level by level, with `grid_sample`.

    At a NaN or infinite location `grid_sample` reads NaN on a CPU, like all other forms, and 0 on CUDA.
    """
    # Heads become images: sampling grids "bm q l p 2", weights "bm 1 q l p"
    batch, _, heads, width = value.shape
    queries = sampling_locations.shape[1]
    grids = (2 * sampling_locations.to(_wide(value)) - 1).transpose(1, 2).flatten(0, 1)
    weights = attention_weights.to(_wide(value)).transpose(1, 2).flatten(0, 1)[:, None]
    output = grids.new_zeros(batch * heads, width, queries)
    # Per level: maps "bm d h w", samples "bm d q p", summed over points to "bm d q"
    levels = value.to(_wide(value)).split([height * columns for height, columns in spatial_shapes], dim=1)
    for index, (level, (height, columns)) in enumerate(zip(levels, spatial_shapes, strict=True)):
        maps = level.permute(0, 2, 3, 1).reshape(batch * heads, width, height, columns)
        samples = functional.grid_sample(maps, grids[:, :, index], align_corners=False)
        output = output + (samples * weights[:, :, :, index]).sum(-1)
    # Concatenate heads: "b q md"
    return output.view(batch, heads * width, queries).transpose(1, 2).to(value.dtype)


def _nan_where_not_finite(weights: Tensor, locations: Tensor) -> Tensor:
    """Weights "b q m l p", NaN where a location "b q m l p 2" is NaN or infinite: `reference` reads 0 there on CUDA."""
    return weights + (0 * locations).sum(-1)


def _locations(spatial_shapes: Shapes, reference_points: Tensor, offsets: Tensor, dtype: torch.dtype) -> Tensor:
    """Sampling locations in 0..1 within each level, "b q m l p 2"."""
    points, offsets = reference_points.to(dtype)[:, :, None, :, None], offsets.to(dtype)
    if points.shape[-1] == 2:
        return points + offsets / deformable_gather.sizes(spatial_shapes, offsets)[:, None]
    return points[..., :2] + offsets / offsets.shape[4] * points[..., 2:] * 0.5


def _wide(value: Tensor) -> torch.dtype:
    return torch.promote_types(value.dtype, torch.float32)


def _flat(spatial_shapes: Shapes) -> list[int]:
    return [side for shape in spatial_shapes for side in shape]


def _check(name: str, value: Tensor, spatial_shapes: Shapes, samples: dict[str, Tensor]) -> None:
    """Check shapes, dtypes and devices; `samples` holds locations or offsets, and weights or logits, by name."""
    if not all(isinstance(shape, Sequence) and len(shape) == 2 for shape in spatial_shapes):
        shown = " ".join(str(spatial_shapes).split())
        raise TypeError(
            f"{name}: spatial_shapes is {shown}; expected (height, width) of each level, such as "
            "[(32, 64), (64, 128)]; a tensor has .tolist()"
        )
    (where, locations), (what, weights) = samples.items()
    for argument, tensor in {"value": value, **samples}.items():
        if not tensor.is_floating_point():
            raise TypeError(f"{name}: {argument} has dtype {tensor.dtype}; expected a floating dtype")
        if tensor.device != value.device:
            raise ValueError(f"{name}: {argument} is on {tensor.device}, value on {value.device}; move one of them")
    if value.ndim != 4 or weights.ndim != 5 or min(weights.shape[3:]) < 1 or locations.shape != (*weights.shape, 2):
        raise ValueError(
            f"{name}: expected value (b, s, m, d), {what} (b, q, m, l, p) with l and p at least 1, and {where} of its "
            f"shape and 2; got {tuple(value.shape)}, {tuple(weights.shape)} and {tuple(locations.shape)}"
        )
    if value.shape[0] != weights.shape[0] or value.shape[2] != weights.shape[2]:
        raise ValueError(
            f"{name}: value has {value.shape[0]} images and {value.shape[2]} heads, {what} {weights.shape[0]} and "
            f"{weights.shape[2]}; expected the same"
        )
    if spatial_shapes and min(_flat(spatial_shapes)) < 1:
        raise ValueError(f"{name}: spatial_shapes is {list(spatial_shapes)}; expected sides of at least 1")
    cells, levels = sum(height * width for height, width in spatial_shapes), weights.shape[3]
    if cells != value.shape[1] or len(spatial_shapes) != levels:
        raise ValueError(
            f"{name}: spatial_shapes {list(spatial_shapes)} have {len(spatial_shapes)} levels and "
            f"{cells} cells; {where} have {levels} levels, and value has {value.shape[1]} cells"
        )


def _check_reference(points: Tensor, offsets: Tensor) -> None:
    name = "deformable_attention"
    batch, queries, _, levels = offsets.shape[:4]
    if not points.is_floating_point():
        raise TypeError(f"{name}: reference_points have dtype {points.dtype}; expected a floating dtype")
    if points.device != offsets.device:
        raise ValueError(f"{name}: reference_points are on {points.device}, offsets on {offsets.device}; move one")
    fits = points.ndim == 4 and points.shape[0] in (1, batch) and points.shape[3] in (2, 4)
    if not fits or points.shape[1:3] != (queries, levels):
        raise ValueError(
            f"{name}: expected reference_points (1 or {batch}, {queries}, {levels}, 2 or 4) for offsets "
            f"{tuple(offsets.shape)}; got {tuple(points.shape)}"
        )


def _objection(value: Tensor, *others: Tensor) -> str | None:
    """Why Triton cannot take these arguments."""
    if any(tensor.dtype == torch.float64 for tensor in (value, *others)):
        return "it has no kernel for float64"
    if value.shape[3] not in _WIDTHS:
        return f"it needs a power of two from 16 to 128 as channels per head, got {value.shape[3]}"
    for tensor in (value, *others):
        strides = zip(tensor.shape[1:], tensor.stride()[1:], strict=True)
        if sum((length - 1) * stride for length, stride in strides) >= _REACH:
            return f"an image of {tuple(tensor.shape[1:])} spans {_REACH} elements or more"
    return None


@torch.library.custom_op("clouds::deformable_attention", mutates_args=())
def _sample(value: Tensor, sizes: list[int], centers: Tensor | None, offsets: Tensor, logits: Tensor) -> Tensor:
    """The Triton kernel. Without `centers`, `offsets` are locations in 0..1 and `logits` are weights."""
    from clouds.kernels._triton.deformable_attention import forward

    return forward(value, sizes, centers, offsets, logits)


@_sample.register_fake
def _(value: Tensor, sizes: list[int], centers: Tensor | None, offsets: Tensor, logits: Tensor) -> Tensor:
    return value.new_empty(logits.shape[0], logits.shape[1], value.shape[2] * value.shape[3])


@torch.library.custom_op("clouds::deformable_attention_backward", mutates_args=())
def _sample_backward(
    gradient: Tensor,
    output: Tensor,
    value: Tensor,
    sizes: list[int],
    centers: Tensor | None,
    offsets: Tensor,
    logits: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of value, offsets and logits."""
    from clouds.kernels._triton.deformable_attention import backward

    ordered = torch.are_deterministic_algorithms_enabled()
    inputs = value, sizes, centers, offsets, logits
    of_value, of_offsets, of_logits = backward(gradient, output, *inputs, scatter=not ordered)
    if ordered:
        shapes = list(zip(sizes[::2], sizes[1::2], strict=True))
        if centers is None:
            positions = (offsets.float() * deformable_gather.sizes(shapes, value)[:, None]).flatten(2)
            weights = logits.float()
        else:
            positions = deformable_gather.positions(shapes, centers.float(), offsets)
            weights = logits.float().flatten(-2).softmax(-1)
        of_value = deformable_gather.scatter(gradient, value.shape[2], shapes, positions, weights.flatten(2))
    return of_value.to(value.dtype), of_offsets, of_logits


@_sample_backward.register_fake
def _(
    gradient: Tensor,
    output: Tensor,
    value: Tensor,
    sizes: list[int],
    centers: Tensor | None,
    offsets: Tensor,
    logits: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    return value.new_empty(value.shape), offsets.new_empty(offsets.shape), logits.new_empty(logits.shape)


def _keep(ctx, inputs, output: Tensor) -> None:
    value, ctx.sizes, centers, offsets, logits = inputs
    ctx.save_for_backward(value, centers, offsets, logits, output)


def _differentiate(ctx, gradient: Tensor) -> tuple[Tensor, None, Tensor | None, Tensor, Tensor]:
    value, centers, offsets, logits, output = ctx.saved_tensors
    of_value, of_offsets, of_logits = _sample_backward(gradient, output, value, ctx.sizes, centers, offsets, logits)
    of_centers = None
    if ctx.needs_input_grad[2]:  # offsets are in cells, centres in units of the whole level
        shapes = list(zip(ctx.sizes[::2], ctx.sizes[1::2], strict=True))
        of_centers = (of_offsets.float().sum((2, 4)) * deformable_gather.sizes(shapes, value)).to(centers.dtype)
    return of_value, None, of_centers, of_offsets, of_logits


_sample.register_autograd(_differentiate, setup_context=_keep)
