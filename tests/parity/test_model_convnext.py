"""The whole published ConvNeXt-L model at its true size.

Its outputs are not in the golden data here; what is: its keys and shapes, and how near the logits of its attention
masks come to 0 (09_attention_mask_margins.json), which depends on every layer before. The image trunk and mask pooling
are compared with open_clip's own image embedding.
"""

from __future__ import annotations

from importlib import import_module

import golden
import pytest
import torch
from golden import assert_close
from torch import Tensor

import clouds

masked_attention = import_module("clouds.kernels.masked_attention")

SET_9 = 8.3e-7

pytestmark = pytest.mark.slow


def test_convnext_large(monkeypatch: pytest.MonkeyPatch, two_threads: None) -> None:
    margins: list[Tensor] = []
    make = masked_attention.attention_mask
    monkeypatch.setattr(
        masked_attention, "attention_mask", lambda logits: (margins.append(logits.abs()), make(logits))[1]
    )
    image = torch.from_numpy(golden.load("09_model_rn50")["image"])
    state = golden.checkpoint("keys_warmup_convnext_large_d_320")
    pipeline = clouds.from_reference_checkpoint({"model": state}, device="cpu")
    del state
    scores = pipeline.predict(image).scores()
    assert scores.shape == (19, 256, 384)
    published = golden.read_json("09_attention_mask_margins")["convnext_large_d_320"]
    # The published count has one mask more, which the last layer makes and nobody uses; logits carry 1.5e-5 of noise.
    assert sum(int((margin < 1e-4).sum()) for margin in margins) == published["lt1e-4"]
    assert sum(margin.numel() for margin in margins) == published["n"] - 100 * 8 * 12
    with torch.no_grad():
        batch = pipeline.pad([image])
        features = pipeline.backbone(batch)
        everywhere = pipeline.backbone.pool(features.dense, torch.ones(1, 1, 8, 12))[:, 0]
        own = pipeline.backbone.clip_model.encode_image(pipeline.backbone.normalize(batch))
    assert_close(everywhere, own, floor=SET_9)
