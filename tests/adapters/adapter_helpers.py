"""Backbones with blocks, shrunk: every built-in class and sort of trunk that declares the capability."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "backbones"))
from backbone_helpers import backbone_of

import clouds
from clouds.core.pipeline.build import build_part

CLIPS = ("convnext", "vit", "eva", "siglip")  # classes of clip-convnext-*, clip-vit-l-14, eva02-clip-l-14, siglip2
TIMMS = ("test_vit", "test_vit2", "eva_clouds", "eva_fused_clouds", "test_convnext", "test_convnext2")
BACKBONES = ("tiny", *(f"clip:{name}" for name in CLIPS), *(f"timm:{name}" for name in TIMMS))
TINY = {"name": "tiny", "dims": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}


def backbone(name: str) -> Any:
    family, _, model = name.partition(":")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if family == "clip":
            return backbone_of(model).freeze()
        return build_part("backbone", TINY if name == "tiny" else name, pretrained=False)


def adapter(name: str, trunk: Any, queries: tuple[int, int] | None = None, **options: Any) -> clouds.Adapter:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return build_part("adapter", {"name": name, **options}, blocks=trunk.blocks, queries=queries)
