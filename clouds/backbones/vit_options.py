"""Options of plain ViTs: which blocks give the feature pyramid, how they are trained. Nothing here imports torch."""

from __future__ import annotations

from typing import Any, Literal

from attrs import frozen

from clouds.core.system.errors import ConfigError

Layers = tuple[int, int, int, int]
Pyramid = Literal["layers", "last"]
LastBlocks = Literal["last1", "last2", "last3", "last4", "last6", "last8", "last12", "last16", "last18", "last20"]

_DEPTHS = ((1, 3), (1, 2), (2, 3), (1, 1))  # shares of the depth after which res2..res5 are taken


@frozen(kw_only=True)
class VitOptions:
    """How a plain ViT's features are taken, and how it is trained.

    Attributes:
        pyramid: "layers": each level from its own block; "last": all levels from the last block.
        layers: the blocks of res2..res5, counted from 0; None: `default_layers`.
        trainable: True: everything; False: nothing; "last4" and the like: the last blocks and the final norm.
        grad_checkpointing: compute activations of blocks again in the backward pass instead of storing them.
        drop_path_rate: probability of skipping the last block's residuals of an image in training (stochastic depth,
            Huang et al., ECCV 2016), 0..1; it grows linearly from 0 at the first block.
    """

    pyramid: Pyramid = "layers"
    layers: Layers | None = None
    trainable: bool | LastBlocks = False
    grad_checkpointing: bool = False
    drop_path_rate: float = 0.0

    @property
    def last_blocks(self) -> int | None:
        """The number of blocks that are trained, or None for all or none."""
        return None if isinstance(self.trainable, bool) else int(self.trainable.removeprefix("last"))

    @property
    def of_vits(self) -> dict[str, Any]:
        """The given options that only a plain ViT takes."""
        asked = {
            "layers": None if self.layers is None else list(self.layers),
            "trainable": self.last_blocks and self.trainable,
            "grad_checkpointing": self.grad_checkpointing,
            "drop_path_rate": self.drop_path_rate,
        }
        return {name: value for name, value in asked.items() if value}

    def faults(self, depth: int | None) -> list[str]:
        """Faults of the options for a model of `depth` blocks (0: no plain ViT; None: unknown), one sentence each."""
        count, layers = self.last_blocks, None if self.layers is None else list(self.layers)
        if depth == 0:
            given = [f"{name}={value!r}" for name, value in self.of_vits.items()]
            return [f"{one} needs a plain ViT; the model has a pyramid of its own" for one in given]
        faults: list[str] = []
        if not 0 <= self.drop_path_rate < 1:
            faults.append(f"drop_path_rate is {self.drop_path_rate}; expected at least 0 and below 1")
        elif self.drop_path_rate and not self.trainable:
            faults.append(
                f"drop_path_rate={self.drop_path_rate} needs trained blocks, but trainable=False freezes all; set "
                "trainable=true or such as 'last4', or leave it out"
            )
        if count is not None and depth is not None and count > depth:
            faults.append(f"trainable={self.trainable!r} asks for more blocks than there are; the model has {depth}")
        if layers is not None and self.pyramid == "last":
            faults.append(
                f"layers={layers} needs pyramid='layers'; pyramid='last' takes all levels from the last block"
            )
        elif layers is not None and depth is not None and not all(0 <= layer < depth for layer in layers):
            faults.append(f"layers={layers} names a block that does not exist; expected numbers from 0 to {depth - 1}")
        return faults

    def require(self, depth: int, model: str) -> None:
        """Check the options against a model of `depth` blocks; 0 is a model that is no plain ViT.

        Raises:
            ConfigError: the options do not fit the model.
        """
        if faults := self.faults(depth):
            raise ConfigError(f"{model}: {'; '.join(faults)}")

    def blocks(self, depth: int) -> Layers | None:
        """The blocks of res2..res5; None with `pyramid="last"`."""
        return None if self.pyramid == "last" else self.layers or default_layers(depth)


AS_PUBLISHED = VitOptions()


def default_layers(depth: int) -> Layers:
    """The blocks that complete a third, half, two thirds and all of the depth, counted from 0, rounded up.

    For 24 blocks these are 7, 11, 15, 23 and for 12 blocks 3, 5, 7, 11, as published for frozen ViTs under Mask2Former
    (Wei et al., Stronger, Fewer, & Superior, CVPR 2024).
    """
    third, half, two_thirds, whole = (-(-depth * part // parts) - 1 for part, parts in _DEPTHS)
    return third, half, two_thirds, whole
