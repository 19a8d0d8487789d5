"""Language models that answer questions: in this process through transformers, or on a server."""

# pyright: reportPrivateImportUsage=false
# (transformers exports lazily)

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cached_property
from http.client import HTTPException
from pathlib import Path
from typing import Any, final
from urllib.parse import urlsplit
from urllib.request import Request

from attrs import field, frozen

from clouds.core.system.config import parse_json
from clouds.core.system.errors import ConfigError, WeightsError
from clouds.core.system.files import printable, without_tilde
from clouds.core.system.reach import hub_access
from clouds.core.weights.store import hub_folder
from clouds.prompters.http import Refusal, fetch_once

_MOST_BYTES = 2 * 2**20  # of a server's answer
_SHOWN = 300
_GGUF = ".gguf"
_REMEDY = (
    "check the name and the connection, or give a local save_pretrained folder: model=FOLDER, or owner/name in "
    "CLOUDS_WEIGHTS"
)
_GGUF_REMEDY = (
    "give a GGUF file of a language model that transformers reads; this needs: pip install 'clouds-dgss[gguf]'"
)


class ChatModel(ABC):
    """A language model that answers questions.

    Attributes:
        name: name for messages.
    """

    name: str

    @abstractmethod
    def answer(self, question: str, *, seed: int, examples: Sequence[tuple[str, str]] = ()) -> str:
        """The answer, without an incomplete last line. A local model is deterministic per seed.

        Args:
            question: the question.
            seed: seed of the sampling.
            examples: earlier questions with their answers, which the model sees as its own.

        Raises:
            CloudsError: there is no answer.
        """


@frozen(kw_only=True)
class Sampling:
    """Sampling settings.

    Attributes:
        temperature: 0 means greedy decoding.
        top_p: probability mass to sample from.
        max_tokens: maximum length of an answer.
    """

    temperature: float = 0.8
    top_p: float = 0.95
    max_tokens: int = 2048

    def __attrs_post_init__(self) -> None:
        if not (self.temperature >= 0 and 0 < self.top_p <= 1 and self.max_tokens >= 1):
            raise ConfigError(
                f"prompter llm: temperature={self.temperature}, top_p={self.top_p}, max_tokens={self.max_tokens}; "
                "expected temperature >= 0, 0 < top_p <= 1, max_tokens >= 1"
            )


@final
class LocalModel(ChatModel):
    """A causal language model of transformers with a chat template, loaded at the first question.

    Args:
        name: a local `save_pretrained` folder, or a hub id, with weights as safetensors; or a local GGUF file, whose
            weights are dequantized.
        revision: commit, branch or tag of the hub.
        device: "auto" spreads the model over all GPUs, or uses the CPU without one; "cpu", "cuda:N".
        sampling: sampling settings.
    """

    def __init__(self, name: str, *, revision: str | None, device: str, sampling: Sampling) -> None:
        self.name, self.revision, self.device, self.sampling = name, revision, device, sampling

    def answer(self, question: str, *, seed: int, examples: Sequence[tuple[str, str]] = ()) -> str:
        """The model's answer; deterministic per seed on one machine.

        Raises:
            WeightsError: the model is unavailable, or a file in `CLOUDS_WEIGHTS` has another hash.
            ConfigError: it has no chat template, or a revision is given for a local folder.
        """
        import torch

        tokenizer, model = self._loaded
        prompt = tokenizer.apply_chat_template(
            _messages(question, examples), add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).to(model.device)
        drawing: dict[str, Any] = {"do_sample": False}
        if self.sampling.temperature > 0:
            drawing = {"do_sample": True, "temperature": self.sampling.temperature, "top_p": self.sampling.top_p}
        length = prompt["input_ids"].shape[1]
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())), torch.no_grad():
            torch.manual_seed(seed)
            tokens = model.generate(**prompt, max_new_tokens=self.sampling.max_tokens, **drawing)[0, length:]
        text = tokenizer.decode(tokens, skip_special_tokens=True)
        return whole_lines(text) if len(tokens) == self.sampling.max_tokens else text

    def _local(self) -> Path | None:
        """The model's folder or GGUF file on this machine; None means the hub, which a revision needs."""
        local = without_tilde(self.name)
        if not (local.is_dir() or local.suffix == _GGUF):
            return None if self.revision else hub_folder(self.name)
        if self.revision:
            raise ConfigError(
                f"language model {self.name} is local, so it has no revision {self.revision!r}; remove it"
            )
        return local

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        local = self._local()
        source, options = local or self.name, {"revision": self.revision, "local_files_only": local is not None}
        weights: dict[str, Any] = {"use_safetensors": True}
        if local and local.suffix == _GGUF:
            source, weights = local.parent, {}
            options["gguf_file"] = local.name
        try:
            with hub_access() if local is None else nullcontext():
                tokenizer: Any = AutoTokenizer.from_pretrained(str(source), **options)
                model: Any = AutoModelForCausalLM.from_pretrained(
                    str(source), **options, **weights, dtype="auto", device_map=self.device
                )
        except Exception as error:  # a damaged file may raise anything
            reason = printable(" ".join(str(error).split()))[:_SHOWN]
            raise WeightsError(
                f"language model {self.name!r} could not be loaded ({type(error).__name__}: {reason}); "
                f"{_GGUF_REMEDY if options.get('gguf_file') else _REMEDY}"
            ) from error
        if not tokenizer.chat_template:
            raise ConfigError(
                f"language model {self.name!r} has no chat template, so it cannot answer questions; use a model tuned "
                'for chat (often called "chat" or "instruct")'
            )
        return tokenizer, model.eval()


@final
@frozen(kw_only=True)
class Endpoint(ChatModel):
    """A server with OpenAI's chat-completions protocol, such as vLLM, llama.cpp or Ollama.

    Attributes:
        url: base URL without `/chat/completions`, such as `http://localhost:8000/v1`.
        name: the server's name of the model.
        key: sent as a bearer token, never shown; None sends none.
        timeout: seconds for the whole answer.
        sampling: sampling settings. The seed is sent, but the server may ignore it.

    Raises:
        ConfigError: the URL is not http or https, or has more than scheme, host, port and path; or the timeout is not
            positive.
    """

    url: str
    name: str
    key: str | None = field(default=None, repr=False)
    timeout: float = 120.0
    sampling: Sampling = field(factory=Sampling)

    def __attrs_post_init__(self) -> None:
        _require_address(self.url)
        if not self.timeout > 0:
            raise ConfigError(f"prompter llm: timeout={self.timeout}; expected more than 0 seconds")

    def answer(self, question: str, *, seed: int, examples: Sequence[tuple[str, str]] = ()) -> str:
        """The server's answer.

        Raises:
            ConfigError: the server does not answer in time, refuses, or sends another format.
        """
        wanted = {
            "model": self.name,
            "messages": _messages(question, examples),
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
            "max_tokens": self.sampling.max_tokens,
            "seed": seed,
        }
        choice = self._first_choice(self._post(json.dumps(wanted).encode()))
        text = choice["message"]["content"].encode("utf-8", "replace").decode()  # JSON may have lone surrogates
        return whole_lines(text) if choice.get("finish_reason") == "length" else text

    def _post(self, body: bytes) -> bytes:
        request = Request(f"{self.url.rstrip('/')}/chat/completions", data=body, method="POST")
        request.add_header("Content-Type", "application/json")
        if self.key:
            request.add_unredirected_header("Authorization", f"Bearer {self.key}")
        try:
            return fetch_once(request, seconds=self.timeout, most_bytes=_MOST_BYTES)
        except Refusal as error:
            answer = f"{error.code} {error.reason}: {' '.join(error.body.split())[:_SHOWN]}{_hint(error)}"
            raise ConfigError(f"{request.full_url}: answered {printable(' '.join(answer.split()))}") from error
        except (OSError, HTTPException, ValueError) as error:
            reason = printable(" ".join(str(error).split()))
            raise ConfigError(
                f"{request.full_url}: no answer ({type(error).__name__}: {reason}); is the server running? It had "
                f"timeout={self.timeout:g} seconds"
            ) from error

    def _first_choice(self, body: bytes) -> dict[str, Any]:
        try:
            choice = parse_json(body)["choices"][0]
            if isinstance(choice["message"]["content"], str):
                return choice
        except (ValueError, LookupError, TypeError):
            pass
        shown = body[:_SHOWN].decode("utf-8", "replace")
        raise ConfigError(
            f"{self.url}: not a chat-completions answer, because choices[0].message.content is not text: {shown!r}"
        )


def _messages(question: str, examples: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    """A conversation in the form of OpenAI's protocol and of chat templates."""
    said = [text for pair in examples for text in pair]
    return [
        {"role": "assistant" if turn % 2 else "user", "content": text} for turn, text in enumerate([*said, question])
    ]


def _require_address(url: str) -> None:
    """Raise `ConfigError` for an invalid URL; the message omits URLs that may contain a secret."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ConfigError("prompter llm: url has an invalid host or port; expected http://HOST:PORT/PATH") from None
    if parts.username is not None or parts.query or parts.fragment:
        raise ConfigError(
            "prompter llm: url has a user, a query or a fragment, which messages would show; expected "
            "http://HOST/PATH or https://HOST/PATH, and a key in an environment variable that key_variable= names"
        )
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError(f"prompter llm: url={url!r}; expected http://HOST/PATH or https://HOST/PATH")


def _hint(refusal: Refusal) -> str:
    if refusal.code in (401, 403):
        return "; key_variable= names the environment variable with the key"
    if not refusal.location:
        return ""
    return f"; redirects are not followed; if '{refusal.location[:_SHOWN]}' is right, give it as url="


def read_key(variable: str | None) -> str | None:
    """Read the key from an environment variable. Raises `ConfigError` if the variable is not set."""
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigError(f"prompter llm: key_variable={variable}, but the environment variable {variable} is not set")
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(
            f"prompter llm: the key in {variable} has characters that HTTP cannot send; expected plain ASCII"
        )
    return key


def whole_lines(text: str) -> str:
    """Remove the incomplete last line of a truncated answer."""
    return text.rpartition("\n")[0]
