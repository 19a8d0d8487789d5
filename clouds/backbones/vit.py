"""Plain vision transformers as backbones: 16 x 16 patches, any image size, a simple pyramid."""

from __future__ import annotations

from typing import Any, final

from jaxtyping import Float
from timm.layers.patch_embed import PatchEmbed
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from clouds.backbones.blocks import call_qkv
from clouds.core.system.errors import ConfigError

PATCH = 16
PLAIN_VITS = (VisionTransformer, Eva)


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
    tokens = vit.forward_features(images)[:, vit.num_prefix_tokens :]
    return tokens.mT.unflatten(-1, (images.shape[-2] // PATCH, images.shape[-1] // PATCH)).contiguous()


def pyramid(dense: Float[Tensor, "b d h w"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four levels from a plain ViT's map: bilinear x4 and x2, the map itself, 2 x 2 max pooling.

    The simple pyramid of ViTDet (Li et al., ECCV 2022) without deconvolutions; the head's projections are learned
    instead.
    """
    res2, res3 = (functional.interpolate(dense, scale_factor=factor, mode="bilinear") for factor in (4, 2))
    return res2, res3, dense, functional.max_pool2d(dense, 2)


@final
class VitPyramid(nn.Module):
    """A plain ViT (see `to_patch_16`) that returns four levels, like timm's `features_only` models."""

    def __init__(self, vit: nn.Module) -> None:
        super().__init__()
        self.vit = vit

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return pyramid(patch_map(self.vit, images))
