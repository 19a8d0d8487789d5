"""One function per built-in generator and prompter: the numbers, and the built object. Light to import."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from clouds.core.contract.labels import LabelSpace
from clouds.core.weights.catalog import DIFFUSION

if TYPE_CHECKING:
    from clouds.core.contract.interfaces import Generator, Prompter


Scheduler = Literal["euler", "euler-ancestral", "ddim", "dpm-solver", "own"]
Memory = Literal[
    "attention_slicing",
    "vae_slicing",
    "vae_tiling",
    "model_cpu_offload",
    "sequential_cpu_offload",
    "xformers_memory_efficient_attention",
]


def diffusion(
    *,
    family: Literal["stable-diffusion-2", "sdxl"],
    model: str | None = None,
    revision: str | None = None,
    pretrained: bool = True,
    steps: int = 50,
    guidance: float = 7.5,
    scheduler: Scheduler = "euler",
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    memory: tuple[Memory, ...] = (),
    compile: bool = False,
    safety_checker: bool = False,
) -> Generator:
    """A text-to-image pipeline of diffusers, with the settings of CLOUDS (CVPR 2024): 50 Euler steps, guidance 7.5.

    Args:
        family: which published model.
        model: another one: a hub id, or a folder that `save_pretrained` wrote; weights as safetensors.
        revision: a commit, branch or tag of the hub.
        pretrained: False draws with small random weights of the same classes, for tests.
        steps: sampling steps.
        guidance: weight of the prompt (classifier-free guidance).
        scheduler: "own" keeps the pipeline's.
        dtype: None takes float16 on CUDA and float32 elsewhere.
        memory: what diffusers can do to save memory, by the names of its `enable_*` options.
        compile: compile the denoiser with `torch.compile`; the first pictures take minutes longer.
        safety_checker: keep the pipeline's own, which blackens what it takes for indecent.
    """
    import torch

    from clouds.generators.diffusion import DiffusionGenerator
    from clouds.generators.diffusion_source import TinySource, find_source

    name = model or DIFFUSION[family].repo
    source = find_source(name, revision=revision, safety_checker=safety_checker) if pretrained else TinySource(family)
    return DiffusionGenerator(
        source,
        steps=steps,
        guidance=guidance,
        scheduler=scheduler,
        dtype=getattr(torch, dtype) if dtype else None,
        memory=memory,
        compile=compile,
    )


def procedural() -> Generator:
    """Draws street scenes: time of day, weather, place and objects follow the prompt, the rest is drawn by the seed."""
    from clouds.generators.procedural import ProceduralGenerator

    return ProceduralGenerator()


def grammar(labels: LabelSpace) -> Prompter:
    """Sentences from a small grammar, every choice equally often.

    Args:
        labels: classes that the grammar has no words for are mentioned by their name.
    """
    from clouds.generators.grammar import GrammarPrompter

    return GrammarPrompter(labels)


def file(*, path: str) -> Prompter:
    """Prompts from a text file.

    Args:
        path: UTF-8, one prompt per line; blank lines and lines that begin with # are skipped.
    """
    from clouds.generators.prompt_file import FilePrompter

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
        labels: the classes that captions should name.
        model: a hub id or a folder of a causal language model with a chat template (safetensors); with `url` the
            server's name of it.
        url: address of a server that speaks OpenAI's protocol, such as http://localhost:8000/v1; the model then runs
            there.
        key_variable: environment variable with the key that the server wants.
        revision: a commit, branch or tag of the hub.
        device: "auto" (all GPUs, or the CPU), "cpu", "cuda:N"; where a local model runs.
        batch: captions asked for at once.
        rounds: questions at most, for each that would do if every answer were perfect.
        temperature: 0 takes the likeliest word each time.
        top_p: share of probability that words are drawn from.
        max_tokens: length of an answer at most.
        timeout: seconds for the whole answer of a server.
    """
    from clouds.generators.chat_models import Endpoint, LocalModel, Sampling, read_key
    from clouds.generators.llm import LlmPrompter

    sampling = Sampling(temperature=temperature, top_p=top_p, max_tokens=max_tokens)
    if url is None:
        chat = LocalModel(model, revision=revision, device=device, sampling=sampling)
    else:
        chat = Endpoint(url=url, name=model, key=read_key(key_variable), timeout=timeout, sampling=sampling)
    return LlmPrompter(chat, labels, batch=batch, rounds=rounds)
