"""Tokenizers: map texts to token ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self, final

import torch
from jaxtyping import Int
from open_clip.model import CLIPTextCfg
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from torch import Tensor

from clouds.core.system.errors import WeightsError
from clouds.core.system.reach import hub_access
from clouds.core.weights.store import hub_folder

Tokenizer = Callable[[list[str]], Tensor]
Choice = Literal["hub", "stored", "bytes"] | Path
_STORED = (
    "tokenizer='stored' asks no server, as a saved pipeline does not without consent: "
    "clouds.load(..., trust=('backbone',)), --trust backbone"
)


@final
class ByteTokenizer:
    """Encodes UTF-8 bytes as ids 1..256, then the vocabulary's largest id as end token, then 0 as padding.

    Needs no files; meant for random weights. Long texts are truncated.
    """

    def __init__(self, context_length: int, vocabulary: int) -> None:
        self.context_length = context_length
        self.end = vocabulary - 1

    def __call__(self, texts: list[str]) -> Int[Tensor, "n {self.context_length}"]:
        tokens = torch.zeros(len(texts), self.context_length, dtype=torch.long)
        for row, text in zip(tokens, texts, strict=True):
            ids = [byte + 1 for byte in text.encode()[: self.context_length - 1]] + [self.end]
            row[: len(ids)] = torch.tensor(ids)
        return tokens


@final
class FileTokenizer:
    """A Hugging Face tokenizer, loaded on first use.

    Args:
        source: a local folder with the tokenizer's files, or the name of a hub repository.
        context_length: tokens per text; shorter texts are padded.
        options: further arguments of `open_clip.tokenizer.HFTokenizer`.
        download: download missing files from the hub.
    """

    def __init__(
        self, source: str | Path, context_length: int, options: Mapping[str, Any], *, download: bool = True
    ) -> None:
        self.source = source
        self.download = download
        self.context_length = context_length
        self.options = dict(options)
        self._loaded: HFTokenizer | None = None

    def __call__(self, texts: list[str]) -> Int[Tensor, "n {self.context_length}"]:
        """Token ids.

        Raises:
            WeightsError: the folder or the hub's files are unavailable.
        """
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded(texts)

    def _load(self) -> HFTokenizer:
        remedy = "pass tokenizer=FOLDER with the tokenizer's files, or tokenizer='bytes' for tests with random weights"
        if isinstance(self.source, Path) and not self.source.is_dir():
            raise WeightsError(f"tokenizer {self.source}: no such folder; {remedy}")
        stored = hub_folder(self.source) if isinstance(self.source, str) else None
        try:
            asked = isinstance(self.source, str) and stored is None
            with hub_access("" if self.download else _STORED) if asked else nullcontext():
                return HFTokenizer(str(stored or self.source), context_length=self.context_length, **self.options)
        except (OSError, ValueError, ImportError, KeyError) as error:
            reason = " ".join(str(error).split())[:300]
            raise WeightsError(
                f"tokenizer {self.source} could not be loaded ({type(error).__name__}: {reason}); {remedy}"
            ) from error


@final
class _ClipTokenizer(SimpleTokenizer):
    """Immutable, so copies of a model (such as teachers) share its 48,000 byte pairs."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


@cache
def clip_tokenizer(context_length: int, **options: Any) -> SimpleTokenizer:
    """CLIP's tokenizer, part of open_clip. Loading takes 60 ms, so all models share one instance.

    Args:
        context_length: tokens per text; shorter texts are padded.
        options: further arguments of `open_clip.tokenizer.SimpleTokenizer`.
    """
    return _ClipTokenizer(context_length=context_length, **options)


def tokenizer_for(text_config: Mapping[str, Any], choice: Choice) -> Tokenizer:
    """The tokenizer of an open_clip model.

    Args:
        text_config: `text_cfg` of the model's configuration.
        choice: "hub": the model's own, from open_clip or else downloaded from the hub; "stored": the same, without
            downloads; "bytes": a `ByteTokenizer`; a path: a folder with tokenizer files.
    """
    text = CLIPTextCfg(**text_config)
    options = text.tokenizer_kwargs or {}
    if choice == "bytes":
        return ByteTokenizer(text.context_length, text.vocab_size)
    if isinstance(choice, Path):
        return FileTokenizer(choice, text.context_length, options)
    if text.hf_tokenizer_name:
        return FileTokenizer(text.hf_tokenizer_name, text.context_length, options, download=choice == "hub")
    return clip_tokenizer(text.context_length, **options)
