"""What components are: abstract classes, and the records that they exchange. Every implementation is final.

Axis letters: b images, h and w pixels of the padded network input, q queries (mask predictions), k classes, n items.
Images are RGB; uint8 outside models, float 0..255 at a backbone's door. Label maps hold train ids, 255 is "ignore".

Records are never changed once made. Those that are made within a network are not frozen by attrs, because
`torch.compile` cannot trace the constructor of a frozen attrs class.
"""

# pyright: reportUnknownMemberType=false
# (torch and safetensors are typed in parts only)

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from attrs import define
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from clouds.core.contract.component import FeatureSpec, Kind
from clouds.core.contract.records import Features, GeneratedImage, GenerationRequest, HeadOutput, Prepared, Targets
from clouds.core.system.errors import ConfigError

LEVELS = ("res2", "res3", "res4", "res5")
SIZE_DIVISOR = 32


@define(eq=False)
class TextClassifier:
    """Class embeddings made from words (open vocabulary).

    Attributes:
        embeddings: unit vectors, one per word.
        class_of: the class (0..k-1) of each word; a class scores as the best of its words.
        seen: whether each class was labelled in training.
        logit_scale: factor on cosine similarities.
        pooler: pools backbone features under masks into the same space, or None.
    """

    embeddings: Float[Tensor, "n d"]
    class_of: Int[Tensor, " n"]
    seen: Bool[Tensor, " k"]
    logit_scale: float
    pooler: MaskPooler | None = None


class Backbone(nn.Module, ABC):
    """Maps images to features. Owns its normalisation: images come as RGB floats in 0..255.

    Args:
        features: `FeatureSpec` of `res2`..`res5`; strides are exactly 4, 8, 16, 32.
        mean, std: per channel, 0..255. The pipeline pads with `mean`, which normalises to exactly 0.

    A frozen backbone (`freeze()`) stays in eval mode for ever and has no gradients.

    """

    size_divisor: ClassVar[int] = SIZE_DIVISOR  # of the sides of its images; the pipeline pads them

    def __init__(self, *, features: Mapping[str, FeatureSpec], mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        wanted = {level: 4 * 2**i for i, level in enumerate(LEVELS)}
        strides = {name: spec.stride for name, spec in features.items()}
        if strides != wanted:
            raise ConfigError(f"{type(self).__name__}: feature strides are {strides}; expected {wanted}")
        self.features: dict[str, FeatureSpec] = dict(features)
        self.frozen: bool = False
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(3, 1, 1), persistent=False)

    @abstractmethod
    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Features:
        """Features of images (RGB, 0..255); h and w are multiples of 32."""

    def freeze(self) -> Self:
        """Eval mode for ever, no gradients. Returns self."""
        self.frozen = True
        self.requires_grad_(False)
        self.eval()
        return self

    def train(self, mode: bool = True) -> Self:
        """Like `nn.Module.train`, except that a frozen backbone stays in eval mode."""
        return super().train(mode and not self.frozen)

    def normalize(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """(images - mean) / std."""
        return (images - self.mean) / self.std


class TextEncoder(ABC):
    """Capability `text-encoder`: embeds words into the space of pooled features."""

    @abstractmethod
    def embed_text(self, texts: Sequence[str]) -> Float[Tensor, "n d"]:
        """Un-normalised embeddings, one row per text; n = 0 gives an empty tensor of shape (0, d)."""

    @property
    def logit_scale(self) -> float:
        """Factor on cosine similarities of texts and pooled features; 100 is the upper bound in CLIP's training."""
        return 100.0

    def text_weights(self) -> dict[str, Tensor]:
        """The tensors that `embed_text` depends on, by name: together with the texts they are the key of a cache."""
        return cast("nn.Module", self).state_dict()


class MaskPooler(ABC):
    """Capability `mask-pooler`: one embedding per mask."""

    @abstractmethod
    def pool(self, dense: Float[Tensor, "b d h w"], masks: Float[Tensor, "b q hm wm"]) -> Float[Tensor, "b q e"]:
        """Pool `Features.dense` under masks given as logits (inside where > 0), in the space of `embed_text`.

        Masks of another size are resized bilinearly. An empty mask gives a finite embedding.
        """


class ImageGenerators(torch.Generator):
    """One source of random numbers per image of a batch, so that what an image draws does not depend on the batch.

    To a head that draws for the whole batch it is a usual generator, seeded by all of the seeds.

    Attributes:
        images: one generator per image, on the CPU.
    """

    def __new__(cls, seeds: Sequence[int]) -> Self:
        return super().__new__(cls)

    def __init__(self, seeds: Sequence[int]) -> None:
        super().__init__()
        self.images = tuple(torch.Generator().manual_seed(seed) for seed in seeds)
        self.manual_seed(int(np.random.SeedSequence(list(seeds)).generate_state(1, np.uint64)[0] >> 1))


class Head(nn.Module, ABC):
    """Turns features into mask predictions, owns its loss, and merges masks into a segmentation.

    `uses_text` says whether `forward` wants a classifier made from words; `open_vocabulary` whether its classes are
    those of the classifier alone, so that a trained head serves other label spaces.
    """

    uses_text: bool = False
    open_vocabulary: bool = False

    @abstractmethod
    def forward(self, features: Features, classifier: TextClassifier | None = None) -> HeadOutput:
        """Predict masks and classes; `classifier` is for text-classified heads, others ignore it."""

    @abstractmethod
    def loss(
        self,
        output: HeadOutput,
        targets: Sequence[Targets],
        *,
        points: Float[Tensor, "b p 2"] | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Named scalar terms, already weighted; their sum is the loss.

        Args:
            output: of a batch.
            targets: one per image, at network size.
            points: (x, y) in 0..1 at which masks are compared, for heads that sample; None draws them.
            generator: source of those random points; `ImageGenerators` has one per image.

        Raises:
            NonFiniteError: a term is not finite; the message names the images.
        """

    def loss_counts(self, targets: Sequence[Targets]) -> Mapping[str, float]:
        """What each term of `loss` is a mean over, by the term's name, so that the losses of parts of a batch can be
        joined: the term of the whole is sum(term x count) / sum(count) over the parts. A term that is not named is
        a mean over images, which is the default. Every batch has the same names."""
        return {}

    @abstractmethod
    def segment(
        self, output: HeadOutput, valid_size: tuple[int, int], size: tuple[int, int], *, scores: bool = False
    ) -> Tensor:
        """Merge the masks of ONE image (batch of one) into a semantic segmentation.

        Args:
            output: `HeadOutput.image(i)`.
            valid_size: (height, width) of the image within the padded network input.
            size: (height, width) of the answer.
            scores: return class scores instead of labels.

        Returns:
            uint8 "h w" train ids, or float32 "k h w": sum over queries of P(class | query) x P(mask).
        """


class Generator(ABC):
    """Makes pictures from prompts."""

    @abstractmethod
    def generate(self, requests: Iterable[GenerationRequest]) -> Iterator[GeneratedImage]:
        """Yield one image per request, in order. The same request gives the same image in any batch."""

    def describe(self) -> Mapping[str, Any]:
        """What a manifest says about each picture, beyond name and options: plain JSON values. `steps` and `guidance`
        are those of requests that name none; a dataset is not continued by a generator that says something else."""
        return {}


class Refiner(ABC):
    """Improves label maps that a teacher predicted, using the image."""

    @abstractmethod
    def prepare(self, images: Sequence[UInt8[Tensor, "3 h w"]]) -> list[Prepared]:
        """Compute what depends on the images alone; callers may cache it."""

    @abstractmethod
    def refine(
        self,
        images: Sequence[UInt8[Tensor, "3 h w"]],
        label_maps: Sequence[UInt8[Tensor, "h w"]],
        *,
        rngs: Sequence[np.random.Generator | np.random.RandomState],
        prepared: Sequence[Prepared] | None = None,
    ) -> list[Targets]:
        """Refine one label map per image. Never names a class that its label map does not have.

        Args:
            images: clean views, RGB.
            label_maps: train ids, 255 = ignore, of the images' sizes.
            rngs: one source of random choices per image.
            prepared: what `prepare` returned for these images; None computes it.
        """


class Prompter(ABC):
    """Writes text prompts for a generator."""

    @abstractmethod
    def prompts(self, n: int, *, seed: int) -> list[str]:
        """Return n prompts; the same n and seed give the same list.

        Raises:
            ConfigError: when n prompts cannot be made.
        """


INTERFACES: dict[Kind, type[Any]] = {
    Kind.BACKBONE: Backbone,
    Kind.GENERATOR: Generator,
    Kind.REFINER: Refiner,
    Kind.HEAD: Head,
    Kind.PROMPTER: Prompter,
}


def capabilities(module: object) -> frozenset[str]:
    """What a built module provides, in the words of `Component.provides`."""
    levels = LEVELS if isinstance(module, Backbone) else ()
    extra: dict[str, type[Any]] = {"text-encoder": TextEncoder, "mask-pooler": MaskPooler}
    return frozenset([*levels, *(name for name, kind in extra.items() if isinstance(module, kind))])
