"""A filter that scores with CLIP how well an image shows its prompt."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast, final

import torch
from PIL import Image
from torch import Tensor

from clouds.core.contract.records import GeneratedImage
from clouds.core.system.errors import ConfigError, WeightsError, did_you_mean
from clouds.core.system.reach import hub_access
from clouds.core.weights.files import read_weights
from clouds.core.weights.loading import load_weights
from clouds.core.weights.store import open_clip_file
from clouds.synthesis.filters import Filter


@final
class ClipFilter(Filter):
    """Rejects images that do not show their prompt.

    The score is the cosine similarity of CLIP's embeddings of image and prompt (Hessel et al., CLIPScore, EMNLP 2021,
    without its factor 2.5): with OpenAI's models about 0.3 for matching images, and 0.1 to 0.2 for others.

    Args:
        model: a model with `encode_image` and `encode_text`, like open_clip's.
        preprocess: maps a PIL image to the model's input "3 h w".
        tokenize: maps texts to the model's token ids "n t".
        least: minimum score.
        name: key of the score in the manifest. It should name the CLIP model, since a later run reuses rejections of
            filters with the same name and minimum score.
    """

    def __init__(
        self,
        model: Any,
        preprocess: Callable[[Image.Image], Tensor],
        tokenize: Callable[[list[str]], Tensor],
        least: float = 0.2,
        *,
        name: str = "clip",
    ) -> None:
        if not -1 <= least <= 1:
            raise ConfigError(f"filter clip: the minimum score is {least}; expected a cosine in -1..1")
        self.name, self.least = name, float(least)
        self.model, self.preprocess, self.tokenize = model.eval(), preprocess, tokenize

    @classmethod
    def load(cls, name: str = "ViT-B-32-quickgelu/openai", *, least: float = 0.2, device: str = "cpu") -> ClipFilter:
        """Build the filter `clip:MODEL/WEIGHTS` with open_clip.

        Args:
            name: MODEL/WEIGHTS, two names of open_clip; the file is looked up in `CLOUDS_WEIGHTS` first. Or MODEL/FILE,
                a weight file (.safetensors, .bin, .pt).
            least: minimum score, see the class.
            device: device of the model.

        Raises:
            ConfigError: open_clip has no such model.
            WeightsError: the weights are unavailable, differ from the published hash, or do not fit.
        """
        import open_clip
        from open_clip.convert import convert_state_dict

        model, _, weights = name.partition("/")
        if model not in open_clip.list_models():
            raise ConfigError(f"open_clip has no model {model!r}{did_you_mean(model, open_clip.list_models())}")
        tag = open_clip.get_pretrained_cfg(model, weights)
        path = Path(weights) if Path(weights).is_file() else open_clip_file(tag)
        source: dict[str, Any] = {"require_pretrained": True, "pretrained": weights}
        if path:
            source = {f"image_{key}": tag.get(key) for key in ("mean", "std", "interpolation", "resize_mode")}
        try:
            built: Any
            with nullcontext() if path else hub_access():
                built, _, preprocess = open_clip.create_model_and_transforms(
                    model, **source, force_quick_gelu=tag.get("quick_gelu", False)
                )
            if path:
                load_weights(
                    built, convert_state_dict(built, read_weights(path, names=built.state_dict())), source=str(path)
                )
        except (OSError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            raise WeightsError(
                f"CLIP {name!r} could not be loaded ({type(error).__name__}: {reason}); check the name and the "
                "connection, or give a weight file: MODEL/FILE"
            ) from error
        tokenize = open_clip.get_tokenizer(model)
        return cls(built.to(device), cast("Any", preprocess), tokenize, least, name=f"clip:{name}")

    @torch.inference_mode()
    def score(self, image: GeneratedImage) -> float:
        if not image.request.prompt:
            raise ConfigError("filter clip compares images with their prompts, and this generator reads none; omit it")
        device = next(self.model.parameters()).device
        image_embedding = self.model.encode_image(self.preprocess(Image.fromarray(image.image))[None].to(device))
        text_embedding = self.model.encode_text(self.tokenize([image.request.prompt]).to(device))
        return float(torch.cosine_similarity(image_embedding.float(), text_embedding.float())[0])
