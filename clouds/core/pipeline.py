"""A composed pipeline and its predictions."""

# pyright: reportUnknownMemberType=false
# (torch and safetensors are typed in parts only)

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Generator as GeneratorOf
from contextlib import contextmanager
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import evolve, field, frozen
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn

from clouds.core.catalog import Catalog
from clouds.core.checkpoint import save_checkpoint
from clouds.core.component import Kind
from clouds.core.errors import ConfigError, DataError, UntrainedHeadWarning
from clouds.core.files import cache_folder
from clouds.core.images import read_image, to_rgb
from clouds.core.interfaces import (
    Backbone,
    Generator,
    Head,
    HeadOutput,
    Prompter,
    Refiner,
    TextClassifier,
    TextEncoder,
)
from clouds.core.labels import LabelSpace
from clouds.core.network import Network
from clouds.core.plan import Plan
from clouds.core.segments import ImageMasks, Instances, Panoptic, find_instances, find_panoptic
from clouds.core.text import build_classifier
from clouds.core.windows import resampled, sliding_windows

ImageLike = str | os.PathLike[str] | Image.Image | np.ndarray | Tensor
_OVERLAP = 256  # pixels; half of it is the least context that a pixel of a window's core has


@frozen(eq=False, kw_only=True)
class Prediction:
    """The segmentation of one image, at the image's own size.

    Attributes:
        labels: uint8 "h w", train ids.
        image: uint8 "h w 3", RGB: what was segmented.
        label_space: what the train ids mean.
        compute_scores: makes the answer of `scores`.
        find_masks: gives the masks that `instances` and `panoptic` are made from.
    """

    labels: UInt8[np.ndarray, "h w"]
    image: UInt8[np.ndarray, "h w 3"]
    label_space: LabelSpace
    compute_scores: Callable[[], np.ndarray] = field(repr=False)
    find_masks: Callable[[], ImageMasks] = field(repr=False)

    def scores(self) -> Float[np.ndarray, "k h w"]:
        """Class scores, float32 "k h w": sum over queries of P(class | query) x P(mask). Computed on every call."""
        return self.compute_scores()

    def instances(self, *, top: int = 100) -> Instances:
        """The best `top` instances, of the classes that are things in the label space (of all when none is).

        Raises:
            ConfigError: `top` is less than 1.
            DataError: the image was segmented in windows.
        """
        return find_instances(self.find_masks(), self.label_space, top=top)

    def panoptic(self, *, object_mask_threshold: float = 0.8, overlap_threshold: float = 0.8) -> Panoptic:
        """Segments without overlap: single things, and whatever there is of each other class.

        Args:
            object_mask_threshold: masks whose class is not more probable than this are left out.
            overlap_threshold: so are masks of which less than this share is left by the others.

        Raises:
            ConfigError: a threshold is not in 0..1.
            DataError: the image was segmented in windows.
        """
        return find_panoptic(
            self.find_masks(),
            self.label_space,
            object_mask_threshold=object_mask_threshold,
            overlap_threshold=overlap_threshold,
        )

    def overlay(self, *, opacity: float = 0.5) -> Image.Image:
        """The image with the palette's colours over it; `opacity` in 0..1."""
        palette = np.zeros((256, 3), np.float32)
        palette[: len(self.label_space)] = self.label_space.palette
        blend = self.image * (1 - opacity) + palette[self.labels] * opacity
        return Image.fromarray(np.clip(blend.round(), 0, 255).astype(np.uint8))


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
        self.backbone = backbone.to(device)
        self.head = head.to(device)
        self.trained = self._warned = False
        self.kept: dict[str, Tensor] = {}
        self._classifier = classifier
        self._deferred = dict(deferred or {})
        self._helpers: dict[Kind, Any] = {kind: _place(part, device) for kind, part in (helpers or {}).items()}

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
        return other

    def forward(self, images: Sequence[UInt8[Tensor, "3 _ _"]]) -> HeadOutput:
        """Masks and classes of images of any sizes: padded bottom and right with the backbone's mean to a multiple
        of the backbone's `size_divisor` of the largest. The outputs are at a quarter of that network size."""
        classifier = self.classifier
        with self.autocast():
            return self.head(self.backbone(self.pad(images)), classifier)

    def as_module(self) -> Network:
        """What `forward` does to a padded batch, as one module in eval mode to compile or export: see `Network`."""
        return Network(self.backbone, self.head, self.classifier)

    def autocast(self) -> torch.autocast:
        """The context of every forward pass: reduced precision when the plan asks for it."""
        dtype = getattr(torch, self.plan.dtype) if self.plan.dtype else None
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    def pad(self, images: Sequence[UInt8[Tensor, "3 _ _"]]) -> Float[Tensor, "b 3 h w"]:
        """One float batch (0..255), padded bottom and right with the backbone's mean, which normalises to 0."""
        divisor = self.backbone.size_divisor
        height, width = (-(-max(image.shape[axis] for image in images) // divisor) * divisor for axis in (1, 2))
        batch = self.backbone.mean.expand(len(images), 3, height, width).clone()
        for slot, image in zip(batch, images, strict=True):
            slot[:, : image.shape[1], : image.shape[2]] = image
        return batch

    def predict(self, image: ImageLike, *, short_side: int | None = None, window: int = 2048) -> Prediction:
        """Segment one image, at its own size.

        Args:
            image: path, PIL image, uint8 array "h w 3" or uint8 tensor "3 h w" (RGB).
            short_side: resize the short side to this many pixels before the network; None keeps the image's size.
            window: images of more than window x window pixels are segmented in overlapping windows of that side.

        Raises:
            DataError: the image cannot be read or has another form, or `short_side` or `window` is less than 1.
        """
        if window < 1:
            raise DataError(f"window is {window}; expected at least 1 pixel")
        self._warn_untrained()
        pixels = to_pixels(image)
        resized = _resize_short_side(pixels, short_side)
        if resized.shape[0] * resized.shape[1] <= window**2:
            labels, scores, masks = self._segment(resized, pixels.shape[:2])
        else:
            labels, scores = self._segment_windows(resized, pixels.shape[:2], window)
            masks = partial(_no_masks, resized.shape[:2], window)
        return Prediction(labels=labels, image=pixels, label_space=self.labels, compute_scores=scores, find_masks=masks)

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
        from clouds.core.published import find_published  # builds a backbone, as the composer does

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
        from clouds.core.reference import to_reference_state_dict  # composes pipelines, too

        return to_reference_state_dict(self)

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

    def _segment(
        self, pixels: np.ndarray, size: tuple[int, int]
    ) -> tuple[np.ndarray, Callable[[], np.ndarray], Callable[[], ImageMasks]]:
        with torch.inference_mode(), _evaluating(self.backbone, self.head):
            output = self.forward([_to_tensor(pixels, self.device)]).image(0)
            masks = ImageMasks(output=output, valid_size=pixels.shape[:2], size=size)
            labels = self.head.segment(output, masks.valid_size, size)
        return labels.cpu().numpy(), lambda: self._scores(masks), lambda: masks

    @torch.inference_mode()
    def _scores(self, masks: ImageMasks) -> np.ndarray:
        return self.head.segment(masks.output, masks.valid_size, masks.size, scores=True).float().cpu().numpy()

    def _segment_windows(
        self, pixels: np.ndarray, size: tuple[int, int], side: int
    ) -> tuple[np.ndarray, Callable[[], np.ndarray]]:
        """Windows are segmented one after the other; scores are made again when asked for, to bound the memory."""
        whole = pixels.shape[:2]
        windows = list(sliding_windows(*whole, side=side, overlap=min(_OVERLAP, side // 4)))

        def bands() -> Iterator[tuple[tuple[slice, slice], Tensor]]:
            for window in windows:
                seen = pixels[window.seen]
                scores = torch.from_numpy(self._segment(seen, seen.shape[:2])[1]())
                yield from resampled(window, scores, whole=whole, size=size)

        def scores() -> np.ndarray:
            full = np.empty((len(self.labels), *size), np.float32)
            for place, found in bands():
                full[:, *place] = found.numpy()
            return full

        labels = np.empty(size, np.uint8)
        if whole == size:
            for window in windows:
                seen = pixels[window.seen]
                labels[window.core] = self._segment(seen, seen.shape[:2])[0][window.core_in_seen]
        else:  # labels come after resizing, as everywhere
            for place, found in bands():
                labels[place] = found.argmax(0).numpy()
        return labels, scores

    def _warn_untrained(self) -> None:
        if not (self.trained or self._warned):
            self._warned = True
            warnings.warn(
                f"the head {type(self.head).__name__} has not been trained: its predictions mean nothing "
                "(clouds.train trains it; after a loop of your own set pipeline.trained = True)",
                UntrainedHeadWarning,
                stacklevel=3,
            )

    def _helper(self, kind: Kind) -> Any:
        if kind in self._deferred:
            self._helpers[kind] = _place(self._deferred[kind](), self.device)
            del self._deferred[kind]
        return self._helpers.get(kind)


def to_pixels(image: ImageLike) -> UInt8[np.ndarray, "h w 3"]:
    """Bring every accepted form of an image to a uint8 array "h w 3", RGB. Raises `DataError` for other forms."""
    if isinstance(image, (str, os.PathLike)):
        return read_image(image)
    if isinstance(image, Image.Image):
        return to_rgb(image)
    channel_axis, wanted = (0, "tensor of shape 3 x h x w") if isinstance(image, Tensor) else (2, "array h x w x 3")
    pixels = image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    if pixels.ndim != 3 or pixels.shape[channel_axis] != 3 or pixels.dtype != np.uint8 or pixels.size == 0:
        raise DataError(f"image: expected a non-empty uint8 {wanted}, got {pixels.dtype} of shape {pixels.shape}")
    return np.moveaxis(pixels, channel_axis, -1)


def _no_masks(size: tuple[int, int], window: int) -> ImageMasks:
    least = math.ceil(math.sqrt(size[0] * size[1]))
    raise DataError(
        f"an image of {size[0]} x {size[1]} pixels was segmented in windows of {window} pixels, whose masks end at "
        f"their edges; for instances and panoptic segments pass window={least} or more to predict"
    )


def _place(part: object, device: torch.device) -> object:
    return part.to(device) if isinstance(part, nn.Module) else part


def _to_tensor(pixels: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.array(pixels, order="C")).to(device).permute(2, 0, 1)  # arrays may be read-only


def _resize_short_side(pixels: np.ndarray, short_side: int | None) -> np.ndarray:
    height, width = pixels.shape[:2]
    if short_side is None or min(height, width) == short_side:
        return pixels
    if short_side < 1:
        raise DataError(f"short_side is {short_side}; expected at least 1 pixel")
    scale = short_side / min(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))


@contextmanager
def _evaluating(*modules: nn.Module) -> GeneratorOf[None]:
    """Eval mode for the block, then back to what each module was in."""
    were = [(part, part.training) for module in modules for part in module.modules()]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for part, training in were:
            part.training = training
