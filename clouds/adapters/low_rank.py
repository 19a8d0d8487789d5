"""Low-rank updates of linear layers: LoRA and SoMA."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from clouds.core.contract.adaptation import Adapter, Block, Change, Projection
from clouds.core.system.errors import ConfigError


@final
class Update(nn.Module):
    """What is added to a linear layer: scale x B A x, B "o r", A "r i".

    With `minor`, A and B start as minor singular components, which the layer's own weight contains already. Their
    start is subtracted: W + B A - B0 A0 is the residual of the paper plus B A, and exactly W at the start.

    Args:
        inputs, outputs: sizes of the layer.
        rank: r.
        scale: factor of the product.
        minor: keep the start of A and B, and subtract it.
        bias: also train a change of the layer's bias.
    """

    def __init__(self, inputs: int, outputs: int, *, rank: int, scale: float, minor: bool, bias: bool) -> None:
        super().__init__()
        self.scale = scale
        self.a = nn.Parameter(torch.empty(rank, inputs))
        self.b = nn.Parameter(torch.zeros(outputs, rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))  # LoRA's own
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.a0: Tensor | None
        self.b0: Tensor | None
        self.register_buffer("a0", self.a.detach().clone() if minor else None)
        self.register_buffer("b0", self.b.detach().clone() if minor else None)

    @torch.no_grad()
    def start(self, b: Float[Tensor, "o r"], a: Float[Tensor, "r i"]) -> None:
        """Start at this product, and subtract it."""
        for name, value in {"a": a, "b": b, "a0": a, "b0": b}.items():
            getattr(self, name).copy_(value)

    def matrix(self) -> Float[Tensor, "o i"]:
        """What is added to the weight."""
        product = self.b @ self.a
        return self.scale * (product if self.a0 is None or self.b0 is None else product - self.b0 @ self.a0)

    def forward(self, x: Float[Tensor, "... i"]) -> Float[Tensor, "... o"]:
        """What is added to the output."""
        product = functional.linear(functional.linear(x, self.a), self.b)
        if self.a0 is not None and self.b0 is not None:
            product = product - functional.linear(functional.linear(x, self.a0), self.b0)
        return self.scale * product if self.bias is None else self.scale * product + self.bias


@final
class LowRankAdapter(Adapter):
    """Low-rank updates of the blocks' linear layers.

    Hu et al., LoRA, ICLR 2022, equation 3; with `minor`, Yun et al., SoMA, CVPR 2025, section 3: of the singular value
    decomposition W = U S V, the last `rank` components are trained as B = U sqrt(S), A = sqrt(S) V.

    Args:
        blocks: the backbone's blocks.
        rank: rank of an update; at most the layer's.
        scale: factor of the updates.
        targets: roles of the layers to adapt; none means all.
        first: first block to adapt.
        minor: start at the minor singular components, and train biases (SoMA); else at zero (LoRA).

    Raises:
        ConfigError: the rank is below 1, a target is in no block, or there is no such block.
    """

    mergeable = True

    def __init__(
        self,
        blocks: Sequence[Block],
        *,
        rank: int,
        scale: float,
        targets: Sequence[str] = (),
        first: int = 0,
        minor: bool = False,
    ) -> None:
        super().__init__()
        self.minor = minor
        _check(blocks, rank, targets, first)
        self.updates = nn.ModuleDict()
        for index, block in list(enumerate(blocks))[first:]:
            self.updates[str(index)] = nn.ModuleDict(
                {
                    one.name: Update(
                        one.weight.shape[1],
                        one.weight.shape[0],
                        rank=min(rank, *one.weight.shape),
                        scale=scale,
                        minor=minor,
                        bias=minor and one.bias is not None,
                    )
                    for one in block.projections
                    if not targets or one.name in targets
                }
            )

    def start(self, blocks: Sequence[Block]) -> None:
        for projection, update in self._pairs(blocks) if self.minor else ():
            _, b, a = split_minor(projection.weight, len(update.a))
            update.start(b, a)

    def changes(self, blocks: Sequence[Block]) -> list[tuple[nn.Module, Change]]:
        return [(one.module, partial(self._add, update, one)) for one, update in self._pairs(blocks)]

    @torch.no_grad()
    def merge(self, blocks: Sequence[Block]) -> None:
        for projection, update in self._pairs(blocks):
            projection.weight.add_(update.matrix())
            if update.bias is not None and projection.bias is not None:
                projection.bias.add_(update.bias)

    def _add(self, update: Update, projection: Projection, x: Tensor, output: Tensor) -> Tensor:
        is_map = isinstance(projection.module, nn.Conv2d)  # "b c h w"; a Linear has its channels last
        change = update(x.movedim(1, -1) if is_map else x)
        outputs = output.shape[1] if is_map else output.shape[-1]
        # The other roles of a joint projection do not change
        change = functional.pad(change, (projection.start, outputs - projection.stop))
        return output + (change.movedim(-1, 1) if is_map else change)

    def _pairs(self, blocks: Sequence[Block]) -> list[tuple[Projection, Update]]:
        pairs: list[tuple[Projection, Update]] = []
        for index, updates in self.updates.items():
            found: Mapping[str, Projection] = {}
            if int(index) < len(blocks):
                found = {one.name: one for one in blocks[int(index)].projections}
            for name, update in updates.items():  # pyright: ignore[reportCallIssue]
                if name not in found or found[name].weight.shape != (len(update.b), update.a.shape[1]):
                    raise ConfigError(
                        f"the adapter was built for other blocks: block {index} of this backbone has no layer {name!r} "
                        f"of {update.a.shape[1]} inputs and {len(update.b)} outputs; build it for this backbone"
                    )
                pairs.append((found[name], update))
        return pairs


def split_minor(
    weight: Float[Tensor, "o i"], rank: int
) -> tuple[Float[Tensor, "o i"], Float[Tensor, "o r"], Float[Tensor, "r i"]]:
    """Split a weight into a residual and its `rank` smallest singular components, B A.

    Yun et al., SoMA, CVPR 2025, section 3: B = U sqrt(S), A = sqrt(S) V of these components; the residual is the rest.
    """
    left, values, right = torch.linalg.svd(weight.detach().double(), full_matrices=False)
    roots = values[-rank:].sqrt()
    b, a = (left[:, -rank:] * roots).to(weight.dtype), (roots[:, None] * right[-rank:]).to(weight.dtype)
    return weight - b @ a, b, a


def _check(blocks: Sequence[Block], rank: int, targets: Sequence[str], first: int) -> None:
    if rank < 1:
        raise ConfigError(f"adapter: rank is {rank}; expected at least 1")
    if not blocks:
        raise ConfigError("adapter: the backbone has no blocks; choose a plain ViT or a ConvNeXt")
    if not 0 <= first < len(blocks):
        raise ConfigError(f"adapter: first is {first}, but the backbone has the blocks 0 to {len(blocks) - 1}")
    known = sorted({one.name for block in blocks for one in block.projections})
    unknown = [name for name in targets if name not in known]
    if unknown:
        raise ConfigError(f"adapter: targets {unknown} are in no block; its linear layers are {known}")
