"""One builder per built-in adapter, with the published numbers as defaults. Heavy imports stay inside the functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clouds.core.contract.adaptation import Adapter, Block


def rein(
    blocks: Sequence[Block],
    queries: tuple[int, int] | None = None,
    *,
    tokens: int | None = None,
    rank: int = 16,
    scale: float = 1e-3,
    link: bool = True,
) -> Adapter:
    """Rein with the released numbers (100 tokens, rank 16); it cannot be merged.

    Args:
        blocks: the backbone's blocks.
        queries: number and width of the head's queries, or None.
        tokens: tokens per block; None takes as many as the head has queries, or else 100.
        rank: rank of the tokens of a block.
        scale: initial factor of the refinement, which is trained; 0 leaves fresh features bitwise as they were.
        link: make the head's queries from the tokens, if the head takes queries.

    Raises:
        ConfigError: a number is below 1, or a linked head has another number of queries.
    """
    from clouds.adapters.rein import Rein

    linked = queries if link else None
    return Rein(blocks, tokens=tokens or (linked or (100,))[0], rank=rank, scale=scale, queries=linked)


def lora(
    blocks: Sequence[Block],
    *,
    rank: int = 16,
    alpha: float = 16.0,
    targets: tuple[str, ...] = (),
    first: int = 0,
) -> Adapter:
    """LoRA: W + alpha / rank x B A, with B = 0 at the start.

    Args:
        blocks: the backbone's blocks.
        rank: rank of an update.
        alpha: factor of the updates, times rank.
        targets: roles of the linear layers to adapt, such as `("q", "v")`; none means all.
        first: first block to adapt, from 0.

    Raises:
        ConfigError: the rank is below 1, a target is in no block, or there is no such block.
    """
    from clouds.adapters.low_rank import LowRankAdapter

    return LowRankAdapter(blocks, rank=rank, scale=alpha / rank, targets=targets, first=first, minor=False)


def soma(
    blocks: Sequence[Block],
    *,
    rank: int = 16,
    targets: tuple[str, ...] = (),
    first: int | None = None,
) -> Adapter:
    """SoMA with the released numbers (rank 16, biases trained, the first third of the blocks frozen).

    Args:
        blocks: the backbone's blocks.
        rank: number of minor singular components that are trained.
        targets: roles of the linear layers to adapt; none means all.
        first: first block to adapt, from 0; None means a third of the blocks: 8 of the 24 of a ViT-L, as published.

    Raises:
        ConfigError: the rank is below 1, a target is in no block, or there is no such block.
    """
    from clouds.adapters.low_rank import LowRankAdapter

    start = len(blocks) // 3 if first is None else first
    return LowRankAdapter(blocks, rank=rank, scale=1.0, targets=targets, first=start, minor=True)


def none(blocks: Sequence[Block]) -> Adapter:
    """No adapter.

    Args:
        blocks: the backbone's blocks; not used.
    """
    from clouds.adapters.nothing import Nothing

    return Nothing()
