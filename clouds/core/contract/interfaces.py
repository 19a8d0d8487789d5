"""Abstract classes of the components. Every implementation is final.

Axis letters: b images, h and w pixels of the padded network input, q queries (mask predictions), k classes, n items.
Images are RGB: uint8 outside models, float 0..255 as backbone input. Label maps hold train ids; 255 is "ignore".

Records are immutable by convention. Those created inside a network are not attrs-frozen, because `torch.compile`
cannot trace the constructor of a frozen attrs class.
"""

# pyright: reportUnknownMemberType=false
# (torch and safetensors have incomplete types)

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from attrs import define
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from clouds.core.contract.adaptation import Adapter, Blocks
from clouds.core.contract.component import FeatureSpec, Kind
from clouds.core.contract.records import (
    Features,
    GeneratedImage,
    GenerationRequest,
    HeadOutput,
    Prepared,
    Prompt,
    Targets,
)
from clouds.core.system.errors import ConfigError

LEVELS = ("res2", "res3", "res4", "res5")
SIZE_DIVISOR = 32


@define(eq=False)
class TextClassifier:
    """Class embeddings computed from words (open vocabulary).

    Attributes:
        embeddings: unit vectors, one per word.
        class_of: the class (0..k-1) of each word; a class gets the score of its best word.
        seen: whether each class was labelled in training.
        logit_scale: factor on cosine similarities.
        pooler: pools backbone features under masks into the same embedding space, or None.
    """

    embeddings: Float[Tensor, "n d"]
    class_of: Int[Tensor, " n"]
    seen: Bool[Tensor, " k"]
    logit_scale: float
    pooler: MaskPooler | None = None

    def to(self, device: torch.device) -> TextClassifier:
        """The same classifier with its tensors on a device; the pooler is a backbone, which moves with its pipeline."""
        embeddings, class_of, seen = (one.to(device) for one in (self.embeddings, self.class_of, self.seen))
        return TextClassifier(
            embeddings=embeddings, class_of=class_of, seen=seen, logit_scale=self.logit_scale, pooler=self.pooler
        )


class Backbone(nn.Module, ABC):
    """Maps images to features, including the normalisation: input images are RGB floats in 0..255.

    Args:
        features: `FeatureSpec` of `res2`..`res5`; strides are exactly 4, 8, 16, 32.
        mean, std: per channel, 0..255. The pipeline pads with `mean`, which normalises to exactly 0.

    A frozen backbone (`freeze()`) stays in eval mode and has no gradients, except for parts that `freeze` leaves out.

    Attributes:
        frozen: whether nothing of it is trained.
    """

    size_divisor: ClassVar[int] = SIZE_DIVISOR  # divides image height and width; the pipeline pads to it

    def __init__(self, *, features: Mapping[str, FeatureSpec], mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        wanted = {level: 4 * 2**i for i, level in enumerate(LEVELS)}
        strides = {name: spec.stride for name, spec in features.items()}
        if strides != wanted:
            raise ConfigError(f"{type(self).__name__}: feature strides are {strides}; expected {wanted}")
        self.features: dict[str, FeatureSpec] = dict(features)
        self.frozen: bool = False
        self._trained: tuple[nn.Module, ...] | None = None  # None: everything
        if len(mean) != 3 or len(std) != 3:
            raise ConfigError(
                f"{type(self).__name__}: mean has {len(mean)} and std {len(std)} values; expected 3 each, because a "
                "backbone gets RGB images: in_channels must be 3"
            )
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(3, 1, 1), persistent=False)

    @abstractmethod
    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Features:
        """Features of images (RGB, 0..255); h and w are multiples of 32."""

    def freeze(self, *, but: Iterable[nn.Module] = ()) -> Self:
        """Switch to eval mode permanently and disable gradients, except for the modules `but`. Returns self."""
        self._trained = tuple(but)
        self.frozen = not self._trained
        self.requires_grad_(False)
        for part in self._trained:
            part.requires_grad_()
        return self.train(self.training and not self.frozen)

    def train(self, mode: bool = True) -> Self:
        """Like `nn.Module.train`, except that what is frozen stays in eval mode."""
        if self._trained is None:
            return super().train(mode)
        super().train(False)
        for part in self._trained:
            part.train(mode)
        self.training = mode and not self.frozen
        return self

    def normalize(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """(images - mean) / std."""
        return (images - self.mean) / self.std


class TextEncoder(ABC):
    """Capability `text-encoder`: embeds words into the space of pooled features."""

    @abstractmethod
    def embed_text(self, texts: Sequence[str]) -> Float[Tensor, "n d"]:
        """Un-normalised embeddings, one row per text; no texts give shape (0, d)."""

    @property
    def logit_scale(self) -> float:
        """Factor on cosine similarities of texts and pooled features; 100 is the upper bound in CLIP training."""
        return 100.0

    def text_weights(self) -> dict[str, Tensor]:
        """Tensors that `embed_text` depends on, by name; together with the texts they form a cache key."""
        return cast("nn.Module", self).state_dict()


class MaskPooler(ABC):
    """Capability `mask-pooler`: one embedding per mask."""

    @abstractmethod
    def pool(self, dense: Float[Tensor, "b d h w"], masks: Float[Tensor, "b q hm wm"]) -> Float[Tensor, "b q e"]:
        """Pool `Features.dense` under masks, given as logits (inside where > 0), into the space of `embed_text`.

        Masks of another size are resized bilinearly. An empty mask gives a finite embedding.
        """


class ImageGenerators(torch.Generator):
    """One random generator per image of a batch, so that an image's random numbers do not depend on the batch.

    It is itself a generator, seeded by all seeds, for heads that draw for the whole batch.

    Attributes:
        images: one generator per image, on the CPU.
    """

    def __new__(cls, seeds: Sequence[int]) -> Self:
        return super().__new__(cls)

    def __init__(self, seeds: Sequence[int]) -> None:
        super().__init__()
        self.images = tuple(torch.Generator().manual_seed(seed) for seed in seeds)
        self.manual_seed(int(np.random.SeedSequence(list(seeds)).generate_state(1, np.uint64)[0] >> 1))

    def of(self, indices: Sequence[int]) -> ImageGenerators:
        """The same generators of some images; as a generator itself, it is seeded by their seeds."""
        chosen = [self.images[index] for index in indices]
        part = ImageGenerators([one.initial_seed() for one in chosen])
        part.images = tuple(chosen)
        return part


class Head(nn.Module, ABC):
    """Predicts masks from features, computes their loss, and merges them into a segmentation.

    `uses_text`: `forward` needs a `TextClassifier`. `open_vocabulary`: the classifier alone defines the classes, so a
    trained head also works for other label spaces. `queries`: number and width of the queries for which it takes those
    of `Features.queries`; None ignores them. `instances`: a class may have several masks, one per instance.
    """

    uses_text: bool = False
    open_vocabulary: bool = False
    queries: tuple[int, int] | None = None
    instances: bool = False

    @abstractmethod
    def forward(self, features: Features, classifier: TextClassifier | None = None) -> HeadOutput:
        """Predict masks and classes; heads without text classification ignore `classifier`."""

    def forward_images(
        self,
        images: Float[Tensor, "b 3 h w"],
        backbone: Backbone,
        features_of: Callable[[Tensor], Features],
        classifier: TextClassifier | None = None,
        *,
        rngs: ImageGenerators | None = None,
    ) -> HeadOutput:
        """Predict from images. Heads that see images at several resolutions, or run in the backbone, override this.

        Args:
            images: RGB, 0..255, at network size.
            backbone: for its mean, its `size_divisor` and its blocks.
            features_of: computes features of images, those of the adapted backbone.
            classifier: class embeddings, for heads that use text.
            rngs: in training, one generator per image for what the head draws; None: nothing is random.
        """
        return self(features_of(images), classifier)

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
            output: predictions for a batch.
            targets: one per image, at network size.
            points: (x, y) in 0..1 at which masks are compared, for heads that sample points; None draws them.
            generator: random generator for those points; `ImageGenerators` holds one per image.

        Raises:
            NonFiniteError: a term is not finite; the message names the images.
        """

    def loss_counts(self, targets: Sequence[Targets]) -> Mapping[str, float]:
        """Number of items that each term of `loss` averages over, by term; missing terms average over images.

        It joins the losses of parts of a batch: a term of the whole is sum(term x count) / sum(count) over the parts.
        All batches have the same terms."""
        return {}

    def finish_step(self) -> None:
        """Called by training after each optimizer step, for heads that change with its progress.

        A step may have several forward passes, and their number may change when a run resumes."""

    @abstractmethod
    def segment(
        self, output: HeadOutput, valid_size: tuple[int, int], size: tuple[int, int], *, scores: bool = False
    ) -> Tensor:
        """Merge the masks of ONE image (batch of one) into a semantic segmentation.

        Args:
            output: `HeadOutput.image(i)`.
            valid_size: (height, width) of the image within the padded network input.
            size: (height, width) of the result.
            scores: return class scores instead of labels.

        Returns:
            uint8 "h w" train ids, or float32 "k h w": sum over queries of P(class | query) x P(mask).
        """

    def segment_all(
        self, output: HeadOutput, valid_size: tuple[int, int], size: tuple[int, int], *, scores: bool = False
    ) -> Tensor:
        """`segment` of all images of a batch, which have one size: "b h w" or "b k h w".

        Exported graphs call it. Heads whose graphs shall take any number of images override it without a loop."""
        images = [output.image(index) for index in range(output.class_logits.shape[0])]
        return torch.stack([self.segment(image, valid_size, size, scores=scores) for image in images])


class Generator(ABC):
    """Generates images from prompts.

    Attributes:
        reads_prompts: whether images depend on the prompt. If not, a dataset is made without prompts.
        reads_source: whether images are made from labelled ones. If so, every request has a `source`.
    """

    reads_prompts: bool = True
    reads_source: bool = False

    @abstractmethod
    def generate(self, requests: Iterable[GenerationRequest]) -> Iterator[GeneratedImage]:
        """Yield one image per request, in order. The same request gives the same image in any batch."""

    def describe(self) -> Mapping[str, Any]:
        """Metadata that manifests store per image, besides name and options, as plain JSON values.

        `steps` and `guidance` hold the defaults for requests without them. A dataset is continued only by a generator
        with the same description."""
        return {}


class Refiner(ABC):
    """Improves a teacher's label maps with the help of the image."""

    @abstractmethod
    def prepare(self, images: Sequence[UInt8[Tensor, "3 h w"]]) -> list[Prepared]:
        """Compute everything that depends on the images only; callers may cache it."""

    @abstractmethod
    def refine(
        self,
        images: Sequence[UInt8[Tensor, "3 h w"]],
        label_maps: Sequence[UInt8[Tensor, "h w"]],
        *,
        rngs: Sequence[np.random.Generator | np.random.RandomState],
        prepared: Sequence[Prepared] | None = None,
    ) -> list[Targets]:
        """Refine one label map per image. Results contain no class that the label map lacks.

        Args:
            images: clean views, RGB.
            label_maps: train ids, 255 = ignore, with the images' sizes.
            rngs: one random generator per image.
            prepared: results of `prepare` for these images; None computes them.
        """


class Prompter(ABC):
    """Writes text prompts for a generator."""

    @abstractmethod
    def prompts(self, n: int, *, seed: int) -> list[str]:
        """Return n prompts; the same n and seed give the same list.

        Raises:
            ConfigError: the prompter cannot make n prompts.
        """

    def write(self, n: int, *, seed: int) -> list[Prompt]:
        """`prompts`, each with its origin. Prompters override it if prompts of one list differ in their origin."""
        return [Prompt(text) for text in self.prompts(n, seed=seed)]


INTERFACES: dict[Kind, type[Any]] = {
    Kind.BACKBONE: Backbone,
    Kind.ADAPTER: Adapter,
    Kind.GENERATOR: Generator,
    Kind.REFINER: Refiner,
    Kind.HEAD: Head,
    Kind.PROMPTER: Prompter,
}


def capabilities(module: object) -> frozenset[str]:
    """Capabilities of a built module, with the names of `Component.provides`."""
    found = {
        "text-encoder": isinstance(module, TextEncoder),
        "mask-pooler": isinstance(module, MaskPooler),
        "blocks": isinstance(module, Blocks) and bool(module.blocks),
        "tokens": isinstance(module, Blocks) and module.norm is not None,
        "queries": (isinstance(module, Head) and module.queries is not None)
        or (isinstance(module, Adapter) and module.queries() is not None),
        "instances": isinstance(module, Head) and module.instances,
    }
    levels = LEVELS if isinstance(module, Backbone) else ()
    return frozenset([*levels, *(name for name, has in found.items() if has)])
