"""Adapters, and the capability of backbones that they need: transformer or ConvNeXt blocks.

Axis letters: b images, n tokens, h and w pixels of a map, c channels, q queries.
"""

# pyright: reportUnknownMemberType=false
# (torch has incomplete types)

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

from attrs import frozen
from jaxtyping import Float
from torch import Tensor, nn

from clouds.core.system.errors import ConfigError

Change = Callable[[Tensor, Any], Tensor]  # input and output of a module to the output in its place


@frozen(eq=False)
class Projection:
    """A linear layer of a block, or those of its outputs that have one role.

    Attributes:
        name: its role: `q`, `k`, `v`, `proj`, `fc1`, `fc2`, or the layer's own name in other blocks.
        module: a Linear, or a 1x1 convolution.
        start, stop: the outputs of the module that have this role, such as the keys of a joint `qkv`.
    """

    name: str
    module: nn.Linear | nn.Conv2d
    start: int
    stop: int

    @property
    def weight(self) -> Float[Tensor, "o i"]:
        """The matrix of this role, detached, as a view of the module's weight."""
        return self.module.weight.detach().flatten(1)[self.start : self.stop]

    @property
    def bias(self) -> Float[Tensor, " o"] | None:
        """The bias of this role, detached, as a view; None for a module without one."""
        return None if self.module.bias is None else self.module.bias.detach()[self.start : self.stop]


@frozen(eq=False)
class Block:
    """One block of a backbone.

    Attributes:
        module: returns the features: tokens "b n c", or a map "b c h w".
        channels: c.
        prefix: number of class and register tokens in front of the patches.
        projections: its linear layers.
    """

    module: nn.Module
    channels: int
    prefix: int
    projections: tuple[Projection, ...]


class Blocks(ABC):
    """Capability `blocks`: a backbone whose blocks run one after another, as modules that are called."""

    @property
    @abstractmethod
    def blocks(self) -> tuple[Block, ...]:
        """The blocks, first to last; none if this backbone has no such trunk."""

    @property
    def norm(self) -> nn.Module | None:
        """The norm after the last block of a plain ViT (capability `tokens`); None for other backbones.

        Blocks of a plain ViT map tokens "b n c", and take `attn_mask`, a bool "b 1 n n" (True attends). Some take
        `rope`, the rotary embeddings of patches: sines and cosines "... n r".
        """
        return None


class Adapter(nn.Module, ABC):
    """All that is trained on a frozen backbone.

    It never changes the backbone: `attach` adds forward hooks, which do nothing unless the adapter is `active`.
    A `Segmenter` activates it for its own pass, so that several adapters can share one trunk.

    Attributes:
        mergeable: whether `merge` can write the adapter into the backbone's weights.
        starts_at_zero: whether a fresh adapter leaves features bitwise as they were.
        active: whether the hooks act.
    """

    mergeable: bool = False
    starts_at_zero: bool = True

    def __init__(self) -> None:
        super().__init__()
        self.active: bool = False

    @abstractmethod
    def changes(self, blocks: Sequence[Block]) -> Iterable[tuple[nn.Module, Change]]:
        """Modules of the blocks, each with the function that changes its output. Changes of a module add up in order.

        Raises:
            ConfigError: the adapter was built for other blocks.
        """

    def start(self, blocks: Sequence[Block]) -> None:
        """Set the initial values that depend on the backbone's weights. `compose` calls it, `load` does not."""

    def queries(self) -> Float[Tensor, "2 q c"] | None:
        """Initial content and position of the head's queries, if the adapter makes them (capability `queries`)."""
        return None

    def merge(self, blocks: Sequence[Block]) -> None:
        """Write the adapter into the weights of the blocks.

        Raises:
            ConfigError: the adapter's output is not a linear layer's.
        """
        raise ConfigError(
            f"the adapter {type(self).__name__} cannot be merged: no weights of the backbone compute the same; "
            "keep it as an adapter (lora and soma can be merged)"
        )

    def attach(self, blocks: Sequence[Block]) -> None:
        """Add the hooks to the blocks; nothing happens where they are already.

        Raises:
            ConfigError: the adapter was built for other blocks.
        """
        if not any(hook.adapter is self for block in blocks for hook in _hooks(block.module)):
            for module, change in self.changes(blocks):
                module.register_forward_hook(_Hook(self, change))

    def detach(self, blocks: Sequence[Block]) -> None:
        """Remove the hooks of this adapter."""
        for part in (part for block in blocks for part in block.module.modules()):
            for key, hook in tuple(_hooks_of(part).items()):
                if isinstance(hook, _Hook) and hook.adapter is self:
                    del _hooks_of(part)[key]


@contextmanager
def activated(*adapters: Adapter) -> Generator[None]:
    """Let the hooks of these adapters act inside the block."""
    before = [adapter.active for adapter in adapters]
    for adapter in adapters:
        adapter.active = True
    try:
        yield
    finally:
        for adapter, was in zip(adapters, before, strict=True):
            adapter.active = was


def activity(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """The contexts that `torch.utils.checkpoint` enters for a block: at first, and when it computes the block again.

    The backward pass runs after the segmenter has deactivated its adapter, so the second context activates again what
    is active now.
    """
    active = {hook.adapter: None for hook in _hooks(block) if hook.adapter.active}
    return nullcontext(), activated(*active)


class _Hook:
    """A forward hook of one adapter. A copy of the trunk and its adapter copies the hooks, too."""

    def __init__(self, adapter: Adapter, change: Change) -> None:
        self.adapter = adapter
        self.change = change

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> Any:
        return self.change(inputs[0], output) if self.adapter.active else output


def _hooks(block: nn.Module) -> list[_Hook]:
    hooks = (hook for part in block.modules() for hook in _hooks_of(part).values())
    return [hook for hook in hooks if isinstance(hook, _Hook)]


def _hooks_of(module: nn.Module) -> dict[int, object]:
    return cast("dict[int, object]", module._forward_hooks)  # pyright: ignore[reportPrivateUsage]
