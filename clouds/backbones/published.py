"""The published models behind the built-in names; `clouds.core.weights.catalog` lists their weights.

Imports nothing heavy.
"""

from __future__ import annotations

from typing import Literal

from attrs import frozen

_CLIP = "Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021"
_OPEN_CLIP = "Cherti et al., Reproducible Scaling Laws for Contrastive Language-Image Learning, CVPR 2023"
_EVA = "Sun et al., EVA-CLIP: Improved Training Techniques for CLIP at Scale, arXiv 2303.15389"
_SIGLIP2 = "Tschannen et al., SigLIP 2, arXiv 2502.14786"

ClipName = Literal[
    "clip-convnext-base",
    "clip-convnext-large-d-320",
    "clip-convnext-xxlarge",
    "clip-rn50",
    "clip-rn101",
    "clip-rn50x4",
    "clip-rn50x16",
    "clip-rn50x64",
    "clip-vit-l-14",
    "eva02-clip-l-14",
]


@frozen
class ClipModel:
    """An open_clip model: its name, the tag of its weights, the paper, and the blocks of a plain ViT (0: another)."""

    model: str
    weights: str
    summary: str
    source: str
    depth: int = 0


@frozen
class TimmModel:
    """A timm model: its name with the tag of its weights, the paper, and the blocks of a plain ViT."""

    model: str
    summary: str
    source: str
    depth: int


CLIP_MODELS = {
    "clip-convnext-base": ClipModel(
        "convnext_base_w_320",
        "laion_aesthetic_s13b_b82k_augreg",
        "CLIP ConvNeXt-B (wide text tower), LAION-Aesthetic",
        _OPEN_CLIP,
    ),
    "clip-convnext-large-d-320": ClipModel(
        "convnext_large_d_320",
        "laion2b_s29b_b131k_ft_soup",
        "CLIP ConvNeXt-L, LAION-2B: the backbone of the paper's best results",
        _OPEN_CLIP,
    ),
    "clip-convnext-xxlarge": ClipModel(
        "convnext_xxlarge", "laion2b_s34b_b82k_augreg_soup", "CLIP ConvNeXt-XXL, LAION-2B", _OPEN_CLIP
    ),
    "clip-rn50": ClipModel("RN50", "openai", "CLIP ResNet-50 of the paper", _CLIP),
    "clip-rn101": ClipModel("RN101", "openai", "CLIP ResNet-101 of the paper", _CLIP),
    "clip-rn50x4": ClipModel("RN50x4", "openai", "CLIP ResNet-50, 4 times the compute", _CLIP),
    "clip-rn50x16": ClipModel("RN50x16", "openai", "CLIP ResNet-50, 16 times the compute", _CLIP),
    "clip-rn50x64": ClipModel("RN50x64", "openai", "CLIP ResNet-50, 64 times the compute", _CLIP),
    "clip-vit-l-14": ClipModel(
        "ViT-L-14-quickgelu", "openai", "CLIP ViT-L, patches resampled from 14 to 16 pixels", _CLIP, depth=24
    ),
    "eva02-clip-l-14": ClipModel(
        "EVA02-L-14", "merged2b_s4b_b131k", "EVA02-CLIP ViT-L, patches resampled from 14 to 16 pixels", _EVA, depth=24
    ),
    "siglip2-so400m": ClipModel(
        "ViT-SO400M-16-SigLIP2-512", "webli", "SigLIP 2 ViT-SO400M, multilingual texts", _SIGLIP2, depth=27
    ),
}

TIMM_MODELS = {
    "dinov2-large": TimmModel(
        "vit_large_patch14_dinov2.lvd142m",
        "DINOv2 ViT-L, patches resampled from 14 to 16 pixels",
        "Oquab et al., DINOv2, TMLR 2024",
        depth=24,
    ),
    "dinov3-large": TimmModel(
        "vit_large_patch16_dinov3.lvd1689m",
        "DINOv3 ViT-L",
        "Siméoni et al., DINOv3, arXiv 2508.10104",
        depth=24,
    ),
}
