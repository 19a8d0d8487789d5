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

_CHUNK = 128  # texts per pass through the tower; limits memory, does not affect results
_PROBE = "A photo of a road."  # its tokens identify the tokenizer
LOGIT_SCALE_BOUND = 100.0  # as in CLIP's training (Radford et al., ICML 2021, section 2.5)


class ClipTextEncoder(TextEncoder):
    """Embeds texts with the open_clip model in `clip_model`. Text towers are never trained."""

    clip_model: nn.Module
    tokenizer: Tokenizer

    @torch.no_grad()
    def embed_text(self, texts: Sequence[str]) -> Float[Tensor, "n d"]:
        """Un-normalised float32 embeddings, one row per text; no texts give shape (0, d)."""
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
        """Weights of the text tower, and the tokens of a fixed sentence, which identify the tokenizer."""
        tower = {
            key: value
            for key, value in self.clip_model.state_dict().items()
            if not key.startswith(("visual.", "logit_"))
        }
        return {**tower, "tokens": self.tokenizer([_PROBE])}


@final
class ClipText(nn.Module, ClipTextEncoder):
    """The permanently frozen text tower of an open_clip model; the image tower is dropped."""

    def __init__(self, clip_model: nn.Module, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.clip_model = without_images(clip_model)
        self.tokenizer = tokenizer
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        return super().train(False)


def without_images(clip_model: nn.Module) -> nn.Module:
    """Drop the model's image tower, in place."""
    clip_model.visual = nn.Identity()
    return clip_model


def encode_tokens(model: Any, tokens: Int[Tensor, "n l"]) -> Float[Tensor, "n d"]:
    """Text embeddings equal to the output of open_clip's `encode_text`.

    CLIP's own towers are causal and read the embedding at the end token. Tokens after the batch's last end token are
    therefore cut off, which saves four fifths of the work for usual prompts.
    """
    if not (isinstance(model, CLIP) and model.text_pool_type == "argmax" and model.attn_mask is not None):
        return model.encode_text(tokens)
    tower: Any = model
    # Position of each end token "n"; it has the largest id
    ends = tokens.argmax(-1)
    length = int(ends.max()) + 1
    # Causal transformer over the shortened texts "n l d"
    x = tower.token_embedding(tokens[:, :length]) + tower.positional_embedding[:length]
    x = tower.transformer(x, attn_mask=tower.attn_mask[:length, :length])
    # State at the end token "n d", projected to the text space
    pooled = tower.ln_final(x)[torch.arange(len(x), device=x.device), ends]
    if isinstance(tower.text_projection, nn.Linear):
        return tower.text_projection(pooled)
    return pooled @ tower.text_projection
