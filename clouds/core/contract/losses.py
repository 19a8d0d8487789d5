"""Further terms of the student's loss (hook `clouds_losses`).

Axis letters: b images, h and w pixels of the padded network input.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from attrs import frozen
from jaxtyping import Float
from torch import Tensor, nn

from clouds.core.contract.records import Features, HeadOutput, Targets


@frozen(eq=False, kw_only=True)
class LossInputs:
    """What a loss term is computed from: one forward pass of the student in training.

    Attributes:
        images: input of the backbone, RGB 0..255. A head that sees images at several resolutions calls the backbone
            several times; this is its first call.
        features: the student's features of `images`, with gradients.
        output: the head's prediction, with gradients; its mask logits are a quarter of the network size.
        targets: one per image.
    """

    images: Float[Tensor, "b 3 _ _"]
    features: Features
    output: HeadOutput
    targets: Sequence[Targets]


class LossTerm(nn.Module, ABC):
    """A term that is added to the head's loss. It is an average over items, such as images or cells of a map.

    Nothing of it is trained. Its parameters and buffers are part of a run's checkpoints.
    """

    @abstractmethod
    def forward(self, inputs: LossInputs) -> Float[Tensor, " b"]:
        """The sum over the items of each image, already weighted. Random choices would break exact resume."""

    def items(self, targets: Targets) -> float:
        """Number of items of an image. It depends on the targets alone, so that parts of a batch can be joined."""
        return 1.0
