"""A small SAM built from segment-anything's classes, for tests without weights."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from segment_anything.modeling import Sam


def tiny_sam(*, image_size: int = 1024, image_encoder: nn.Module | None = None) -> Sam:
    """SAM with two encoder layers of 64 channels, embeddings of 32, and random weights.

    Args:
        image_size: side of the network's input, a multiple of 16; published models use 1024.
        image_encoder: replaces the small encoder; has `img_size` and maps "1 3 s s" to "1 32 s/16 s/16".
    """
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    width, grid = 32, image_size // 16
    sam = Sam(
        image_encoder=image_encoder
        or ImageEncoderViT(  # pyright: ignore[reportArgumentType]
            depth=2,
            embed_dim=64,
            img_size=image_size,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),  # pyright: ignore[reportArgumentType]
            num_heads=4,
            use_rel_pos=True,
            global_attn_indexes=(1,),
            window_size=14,
            out_chans=width,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=width,
            image_embedding_size=(grid, grid),
            input_image_size=(image_size, image_size),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            transformer=TwoWayTransformer(depth=2, embedding_dim=width, mlp_dim=64, num_heads=4),
            transformer_dim=width,
            iou_head_hidden_dim=32,
        ),
    )
    return sam.eval()
