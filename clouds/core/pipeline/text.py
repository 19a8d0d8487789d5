"""Class embeddings from words: averages over prompt templates, cached on disk.

Templates: Gu et al., ViLD, ICLR 2022, appendix (the fourteen about scenes, as in OpenSeg, FC-CLIP and CLOUDS).
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (torch and safetensors have incomplete types)

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from clouds.core.contract.interfaces import MaskPooler, TextClassifier, TextEncoder
from clouds.core.contract.labels import LabelSpace
from clouds.core.system.errors import DataError
from clouds.core.weights.loading import digest
from clouds.core.weights.tensor_cache import TensorCache

TEMPLATES = (
    "a photo of a {}.",
    "This is a photo of a {}",
    "There is a {} in the scene",
    "There is the {} in the scene",
    "a photo of a {} in the scene",
    "a photo of a small {}.",
    "a photo of a medium {}.",
    "a photo of a large {}.",
    "This is a photo of a small {}.",
    "This is a photo of a medium {}.",
    "This is a photo of a large {}.",
    "There is a small {} in the scene.",
    "There is a medium {} in the scene.",
    "There is a large {} in the scene.",
)
_CACHE_BYTES = 2**26  # size of the cache; a label space takes about 100 KiB


def prompts(label_space: LabelSpace) -> list[str]:
    """Every template for every synonym of every class, synonym by synonym.

    >>> prompts(LabelSpace.from_names(["road"]))[:2]
    ['a photo of a road.', 'This is a photo of a road']
    """
    return [template.format(word) for group in label_space.synonyms for word in group for template in TEMPLATES]


def seen_classes(label_space: LabelSpace, trained: LabelSpace) -> list[bool]:
    """Whether each class was labelled in training: one of its synonyms exactly matches a trained one."""
    words = {word for group in trained.synonyms for word in group}
    return [not words.isdisjoint(group) for group in label_space.synonyms]


def build_classifier(
    encoder: TextEncoder, label_space: LabelSpace, *, trained: LabelSpace, model: str, cache: Path | None
) -> TextClassifier:
    """Embed a label space.

    Args:
        encoder: embeds the prompts; also pools masks if it is a `MaskPooler`.
        label_space: classes and their synonyms.
        trained: label space used in training.
        model: identifies the encoder besides its weights; part of the cache key.
        cache: folder for cached embeddings, or None.
    """
    with torch.inference_mode(False):  # inference tensors could not be used in training
        embeddings = (
            embed_labels(encoder, label_space) if cache is None else _cached(encoder, label_space, model, cache)
        )
        counts = torch.tensor([len(group) for group in label_space.synonyms])
        return TextClassifier(
            embeddings=embeddings,
            class_of=torch.repeat_interleave(torch.arange(len(label_space)), counts).to(embeddings.device),
            seen=torch.tensor(seen_classes(label_space, trained), device=embeddings.device),
            logit_scale=encoder.logit_scale,
            pooler=encoder if isinstance(encoder, MaskPooler) else None,
        )


def embed_labels(encoder: TextEncoder, label_space: LabelSpace) -> Float[Tensor, "n d"]:
    """One unit vector per synonym: the normalised average of the normalised embeddings of all templates."""
    with torch.no_grad():
        embedded = functional.normalize(encoder.embed_text(prompts(label_space)).float(), dim=-1)
        return functional.normalize(embedded.unflatten(0, (-1, len(TEMPLATES))).mean(1), dim=-1)


def _cached(encoder: TextEncoder, label_space: LabelSpace, model: str, folder: Path) -> Tensor:
    weights = encoder.text_weights()
    key = json.dumps([model, digest(weights), prompts(label_space)])
    cache, name = TensorCache(folder, max_bytes=_CACHE_BYTES), hashlib.sha256(key.encode()).hexdigest()
    found = cache.get(name)
    if found is not None:
        return found["embeddings"].to(next(iter(weights.values())).device)
    embeddings = embed_labels(encoder, label_space)
    with suppress(DataError):  # a read-only or concurrently cleaned folder costs only time
        cache.put(name, {"embeddings": embeddings})
    return embeddings
