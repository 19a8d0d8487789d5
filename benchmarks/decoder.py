"""Time of pixel decoder and transformer decoder, compared with Hugging Face's `transformers` at the same sizes.

Both get the same features, alternate in one process in float32, and have random weights. The peer's transformer decoder
computes no classes, ours does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn

import clouds
from benchmarks.rows import row
from clouds.core.pipeline.build import build_part

THREADS = 2
LEVELS = ("res2", "res3", "res4", "res5")


@frozen(kw_only=True)
class Sizes:
    """Sizes of the comparison; the defaults are those of the released ConvNeXt-L configurations.

    `channels` are those of res2; each further level has twice as many.
    """

    image: tuple[int, int] = (512, 1024)
    channels: int = 192
    width: int = 256
    encoder_layers: int = 6
    encoder_feedforward: int = 1024
    decoder_layers: int = 9
    feedforward: int = 2048
    queries: int = 100

    def features(self) -> dict[str, Tensor]:
        """Random features of one image."""
        height, width = self.image
        return {
            level: torch.randn(1, self.channels << i, height // (4 << i), width // (4 << i))
            for i, level in enumerate(LEVELS)
        }


def head(sizes: Sizes) -> Any:
    """Our whole head in eval mode."""
    return build_part(
        "head",
        {
            "name": "mask2former",
            "queries": sizes.queries,
            "width": sizes.width,
            "layers": sizes.decoder_layers,
            "feedforward": sizes.feedforward,
            "encoder_layers": sizes.encoder_layers,
            "encoder_feedforward": sizes.encoder_feedforward,
        },
        features={
            level: clouds.FeatureSpec(channels=sizes.channels << i, stride=4 << i) for i, level in enumerate(LEVELS)
        },
    ).eval()


def ours(sizes: Sizes) -> tuple[nn.Module, nn.Module]:
    """Our pixel decoder and transformer decoder."""
    whole = head(sizes)
    return whole.pixel_decoder, whole.predictor


def peer_config(sizes: Sizes) -> Any:
    """Configuration of the peer's model; Swin's widths double per level as ours."""
    from transformers import Mask2FormerConfig, SwinConfig

    swin: Any = SwinConfig(embed_dim=sizes.channels, depths=[1] * 4, num_heads=[1] * 4)
    swin.out_features = ["stage1", "stage2", "stage3", "stage4"]
    return Mask2FormerConfig(
        backbone_config=swin,
        feature_size=sizes.width,
        mask_feature_size=sizes.width,
        hidden_dim=sizes.width,
        encoder_layers=sizes.encoder_layers,
        encoder_feedforward_dim=sizes.encoder_feedforward,
        decoder_layers=sizes.decoder_layers + 1,  # counts predictions, not layers
        dim_feedforward=sizes.feedforward,
        num_queries=sizes.queries,
    )


def theirs(sizes: Sizes) -> tuple[nn.Module, nn.Module]:
    """The peer's pixel decoder and transformer decoder, from a whole model, because only that initialises them."""
    from transformers import Mask2FormerModel

    model: Any = Mask2FormerModel(peer_config(sizes)).eval()
    return model.pixel_level_module.decoder, model.transformer_module


def _timed(pixel_decoder: Callable[[], Any], transformer_decoder: Callable[[Any], object]) -> dict[str, float]:
    start = time.perf_counter()
    made = pixel_decoder()
    between = time.perf_counter()
    transformer_decoder(made)
    stop = time.perf_counter()
    return {
        "pixel decoder": between - start,
        "transformer decoder": stop - between,
        "both decoders": stop - start,
    }


def compare(runs: Mapping[str, Callable[[], dict[str, float]]], *, repeats: int) -> dict[str, dict[str, list[float]]]:
    """Seconds per metric and provider; providers alternate after one warm-up each."""
    times: dict[str, dict[str, list[float]]] = {}
    for repeat in range(repeats + 1):
        for provider, run in runs.items():
            for metric, value in run().items():
                if repeat:
                    times.setdefault(metric, {}).setdefault(provider, []).append(value)
    return times


def run(sizes: Sizes | None = None, *, repeats: int = 5) -> list[dict[str, Any]]:
    """Rows of seconds for both, and of our speedup in each turn."""
    sizes = sizes or Sizes()
    peer = f"transformers {version('transformers')}"
    facts = {"shape": list(sizes.image), "queries": sizes.queries, "dtype": "float32"}
    rows: list[dict[str, Any]] = []
    features, (our_pixels, our_decoder), (pixels, decoder) = sizes.features(), ours(sizes), theirs(sizes)
    runs = {
        "clouds": lambda: _timed(lambda: our_pixels(clouds.Features(**features)), our_decoder),
        peer: lambda: _timed(
            lambda: pixels(list(features.values())),
            lambda made: decoder(made.multi_scale_features, made.mask_features),
        ),
    }
    with thread_count(THREADS), torch.inference_mode():
        times = compare(runs, repeats=repeats)
        for metric, by_provider in times.items():
            rows += [row("decoder", name, metric, "s", values, **facts) for name, values in by_provider.items()]
            faster = [slow / fast for fast, slow in zip(by_provider["clouds"], by_provider[peer], strict=True)]
            rows.append(row("decoder", "clouds", f"{metric}, times faster", "x", faster, peer=peer, **facts))
    return rows


@contextmanager
def thread_count(count: int) -> Iterator[None]:
    """Limit torch's threads within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
