"""One function per built-in prompter, with its default settings. Light to import."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from clouds.core.contract.labels import LabelSpace
from clouds.core.system.errors import ConfigError

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
    batch: int = 1,
    rounds: int = 5,
    balance: Literal["even", "rare"] = "even",
    index: tuple[str, ...] = (),
    temperature: float = 0.8,
    top_p: float = 0.95,
    max_tokens: int | None = None,
    timeout: float = 120.0,
) -> Prompter:
    """Asks a language model for captions of street scenes: one at a time, which small models can do, or in batches.

    With `batch=1` the model rewrites a sentence of the grammar with two drawn classes, a place, a time and a weather.
    If it still leaves some out after `rounds` questions, that sentence is taken. Larger batches ask for a list, as
    CLOUDS (CVPR 2024) asked Llama-2-70B-chat.

    Args:
        labels: label space of the classes that captions should name.
        model: hub id or folder of a causal language model with a chat template (safetensors), or a GGUF file; with
            `url`, the server's name of the model.
        url: base URL of a server with OpenAI's protocol, such as http://localhost:8000/v1, which runs the model.
        key_variable: environment variable with the server's key.
        revision: commit, branch or tag of the hub.
        device: device of a local model: "auto" (all GPUs, or the CPU), "cpu", "cuda:N".
        batch: captions per question; the paper's way needs more than 1.
        rounds: maximum questions, as a multiple of the ideal number.
        balance: "even" draws all classes equally often; "rare" draws the second class of a caption as rare-class
            sampling does, P(c) = softmax((1 - share) / 0.01). Needs batch=1.
        index: class indices of the sources for "rare", which `clouds datasets check --index` wrote.
        temperature: 0 means greedy decoding.
        top_p: probability mass to sample from.
        max_tokens: maximum length of an answer; None means 64 for a single caption, else 2048. Models that think before
            they answer need more.
        timeout: seconds for the whole answer of a server.
    """
    from clouds.prompters.chat_models import Endpoint, LocalModel, Sampling, read_key
    from clouds.prompters.llm import LlmPrompter
    from clouds.prompters.llm_scenes import ScenePrompter
    from clouds.prompters.scenes import second_shares

    shares = second_shares(balance, index, labels)
    tokens = max_tokens if max_tokens is not None else 64 if batch == 1 else 2048
    sampling = Sampling(temperature=temperature, top_p=top_p, max_tokens=tokens)
    if url is None:
        chat = LocalModel(model, revision=revision, device=device, sampling=sampling)
    else:
        chat = Endpoint(url=url, name=model, key=read_key(key_variable), timeout=timeout, sampling=sampling)
    if batch == 1:
        return ScenePrompter(chat, labels, rounds=rounds, shares=shares)
    if shares is not None:
        raise ConfigError(f"prompter llm: balance={balance} with batch={batch}; expected batch=1")
    return LlmPrompter(chat, labels, batch=batch, rounds=rounds)
