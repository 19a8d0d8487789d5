"""Plain vision transformers as backbones: 16 x 16 patches, any image size, a pyramid of one or several layers."""

from __future__ import annotations

from typing import Any, final

from jaxtyping import Float
from timm.layers.patch_embed import PatchEmbed
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from clouds.backbones.blocks import call_qkv, checkpoint_blocks
from clouds.backbones.vit_options import Layers, VitOptions
from clouds.core.contract.interfaces import Backbone
from clouds.core.system.errors import ConfigError

PATCH = 16
PLAIN_VITS = (VisionTransformer, Eva)
Levels = tuple[Tensor, Tensor, Tensor, Tensor]  # res2..res5


def to_patch_16(vit: Any) -> Any:
    """Convert a timm ViT, in place, to 16 x 16 patches and the same grid of position embeddings.

    timm resamples the patch kernels (Beyer et al., FlexiViT, CVPR 2023, section 3.4). Position embeddings keep their
    native grid; a model built with `dynamic_img_size=True` resizes them to each image.

    Raises:
        ConfigError: the model does not use timm's plain patch embedding.
    """
    if type(vit.patch_embed) is not PatchEmbed:
        raise ConfigError(f"{type(vit).__name__} with {type(vit.patch_embed).__name__} is not a plain ViT")
    rows, columns = vit.patch_embed.grid_size
    vit.set_input_size(img_size=(PATCH * rows, PATCH * columns), patch_size=(PATCH, PATCH))
    return call_qkv(vit)


def patch_map(vit: Any, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d h/16 w/16"]:
    """Patch tokens after the final norm as a map, without class and register tokens."""
    return as_map(vit, vit.forward_features(images), images)


def as_map(vit: Any, tokens: Float[Tensor, "b n d"], images: Float[Tensor, "b 3 h w"]) -> Tensor:
    """All tokens of a ViT as a map "b d h/16 w/16" of its patches."""
    patches = tokens[:, vit.num_prefix_tokens :]
    return patches.mT.unflatten(-1, (images.shape[-2] // PATCH, images.shape[-1] // PATCH)).contiguous()


def vit_levels(vit: Any, images: Float[Tensor, "b 3 h w"], layers: Layers | None) -> tuple[Levels, Tensor]:
    """Four levels, and the patch tokens after the final norm as a map "b d h/16 w/16".

    Args:
        vit: see `to_patch_16`.
        images: normalised.
        layers: the blocks of the four levels; their outputs, before the final norm, are resized bilinearly by 4, 2, 1
            and 1/2. None: all levels from the last block, see `pyramid`.
    """
    if layers is None:
        dense = patch_map(vit, images)
        return pyramid(dense), dense
    # All tokens after the last block and the norm "b n d"; maps "b d h/16 w/16" after the blocks, each block once
    taken = sorted(set(layers))
    tokens, maps = vit.forward_intermediates(images, indices=taken)
    first, second, third, fourth = (maps[taken.index(layer)] for layer in layers)
    return (_scaled(first, 4), _scaled(second, 2), third, _scaled(fourth, 0.5)), as_map(vit, tokens, images)


def pyramid(dense: Float[Tensor, "b d h w"]) -> Levels:
    """Four levels from a plain ViT's map: bilinear x4 and x2, the map itself, 2 x 2 max pooling.

    The simple pyramid of ViTDet (Li et al., ECCV 2022) without deconvolutions; the head's projections are learned
    instead.
    """
    return _scaled(dense, 4), _scaled(dense, 2), dense, functional.max_pool2d(dense, 2)


@final
class VitPyramid(nn.Module):
    """A plain ViT that returns four levels, like timm's `features_only` models.

    Args:
        vit: see `to_patch_16`.
        layers: see `vit_levels`.
    """

    def __init__(self, vit: nn.Module, layers: Layers | None) -> None:
        super().__init__()
        self.vit = vit
        self.layers = layers

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Levels:
        return vit_levels(self.vit, images, self.layers)[0]


def prepare_training(backbone: Backbone, options: VitOptions) -> Backbone:
    """Freeze what `options.trainable` leaves out, and checkpoint the blocks if asked to. Returns the backbone."""
    vit: Any = next((part for part in backbone.modules() if isinstance(part, PLAIN_VITS)), None)
    if options.grad_checkpointing:
        checkpoint_blocks(vit)
    if options.trainable is True:
        return backbone
    if options.last_blocks is None:
        return backbone.freeze()
    return backbone.freeze(but=[*vit.blocks[-options.last_blocks :], vit.norm])


def _scaled(level: Tensor, factor: float) -> Tensor:
    return functional.interpolate(level, scale_factor=factor, mode="bilinear")
