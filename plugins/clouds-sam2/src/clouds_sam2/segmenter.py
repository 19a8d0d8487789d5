"""SAM 2 (Ravi et al., "SAM 2: Segment Anything in Images and Videos", ICLR 2025) through transformers."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, final

import clouds
import torch
from torch import Tensor
from torch.nn import functional
from transformers import Sam2Config, Sam2ImageProcessor, Sam2Model, Sam2Processor

_CLAMP = 32.0  # bound on logits of prompt masks, as published


@final
class Sam2Segmenter(clouds.PromptedSegmenter):
    """SAM 2 with point prompts, three masks per prompt.

    The processor stretches the image to the network's square input, as published. Embeddings are three maps: "level0"
    and "level1" with strides 4 and 8, which sharpen the masks, and "level2" with stride 16.
    """

    def __init__(self, model: Sam2Model, processor: Sam2Processor) -> None:
        super().__init__()
        self.model, self.processor = model, processor

    def encode(self, image: Tensor) -> dict[str, Tensor]:
        inputs = self.processor(images=image, input_data_format="channels_first", return_tensors="pt")
        levels = self.model.get_image_embeddings(inputs["pixel_values"].to(image.device))
        return {f"level{index}": level for index, level in enumerate(levels)}

    def decode(
        self,
        embedding: Mapping[str, Tensor],
        points: Tensor,
        size: tuple[int, int],
        masks: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        # Points from image pixels to network input pixels
        side = self.processor.target_size
        scaled = points * torch.tensor((side / size[1], side / size[0]), device=points.device)
        levels = [embedding[f"level{index}"].float() for index in range(len(embedding))]
        if masks is None:  # one image with all prompts
            answer = self.model(image_embeddings=levels, input_points=scaled[None])
            return answer.pred_masks[0], answer.iou_scores[0]
        # The model takes one mask per image, so each prompt needs its own copy of the image
        levels = [level.expand(len(points), -1, -1, -1) for level in levels]
        given = masks.clamp(-_CLAMP, _CLAMP)
        answer = self.model(image_embeddings=levels, input_points=scaled[:, None], input_masks=given)
        return answer.pred_masks[:, 0], answer.iou_scores[:, 0]

    def upscale(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        return functional.interpolate(logits, size, mode="bilinear")


def build_segmenter(model: str, *, pretrained: bool) -> Sam2Segmenter:
    """SAM 2 with weights from a hub repository or a local folder, or random weights without reading files.

    Raises:
        WeightsError: the model cannot be read.
    """
    if not pretrained:
        return Sam2Segmenter(Sam2Model(Sam2Config()), Sam2Processor(Sam2ImageProcessor()))
    place = model if Path(model).is_dir() else str(clouds.hub_folder(model) or model)
    try:
        with nullcontext() if Path(place).is_dir() else clouds.hub_access():
            loaded: Any = Sam2Model.from_pretrained(
                place, output_loading_info=True, dtype=torch.float32, use_safetensors=True
            )
            return Sam2Segmenter(_complete(loaded[0], loaded[1], place), Sam2Processor.from_pretrained(place))
    except clouds.WeightsError:
        raise
    except Exception as error:  # a damaged file may raise anything
        raise clouds.WeightsError(
            f"SAM 2 could not be loaded from {place!r} ({type(error).__name__}: {error}); check the connection, or "
            "name a local folder in transformers' format: model=FOLDER, or owner/name in CLOUDS_WEIGHTS"
        ) from error


def _complete(network: Any, info: Mapping[str, Any], place: str) -> Sam2Model:
    """Check that no key is missing, because transformers would initialise it randomly; return the network."""
    missing = sorted(info["missing_keys"])
    if missing:
        raise clouds.WeightsError(f"{place!r} is not a complete SAM 2; missing keys: {', '.join(missing[:5])}")
    return network
