"""The contract of backbones."""

from __future__ import annotations

import torch
from torch import Tensor

from clouds.core.contract.interfaces import Backbone, MaskPooler, TextEncoder
from clouds.core.contract.records import Features
from clouds.testing.contract import (
    BATCH_TOLERANCE,
    check_module,
    in_evaluation,
    largest_difference,
    require,
    require_instance,
    require_tensor,
    violation,
)

_SIZES = ((32, 32), (64, 96), (96, 64))  # (height, width): one cell of res5, and both orders of unequal sides
_TEXTS = ("road", "a photo of a traffic sign", "sky")


def check_backbone(backbone: Backbone) -> None:
    """Check a copy of a built backbone on small images, which takes seconds on a CPU.

    - Levels have the strides and channels of `features`; they are finite float32.
    - Results are deterministic in eval mode, and an image's features do not depend on its batch.
    - Images of value `mean` normalise to 0.
    - A frozen backbone stays in eval mode and has no gradients.
    - Weights survive safetensors.
    - A `TextEncoder` embeds 0 or more texts independently.
    - A `MaskPooler` pools masks of any size, including empty ones, into the text embedding space.

    Raises:
        ContractError: a clause is broken.
    """
    require_instance(backbone, Backbone, "backbone")
    tested = in_evaluation(backbone)
    check_module(tested)
    _check_normalisation(tested)
    with torch.no_grad():
        for height, width in _SIZES:
            _check_features(tested, tested(_images(2, height, width)), height, width)
        _check_independence(tested)
        if isinstance(tested, TextEncoder):
            _check_text(tested)
        if isinstance(tested, MaskPooler):
            _check_pooler(tested)
    _check_frozen(tested)


def _images(count: int, height: int, width: int) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0)) * 255


def _check_features(backbone: Backbone, features: object, height: int, width: int) -> None:
    if not isinstance(features, Features):
        raise violation(
            backbone, "forward must return clouds.Features", got=type(features).__name__, remedy="wrap the levels"
        )
    for name, level in features.levels().items():
        spec = backbone.features[name]
        shape = (2, spec.channels, height // spec.stride, width // spec.stride)
        require_tensor(level, backbone, f"{name} of a {height} x {width} image", shape=shape)
    if features.dense is not None:
        require_tensor(features.dense, backbone, "dense", shape=(2, *features.dense.shape[1:]))


def _check_normalisation(backbone: Backbone) -> None:
    for name, value in (("mean", backbone.mean), ("std", backbone.std)):
        require_tensor(value, backbone, name, shape=(3, 1, 1))
    in_range = bool((backbone.mean >= 0).all() and (backbone.mean <= 255).all() and (backbone.std > 0).all())
    require(
        in_range,
        backbone,
        "mean must lie in 0..255 and std be positive, because images come in 0..255",
        got=f"mean {backbone.mean.flatten().tolist()}, std {backbone.std.flatten().tolist()}",
        remedy="multiply values for images in 0..1 by 255",
    )
    padding = backbone.normalize(backbone.mean.expand(1, 3, 32, 32))
    require(
        not padding.any(),
        backbone,
        "an image of value `mean` must normalise to exactly 0, because images are padded with it",
        got=f"up to {float(padding.abs().max()):.3g}",
        remedy="do not override `normalize`; set mean and std",
    )


def _check_frozen(backbone: Backbone) -> None:
    frozen = backbone.freeze()
    require(
        isinstance(frozen, Backbone), backbone, "freeze() must return the backbone", got=frozen, remedy="return self"
    )
    frozen.train()
    training = [name or "itself" for name, part in frozen.named_modules() if part.training]
    require(
        not training,
        backbone,
        "a frozen backbone must stay in eval mode when train() is called",
        got=f"in training mode: {training[:5]}",
        remedy="do not override `train`",
    )
    levels = frozen(_images(1, 32, 32)).levels()
    with_gradient = [name for name, parameter in frozen.named_parameters() if parameter.requires_grad]
    with_gradient += [name for name, level in levels.items() if level.requires_grad]
    require(
        not with_gradient,
        backbone,
        "a frozen backbone must have no gradients",
        got=f"requires_grad: {with_gradient[:5]}",
        remedy="do not set requires_grad outside the constructor",
    )


def _check_independence(backbone: Backbone) -> None:
    images = _images(2, 64, 96)
    together, again, alone = backbone(images), backbone(images), backbone(images[1:])
    for name, level in together.levels().items():
        require(
            torch.equal(level, again.levels()[name]),
            backbone,
            f"{name} must be the same when computed twice in eval mode",
            got=f"a relative difference of {largest_difference(level, again.levels()[name]):.3g}",
            remedy="remove random choices and state from `forward`",
        )
        difference = largest_difference(level[1:], alone.levels()[name])
        require(
            difference <= BATCH_TOLERANCE,
            backbone,
            f"{name} of an image must not depend on the batch, within {BATCH_TOLERANCE} relative",
            got=f"{difference:.3g}",
            remedy="look for reductions over the batch axis",
        )


def _check_text(backbone: TextEncoder) -> None:
    embeddings = backbone.embed_text(_TEXTS)
    width = embeddings.shape[-1]
    require_tensor(embeddings, backbone, "embed_text of three texts", shape=(len(_TEXTS), width))
    require_tensor(backbone.embed_text([]), backbone, "embed_text of no text", shape=(0, width))
    difference = largest_difference(embeddings[1:2], backbone.embed_text(_TEXTS[1:2]))
    require(
        difference <= BATCH_TOLERANCE,
        backbone,
        f"the embedding of a text must not depend on the others, within {BATCH_TOLERANCE} relative",
        got=f"{difference:.3g}",
        remedy="pad texts to a fixed length, and mask the padding",
    )


def _check_pooler(backbone: MaskPooler) -> None:
    dense = backbone(_images(2, 64, 96)).dense  # pyright: ignore[reportCallIssue]
    if dense is None:
        raise violation(backbone, "a MaskPooler needs Features.dense", got=None, remedy="return it from `forward`")
    masks = torch.ones(2, 3, 16, 24)
    masks[:, 1] = -1  # an empty mask
    masks[:, 2, :, 12:] = -1
    pooled = backbone.pool(dense, masks)
    text = backbone.embed_text(_TEXTS[:1]).shape[-1] if isinstance(backbone, TextEncoder) else pooled.shape[-1]
    require_tensor(pooled, backbone, "pool of 3 masks, one of them empty,", shape=(2, 3, text))
    difference = largest_difference(pooled[1:, 2:], backbone.pool(dense[1:], masks[1:, 2:]))
    require(
        difference <= BATCH_TOLERANCE,
        backbone,
        f"the embedding of a mask must not depend on other masks or images, within {BATCH_TOLERANCE} relative",
        got=f"{difference:.3g}",
        remedy="pool each mask on its own",
    )
