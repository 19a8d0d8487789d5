"""Composed pipelines: prediction, label spaces, saving."""

# pyright: reportUnknownMemberType=false
# (torch and safetensors have incomplete types)

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from copy import copy
from functools import partial
from numbers import Integral
from pathlib import Path

import numpy as np
import torch
from attrs import evolve
from torch import Tensor

from clouds.core.contract.catalog import Catalog
from clouds.core.contract.label_table import LabelsLike, read_labels
from clouds.core.contract.records import HeadOutput
from clouds.core.contract.tensors import image_tensor
from clouds.core.pipeline.checkpoint import save_checkpoint
from clouds.core.pipeline.cuda_graphs import CudaGraphs
from clouds.core.pipeline.hub import push_pipeline
from clouds.core.pipeline.many import Images, OnError, predict_stream
from clouds.core.pipeline.module import PipelineModule
from clouds.core.pipeline.prediction import (
    ImageLike,
    InputImage,
    Prediction,
    require_finite,
    segment_windows,
)
from clouds.core.pipeline.published_weights import find_published
from clouds.core.pipeline.segmenter import Network, Segmenter, blocks_of, eval_mode
from clouds.core.pipeline.segments import ImageMasks
from clouds.core.published.export import reference_state
from clouds.core.system.errors import ConfigError, DataError, UntrainedHeadWarning
from clouds.core.system.images import MAX_PIXELS


class Pipeline(PipelineModule):
    """Backbone, adapter and head, with the generator, refiner and prompter that produce their training data.

    Created by `clouds.compose` and `clouds.load`. It is a `torch.nn.Module`; `PipelineModule` says what its parts are.
    """

    _graphs: CudaGraphs | None = None
    _network: tuple[object, Network] | None = None  # module of the CUDA graphs, and its parts
    _warned = False

    def with_labels(self, labels: LabelsLike) -> Pipeline:
        """A pipeline with the same modules for another label space (open vocabulary).

        Args:
            labels: a label space in any form that `clouds.compose` accepts, such as `["deer", "road"]`.

        Raises:
            ConfigError: the head's classes are fixed, or the labels are invalid.
        """
        space = read_labels(labels)
        if not self.head.open_vocabulary:
            raise ConfigError(
                f"the head {type(self.head).__name__} was made for the classes of {self.labels.name!r} and cannot "
                "serve others; a head that classifies by text can: mask2former-text"
            )
        trained = self.plan.trained_labels or self.plan.labels
        plan = evolve(self.plan, labels=space, trained_labels=None if space == trained else trained)
        other = copy(self)
        other.plan, other._classifier = plan, None
        other._graphs = None if self._graphs is None else CudaGraphs(self._graphs.limit)
        return other

    def merge_adapter(self) -> None:
        """Write the adapter into the backbone's weights, so that it costs nothing more; then there is no adapter.

        Raises:
            ConfigError: the pipeline has no adapter, or its kind cannot be merged.
        """
        if self.adapter is None:
            raise ConfigError("merge_adapter: the pipeline has no adapter")
        blocks = blocks_of(self.backbone)
        self.adapter.merge(blocks)
        self.adapter.detach(blocks)
        self.plan = self.plan.without_adapter()
        self.segmenter = Segmenter(self.backbone, self.head)

    def use_cuda_graphs(self, limit: int = 8) -> None:
        """Let `predict` and `predict_many` replay recorded forward passes: one launch instead of one per kernel.

        A forward pass is recorded when a network size and batch size occurs for the second time. Recordings occupy GPU
        memory. They are dropped when weights are replaced, moved or converted; in-place changes of weights take effect.

        Args:
            limit: maximum number of recordings; the least recently used is dropped first. 0 switches them off.

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

    def predict(
        self, image: ImageLike, *, short_side: int | None = None, window: int = 2048, max_pixels: int = MAX_PIXELS
    ) -> Prediction:
        """Segment one image at its own size.

        Args:
            image: path, PIL image, uint8 array "h w 3" or uint8 tensor "3 h w" (RGB).
            short_side: resize the short side to this many pixels before the network; None keeps the image's size.
            window: images with more than window x window pixels are segmented in overlapping windows of that side.
            max_pixels: files, PIL images or resized images with more pixels are refused before they are decoded.

        Raises:
            DataError: the image cannot be read or has another form, or `short_side` or `window` is not an int >= 1.
            NonFiniteError: the network's output is NaN or infinite.
        """
        self._start_predicting(short_side=short_side, window=window)
        return self._predict([InputImage.read(image, short_side=short_side, max_pixels=max_pixels)], window)[0]

    def predict_many(
        self,
        images: Images,
        *,
        batch_size: int = 8,
        workers: int = 1,
        short_side: int | None = None,
        window: int = 2048,
        max_pixels: int = MAX_PIXELS,
        on_error: OnError | None = None,
    ) -> Iterator[Prediction]:
        """Segment images in batches and yield the predictions of `predict`, in order.

        A batch holds images of one padded size, so that each image is padded as in `predict`; only rounding may differ.
        Threads read and decode the next images meanwhile. At most 3 x `batch_size` images (or 2 x `batch_size` +
        `workers`, if that is more) are held at a time, so endless iterators of mixed sizes work.

            for prediction in pipeline.predict_many("photos/*.jpg", batch_size=4):
                prediction.overlay().save(f"{prediction.path.stem}.png")

        Args:
            images: a folder, a glob pattern (`**` for any folders), a dataset SPEC `KIND:PATH[:SPLIT]`, or images in
                any form that `predict` accepts.
            batch_size: images per forward pass; an image in windows is processed alone.
            workers: threads that read and decode images.
            short_side, window, max_pixels: as in `predict`.
            on_error: called with an image that cannot be read and its `DataError`; the image is then left out. None
                raises the error after the predictions of all earlier images.

        Raises:
            ConfigError: the SPEC is invalid.
            DataError: the folder, pattern or dataset has no images; a number is less than 1; or an image cannot be
                read. The latter names path or position.
            NonFiniteError: as in `predict`.
        """
        self._start_predicting(short_side=short_side, window=window)
        return predict_stream(
            images,
            lambda batch: self._predict(batch, window),
            group_of=lambda one: None if one.exceeds(window) else self.segmenter.network_size([one.valid_size]),
            batch_size=batch_size,
            workers=workers,
            short_side=short_side,
            max_pixels=max_pixels,
            on_error=on_error,
        )

    def save(self, path: str | Path, include_frozen: bool = True, *, catalog: Catalog | None = None) -> None:
        """Write plan and weights to a folder atomically; an earlier pipeline in that folder is replaced.

        Args:
            path: the folder.
            include_frozen: False omits a frozen backbone with published weights. They are downloaded again to compare;
                their digest is saved so that `clouds.load` can verify its own download.
            catalog: catalog for `include_frozen=False`; see `clouds.compose`.

        Raises:
            DataError: the folder exists and is not a saved pipeline.
            WeightsError: `include_frozen=False`, but the backbone is not frozen, or not the published one.
            NonFiniteError: weights are NaN or infinite.
        """
        published = None if include_frozen else find_published(self.plan, self.backbone, catalog=catalog)
        save_checkpoint(
            path,
            plan=self.plan,
            backbone=self.backbone,
            head=self.head,
            adapter=self.adapter,
            trained=self.trained,
            kept=self.kept,
            classifier=self.classifier,
            published=published,
        )

    push_to_hub = push_pipeline
    """Push to the Hugging Face hub with a model card; see `clouds.core.pipeline.hub.push_pipeline`."""

    def to_reference_state_dict(self) -> dict[str, Tensor]:
        """The weights with the keys and order of the published implementation; not copied, as in `state_dict`.

        The order is backbone, `sem_seg_head`, `sem_seg_head_ema`, `criterion`, `void_embedding`, `sam`. An imported
        checkpoint is reproduced key by key and bit by bit. Missing `criterion.empty_weight` and `void_embedding.weight`
        are added, so that the published code can load strictly.

        Raises:
            ConfigError: the published implementation has no such backbone or head.
        """
        return reference_state(self.plan, self.backbone, self.head, self.kept)

    def _predict(self, pictures: Sequence[InputImage], window: int) -> list[Prediction]:
        """Predict a batch in one forward pass, or a single large image in windows."""
        if not pictures[0].exceeds(window):
            return self._segment(pictures)
        return [segment_windows(one, lambda seen: self._segment([seen])[0], window, self.labels) for one in pictures]

    def _segment(self, pictures: Sequence[InputImage]) -> list[Prediction]:
        with torch.inference_mode(), eval_mode(*self.segmenter.parts.values()):
            output = self._infer([image_tensor(one.resized).to(self.device) for one in pictures])
            masks = [
                ImageMasks(
                    output=output.image(index),
                    valid_size=one.valid_size,
                    size=one.size,
                    instances=self.head.instances,
                )
                for index, one in enumerate(pictures)
            ]
            labels = [self.head.segment(one.output, one.valid_size, one.size) for one in masks]
            require_finite(output, pictures)  # last, because it waits for the device
        return [
            Prediction(
                labels=found.cpu().numpy(),
                image=picture.pixels,
                label_space=self.labels,
                compute_scores=partial(self._scores, one),
                find_masks=lambda masks=one: masks,
                path=picture.path,
            )
            for picture, one, found in zip(pictures, masks, labels, strict=True)
        ]

    def _infer(self, images: Sequence[Tensor]) -> HeadOutput:
        if self._graphs is None:
            return self.forward(images)
        parts = (self.backbone, self.head, self.adapter, self.classifier)
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
