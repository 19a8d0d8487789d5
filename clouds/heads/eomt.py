"""EoMT: queries take part in the last blocks of a plain ViT, which so becomes its own mask decoder.

Kerssies et al., "Your ViT is Secretly an Image Segmentation Model", CVPR 2025, arXiv 2503.19108.

Axis letters: b images, q queries, n tokens of the image, h and w patches, c channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, final

import torch
from attrs import evolve
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from clouds.core.contract.adaptation import Block, Blocks
from clouds.core.contract.interfaces import Backbone, ImageGenerators, TextClassifier
from clouds.core.contract.records import Features, HeadOutput
from clouds.core.system.errors import ConfigError
from clouds.heads.criterion import Criterion
from clouds.heads.layers import ChannelNorm
from clouds.heads.mask_head import MaskHead, Postprocess
from clouds.heads.mask_products import mask_products

_PATCH = 16
_POWER = 0.9  # published: of the polynomial by which masks fade out


@final
class Eomt(MaskHead):
    """Learned queries are appended to the tokens before the last blocks, and predict masks and classes after them.

    In training, the queries before each of these blocks also predict. The block's attention from a query to patches is
    then limited to its predicted mask with the probability of `mask_share`, which falls to 0 block by block; evaluation
    has no masks. `forward` on given features predicts from the queries before the first block.

    Args:
        width: channels of the backbone's tokens.
        classes: number of classes k.
        queries: number of queries.
        layers: number of blocks that queries pass.
        annealing: optimizer steps over which masks fade out, see `finish_step`; 0 trains without masks.
        criterion, postprocess: see `MaskHead`.

    Raises:
        ConfigError: `queries` or `layers` is below 1, or `annealing` below 0.
    """

    def __init__(
        self,
        *,
        width: int,
        classes: int,
        queries: int,
        layers: int,
        annealing: int,
        criterion: Criterion,
        postprocess: Postprocess,
    ) -> None:
        super().__init__(criterion=criterion, predictions=(queries, layers), postprocess=postprocess)
        if min(queries, layers) < 1 or annealing < 0:
            raise ConfigError(
                f"head: queries={queries}, layers={layers}, annealing={annealing}; expected at least 1, 1 and 0"
            )
        self.instances = True
        self.layers = layers
        self.annealing = annealing
        self.query_embed = nn.Embedding(queries, width)
        self.class_embed = nn.Linear(width, classes + 1)
        self.mask_embed = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
        )
        self.upscale = nn.Sequential(Upscale(width), Upscale(width))  # strides 16 to 4
        self.steps: Tensor
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, features: Features, classifier: TextClassifier | None = None) -> HeadOutput:
        return self._predict(self._queries(features.res4.shape[0]), features.res4)

    def forward_images(
        self,
        images: Float[Tensor, "b 3 h16 w16"],
        backbone: Backbone,
        features_of: Callable[[Tensor], Features],
        classifier: TextClassifier | None = None,
        *,
        rngs: ImageGenerators | None = None,
    ) -> HeadOutput:
        """Predict from images.

        Raises:
            ConfigError: the backbone is no plain ViT, or has fewer blocks than `layers`.
        """
        norm, blocks = _last_blocks(backbone, self.layers)
        grid = (images.shape[2] // _PATCH, images.shape[3] // _PATCH)
        shares = self._shares(rngs)
        earlier: list[HeadOutput] = []

        def mask(layer: int, queries: Tensor, tokens: Tensor) -> Tensor | None:
            if not self.training:
                return None
            found = self._predict(norm(queries), _as_map(norm(tokens), blocks[layer].prefix, grid))
            earlier.append(found)
            if not shares[layer] or rngs is None:
                return None
            return _attention_mask(_inside(found, grid) | _unmasked(queries, shares[layer], rngs), blocks[layer].prefix)

        passage = Passage(self._queries(images.shape[0]), mask)  # `len` would fix the number of images of a graph
        with passage.through(blocks):
            features_of(images)
        last = self._predict(norm(passage.queries), _as_map(norm(passage.tokens), blocks[-1].prefix, grid))
        return evolve(last, auxiliary=tuple(earlier))

    def finish_step(self) -> None:
        self.steps += 1

    def mask_share(self, layer: int, steps: int) -> float:
        """Probability that a query attends within its mask in a block, after a number of training steps.

        It is 1, then falls by (1 - progress)^0.9 to 0 while the progress of the whole annealing goes from 1/8 + 3/4 x
        layer / layers on, for 1/2 / layers.
        """
        if not self.annealing:
            return 0.0
        start, length = 1 / 8 + 3 / 4 * layer / self.layers, 1 / 2 / self.layers
        progress = (steps / self.annealing - start) / length
        return (1 - min(max(progress, 0.0), 1.0)) ** _POWER

    def _shares(self, rngs: ImageGenerators | None) -> list[float]:
        """Probabilities of masks per block; a pass with random generators is one of training."""
        if rngs is None or not self.training:
            return [0.0] * self.layers
        steps = int(self.steps)
        return [self.mask_share(layer, steps) for layer in range(self.layers)]

    def _queries(self, images: int) -> Float[Tensor, "b q c"]:
        return self.query_embed.weight.expand(images, -1, -1)

    def _predict(self, queries: Float[Tensor, "b q c"], patches: Float[Tensor, "b c h w"]) -> HeadOutput:
        """Predictions of queries and patches after the norm."""
        (masks,) = mask_products(self.upscale(patches), [self.mask_embed(queries)])
        return HeadOutput(class_logits=self.class_embed(queries), mask_logits=masks)


@final
class Upscale(nn.Module):
    """Doubles the size of a map: transposed convolution, GELU, depthwise 3x3 convolution, norm over channels.

    Args:
        width: channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.norm = ChannelNorm(width)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        return self.norm(self.depthwise(functional.gelu(self.up(x))))


@final
class Passage:
    """The way of queries through blocks: appended to the tokens before each block, and split off after it.

    What is around the blocks sees the tokens of the image alone, and so do other hooks of theirs.

    Args:
        queries: before the first block.
        mask: from a block's place in the passage, queries and tokens to the attention mask "b 1 q+n q+n" (True
            attends), or None.

    Attributes:
        queries, tokens: before the next block.
    """

    def __init__(
        self, queries: Float[Tensor, "b q c"], mask: Callable[[int, Tensor, Tensor], Bool[Tensor, "b 1 m m"] | None]
    ) -> None:
        self.queries = queries
        self.tokens = queries[:, :0]  # none yet
        self._mask = mask
        self._next = 0

    def through(self, blocks: Sequence[Block]) -> ExitStack:
        """Hooks of these blocks until the context ends."""
        hooks = ExitStack()
        for block in blocks:
            hooks.callback(block.module.register_forward_pre_hook(self._enter, with_kwargs=True).remove)
            hooks.callback(block.module.register_forward_hook(self._leave, prepend=True).remove)
        return hooks

    def _enter(self, block: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, Any]:
        mask = self._mask(self._next, self.queries, inputs[0])
        self._next += 1
        joined = torch.cat([inputs[0], self.queries], 1)
        if mask is not None:
            options = {**options, "attn_mask": mask}
        if options.get("rope") is not None:
            options = {**options, "rope": _without_rotation(options["rope"], self.queries.shape[1])}
        return (joined, *inputs[1:]), options

    def _leave(self, block: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        self.tokens, self.queries = output.split([output.shape[1] - self.queries.shape[1], self.queries.shape[1]], 1)
        return self.tokens


def _last_blocks(backbone: Backbone, layers: int) -> tuple[nn.Module, tuple[Block, ...]]:
    """The final norm of a plain ViT, and its last blocks."""
    norm = backbone.norm if isinstance(backbone, Blocks) else None
    if norm is None or not isinstance(backbone, Blocks):
        raise ConfigError(f"eomt needs a plain ViT, whose blocks map tokens; got {type(backbone).__name__}")
    if len(backbone.blocks) < layers:
        raise ConfigError(
            f"eomt: layers={layers}, but the backbone has {len(backbone.blocks)} blocks; set layers lower"
        )
    return norm, backbone.blocks[-layers:]


def _as_map(tokens: Float[Tensor, "b n c"], prefix: int, grid: tuple[int, int]) -> Float[Tensor, "b c h w"]:
    return tokens[:, prefix:].mT.unflatten(-1, grid)


def _inside(output: HeadOutput, grid: tuple[int, int]) -> Bool[Tensor, "b q hw"]:
    """Patches inside each query's mask."""
    masks = output.mask_logits.detach()
    return functional.interpolate(masks, size=grid, mode="bilinear", align_corners=False).flatten(2) > 0


def _unmasked(queries: Float[Tensor, "b q c"], share: float, rngs: ImageGenerators) -> Bool[Tensor, "b q 1"]:
    """Queries that attend to all patches, drawn per image."""
    drawn = torch.stack([torch.rand(queries.shape[1], generator=rng) > share for rng in rngs.images])
    return drawn[..., None].to(queries.device)


def _attention_mask(seen: Bool[Tensor, "b q n"], prefix: int) -> Bool[Tensor, "b 1 m m"]:
    """Queries, the last tokens, attend to the patches that they see; all else attends to everything."""
    count = prefix + seen.shape[2] + seen.shape[1]
    mask = seen.new_ones(len(seen), 1, count, count)
    mask[:, 0, prefix + seen.shape[2] :, prefix : prefix + seen.shape[2]] = seen
    return mask


def _without_rotation(rope: Float[Tensor, "*m n r"], queries: int) -> Float[Tensor, "*m nq r"]:
    """Rotary embeddings (sines, then cosines) of patches, and of queries, which are not rotated."""
    still = torch.zeros_like(rope[..., :1, :])
    still[..., rope.shape[-1] // 2 :] = 1
    return torch.cat([rope, still.expand(*rope.shape[:-2], queries, -1)], -2)
