"""Conditions: how a diffusion pipeline starts from labelled images, so that images inherit their labels."""

# pyright: reportPrivateImportUsage=false
# (diffusers is only partly typed, and exports lazily)

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from inspect import signature
from typing import Any, final

import numpy as np
import torch
from diffusers import AutoPipelineForImage2Image, AutoPipelineForText2Image
from jaxtyping import UInt8
from PIL import Image

from clouds.core.contract.labels import IGNORE_ID, LabelSpace
from clouds.core.contract.records import LabelledImage
from clouds.core.system.errors import ConfigError
from clouds.generators.class_colors import class_table
from clouds.generators.diffusion_source import FolderControl, TinyControl

_MODELS = "choose a model with an image-to-image pipeline, such as Stable Diffusion 1.5 to 3.5, XL, or FLUX.1"


class Condition(ABC):
    """What a diffusion pipeline takes from labelled images."""

    @property
    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Settings and provenance for manifests."""

    @abstractmethod
    def attach(self, pipeline: Any, dtype: torch.dtype) -> Any:
        """The pipeline that takes these images, with the parts of a text-to-image pipeline."""

    @abstractmethod
    def inputs(self, sources: Sequence[LabelledImage], steps: int) -> dict[str, Any]:
        """Arguments of the pipeline's call for a batch of one size."""

    def labels(self, source: LabelledImage) -> UInt8[np.ndarray, "h w"]:
        """The labels that an image inherits."""
        return source.labels


@final
class ImageToImage(Condition):
    """Noise is added to the source's image, and removed as the prompt says (SDEdit: Meng et al., ICLR 2022).

    Args:
        strength: share of the steps that are made, above 0 to 1. At 1 hardly anything of the image is left.

    Raises:
        ConfigError: the strength is out of range; at generation, it leaves no step, or diffusers has no such pipeline
            for the model.
    """

    def __init__(self, strength: float) -> None:
        if not 0 < strength <= 1:
            raise ConfigError(f"strength is {strength}; expected more than 0 and at most 1")
        self.strength = strength
        self._sized = False  # whether the pipeline resizes images to a size of its own unless it gets one

    @property
    def facts(self) -> dict[str, Any]:
        return {"strength": self.strength}

    def attach(self, pipeline: Any, dtype: torch.dtype) -> Any:
        try:
            made = AutoPipelineForImage2Image.from_pipe(pipeline)
        except ValueError as error:
            kind = type(pipeline).__name__
            raise ConfigError(f"diffusers has no image-to-image form of {kind}; {_MODELS}") from error
        options = signature(made.__call__).parameters
        if "strength" not in options:
            raise ConfigError(f"{type(made).__name__} takes no strength; {_MODELS}")
        self._sized = "height" in options
        return made

    def inputs(self, sources: Sequence[LabelledImage], steps: int) -> dict[str, Any]:
        if int(steps * self.strength) < 1:
            raise ConfigError(f"strength {self.strength} of {steps} steps leaves no step; raise one of them")
        height, width = sources[0].labels.shape
        size = {"height": height, "width": width} if self._sized else {}
        return {"image": [Image.fromarray(source.image) for source in sources], "strength": self.strength, **size}


@final
class SegmentationControl(Condition):
    """A ControlNet sees the source's label map in the colours that it was trained with (Zhang et al., ICCV 2023).

    Classes are matched by `class_table`. Those that the ControlNet does not know are black, and ignored in the labels.

    Args:
        control: source of the ControlNet.
        classes: the classes and colours that it was trained with.
        scale: factor of its outputs, above 0.

    Raises:
        ConfigError: the scale is out of range; at generation, it knows no class of the labels.
    """

    def __init__(self, control: FolderControl | TinyControl, classes: LabelSpace, scale: float) -> None:
        if not scale > 0:
            raise ConfigError(f"scale is {scale}; expected more than 0")
        self.control, self.classes, self.scale = control, classes, scale

    @property
    def facts(self) -> dict[str, Any]:
        return {"control": {**self.control.facts, "classes": self.classes.name, "scale": self.scale}}

    def attach(self, pipeline: Any, dtype: torch.dtype) -> Any:
        return AutoPipelineForText2Image.from_pipe(pipeline, controlnet=self.control.load(pipeline, dtype))

    def inputs(self, sources: Sequence[LabelledImage], steps: int) -> dict[str, Any]:
        height, width = sources[0].labels.shape
        maps = [Image.fromarray(self.paint(source)) for source in sources]
        return {"image": maps, "controlnet_conditioning_scale": self.scale, "height": height, "width": width}

    def paint(self, source: LabelledImage) -> UInt8[np.ndarray, "h w 3"]:
        """The label map in the colours of the ControlNet's classes."""
        return self.classes.color_table()[class_table(source.label_space, self.classes)][source.labels]

    def labels(self, source: LabelledImage) -> UInt8[np.ndarray, "h w"]:
        known = class_table(source.label_space, self.classes) != IGNORE_ID
        return np.where(known[source.labels], source.labels, np.uint8(IGNORE_ID))
