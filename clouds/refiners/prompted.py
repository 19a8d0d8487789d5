"""Refinement by point prompts, for promptable segmentation networks such as SAM, MobileSAM and SAM 2.

Benigmim et al., "Collaborating Foundation Models for Domain Generalized Semantic Segmentation", CVPR 2024, section 3.3.
"""

from __future__ import annotations

import hashlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Any, Self, final

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from clouds.core.contract.interfaces import Refiner
from clouds.core.contract.records import Prepared, Targets
from clouds.core.system.errors import DataError
from clouds.core.weights.loading import digest
from clouds.core.weights.tensor_cache import CacheWarning, TensorCache
from clouds.refiners.prompt_masks import best_of, merge_masks
from clouds.refiners.prompt_options import PromptOptions
from clouds.refiners.prompt_points import Region, Rng, draw_points, find_regions


class PromptedSegmenter(nn.Module, ABC):
    """A network that encodes an image, then segments the objects at point prompts.

    Embeddings are named tensors that depend on the image only; `decode` may get them as float16.
    """

    @abstractmethod
    def encode(self, image: UInt8[Tensor, "3 h w"]) -> dict[str, Tensor]:
        """Embed one RGB image of any size."""

    @abstractmethod
    def decode(
        self,
        embedding: Mapping[str, Tensor],
        points: Float[Tensor, "n p 2"],
        size: tuple[int, int],
        masks: Float[Tensor, "n 1 m m"] | None = None,
    ) -> tuple[Float[Tensor, "n k m m"], Float[Tensor, "n k"]]:
        """Predict k low-resolution mask logits per prompt, and their IoU.

        Args:
            embedding: the result of `encode`.
            points: (x, y) in image pixels; the p points of a prompt lie on one object.
            size: (height, width) of the image.
            masks: logits of an earlier prediction, to refine.
        """

    @abstractmethod
    def upscale(self, logits: Float[Tensor, "n 1 m m"], size: tuple[int, int]) -> Float[Tensor, "n 1 h w"]:
        """Resize mask logits to the image's size (height, width)."""


@final
class PromptRefiner(nn.Module, Refiner):
    """Turns connected components of the label map into prompts; each predicted mask gets its component's class.

    An image without prompts or without remaining masks keeps its label map. Pixels outside all masks are not valid.

    Args:
        segmenter: the promptable network. It stays in eval mode, without gradients.
        cache: cache of float16 embeddings; None computes them each time.
        options: options of `PromptOptions`, as keywords.

    Raises:
        ConfigError: a number is out of range.
    """

    def __init__(self, segmenter: PromptedSegmenter, *, cache: TensorCache | None = None, **options: Any) -> None:
        super().__init__()
        self.options = PromptOptions(**options)
        self.segmenter = segmenter.requires_grad_(False)
        self.dtype: torch.dtype | None = getattr(torch, self.options.dtype) if self.options.dtype else None
        self.cache = cache
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def prepare(self, images: Sequence[UInt8[Tensor, "3 _ _"]]) -> list[Prepared]:
        """Compute embeddings, or read them from the cache.

        Warns `CacheWarning` if an embedding could not be stored; it is returned anyway.
        """
        return [Prepared(tensors=self._embed(image)) for image in images]

    @torch.no_grad()
    def refine(
        self,
        images: Sequence[UInt8[Tensor, "3 _ _"]],
        label_maps: Sequence[UInt8[Tensor, "_ _"]],
        *,
        rngs: Sequence[np.random.Generator | np.random.RandomState],
        prepared: Sequence[Prepared] | None = None,
    ) -> list[Targets]:
        given = [None] * len(images) if prepared is None else prepared
        return [self._refine_one(*one) for one in zip(images, label_maps, rngs, given, strict=True)]

    def _refine_one(self, image: Tensor, label_map: Tensor, rng: Rng, prepared: Prepared | None) -> Targets:
        if image.shape[1:] != label_map.shape:
            raise DataError(
                f"refinement: the image is {tuple(image.shape[1:])}, its label map {tuple(label_map.shape)} (height, "
                "width); resize one of them"
            )
        # Prompts: n components and their points "n p 2"
        regions, points = self._draw(label_map.cpu().numpy(), rng)
        if not regions:
            return Targets.from_label_map(label_map)
        # Masks of the prompts, in batches "b h w" with their classes "b"
        size = label_map.shape[0], label_map.shape[1]
        embedding = self._embed(image) if prepared is None else prepared.tensors
        labels = torch.tensor([region.label for region in regions], device=label_map.device)
        masks = (chunk.to(label_map.device) for chunk in self._segment(embedding, torch.from_numpy(points), size))
        batches = zip(masks, labels.split(self.options.batch_size), strict=True)
        # One mask per class "c h w", including components that are not prompts
        if self.options.small_components == "keep":
            rest = Targets.from_label_map(_without(label_map, regions))
            batches = chain(batches, [(rest.masks, rest.labels)])
        classes, united = merge_masks(batches, overlaps=self.options.overlaps)
        if self.options.empty == "drop":
            left = united.flatten(1).any(1)
            classes, united = classes[left], united[left]
        if not len(classes):
            return Targets.from_label_map(label_map)
        return Targets(labels=classes, masks=united, valid=united.any(0))

    def _draw(self, label_map: np.ndarray, rng: Rng) -> tuple[list[Region], np.ndarray]:
        """Components that become prompts, and their points."""
        options = self.options
        regions = find_regions(label_map, size_threshold=options.size_threshold)
        choice = {"points": options.points, "selection": options.selection, "erosion": options.erosion}
        drawn = [(region, draw_points(region, rng, **choice)) for region in regions]
        kept = [(region, points) for region, points in drawn if points is not None]
        return [region for region, _ in kept], np.array([points for _, points in kept], np.float32)

    def _segment(
        self, embedding: Mapping[str, Tensor], points: Float[Tensor, "n p 2"], size: tuple[int, int]
    ) -> Iterator[Bool[Tensor, "b h w"]]:
        """Yield the best mask of each prompt in batches; masks of thousands of prompts would exceed the memory."""
        device = self._device
        embedding = {name: value.to(device) for name, value in embedding.items()}
        for chunk in points.to(device).split(self.options.batch_size):
            with self._autocast():
                best = best_of(*self.segmenter.decode(embedding, chunk, size))
                if self.options.refinement:
                    best = best_of(*self.segmenter.decode(embedding, chunk, size, best))
            # One by one, so that upscaled masks stay in the CPU's cache
            yield torch.cat([self.segmenter.upscale(one, size)[:, 0] > 0 for one in best.float().split(1)])

    def _embed(self, image: Tensor) -> dict[str, Tensor]:
        if self.cache is None:
            return self._encode(image)
        key = f"{self._model_key}-{image_key(image)}"
        found = self.cache.get(key)
        if found is None:
            found = {name: value.half() for name, value in self._encode(image).items()}
            try:
                self.cache.put(key, found)
            except DataError as error:
                warnings.warn(f"embeddings are computed again each time: {error}", CacheWarning, stacklevel=2)
        return found

    def _encode(self, image: Tensor) -> dict[str, Tensor]:
        with self._autocast():
            return self.segmenter.encode(image.to(self._device))

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, dtype=self.dtype, enabled=self.dtype is not None)

    @property
    def _device(self) -> torch.device:
        return next(self.segmenter.parameters()).device

    @cached_property
    def _model_key(self) -> str:
        kind = f"{type(self.segmenter).__qualname__} {self.dtype} {digest(self.segmenter.state_dict())}"
        return hashlib.sha256(kind.encode()).hexdigest()[:16]


def image_key(image: UInt8[Tensor, "3 h w"]) -> str:
    """Key of an image: a hash shared with its mirror image, and a mark for one of the two."""
    hashes = [_sha256(image), _sha256(image.flip(-1))]
    return f"{min(hashes)}-flipped" if hashes[1] < hashes[0] else hashes[0]


def _sha256(image: Tensor) -> str:
    pixels = image.cpu().contiguous()
    return hashlib.sha256(f"{tuple(pixels.shape)}".encode() + pixels.numpy().tobytes()).hexdigest()[:32]


def _without(label_map: UInt8[Tensor, "h w"], regions: Sequence[Region]) -> UInt8[Tensor, "h w"]:
    """Copy the label map with these regions set to "ignore"."""
    rest = label_map.cpu().numpy().copy()
    for region in regions:
        height, width = region.mask.shape
        rest[region.top : region.top + height, region.left : region.left + width][region.mask] = 255
    return torch.from_numpy(rest).to(label_map.device)
