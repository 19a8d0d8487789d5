"""A composed pipeline."""

# pyright: reportUnknownMemberType=false
# (torch and safetensors are typed in parts only)

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Generator as GeneratorOf
from contextlib import contextmanager
from copy import copy
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from attrs import evolve
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn

from clouds.core.contract.catalog import Catalog
from clouds.core.contract.component import Kind
from clouds.core.contract.interfaces import Backbone, Generator, Head, Prompter, Refiner, TextClassifier, TextEncoder
from clouds.core.contract.labels import LabelSpace
from clouds.core.contract.plan import Plan
from clouds.core.contract.records import HeadOutput
from clouds.core.pipeline.checkpoint import save_checkpoint
from clouds.core.pipeline.cuda_graphs import CudaGraphs
from clouds.core.pipeline.prediction import ImageLike, InputImage, Prediction, require_finite, segment_windows
from clouds.core.pipeline.published_weights import find_published
from clouds.core.pipeline.segmenter import Network, Segmenter
from clouds.core.pipeline.segments import ImageMasks
from clouds.core.pipeline.text import build_classifier
from clouds.core.published.export import reference_state
from clouds.core.system.batches import answer_in_batches, read_ahead
from clouds.core.system.errors import ConfigError, DataError, UntrainedHeadWarning
from clouds.core.system.files import cache_folder
from clouds.core.system.images import MAX_PIXELS, find_pictures


class Pipeline:
    """Backbone and head, with the generator, refiner and prompter that make their training data.

    Made by `clouds.compose` and `clouds.load`. `trained` says whether the head was trained; whoever trains it in a
    loop of their own sets it. `kept` holds the tensors of a published checkpoint that no module uses.
    """

    def __init__(
        self,
        *,
        plan: Plan,
        backbone: Backbone,
        head: Head,
        device: torch.device,
        classifier: TextClassifier | None = None,
        helpers: Mapping[Kind, object] | None = None,
        deferred: Mapping[Kind, Callable[[], object]] | None = None,
    ) -> None:
        self.plan = plan
        self.device = device
        self.segmenter = Segmenter(backbone, head).to(device)
        self.trained = self._warned = False
        self.kept: dict[str, Tensor] = {}
        self._graphs: CudaGraphs | None = None
        self._network: tuple[object, Network] | None = None  # what graphs are recorded of, and what it is made of
        self._classifier = classifier
        self._deferred = dict(deferred or {})
        self._helpers: dict[Kind, Any] = {kind: _place(part, device) for kind, part in (helpers or {}).items()}

    @property
    def backbone(self) -> Backbone:
        """Makes features of images."""
        return self.segmenter.backbone

    @backbone.setter
    def backbone(self, module: Backbone) -> None:
        self.segmenter = Segmenter(module, self.head)

    @property
    def head(self) -> Head:
        """Makes masks and classes of features."""
        return self.segmenter.head

    @head.setter
    def head(self, module: Head) -> None:
        self.segmenter = Segmenter(self.backbone, module)

    @property
    def labels(self) -> LabelSpace:
        """The label space of every prediction."""
        return self.plan.labels

    @property
    def generator(self) -> Generator | None:
        """Makes pictures from prompts, or None."""
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
        """The label space as text embeddings, made once, when it is first asked for; None when the head uses none."""
        if self._classifier is None and self.head.uses_text:
            self._classifier = self._embed_labels()
        return self._classifier

    def with_labels(self, labels: LabelSpace) -> Pipeline:
        """The same modules for another label space (open vocabulary).

        Raises:
            ConfigError: the head's classes are fixed.
        """
        if not self.head.open_vocabulary:
            raise ConfigError(
                f"the head {type(self.head).__name__} was made for the classes of {self.labels.name!r} and cannot "
                "serve others; a head that classifies by text can: mask2former-text"
            )
        trained = self.plan.trained_labels or self.plan.labels
        plan = evolve(self.plan, labels=labels, trained_labels=None if labels == trained else trained)
        other = copy(self)
        other.plan, other._classifier = plan, None
        other._graphs = None if self._graphs is None else CudaGraphs(self._graphs.limit)
        return other

    def forward(self, images: Sequence[UInt8[Tensor, "3 _ _"]]) -> HeadOutput:
        """Masks and classes of images of any sizes: padded bottom and right with the backbone's mean to a multiple
        of the backbone's `size_divisor` of the largest. The outputs are at a quarter of that network size."""
        classifier = self.classifier
        with self.autocast():
            return self.segmenter(self.pad(images), classifier)

    def as_module(self) -> Network:
        """What `forward` does to a padded batch, as one module in eval mode to compile or export: see `Network`."""
        return Network(self.segmenter, self.classifier)

    def use_cuda_graphs(self, limit: int = 8) -> None:
        """Let `predict` and `predict_many` replay recorded forward passes: one launch instead of one per kernel.

        A forward pass is recorded when a network size and batch size comes for the second time. Recordings hold memory
        of the GPU; they are dropped when weights are replaced, moved or converted, and weights that are changed in
        place are read as they are.

        Args:
            limit: recordings that are kept; the least recently used goes first. 0 switches them off.

        Raises:
            ConfigError: the pipeline is not on a CUDA device, or `limit` is negative.
        """
        if limit < 0:
            raise ConfigError(f"use_cuda_graphs: limit is {limit}; expected at least 0")
        if limit and self.device.type != "cuda":
            raise ConfigError(
                f"use_cuda_graphs: the pipeline is on {self.device}, and CUDA graphs need a CUDA device; compose or "
                "load it with device='cuda'"
            )
        self._graphs = CudaGraphs(limit) if limit else None

    def autocast(self) -> torch.autocast:
        """The context of every forward pass: reduced precision when the plan asks for it."""
        dtype = getattr(torch, self.plan.dtype) if self.plan.dtype else None
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    def pad(self, images: Sequence[UInt8[Tensor, "3 _ _"]]) -> Float[Tensor, "b 3 h w"]:
        """One float batch (0..255), padded bottom and right with the backbone's mean, which normalises to 0."""
        return self.segmenter.pad(images)

    def predict(
        self, image: ImageLike, *, short_side: int | None = None, window: int = 2048, max_pixels: int = MAX_PIXELS
    ) -> Prediction:
        """Segment one image, at its own size.

        Args:
            image: path, PIL image, uint8 array "h w 3" or uint8 tensor "3 h w" (RGB).
            short_side: resize the short side to this many pixels before the network; None keeps the image's size.
            window: images of more than window x window pixels are segmented in overlapping windows of that side.
            max_pixels: a file, a PIL image or a resized image with more is refused, before it takes the memory.

        Raises:
            DataError: the image cannot be read or has another form; `short_side` or `window` is no whole number from 1.
            NonFiniteError: the network's output for it is NaN or infinite.
        """
        self._start_predicting(short_side=short_side, window=window)
        return self._predict([InputImage.read(image, short_side=short_side, max_pixels=max_pixels)], window)[0]

    def predict_many(
        self,
        images: str | os.PathLike[str] | Iterable[ImageLike],
        *,
        batch_size: int = 8,
        short_side: int | None = None,
        window: int = 2048,
        max_pixels: int = MAX_PIXELS,
    ) -> Iterator[Prediction]:
        """Segment images in batches: the predictions that `predict` makes, one after the other, in order.

        Images of one size after resizing and padding share a batch, so that each is padded as it is alone; a batch may
        round its sums in another order. The next images are taken, read and decoded in a thread meanwhile. At most
        3 x `batch_size` images are held at a time, so that an endless iterator of mixed sizes is answered as it comes.

            for prediction in pipeline.predict_many("photos/*.jpg", batch_size=4):
                prediction.overlay().save(f"{prediction.path.stem}.png")

        Args:
            images: a folder, a glob pattern (`**` for any folders), or images in any form that `predict` takes.
            batch_size: images that go through the network at once. One in windows goes alone.
            short_side, window, max_pixels: as in `predict`.

        Raises:
            DataError: the folder or pattern has no picture; `batch_size`, `short_side` or `window` is less than 1; or
                an image cannot be read, after the predictions of those before it. It names path or position.
            NonFiniteError: as `predict`.
        """
        if batch_size < 1:
            raise DataError(f"batch_size is {batch_size}; expected at least 1 image")
        self._start_predicting(short_side=short_side, window=window)
        read = partial(_read, short_side=short_side, max_pixels=max_pixels)
        pictures = read_ahead(read, enumerate(_listed(images)), count=batch_size)
        return answer_in_batches(
            pictures,
            lambda batch: self._predict(batch, window),
            group_of=lambda one: None if one.exceeds(window) else self.segmenter.network_size([one.valid_size]),
            size=batch_size,
        )

    def save(self, path: str | Path, include_frozen: bool = True, *, catalog: Catalog | None = None) -> None:
        """Write plan and weights to a folder, in one piece; an earlier pipeline at that place is replaced.

        Args:
            path: the folder.
            include_frozen: False leaves out a frozen backbone whose weights are the published ones. They are got
                once more to compare; a digest of them is saved, and compared again by `clouds.load`, which gets them.
            catalog: where the backbone's name is looked up then; see `clouds.compose`.

        Raises:
            DataError: the folder exists and holds something else.
            WeightsError: `include_frozen=False`, but the backbone is not frozen, or not the published one.
            NonFiniteError: weights are NaN or infinite.
        """
        published = None if include_frozen else find_published(self.plan, self.backbone, catalog=catalog)
        save_checkpoint(
            path,
            plan=self.plan,
            backbone=self.backbone,
            head=self.head,
            trained=self.trained,
            kept=self.kept,
            classifier=self.classifier,
            published=published,
        )

    def to_reference_state_dict(self) -> dict[str, Tensor]:
        """The weights under the names of the published implementation, in its order; not copied, as in `state_dict`.

        The order is backbone, `sem_seg_head`, `sem_seg_head_ema`, `criterion`, `void_embedding`, `sam`; a checkpoint
        that was read comes back with its keys and bits. `criterion.empty_weight` and `void_embedding.weight` are made
        when absent, so that the published code loads the state dict strictly.

        Raises:
            ConfigError: the published implementation has no such backbone or head.
        """
        return reference_state(self.plan, self.backbone, self.head, self.kept)

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

    def _predict(self, pictures: Sequence[InputImage], window: int) -> list[Prediction]:
        """Of pictures that the network takes at once, or of a single one in windows."""
        if not pictures[0].exceeds(window):
            return self._segment(pictures)
        return [segment_windows(one, lambda seen: self._segment([seen])[0], window, self.labels) for one in pictures]

    def _segment(self, pictures: Sequence[InputImage]) -> list[Prediction]:
        with torch.inference_mode(), _evaluating(self.backbone, self.head):
            output = self._infer([_to_tensor(one.resized, self.device) for one in pictures])
            masks = [
                ImageMasks(output=output.image(index), valid_size=one.valid_size, size=one.size)
                for index, one in enumerate(pictures)
            ]
            labels = [self.head.segment(one.output, one.valid_size, one.size) for one in masks]
            require_finite(output, pictures)  # last: it waits for the device, on which labels are under way
        return [
            Prediction(
                labels=found.cpu().numpy(),
                image=picture.pixels,
                label_space=self.labels,
                compute_scores=partial(self._scores, one),
                find_masks=partial(_itself, one),
                path=picture.path,
            )
            for picture, one, found in zip(pictures, masks, labels, strict=True)
        ]

    def _infer(self, images: Sequence[Tensor]) -> HeadOutput:
        if self._graphs is None:
            return self.forward(images)
        parts = (self.backbone, self.head, self.classifier)
        if self._network is None or self._network[0] != parts:
            self._network = parts, self.as_module()
        with self.autocast():
            class_logits, mask_logits = self._graphs(self._network[1], self.pad(images))
        return HeadOutput(class_logits=class_logits, mask_logits=mask_logits)

    @torch.inference_mode()
    def _scores(self, masks: ImageMasks) -> np.ndarray:
        return self.head.segment(masks.output, masks.valid_size, masks.size, scores=True).float().cpu().numpy()

    def _start_predicting(self, *, short_side: int | None, window: int) -> None:
        for name, pixels in (("window", window), ("short_side", short_side)):
            if pixels is not None and (not isinstance(pixels, Integral) or pixels < 1):
                raise DataError(f"{name} is {pixels!r}; expected at least 1 pixel, a whole number")
        self._warn_untrained()

    def _warn_untrained(self) -> None:
        if not (self.trained or self._warned):
            self._warned = True
            warnings.warn(
                f"the head {type(self.head).__name__} has not been trained: its predictions mean nothing "
                "(clouds.train trains it; after a loop of your own set pipeline.trained = True)",
                UntrainedHeadWarning,
                stacklevel=4,
            )

    def _helper(self, kind: Kind) -> Any:
        if kind in self._deferred:
            self._helpers[kind] = _place(self._deferred[kind](), self.device)
            del self._deferred[kind]
        return self._helpers.get(kind)


def _listed(images: str | os.PathLike[str] | Iterable[ImageLike]) -> Iterable[ImageLike]:
    if isinstance(images, (str, os.PathLike)):
        try:
            return find_pictures(images)
        except DataError as error:
            if ":" not in str(images):
                raise
            remedy = f"of a dataset spec, pass clouds.data.folder.dataset_images({str(images)!r})"
            raise DataError(f"{error}; {remedy}") from None
    if isinstance(images, Image.Image) or (isinstance(images, (np.ndarray, Tensor)) and images.ndim == 3):
        raise DataError("images: expected several images, got one; pass [image], or call predict(image)")
    return cast("Iterable[ImageLike]", images)


def _read(numbered: tuple[int, ImageLike], *, short_side: int | None, max_pixels: int) -> InputImage:
    position, image = numbered
    return InputImage.read(image, short_side=short_side, name=f"image {position}", max_pixels=max_pixels)


def _itself(masks: ImageMasks) -> ImageMasks:
    return masks


def _place(part: object, device: torch.device) -> object:
    return part.to(device) if isinstance(part, nn.Module) else part


def _to_tensor(pixels: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.array(pixels, order="C")).to(device).permute(2, 0, 1)  # arrays may be read-only


@contextmanager
def _evaluating(*modules: nn.Module) -> GeneratorOf[None]:
    """Eval mode for the block, then back to what each module was in."""
    were = [part for module in modules for part in module.modules() if part.training]
    for module in modules if were else ():
        module.eval()
    try:
        yield
    finally:
        for part in were:
            part.training = True
