"""MobileSAM: TinyViT with segment-anything's prompt encoder and mask decoder."""

from __future__ import annotations

from pathlib import Path

import clouds
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

from clouds_mobile_sam.tiny_vit import TinyViT


def build_sam(img_size: int = 1024) -> Sam:
    """MobileSAM with random weights. `img_size`: side of the network's input in pixels, a multiple of 16."""
    grid = (img_size // 16, img_size // 16)
    return Sam(
        image_encoder=TinyViT(img_size),  # pyright: ignore[reportArgumentType] (typed as SAM's own encoder)
        prompt_encoder=PromptEncoder(
            embed_dim=256, image_embedding_size=grid, input_image_size=(img_size, img_size), mask_in_chans=16
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8),
            transformer_dim=256,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
        ),
    )


def build_segmenter(pretrained: bool | Path) -> clouds.SamSegmenter:
    """MobileSAM with the published weights (True), random weights (False), or weights from a file.

    Raises:
        WeightsError: the weights are unavailable, do not fit, or differ from the published hash.
    """
    sam = build_sam()
    if pretrained is not False:
        path = clouds.weights_file("mobile-sam", pretrained)
        clouds.load_weights(sam, clouds.read_weights(path), source=str(path))
    return clouds.SamSegmenter(sam)
