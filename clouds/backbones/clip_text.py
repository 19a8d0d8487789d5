"""The text side of CLIP models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self, final

import torch
from jaxtyping import Float, Int
from open_clip.model import CLIP
from torch import Tensor, nn

from clouds.backbones.tokenizers import Tokenizer
from clouds.core.contract.interfaces import TextEncoder

_CHUNK = 128  # texts that go through the tower together: bounds the memory, changes nothing else
_PROBE = "A photo of a road."  # its tokens tell tokenizers apart
LOGIT_SCALE_BOUND = 100.0  # of CLIP's training (Radford et al., ICML 2021, section 2.5)


class ClipTextEncoder(TextEncoder):
    """Embeds texts with the open_clip model in `clip_model`. Text towers are never trained."""

    clip_model: nn.Module
    tokenizer: Tokenizer

    @torch.no_grad()
    def embed_text(self, texts: Sequence[str]) -> Float[Tensor, "n d"]:
        """Un-normalised float32 embeddings, one row per text; n = 0 gives an empty tensor of shape (0, d)."""
        model: Any = self.clip_model
        device = model.logit_scale.device
        if not texts:
            return encode_tokens(model, torch.zeros(1, model.context_length, dtype=torch.long, device=device))[:0]
        tokens = self.tokenizer(list(texts)).to(device)
        with torch.autocast(device.type, enabled=False):
            return torch.cat([encode_tokens(model, chunk) for chunk in tokens.split(_CHUNK)])

    @property
    def logit_scale(self) -> float:
        """The model's learned factor on cosine similarities, at most 100."""
        scale: Any = self.clip_model.logit_scale
        return min(float(scale.detach().exp()), LOGIT_SCALE_BOUND)

    def text_weights(self) -> dict[str, Tensor]:
        """The text tower, and the tokens of a sentence, because another tokenizer makes other embeddings."""
        tower = {
            key: value
            for key, value in self.clip_model.state_dict().items()
            if not key.startswith(("visual.", "logit_"))
        }
        return {**tower, "tokens": self.tokenizer([_PROBE])}


@final
class ClipText(nn.Module, ClipTextEncoder):
    """The text side of an open_clip model alone, frozen for ever; the image tower is let go."""

    def __init__(self, clip_model: nn.Module, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.clip_model = without_images(clip_model)
        self.tokenizer = tokenizer
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        return super().train(False)


def without_images(clip_model: nn.Module) -> nn.Module:
    """The same model with nothing in the place of its image tower."""
    clip_model.visual = nn.Identity()
    return clip_model


def encode_tokens(model: Any, tokens: Int[Tensor, "n l"]) -> Float[Tensor, "n d"]:
    """Text embeddings of an open_clip model, as its `encode_text` gives them.

    In CLIP's own towers a token sees only earlier ones, and the embedding is read off the end token; what follows the
    last end token of the batch is therefore cut away, which for usual prompts saves four fifths of the work.
    """
    if not (isinstance(model, CLIP) and model.text_pool_type == "argmax" and model.attn_mask is not None):
        return model.encode_text(tokens)
    tower: Any = model
    ends = tokens.argmax(-1)
    length = int(ends.max()) + 1
    x = tower.token_embedding(tokens[:, :length]) + tower.positional_embedding[:length]
    x = tower.transformer(x, attn_mask=tower.attn_mask[:length, :length])
    pooled = tower.ln_final(x)[torch.arange(len(x), device=x.device), ends]
    if isinstance(tower.text_projection, nn.Linear):
        return tower.text_projection(pooled)
    return pooled @ tower.text_projection
