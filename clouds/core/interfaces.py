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
from attrs import define, field, frozen
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from clouds.core.component import FeatureSpec, Kind
from clouds.core.errors import ConfigError

LEVELS = ("res2", "res3", "res4", "res5")
SIZE_DIVISOR = 32


@define(eq=False)
class Features:
    """What a backbone sees in a batch: a pyramid at strides 4, 8, 16, 32 and a map for mask pooling.

    Attributes:
        res2, res3, res4, res5: "b c h/s w/s", s = 4, 8, 16, 32.
        dense: "b d h' w'" for `MaskPooler.pool`, or None when the backbone pools nothing.
    """

    res2: Float[Tensor, "b c2 h2 w2"]
    res3: Float[Tensor, "b c3 h3 w3"]
    res4: Float[Tensor, "b c4 h4 w4"]
    res5: Float[Tensor, "b c5 h5 w5"]
    dense: Float[Tensor, "b d hd wd"] | None = None

    def levels(self) -> dict[str, Tensor]:
        """The pyramid by name, finest first."""
        return {"res2": self.res2, "res3": self.res3, "res4": self.res4, "res5": self.res5}


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


@define(eq=False)
class HeadOutput:
    """Mask classification of a batch: q masks, each with one class (or none).

    Attributes:
        class_logits: last class is "no object".
        mask_logits: at a quarter of the network size; the sigmoid is P(pixel in mask).
        auxiliary: predictions of earlier layers, for deep supervision.
    """

    class_logits: Float[Tensor, "b q k+1"]
    mask_logits: Float[Tensor, "b q h/4 w/4"]
    auxiliary: tuple[HeadOutput, ...] = ()

    def image(self, index: int) -> HeadOutput:
        """The final prediction of one image, as a batch of one without auxiliaries."""
        one = slice(index, index + 1)
        return HeadOutput(class_logits=self.class_logits[one], mask_logits=self.mask_logits[one])


@frozen(eq=False)
class Targets:
    """What one image should be segmented into. Masks may overlap.

    Attributes:
        labels: the class of each mask.
        masks: where each mask is, at network size.
        valid: pixels that count; ignored and padded ones do not.
    """

    labels: Int[Tensor, " n"]
    masks: Bool[Tensor, "n h w"]
    valid: Bool[Tensor, "h w"]

    @classmethod
    def from_label_map(cls, label_map: UInt8[Tensor, "h w"], *, ignore: int = 255) -> Targets:
        """One mask per class that occurs; `ignore` pixels are not valid.

        >>> Targets.from_label_map(torch.tensor([[0, 3], [255, 3]], dtype=torch.uint8)).labels
        tensor([0, 3])
        """
        found = cast("Tensor", torch.unique(label_map))
        labels = found[found != ignore].long()
        return cls(labels=labels, masks=label_map[None].long() == labels[:, None, None], valid=label_map != ignore)

    def to_label_map(self, *, ignore: int = 255) -> UInt8[Tensor, "h w"]:
        """One class per pixel; pixels of no mask, of masks of two classes, or not valid are `ignore`."""
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
        """The same targets on another device."""
        return Targets(labels=self.labels.to(device), masks=self.masks.to(device), valid=self.valid.to(device))


def _to_size(value: Sequence[int]) -> tuple[int, int]:
    height, width = value
    return int(height), int(width)


@frozen
class GenerationRequest:
    """One picture to make. The initial noise depends on `seed` alone, never on the batch.

    Attributes:
        prompt: what to show.
        seed: 0 or more.
        size: (height, width) in pixels.
        steps: sampling steps; None leaves it to the generator.
        guidance: weight of the prompt; None leaves it to the generator.
    """

    prompt: str
    seed: int
    size: tuple[int, int] = field(default=(768, 768), converter=_to_size)
    steps: int | None = None
    guidance: float | None = None

    def __attrs_post_init__(self) -> None:
        if self.seed < 0 or min(self.size) < 1:
            raise ConfigError(f"generation request: seed={self.seed} must be >= 0 and size={self.size} at least 1x1")


@frozen(eq=False)
class GeneratedImage:
    """A generated picture.

    Attributes:
        request: what was asked for.
        image: uint8 "h w 3", RGB.
        labels: exact train ids, uint8 "h w", when the generator knows them; else None.
    """

    request: GenerationRequest
    image: UInt8[np.ndarray, "h w 3"]
    labels: UInt8[np.ndarray, "h w"] | None = None


@frozen(eq=False)
class Prepared:
    """What a refiner computed from one image alone, as named tensors, so that it can be cached."""

    tensors: dict[str, Tensor] = field(factory=dict[str, Tensor])


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
