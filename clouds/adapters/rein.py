"""Rein: learnable tokens that refine the features of every block."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clouds.core.contract.adaptation import Adapter, Block, Change
from clouds.core.system.errors import ConfigError

_PATCH = 16  # the released bound of the initial tokens counts the values of a patch of 16 pixels


@final
class Rein(Adapter):
    """Rein (Wei et al., Stronger, Fewer, & Superior, CVPR 2024, arXiv 2312.04265, section 3).

    Blocks with the same number of channels share the MLPs: all blocks of a ViT, those of one stage of a ConvNeXt. Class
    and register tokens are not refined.

    Args:
        blocks: the backbone's blocks.
        tokens: tokens m per block; with `queries`, their number.
        rank: rank r of a block's tokens, T = A B.
        scale: initial factor of the refinement.
        queries: number and width of the queries to make, or None.

    Raises:
        ConfigError: a number is below 1, there are no blocks, or `tokens` is not the number of queries.
    """

    def __init__(
        self, blocks: Sequence[Block], *, tokens: int, rank: int, scale: float, queries: tuple[int, int] | None
    ) -> None:
        super().__init__()
        if min(tokens - 1, rank) < 1 or not blocks:
            raise ConfigError(
                f"rein: tokens={tokens}, rank={rank}, {len(blocks)} blocks; expected at least 2 tokens, 1 rank, 1 block"
            )
        if queries is not None and queries[0] != tokens:
            raise ConfigError(
                f"rein: tokens={tokens}, but the head has {queries[0]} queries; set tokens={queries[0]} or link=false"
            )
        self.starts_at_zero = scale == 0
        self.channels = [block.channels for block in blocks]
        widths = dict.fromkeys(self.channels)
        self.stages = nn.ModuleDict(
            {str(width): Stage(width, self.channels.count(width), tokens, rank, scale) for width in widths}
        )
        self.links = nn.ModuleDict()
        self.query_content = None
        if queries is not None:
            self.links = nn.ModuleDict({str(width): Link(width, queries[1]) for width in widths})
            self.query_content = nn.Linear(queries[1], queries[1])

    def changes(self, blocks: Sequence[Block]) -> list[tuple[nn.Module, Change]]:
        if [block.channels for block in blocks] != self.channels:
            raise ConfigError(
                f"the adapter was built for other blocks: expected {len(self.channels)} blocks of {self.channels} "
                f"channels, got {[block.channels for block in blocks]}; build it for this backbone"
            )
        seen = dict.fromkeys(self.channels, 0)
        changes: list[tuple[nn.Module, Change]] = []
        for block in blocks:
            changes.append(
                (block.module, partial(self._refine, str(block.channels), seen[block.channels], block.prefix))
            )
            seen[block.channels] += 1
        return changes

    def queries(self) -> Float[Tensor, "2 q c"] | None:
        """The position of a query is what its tokens are linked to, added over stages; its content is a linear map."""
        if self.query_content is None:
            return None
        stages: Mapping[str, Any] = dict(self.stages.items())
        linked = [link(stages[width].all_tokens()) for width, link in self.links.items()]
        position = torch.stack(linked).sum(0)
        return torch.stack([self.query_content(position), position])

    def _refine(self, stage: str, index: int, prefix: int, x: Tensor, output: Tensor) -> Tensor:
        # A map "b c h w" as tokens "b n c", and class and register tokens apart
        is_map = output.ndim == 4
        tokens = output.flatten(2).mT if is_map else output[:, prefix:]
        refined = tokens + self.stages[stage](tokens, index)
        if is_map:
            return refined.mT.reshape(output.shape)
        return torch.cat([output[:, :prefix], refined], 1)


@final
class Stage(nn.Module):
    """Tokens and shared MLPs of the blocks with one number of channels.

    Args:
        channels: c.
        blocks: number of blocks N.
        tokens, rank, scale: see `Rein`.
    """

    def __init__(self, channels: int, blocks: int, tokens: int, rank: int, scale: float) -> None:
        super().__init__()
        bound = math.sqrt(6 / (3 * _PATCH**2 + math.sqrt(channels * rank)))
        self.tokens_a = nn.Parameter(torch.empty(blocks, tokens, rank).uniform_(-bound, bound))
        self.tokens_b = nn.Parameter(torch.empty(blocks, rank, channels).uniform_(-bound, bound))
        self.scale = nn.Parameter(torch.tensor(float(scale)))
        self.value = nn.Linear(channels, channels)
        self.delta = nn.Linear(channels, channels)
        for layer in (self.value, self.delta):
            nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5))

    def forward(self, x: Float[Tensor, "b n c"], block: int) -> Float[Tensor, "b n c"]:
        """What is added to the features of a block (equations 4 to 6 and 11)."""
        # T = A B "m c", similarity S = softmax(f T^t / sqrt(c)) "b n m"
        tokens = self.tokens_a[block] @ self.tokens_b[block]
        similarity = (x @ tokens.mT / math.sqrt(x.shape[-1])).softmax(-1)
        # S without its first token, times T W_T + b_T; a pixel may so choose no token
        chosen = similarity[..., 1:] @ self.value(tokens[1:])
        # (that + f) W_f + b_f
        return self.scale * self.delta(chosen + x)

    def all_tokens(self) -> Float[Tensor, "l m c"]:
        """The tokens of all blocks, T = A B."""
        return self.tokens_a @ self.tokens_b


@final
class Link(nn.Module):
    """Makes queries from tokens: a linear map of maximum, mean and last of the blocks' queries (equations 7 to 10).

    Args:
        channels: c.
        width: channels w of the queries.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(channels, width)
        self.merge = nn.Linear(3 * width, width)

    def forward(self, tokens: Float[Tensor, "l m c"]) -> Float[Tensor, "m w"]:
        queries = self.query(tokens)
        return self.merge(torch.cat([queries.amax(0), queries.mean(0), queries[-1]], -1))
