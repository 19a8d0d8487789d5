"""One builder per family of backbones; `published.py` maps built-in names to published models.

Heavy imports stay inside the functions.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from clouds.backbones.published import CLIP_MODELS, ClipName
from clouds.backbones.vit_options import LastBlocks, Pyramid, VitOptions

if TYPE_CHECKING:
    from clouds.core.contract.interfaces import Backbone


def clip(
    *,
    model: str,
    weights: str,
    pretrained: bool | Path = True,
    trainable: bool | LastBlocks = False,
    tokenizer: Literal["hub", "stored", "bytes"] | Path = "hub",
    pyramid: Pyramid = "layers",
    layers: tuple[int, int, int, int] | None = None,
    grad_checkpointing: bool = False,
    drop_path_rate: float = 0.0,
) -> Backbone:
    """A CLIP model of open_clip: ConvNeXt, ModifiedResNet or plain ViT (CLIP, EVA02-CLIP, SigLIP).

    Args:
        model: open_clip's name of the architecture.
        weights: open_clip's tag of the published weights.
        pretrained: load the published weights; False initialises randomly; a path loads a local open_clip file
            (.safetensors, .bin, .pt, .pth).
        trainable: train the image trunk; the text tower and the mask pooling are always frozen. "last4" and the like
            train the last blocks of a plain ViT, and its final norm.
        tokenizer: "hub": the model's own, downloaded from the hub if open_clip lacks its files; "stored": the same,
            without downloads; "bytes": needs no files, for random weights; a path: a folder with tokenizer files.
        pyramid: of a plain ViT; "layers": each level from its own block; "last": all levels from the last block. Models
            with a pyramid of their own are not affected.
        layers: the blocks of a plain ViT for res2..res5, counted from 0; None: those that complete a third, half, two
            thirds and all of the depth, such as 7, 11, 15, 23 of 24.
        grad_checkpointing: of a plain ViT; compute the blocks' activations again in the backward pass instead of
            storing them. It needs trained blocks or an adapter.
        drop_path_rate: of a plain ViT; probability of skipping the last block's residuals of an image in training
            (stochastic depth), growing linearly from 0 at the first block. It needs trained blocks.
    """
    from clouds.backbones.clip_factory import build_clip
    from clouds.backbones.vit import prepare_training

    options = VitOptions(
        pyramid=pyramid,
        layers=layers,
        trainable=trainable,
        grad_checkpointing=grad_checkpointing,
        drop_path_rate=drop_path_rate,
    )
    backbone = build_clip(model, weights, pretrained=pretrained, tokenizer=tokenizer, options=options)
    return prepare_training(backbone, options)


def timm(
    *,
    model: str,
    pretrained: bool | Path = True,
    trainable: bool | LastBlocks = False,
    text: ClipName | None = None,
    pyramid: Pyramid = "layers",
    layers: tuple[int, int, int, int] | None = None,
    grad_checkpointing: bool = False,
    drop_path_rate: float = 0.0,
) -> Backbone:
    """A timm model with feature maps at strides 4 to 32 (ConvNeXt, ResNet, Swin, ...), or a plain ViT (DINO, ...).

    Args:
        model: timm's model name, with or without the tag of its weights.
        pretrained: load the published weights; False initialises randomly; a path loads a local timm file
            (.safetensors, .bin, .pt, .pth).
        trainable: train the model; otherwise it is frozen. "last4" and the like train the last blocks of a plain ViT,
            and its final norm.
        text: a built-in CLIP backbone whose text tower embeds texts, as text-classified heads need. It has its
            published weights, or random ones with `pretrained=False`.
        pyramid: of a plain ViT; "layers": each level from its own block; "last": all levels from the last block. Models
            with a pyramid of their own are not affected.
        layers: the blocks of a plain ViT for res2..res5, counted from 0; None: those that complete a third, half, two
            thirds and all of the depth, such as 7, 11, 15, 23 of 24.
        grad_checkpointing: of a plain ViT; compute the blocks' activations again in the backward pass instead of
            storing them. It needs trained blocks or an adapter.
        drop_path_rate: of a plain ViT; probability of skipping the last block's residuals of an image in training
            (stochastic depth), growing linearly from 0 at the first block. It needs trained blocks.
    """
    from clouds.backbones.timm_pyramid import build_timm
    from clouds.backbones.vit import prepare_training

    options = VitOptions(
        pyramid=pyramid,
        layers=layers,
        trainable=trainable,
        grad_checkpointing=grad_checkpointing,
        drop_path_rate=drop_path_rate,
    )
    backbone: Backbone = build_timm(model, pretrained=pretrained, options=options)
    if text is not None:
        from clouds.backbones.clip_factory import build_clip_text
        from clouds.backbones.with_text import WithText

        names = CLIP_MODELS[text]
        backbone = WithText(backbone, build_clip_text(names.model, names.weights, pretrained=pretrained is not False))
    return prepare_training(backbone, options)


def tiny(
    *, dims: tuple[int, ...] = (32, 64, 128, 256), depths: tuple[int, ...] = (2, 2, 4, 2), trainable: bool = False
) -> Backbone:
    """A ConvNeXt of 1.9 million parameters with a two-layer text tower, randomly initialised.

    Meant for demos, tests and reading. Frozen random features are poor: train it, or use a pretrained backbone.

    Args:
        dims: channels of res2..res5.
        depths: blocks of the four stages.
        trainable: whether the image trunk is trained; the text tower never is.
    """
    from clouds.backbones.tiny import TinyBackbone

    backbone = TinyBackbone(dims=tuple(dims), depths=tuple(depths))
    return backbone if trainable else backbone.freeze()
