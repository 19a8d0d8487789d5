"""Records that components exchange.

Axis letters: b images, h and w pixels of the padded network input, q queries (mask predictions), k classes, n items.
Images are RGB: uint8 outside models, float 0..255 as backbone input. Label maps hold train ids; 255 is "ignore".

Records are immutable by convention. Those created inside a network are not attrs-frozen, because `torch.compile`
cannot trace the constructor of a frozen attrs class.
"""

# pyright: reportUnknownMemberType=false
# (torch has incomplete types)

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

import numpy as np
import torch
from attrs import define, evolve, field, frozen
from jaxtyping import Bool, Float, Int, Integer, UInt8
from torch import Tensor

from clouds.core.contract.labels import LabelSpace
from clouds.core.system.errors import ConfigError


@define(eq=False)
class Features:
    """Backbone features of a batch: a pyramid at strides 4, 8, 16, 32, and a map for mask pooling.

    Attributes:
        res2, res3, res4, res5: "b c h/s w/s", s = 4, 8, 16, 32.
        dense: "b d h' w'" for `MaskPooler.pool`, or None for backbones without mask pooling.
        queries: initial content and position of the head's queries, if an adapter makes them.
    """

    res2: Float[Tensor, "b c2 h2 w2"]
    res3: Float[Tensor, "b c3 h3 w3"]
    res4: Float[Tensor, "b c4 h4 w4"]
    res5: Float[Tensor, "b c5 h5 w5"]
    dense: Float[Tensor, "b d hd wd"] | None = None
    queries: Float[Tensor, "2 q c"] | None = None

    def levels(self) -> dict[str, Tensor]:
        """The pyramid by name, finest first."""
        return {"res2": self.res2, "res3": self.res3, "res4": self.res4, "res5": self.res5}


ImageWindow = tuple[slice, slice]  # rows and columns of the network input


@define(eq=False)
class HeadOutput:
    """Mask classification of a batch: q masks, each with one class (or none).

    Attributes:
        class_logits: the last class is "no object".
        mask_logits: at a quarter of the network size; the sigmoid is P(pixel in mask).
        auxiliary: further predictions for the loss, such as those of earlier layers.
        windows: per image, the part of it that an auxiliary prediction covers; empty if it covers all.
    """

    class_logits: Float[Tensor, "b q k+1"]
    mask_logits: Float[Tensor, "b q h/4 w/4"]
    auxiliary: tuple[HeadOutput, ...] = ()
    windows: tuple[ImageWindow, ...] = ()

    def image(self, index: int) -> HeadOutput:
        """The final prediction for one image, as a batch of one without auxiliary predictions."""
        one = slice(index, index + 1)
        return HeadOutput(class_logits=self.class_logits[one], mask_logits=self.mask_logits[one])

    def images(self, indices: Sequence[int]) -> HeadOutput:
        """All predictions for some images, as a batch of them."""
        chosen = list(indices)
        return HeadOutput(
            class_logits=self.class_logits[chosen],
            mask_logits=self.mask_logits[chosen],
            auxiliary=tuple(one.images(chosen) for one in self.auxiliary),
            windows=tuple(self.windows[index] for index in chosen) if self.windows else (),
        )


@frozen(eq=False)
class Targets:
    """Ground truth or pseudo labels of one image. Masks may overlap.

    Attributes:
        labels: the class of each mask.
        masks: pixels inside each mask, at network size.
        valid: pixels that count; ignored and padded pixels do not.
        weight: of the image's loss. Training applies it; heads ignore it.
        pseudo: whether a teacher made them.
    """

    labels: Int[Tensor, " n"]
    masks: Bool[Tensor, "n h w"]
    valid: Bool[Tensor, "h w"]
    weight: float = 1.0
    pseudo: bool = False

    @classmethod
    def from_label_map(cls, label_map: Integer[Tensor, "h w"], *, ignore: int = 255) -> Targets:
        """One mask per value in the map; `ignore` pixels are not valid.

        A value is a train id, or instance * 256 + train id in a map of larger integers: then each instance has a mask.

        >>> Targets.from_label_map(torch.tensor([[0, 3], [255, 3]], dtype=torch.uint8)).labels
        tensor([0, 3])
        >>> Targets.from_label_map(torch.tensor([[0, 256 + 3], [255, 512 + 3]])).labels  # two instances of class 3
        tensor([0, 3, 3])
        """
        found = cast("Tensor", torch.unique(label_map))
        values = found[found != ignore].long()
        masks = label_map[None].long() == values[:, None, None]
        return cls(labels=values % 256, masks=masks, valid=label_map != ignore)

    def to_label_map(self, *, ignore: int = 255) -> UInt8[Tensor, "h w"]:
        """One class per pixel; invalid pixels and pixels with no class or two classes are `ignore`."""
        classes = cast("list[int]", torch.unique(self.labels).tolist())
        shape = self.valid.shape
        label_map = torch.full(shape, ignore, dtype=torch.uint8, device=self.valid.device)
        claims = torch.zeros(shape, dtype=torch.int32, device=self.valid.device)
        for value in classes:
            inside = self.masks[self.labels == value].any(0)
            label_map[inside] = value
            claims += inside
        label_map[(claims != 1) | ~self.valid] = ignore
        return label_map

    def to(self, device: torch.device | str) -> Targets:
        """Copy the targets to a device."""
        labels, masks, valid = (tensor.to(device) for tensor in (self.labels, self.masks, self.valid))
        return evolve(self, labels=labels, masks=masks, valid=valid)


@frozen(eq=False)
class LabelledImage:
    """An image and its labels, from which a generator makes another image.

    Attributes:
        image: uint8 "h w 3", RGB.
        labels: train ids of `label_space`, uint8 "h w", 255 = ignore.
        label_space: the classes of the labels.
        origin: file, hash and crop, as plain JSON values for the manifest.
    """

    image: UInt8[np.ndarray, "h w 3"]
    labels: UInt8[np.ndarray, "h w"]
    label_space: LabelSpace
    origin: dict[str, Any] = field(factory=dict[str, Any])


def _to_size(value: Sequence[int]) -> tuple[int, int]:
    height, width = value
    return int(height), int(width)


@frozen
class Prompt:
    """A prompt and where it comes from.

    Attributes:
        text: one line.
        origin: who wrote it, as plain JSON values for the manifest, such as `{"by": "grammar"}`; None if unknown.
    """

    text: str
    origin: dict[str, Any] | None = None


@frozen
class GenerationRequest:
    """Request for one image. The initial noise depends on `seed` only, not on the batch.

    Attributes:
        prompt: description of the image.
        seed: 0 or more.
        size: (height, width) in pixels.
        steps: sampling steps; None uses the generator's default.
        guidance: weight of the prompt; None uses the generator's default.
        source: the labelled image to start from, of this size, for generators with `reads_source`.
    """

    prompt: str
    seed: int
    size: tuple[int, int] = field(default=(768, 768), converter=_to_size)
    steps: int | None = None
    guidance: float | None = None
    source: LabelledImage | None = field(default=None, repr=False)

    def __attrs_post_init__(self) -> None:
        if self.seed < 0 or min(self.size) < 1:
            raise ConfigError(f"generation request: seed={self.seed} must be >= 0 and size={self.size} at least 1x1")
        if self.source is not None and not self.source.image.shape[:2] == self.source.labels.shape == self.size:
            raise ConfigError(
                f"generation request: the source's image {self.source.image.shape[:2]} and labels "
                f"{self.source.labels.shape} must have its size {self.size} (height, width)"
            )


@frozen(eq=False)
class GeneratedImage:
    """A generated image.

    Attributes:
        request: the request it fulfils.
        image: uint8 "h w 3", RGB.
        labels: train ids, uint8 "h w", if the generator knows them; else None.
        label_kind: "exact" if the labels were made with the image (Cityscapes train ids); "inherited" if they are those
            of the request's source, without classes that the generator could not keep.
        origin: what the image was made from besides the prompt and the request's source, as plain JSON values for the
            manifest; else None.
    """

    request: GenerationRequest
    image: UInt8[np.ndarray, "h w 3"]
    labels: UInt8[np.ndarray, "h w"] | None = None
    label_kind: Literal["exact", "inherited"] = "exact"
    origin: dict[str, Any] | None = None


@frozen(eq=False)
class Prepared:
    """A refiner's cacheable results for one image, as named tensors."""

    tensors: dict[str, Tensor] = field(factory=dict[str, Tensor])
