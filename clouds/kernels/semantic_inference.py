"""Semantic inference of mask classification (Cheng et al., MaskFormer, NeurIPS 2021, section 3.4).

scores[k, y, x] = sum over queries q of P(class k | query q) x P(mask q at y, x),    labels = argmax over k

P(mask) is the sigmoid of the mask logits, which are resized bilinearly to the network's size (`align_corners=False`).
As published ("merge_first"), scores are merged there, cropped to the image and resized to the output size.
"masks_first" crops and resizes the logits, and merges at the output size.

Tensors of [queries x height x width] exist only as strips (torch) or tiles (Triton). Scores to be resized are computed
in bands. Recomputing four neighbours per output pixel would cost 4x the sigmoids; keeping a band costs 8 bytes per
class and network pixel, in cache. On a CPU, consecutive bands share the rows that both need.

Axis letters: q queries, k classes, h and w cells of the mask logits, y and x pixels of the output.
"""

# pyright: reportUnknownMemberType=false
# (torch has incomplete types)

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from operator import gt
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from clouds.kernels.backends import Backend, choose

Size = tuple[int, int]
Order = Literal["merge_first", "masks_first"]
Activation = Literal["sigmoid", "softmax"]
Chain = tuple[tuple[int, int], ...]  # resizes of one axis: (new length, length after cropping)
Taps = tuple[Tensor, Tensor]

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "softmax": lambda maps: maps.softmax(-3),
}

_STRIP = 1 << 18  # logits per strip: 1 MB in float32 stays in a core's cache, and is reused by the allocator
_BAND = 1 << 19  # scores per band on a CPU: 2 MB in float32 stay in cache until the argmax
_GPU_BAND = 1 << 24  # scores per band, logits per strip on a GPU: 64 MB; a band costs two launches, a strip about ten
_MOST_CLASSES = 256  # limit of the Triton kernel; labels end at 254 anyway


def semantic_inference(
    class_probabilities: Float[Tensor, "q k"],
    mask_logits: Float[Tensor, "q h w"],
    network_size: Size,
    valid_size: Size,
    size: Size,
    postprocess: Order = "merge_first",
    *,
    activation: Activation = "sigmoid",
    scores: bool = False,
    backend: Backend = "auto",
) -> Tensor:
    """Labels or class scores of one image, from low-resolution mask logits.

    Scores are merged in float32 (float64 for float64 inputs). As in `torch.argmax`, the lowest of equal labels wins,
    and NaN beats every number. Results are deterministic. Triton multiplies float32 inputs as three TF32 products,
    which differs from float32 in the last bits. For bfloat16 and float16 inputs it uses TF32, whose rounding (2^-11)
    does not exceed that of the inputs. Their sigmoids have errors up to 2^-12. Triton computes no gradients.

    Args:
        class_probabilities: P(class | query), without "no object".
        mask_logits: logits of P(mask).
        network_size: (height, width) of the network input, to which the logits are resized.
        valid_size: (height, width) of the image within it, at the top left.
        size: (height, width) of the output.
        postprocess: tensor resized from `valid_size` to `size`: scores ("merge_first") or logits ("masks_first").
        activation: P(mask): "sigmoid", or "softmax" over queries if each pixel belongs to exactly one.
        scores: return scores instead of labels.
        backend: see `clouds.kernels.backends`.

    Returns:
        uint8 "y x" labels, or float "k y x" scores.

    Raises:
        TypeError: an input does not have a floating dtype.
        ValueError: shapes, devices or sizes do not match; a name is unknown; labels for over 255 classes; see `choose`.
    """
    _check(class_probabilities, mask_logits, network_size, valid_size, size, scores=scores)
    _check_names(postprocess, activation)
    work = torch.float64 if torch.float64 in (class_probabilities.dtype, mask_logits.dtype) else torch.float32
    form = choose("semantic_inference", backend, mask_logits.device, objection=_objection(class_probabilities, work))
    sizes = (network_size, valid_size, size)
    if form == "triton":
        first = postprocess == "masks_first"
        return _fused(class_probabilities, mask_logits, *sizes, first, activation == "softmax", scores)
    inputs = class_probabilities.to(work), mask_logits.to(work)
    compute = reference if form == "reference" else _by_strips
    return compute(*inputs, *sizes, postprocess, activation=activation, scores=scores)


def reference(
    class_probabilities: Float[Tensor, "*b q k"],
    mask_logits: Float[Tensor, "*b q h w"],
    network_size: Size,
    valid_size: Size,
    size: Size,
    postprocess: Order = "merge_first",
    *,
    activation: Activation = "sigmoid",
    scores: bool = False,
) -> Tensor:
    """All steps at full size, in the dtype of the inputs; also for a batch of images of one size."""
    # Logits at network size, cropped to the image, for "masks_first" resized to the output: "*b q y x"
    maps = _resized(mask_logits, network_size)[..., : valid_size[0], : valid_size[1]]
    maps = _resized(maps, size) if postprocess == "masks_first" else maps
    # Merged scores "*b k y x", for "merge_first" resized to the output
    merged = torch.einsum("...qk,...qyx->...kyx", class_probabilities, _ACTIVATIONS[activation](maps))
    if postprocess == "merge_first":
        merged = _resized(merged, size)
    return merged if scores else merged.argmax(-3).to(torch.uint8)


def _resized(maps: Tensor, size: Size) -> Tensor:
    if tuple(maps.shape[-2:]) == size:
        return maps  # torch would compute inf + 0 x inf
    images = maps if maps.ndim == 4 else maps[:, None]
    return functional.interpolate(images, size=size, mode="bilinear").reshape(*maps.shape[:-2], *size)


def _by_strips(
    class_probabilities: Tensor,
    mask_logits: Tensor,
    network_size: Size,
    valid_size: Size,
    size: Size,
    postprocess: Order = "merge_first",
    *,
    activation: Activation = "sigmoid",
    scores: bool = False,
) -> Tensor:
    """Process strips of rows so that intermediates stay in cache; rows are resized before columns, which is cheaper."""
    strip, band = (_STRIP, _BAND) if mask_logits.device.type == "cpu" else (_GPU_BAND, _GPU_BAND)
    # Interpolation tables of all resizes before the merge
    mask_logits = mask_logits.contiguous()  # else torch copies all of it for every selection of rows
    rows, columns = _chains(network_size, valid_size, size if postprocess == "masks_first" else valid_size)
    taps = _taps(mask_logits.shape[1], rows, mask_logits.dtype, mask_logits.device)
    per_row = max(1, len(mask_logits)) * max(resized for resized, _ in columns)

    def merged(start: int, stop: int) -> Iterator[Tensor]:
        # Strips of logits "q y x", then merged scores "k y x"
        for first, last in _cut(start, stop, strip // per_row):
            logits = _resize_columns(_resize_rows(mask_logits, taps, first, last), columns)
            probabilities = _ACTIVATIONS[activation](logits)
            yield (class_probabilities.mT @ probabilities.flatten(1)).unflatten(1, logits.shape[1:])

    def resized(scores: Tensor, taps: Taps) -> Tensor:
        return _resize_columns(_resize_rows(scores, taps, 0, len(taps[0])), ((size[1], size[1]),))

    strips = merged(0, rows[-1][1])
    # Scores of another size are resized in bands
    if rows[-1][1] != size[0] or columns[-1][1] != size[1]:
        index, weight = _taps(valid_size[0], ((size[0], size[0]),), mask_logits.dtype)
        cut = _bands(index, max(valid_size[1], size[1]), band // class_probabilities.shape[1])
        window = _window(strips)
        strips = (resized(window(a, b), (index[start:stop] - a, weight[start:stop])) for start, stop, a, b in cut)
    return torch.cat([strip if scores else _labels(strip.detach()) for strip in strips], -2)


def _window(strips: Iterator[Tensor]) -> Callable[[int, int], Tensor]:
    """Function that returns rows `first` to at least `last` of consecutive strips "k y x"; requests must go down."""
    held, top = next(strips), 0

    def rows(first: int, last: int) -> Tensor:
        nonlocal held, top
        parts, end = [held[:, first - top :]], top + held.shape[1]
        while end < last:
            strip = next(strips)
            parts.append(strip[:, max(0, first - end) :])
            end += strip.shape[1]
        if len(parts) > 1 or first > top:
            held, top = torch.cat(parts, 1), first
        return held

    return rows


def _labels(scores: Tensor) -> Tensor:
    """`scores.argmax(0)` as uint8; overwrites the scores.

    On a CPU this visits all classes of one pixel, which are often a power of two apart and evict each other from the
    cache. Passes along rows avoid it: find the best score, mark the classes that have it, take the lowest of them.
    """
    best = scores.amax(0)
    if scores.device.type != "cpu" or best.isnan().any():  # NaN does not equal NaN
        return scores.max(0).indices.to(torch.uint8)
    rank = torch.arange(len(scores), 0, -1, dtype=scores.dtype, device=scores.device)[:, None, None]
    return (len(scores) - scores.eq_(best).mul_(rank).amax(0)).to(torch.uint8)


@torch.library.custom_op(
    "clouds::semantic_inference",
    mutates_args=(),
    schema="(Tensor class_probabilities, Tensor mask_logits, SymInt[] network_size, SymInt[] valid_size, "
    "SymInt[] size, bool masks_first, bool softmax, bool scores) -> Tensor",
)
def _fused(
    class_probabilities: Tensor,
    mask_logits: Tensor,
    network_size: Sequence[int],
    valid_size: Sequence[int],
    size: Sequence[int],
    masks_first: bool,
    softmax: bool,
    scores: bool,
) -> Tensor:
    from clouds.kernels._triton.semantic_inference import merge, resize

    sizes = tuple(mask_logits.shape[1:]), tuple(network_size), tuple(valid_size), tuple(size)
    numbers = _GPU_BAND // class_probabilities.shape[1]
    bands, across, across_answer = _tables(*sizes, masks_first, numbers, mask_logits.device)

    def made(rows: Any, answer: Any) -> Tensor:
        merged = merge(class_probabilities, mask_logits, rows, across, softmax=softmax, scores=scores or bool(answer))
        return resize(merged, answer, across_answer, scores=scores) if answer else merged

    parts = [made(*band) for band in bands]
    return torch.cat(parts, -2) if len(parts) > 1 else parts[0]


@_fused.register_fake
def _(
    class_probabilities: Tensor,
    mask_logits: Tensor,
    network_size: Sequence[int],
    valid_size: Sequence[int],
    size: Sequence[int],
    masks_first: bool,
    softmax: bool,
    scores: bool,
) -> Tensor:
    if scores:
        return mask_logits.new_empty((class_probabilities.shape[1], *size), dtype=torch.float32)
    return mask_logits.new_empty(tuple(size), dtype=torch.uint8)


def _tables(*sizes: Any) -> Any:
    """`_new_tables`, cached by size, device and stream.

    The stream is part of the key so that no stream reads tables that another still writes. A CUDA graph has its own
    tables, which live as long as the graph.
    """
    if (device := sizes[-1]).type != "cuda":
        return _kept_tables(0, *sizes)
    with torch.cuda.device(device):
        if torch.cuda.is_current_stream_capturing():
            return _new_tables(*sizes)
        return _kept_tables(torch.cuda.current_stream().cuda_stream, *sizes)


@lru_cache(maxsize=32)  # about 100 KB per size
def _kept_tables(stream: int, *sizes: Any) -> Any:
    return _new_tables(*sizes)


def _new_tables(
    cells: Size, network_size: Size, valid_size: Size, size: Size, masks_first: bool, numbers: int, device: torch.device
) -> Any:
    """Row tables of each band for merging and, if scores are resized, for the output; then column tables of both.

    They are computed on the device, without copies; values needed for the launch are also computed on the host.
    """
    from clouds.kernels._triton.semantic_inference import Table, together

    def table(length: int, chain: Chain, start: int = 0, stop: int | None = None, first: int = 0) -> Table:
        index, weight = (one[start:stop] for one in _taps(length, chain, device=device))
        rows, lead = together(_taps(length, chain)[0][start:stop])
        return Table(index=(index - first).contiguous(), weight=weight.contiguous(), together=rows, lead=lead)

    rows, columns = _chains(network_size, valid_size, size if masks_first else valid_size)
    across = table(cells[1], columns)
    if masks_first or size == valid_size:
        return [(table(cells[0], rows), None)], across, None
    down, along = (((length, length),) for length in size)
    cut = _bands(_taps(valid_size[0], down)[0], max(valid_size[1], size[1]), numbers)
    bands = [
        (table(cells[0], rows, first, last), table(valid_size[0], down, start, stop, first))
        for start, stop, first, last in cut
    ]
    return bands, across, table(valid_size[1], along)


def _bands(index: Tensor, width: int, numbers: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield bands of the output with at most `numbers` scores per class: rows start..stop, from rows first..last.

    `index` holds the source rows of each output row, "rows taps"; `width` is the larger width of image and output.
    """
    rows = int(index.max()) + 1
    for start, stop in _cut(0, len(index), numbers // (width * -(-rows // len(index)))):
        near = index[start:stop]
        yield start, stop, int(near.min()), int(near.max()) + 1


def _cut(start: int, stop: int, step: int) -> Iterator[tuple[int, int]]:
    step = max(1, step)
    return ((first, min(first + step, stop)) for first in range(start, stop, step))


def _chains(network_size: Sequence[int], valid_size: Sequence[int], size: Sequence[int]) -> tuple[Chain, Chain]:
    """Resizes of rows and columns: to the network size, cropped to the image, then to the output size if it differs."""
    resized = tuple(size) != tuple(valid_size)
    rows, columns = (
        ((network, valid), (answer, answer)) if resized else ((network, valid),)
        for network, valid, answer in zip(network_size, valid_size, size, strict=True)
    )
    return rows, columns


def _taps(length: int, chain: Chain, dtype: torch.dtype = torch.float32, device: torch.device | None = None) -> Taps:
    """Source cells and weights of each pixel after the resizes in `chain`, along one axis: both "pixels taps".

    Each resize doubles the taps; a resize to the same length is skipped. Coordinates are computed like torch's, in the
    dtype of the merge.
    """
    index, weight = torch.arange(length, device=device)[:, None], torch.ones(length, 1, dtype=dtype, device=device)
    for resized, kept in chain:
        if resized != len(index):
            centers = torch.arange(kept, dtype=dtype, device=device) + 0.5
            source = (centers * (len(index) / resized) - 0.5).clamp(min=0)
            low = source.long()
            high = (low + 1).clamp(max=len(index) - 1)
            share = (source - low)[:, None]
            weight = torch.cat(((1 - share) * weight[low], share * weight[high]), 1)
            index = torch.cat((index[low], index[high]), 1)
        index, weight = index[:kept], weight[:kept]
    return index, weight


def _resize_rows(maps: Tensor, taps: Taps, start: int, stop: int) -> Tensor:
    """Rows start..stop of `maps` resized with `taps`: "c h w" to "c y w"."""
    index, weight = (table[start:stop].to(maps.device) for table in taps)
    parts = [maps.index_select(1, one) * share[:, None] for one, share in zip(index.T, weight.T, strict=True)]
    return sum(parts[1:], parts[0])


def _resize_columns(maps: Tensor, chain: Chain) -> Tensor:
    for resized, kept in chain:
        if resized != maps.shape[-1]:  # else torch would compute inf + 0 x inf
            maps = functional.interpolate(maps, size=resized, mode="linear", align_corners=False)
        maps = maps[..., :kept]
    return maps


def _objection(class_probabilities: Tensor, work: torch.dtype) -> str | None:
    """Why Triton does not support these arguments, or None."""
    classes = class_probabilities.shape[1]
    if work == torch.float64:
        return "it has no kernel for float64"
    if classes > _MOST_CLASSES:
        return f"its kernel takes at most {_MOST_CLASSES} classes, got {classes}"
    return None


def _check_names(postprocess: str, activation: str) -> None:
    for name, value, known in (("postprocess", postprocess, get_args(Order)), ("activation", activation, _ACTIVATIONS)):
        if value not in known:
            raise ValueError(f"semantic_inference: {name} {value!r}; expected {' or '.join(map(repr, known))}")


def _check(
    class_probabilities: Tensor, mask_logits: Tensor, network_size: Size, valid_size: Size, size: Size, *, scores: bool
) -> None:
    given = {"class_probabilities": class_probabilities, "mask_logits": mask_logits}
    for name, tensor in given.items():
        if not tensor.is_floating_point():
            raise TypeError(f"semantic_inference: {name} are {tensor.dtype}; expected a floating dtype")
    shapes = [tuple(tensor.shape) for tensor in given.values()]
    if (
        [len(shape) for shape in shapes] != [2, 3]
        or shapes[0][0] != shapes[1][0]
        or 0 in (shapes[0][1:] + shapes[1][1:])
    ):
        raise ValueError(
            f"semantic_inference: class_probabilities {shapes[0]} and mask_logits {shapes[1]}; "
            'expected "q k" and "q h w" with k, h and w of at least 1'
        )
    if class_probabilities.device != mask_logits.device:
        raise ValueError(
            f"semantic_inference: class_probabilities are on {class_probabilities.device} and mask_logits on "
            f"{mask_logits.device}; expected one device"
        )
    if any(side < 1 for side in (*valid_size, *size)) or any(map(gt, valid_size, network_size)):  # `min` orders sides
        raise ValueError(
            f"semantic_inference: valid_size {valid_size} must lie within network_size {network_size}, and both it and "
            f"size {size} must be of at least 1 pixel"
        )
    if not scores and shapes[0][1] > 255:
        raise ValueError(
            f"semantic_inference: labels are uint8 and 255 means ignore, so there are at most 255 classes, got "
            f"{shapes[0][1]}; ask for scores=True"
        )
