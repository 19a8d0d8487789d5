"""CLIP, EVA-CLIP and SigLIP vision transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import timm
from jaxtyping import Float
from open_clip.timm_model import TimmModel
from open_clip.transformer import QuickGELU, ResidualAttentionBlock
from open_clip.transformer import VisionTransformer as OpenClipVit
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from clouds.backbones.blocks import vit_blocks
from clouds.backbones.clip_backbone import MEAN, STD, ClipBackbone
from clouds.backbones.clip_text import without_images
from clouds.backbones.levels import sized
from clouds.backbones.pooling import masked_attention
from clouds.backbones.tokenizers import Tokenizer
from clouds.backbones.vit import to_patch_16, vit_levels
from clouds.backbones.vit_options import AS_PUBLISHED, VitOptions
from clouds.core.contract.adaptation import Block, Blocks
from clouds.core.contract.records import Features
from clouds.core.system.errors import ConfigError
from clouds.core.weights.loading import load_weights
from clouds.kernels.mask_pool import inside_of, mask_pool


@final
class ClipVit(ClipBackbone, Blocks):
    """Plain ViT of an open_clip model (CLIP, EVA02-CLIP, SigLIP, SigLIP 2), as a timm ViT with 16 x 16 patches.

    `dense` holds the patch tokens after the final norm; `clouds.backbones.vit` describes res2..res5.
    Pooling averages the patch tokens under a mask and projects them to the text space. SigLIP models use their own
    attention pool, restricted to the patches under the mask. CLIP and EVA02-CLIP were trained to project the class
    token, so their pooled patches are approximate.

    Args:
        clip_model: an open_clip model whose image tower is a ViT; the tower is replaced by `vit`.
        tokenizer: maps texts to token ids.
        mean, std: per channel, 0..255.
        options: how the pyramid is made, and the rate of stochastic depth; `prepare_training` applies the others.

    Raises:
        ConfigError: the image tower is not a plain ViT, or the options do not fit it.
    """

    def __init__(
        self,
        clip_model: nn.Module,
        tokenizer: Tokenizer,
        *,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
        options: VitOptions = AS_PUBLISHED,
    ) -> None:
        vit, head = image_trunk(clip_model.visual, options.drop_path_rate)
        depth = len(vit.blocks)
        options.require(depth, type(vit).__name__)
        pooling = [part for part in (vit.attn_pool, vit.fc_norm, vit.head, head) if part is not None]
        super().__init__(
            without_images(clip_model), tokenizer, channels=[vit.embed_dim] * 4, pooling=pooling, mean=mean, std=std
        )
        self.vit = vit
        self.head = head
        self.layers = options.blocks(depth)

    @property
    def blocks(self) -> tuple[Block, ...]:
        return vit_blocks(self.vit)

    @property
    def norm(self) -> nn.Module:
        return self.vit.norm

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Features:
        (res2, res3, res4, res5), dense = vit_levels(self.vit, self.normalize(sized(images)), self.layers)
        return Features(res2=res2, res3=res3, res4=res4, res5=res5, dense=dense)

    def pool(self, dense: Float[Tensor, "b d h w"], masks: Float[Tensor, "b q hm wm"]) -> Float[Tensor, "b q e"]:
        vit: Any = self.vit
        pooled = mask_pool(dense, masks) if vit.attn_pool is None else attention_pool(vit.attn_pool, dense, masks)
        return self.head(vit.head(vit.fc_norm(pooled)))


def attention_pool(
    pool: Any, dense: Float[Tensor, "b d h w"], masks: Float[Tensor, "b q hm wm"]
) -> Float[Tensor, "b q d"]:
    """timm's `AttentionPoolLatent` with one latent, applied per mask to the patches under it."""
    query = pool.q(pool.latent)
    key, value = pool.kv(dense.flatten(2).mT).chunk(2, dim=-1)
    inside = inside_of(masks, (dense.shape[-2], dense.shape[-1]))
    pooled = pool.proj(masked_attention(query, key, value, inside, heads=pool.num_heads))
    return pooled + pool.mlp(pool.norm(pooled))


def image_trunk(visual: Any, drop_path_rate: float = 0.0) -> tuple[Any, nn.Module]:
    """An open_clip model's image tower as a timm ViT with 16 x 16 patches, and the module after its head.

    Args:
        visual: the image tower.
        drop_path_rate: see `VitOptions`.

    Raises:
        ConfigError: the tower is not a plain ViT.
    """
    if isinstance(visual, OpenClipVit):
        vit, head = _convert(visual, drop_path_rate), nn.Identity()
    else:
        vit, head = _rebuild(visual, drop_path_rate), visual.head
    return to_patch_16(vit), head


def _rebuild(visual: TimmModel, drop_path_rate: float) -> Any:
    """Rebuild the same timm model for arbitrary image sizes."""
    trunk: Any = visual.trunk
    vit: Any = timm.create_model(
        trunk.pretrained_cfg["architecture"],
        num_classes=trunk.num_classes,
        global_pool=trunk.global_pool,
        dynamic_img_size=True,
        drop_path_rate=drop_path_rate,
    )
    load_weights(vit, trunk.state_dict(), source="image tower")
    return vit


def _convert(visual: Any, drop_path_rate: float) -> Any:
    """Convert open_clip's own ViT to timm's; the head is CLIP's projection, without bias."""
    blocks = visual.transformer.resblocks
    plain = visual.attn_pool is None and not visual.final_ln_after_pool and isinstance(visual.ln_pre, nn.LayerNorm)
    if not (plain and all(type(block) is ResidualAttentionBlock for block in blocks)):
        raise ConfigError(
            "the model's ViT has an attention pool, other blocks or other norms than CLIP's own; "
            "use it as a timm model (timm:NAME)"
        )
    first = blocks[0]
    width, dimensions = visual.proj.shape
    vit = VisionTransformer(
        img_size=visual.image_size,
        patch_size=visual.patch_size,
        num_classes=dimensions,
        embed_dim=width,
        depth=len(blocks),
        num_heads=first.attn.num_heads,
        mlp_ratio=first.mlp.c_fc.out_features / width,
        pre_norm=True,
        act_layer="quick_gelu" if isinstance(first.mlp.gelu, QuickGELU) else "gelu",
        norm_layer=_norm_like(visual.ln_pre),
        dynamic_img_size=True,
        drop_path_rate=drop_path_rate,
    )
    state = {f"visual.{key}": value for key, value in visual.state_dict().items()}
    load_weights(vit, checkpoint_filter_fn(state, vit), source="image tower")
    return vit


def _norm_like(norm: nn.LayerNorm) -> Any:
    return lambda width, **where: nn.LayerNorm(width, eps=norm.eps, **where)
