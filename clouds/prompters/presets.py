"""One function per built-in prompter, with its default settings. Light to import."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clouds.core.contract.labels import LabelSpace

if TYPE_CHECKING:
    from clouds.core.contract.interfaces import Prompter


def grammar(labels: LabelSpace) -> Prompter:
    """Sentences from a small grammar, every choice equally often.

    Args:
        labels: label space; classes without words in the grammar are mentioned by name.
    """
    from clouds.prompters.grammar import GrammarPrompter

    return GrammarPrompter(labels)


def file(*, path: str) -> Prompter:
    """Prompts from a text file.

    Args:
        path: UTF-8 text, one prompt per line; blank lines and lines that start with # are skipped.
    """
    from clouds.prompters.prompt_file import FilePrompter

    return FilePrompter(path)


def llm(
    labels: LabelSpace,
    *,
    model: str,
    url: str | None = None,
    key_variable: str | None = None,
    revision: str | None = None,
    device: str = "auto",
    batch: int = 25,
    rounds: int = 5,
    temperature: float = 0.8,
    top_p: float = 0.95,
    max_tokens: int = 2048,
    timeout: float = 120.0,
) -> Prompter:
    """Asks a language model for captions of street scenes, as CLOUDS (CVPR 2024) asked Llama-2-70B-chat.

    Args:
        labels: label space of the classes that captions should name.
        model: hub id or folder of a causal language model with a chat template (safetensors); with `url`, the server's
            name of the model.
        url: base URL of a server with OpenAI's protocol, such as http://localhost:8000/v1, which runs the model.
        key_variable: environment variable with the server's key.
        revision: commit, branch or tag of the hub.
        device: device of a local model: "auto" (all GPUs, or the CPU), "cpu", "cuda:N".
        batch: captions per question.
        rounds: maximum questions, as a multiple of the ideal number.
        temperature: 0 means greedy decoding.
        top_p: probability mass to sample from.
        max_tokens: maximum length of an answer.
        timeout: seconds for the whole answer of a server.
    """
    from clouds.prompters.chat_models import Endpoint, LocalModel, Sampling, read_key
    from clouds.prompters.llm import LlmPrompter

    sampling = Sampling(temperature=temperature, top_p=top_p, max_tokens=max_tokens)
    if url is None:
        chat = LocalModel(model, revision=revision, device=device, sampling=sampling)
    else:
        chat = Endpoint(url=url, name=model, key=read_key(key_variable), timeout=timeout, sampling=sampling)
    return LlmPrompter(chat, labels, batch=batch, rounds=rounds)
