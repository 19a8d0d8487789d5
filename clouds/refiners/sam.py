"""SAM (Kirillov et al., "Segment Anything", ICCV 2023) through segment-anything, for images of any size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, final

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from segment_anything import sam_model_registry
from segment_anything.modeling import Sam
from torch import Tensor

from clouds.core.contract.tensors import image_tensor
from clouds.core.weights.catalog import SAM
from clouds.core.weights.files import read_weights
from clouds.core.weights.loading import load_weights
from clouds.core.weights.store import obtain, require_published
from clouds.refiners.prompted import PromptedSegmenter
from clouds.refiners.sam_decoder import predict_masks

SamModel = Literal["vit_b", "vit_l", "vit_h"]


@final
class SamSegmenter(PromptedSegmenter):
    """SAM with point prompts and three masks per prompt.

    As published, Pillow resizes the 8-bit image so that its long side is the network's (1024); after normalisation it
    is padded with 0.

    Args:
        sam: a `Sam` of segment-anything, with any image encoder.
    """

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.sam = sam

    def encode(self, image: UInt8[Tensor, "3 h w"]) -> dict[str, Tensor]:
        height, width = self._network_size((image.shape[1], image.shape[2]))
        picture = Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
        resized = np.array(picture.resize((width, height), Image.Resampling.BILINEAR))
        pixels = image_tensor(resized)[None].to(image.device)
        return {"embedding": self.sam.image_encoder(self.sam.preprocess(pixels))}

    def decode(
        self,
        embedding: Mapping[str, Tensor],
        points: Float[Tensor, "n p 2"],
        size: tuple[int, int],
        masks: Float[Tensor, "n 1 m m"] | None = None,
    ) -> tuple[Float[Tensor, "n k m m"], Float[Tensor, "n k"]]:
        height, width = self._network_size(size)
        scale = torch.tensor((width / size[1], height / size[0]), device=points.device)
        encoder = self.sam.prompt_encoder
        positive = torch.ones(points.shape[:2], device=points.device)
        sparse, dense = encoder(points=(points * scale, positive), boxes=None, masks=masks)
        image = embedding["embedding"].float() + (dense[:1] if masks is None else dense)
        return predict_masks(self.sam.mask_decoder, image, encoder.get_dense_pe(), sparse)

    def upscale(self, logits: Float[Tensor, "n 1 m m"], size: tuple[int, int]) -> Float[Tensor, "n 1 h w"]:
        return self.sam.postprocess_masks(logits, self._network_size(size), size)

    def _network_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the image within the network's square input."""
        side = self.sam.image_encoder.img_size
        height, width = (max(1, int(length * (side / max(size)) + 0.5)) for length in size)
        return height, width


def build_sam(model: SamModel, *, pretrained: bool | Path) -> SamSegmenter:
    """Build a SAM of a published size.

    Args:
        model: segment-anything's model name.
        pretrained: load the published weights; False initialises randomly; a path loads a local file.

    Raises:
        WeightsError: the weights are unavailable, do not fit, or have a published name but another hash.
    """
    sam = sam_model_registry[model]()
    if pretrained is not False:
        path = obtain(SAM[model]) if pretrained is True else require_published(pretrained)
        load_weights(sam, read_weights(path, names=sam.state_dict()), source=str(path))
    return SamSegmenter(sam)
