"""The parts of a pipeline as one torch module: children, device, modes, and the forward pass."""

# pyright: reportUnknownMemberType=false
# (torch has incomplete types)

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from clouds.core.contract.adaptation import Adapter
from clouds.core.contract.component import Kind
from clouds.core.contract.interfaces import (
    Backbone,
    Generator,
    Head,
    ImageGenerators,
    Prompter,
    Refiner,
    TextClassifier,
    TextEncoder,
)
from clouds.core.contract.labels import LabelSpace
from clouds.core.contract.plan import Plan
from clouds.core.contract.records import HeadOutput
from clouds.core.pipeline.prediction import require_pixels
from clouds.core.pipeline.segmenter import Network, Segmenter
from clouds.core.pipeline.text import build_classifier
from clouds.core.system.errors import ConfigError, DataError
from clouds.core.system.files import cache_folder

Images = Sequence[UInt8[Tensor, "3 _ _"]] | UInt8[Tensor, "b 3 _ _"]


class PipelineModule(nn.Module):
    """The parts of a pipeline as one torch module.

    Backbone, head and adapter are its children, so parameters have names such as `head.classify.weight`. Generator,
    refiner and prompter only move between devices with it. Weights are float32; reduced precision is by autocast.

    Attributes:
        plan: the checked composition.
        trained: whether the head was trained; custom training loops set it.
        kept: tensors of a published checkpoint that no module uses.
    """

    _segmenter: Segmenter

    def __init__(
        self,
        *,
        plan: Plan,
        backbone: Backbone,
        head: Head,
        device: torch.device,
        adapter: Adapter | None = None,
        classifier: TextClassifier | None = None,
        helpers: Mapping[Kind, object] | None = None,
        deferred: Mapping[Kind, Callable[[], object]] | None = None,
    ) -> None:
        super().__init__()
        self.plan = plan
        self.segmenter = Segmenter(backbone, head, adapter).to(device)
        self.trained = False
        self.kept: dict[str, Tensor] = {}
        self._classifier = classifier
        self._deferred = dict(deferred or {})
        self._helpers: dict[Kind, Any] = {kind: _move_to(part, device) for kind, part in (helpers or {}).items()}

    def __setattr__(self, name: str, value: Any) -> None:
        own = getattr(type(self), name, None)
        if isinstance(own, property):  # nn.Module would add a child that the property hides
            own.__set__(self, value)
        else:
            super().__setattr__(name, value)

    def __repr__(self) -> str:
        """The plan, and per part the number of parameters, trainable parameters, and megabytes of weights."""
        parts = {**self.segmenter.parts, "in all": self.segmenter}
        lines = [f"Pipeline on {self.device}, {'trained' if self.trained else 'not trained'}", str(self.plan)]
        return "\n".join([*lines, *(f"weights, {name}: {_size_of(part)}" for name, part in parts.items())])

    @property
    def device(self) -> torch.device:
        """Device of the weights; `to` changes it."""
        return self.backbone.mean.device

    @property
    def segmenter(self) -> Segmenter:
        """Backbone, adapter and head, for padded batches."""
        return self._segmenter

    @segmenter.setter
    def segmenter(self, module: Segmenter) -> None:
        self.__dict__["_segmenter"] = module  # not a child: its parts are, and no name begins with "segmenter."
        self._modules = {**module.parts}  # a new dict, because a copy of the pipeline shares the former

    @property
    def backbone(self) -> Backbone:
        """Computes features from images."""
        return self.segmenter.backbone

    @backbone.setter
    def backbone(self, module: Backbone) -> None:
        self.segmenter = Segmenter(module, self.head, self.adapter)

    @property
    def head(self) -> Head:
        """Predicts masks and classes from features."""
        return self.segmenter.head

    @head.setter
    def head(self, module: Head) -> None:
        self.segmenter = Segmenter(self.backbone, module, self.adapter)

    @property
    def adapter(self) -> Adapter | None:
        """What is trained on the frozen backbone, or None."""
        return self.segmenter.adapter

    @property
    def labels(self) -> LabelSpace:
        """Label space of the predictions."""
        return self.plan.labels

    @property
    def generator(self) -> Generator | None:
        """Generates images from prompts, or None."""
        return self._helper(Kind.GENERATOR)

    @property
    def refiner(self) -> Refiner | None:
        """Improves the teacher's label maps, or None."""
        return self._helper(Kind.REFINER)

    @property
    def prompter(self) -> Prompter | None:
        """Writes prompts, or None."""
        return self._helper(Kind.PROMPTER)

    @property
    def classifier(self) -> TextClassifier | None:
        """Text embeddings of the label space, computed on first access; None if the head uses no text."""
        if self._classifier is None and self.head.uses_text:
            self._classifier = self._embed_labels()
        if self._classifier is not None and self._classifier.embeddings.device != self.device:
            self._classifier = self._classifier.to(self.device)
        return self._classifier

    def forward(self, images: Images, rngs: ImageGenerators | None = None) -> HeadOutput:
        """Predict masks and classes for images of any sizes, at a quarter of the network size.

        Images are padded at bottom and right with the backbone's mean. The network size is the largest height and
        width, rounded up to a multiple of `size_divisor`.

        Args:
            images: RGB, 0..255; a list of tensors, or one batch.
            rngs: for training, see `Head.forward_images`.

        Raises:
            DataError: an image is no uint8 tensor of shape 3 x h x w, or there is none.
        """
        classifier = self.classifier
        with self.autocast():
            return self.segmenter(self.pad(images), classifier, rngs)

    def as_module(self) -> Network:
        """The forward pass on a padded batch as one module in eval mode, to compile or export; see `Network`."""
        return Network(self.segmenter, self.classifier)

    def autocast(self) -> torch.autocast:
        """Context of the forward pass: reduced precision if the plan has a dtype."""
        dtype = getattr(torch, self.plan.dtype) if self.plan.dtype else None
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    def pad(self, images: Images) -> Float[Tensor, "b 3 h w"]:
        """Stack images to a float batch (0..255), padded at bottom and right with the mean, which normalises to 0.

        Raises:
            DataError: an image is no uint8 tensor of shape 3 x h x w, or there is none.
        """
        if not len(images):
            raise DataError("images: expected at least one image, got none")
        for index, image in enumerate(images):
            if not isinstance(image, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise DataError(
                    f"image {index}: expected a uint8 tensor of shape 3 x h x w, got a {type(image).__name__}; "
                    "predict(image) takes files, pictures and arrays"
                )
            require_pixels(image, name=f"image {index}")
        return self.segmenter.pad(list(images))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PipelineModule:
        """Move the parts: what `to`, `cuda`, `half` and the like call.

        Raises:
            ConfigError: it would change the type of the weights.
        """
        dtype = fn(torch.zeros((), device=self.device)).dtype
        if dtype != torch.float32:
            name = str(dtype).removeprefix("torch.")
            raise ConfigError(
                f"the weights of a pipeline stay float32, not {name}; to compute in reduced precision, use "
                "clouds.load(path, dtype=...) or clouds.compose(dtype=...), which autocast"
            )
        super()._apply(fn, recurse)
        for kind, part in self._helpers.items():
            self._helpers[kind] = _move_to(part, self.device)
        return self

    def _embed_labels(self) -> TextClassifier:
        if not isinstance(self.backbone, TextEncoder):
            raise ConfigError(
                f"the head {type(self.head).__name__} compares with text embeddings, but the backbone "
                f"{type(self.backbone).__name__} embeds no texts; choose one that is a TextEncoder"
            )
        part = self.plan.parts[Kind.BACKBONE]
        return build_classifier(
            self.backbone,
            self.labels,
            trained=self.plan.trained_labels or self.labels,
            model=f"{part.name} {part.options}",
            cache=None if part.ready else cache_folder("text"),
        )

    def _helper(self, kind: Kind) -> Any:
        if kind in self._deferred:
            self._helpers[kind] = _move_to(self._deferred[kind](), self.device)
            del self._deferred[kind]
        return self._helpers.get(kind)


def _size_of(part: nn.Module) -> str:
    parameters = list(part.parameters())
    count, trainable = (sum(one.numel() for one in group) for group in (parameters, filter(_is_trainable, parameters)))
    size = sum(one.numel() * one.element_size() for one in parameters)
    return f"{count:,} parameters, {trainable:,} trainable, {size / 1e6:.1f} MB"


def _is_trainable(parameter: nn.Parameter) -> bool:
    return parameter.requires_grad


def _move_to(part: object, device: torch.device) -> object:
    return part.to(device) if isinstance(part, nn.Module) else part
