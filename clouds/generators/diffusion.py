"""Image generation by latent diffusion, through diffusers: from text, and from labelled images."""

# pyright: reportPrivateImportUsage=false
# (diffusers is only partly typed, and exports lazily)

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, final

import diffusers
import numpy as np
import torch
from torch import nn

from clouds.core.contract.interfaces import Generator
from clouds.core.contract.records import GeneratedImage, GenerationRequest, LabelledImage
from clouds.core.system.errors import ConfigError
from clouds.generators.conditions import Condition
from clouds.generators.diffusion_source import FolderSource, TinySource

SCHEDULERS = {
    "euler": "EulerDiscreteScheduler",
    "euler-ancestral": "EulerAncestralDiscreteScheduler",
    "ddim": "DDIMScheduler",
    "dpm-solver": "DPMSolverMultistepScheduler",
}
_OFFLOADS = ("model_cpu_offload", "sequential_cpu_offload")
_MEMORY: dict[str, Callable[[Any, torch.device], object]] = {
    "attention_slicing": lambda pipeline, _: pipeline.enable_attention_slicing(),
    "vae_slicing": lambda pipeline, _: pipeline.vae.enable_slicing(),
    "vae_tiling": lambda pipeline, _: pipeline.vae.enable_tiling(),
    "model_cpu_offload": lambda pipeline, device: pipeline.enable_model_cpu_offload(device=device),
    "sequential_cpu_offload": lambda pipeline, device: pipeline.enable_sequential_cpu_offload(device=device),
    "xformers_memory_efficient_attention": lambda pipeline, _: pipeline.enable_xformers_memory_efficient_attention(),
}


@final
class DiffusionGenerator(nn.Module, Generator):
    """Generates images from prompts, and from labelled images if it has a condition. Weights are read at the first
    request, onto the module's current device.

    Consecutive requests of one call with equal size, steps and guidance form a batch, so a call should not have more
    requests than fit into memory. Each image has its own noise generator on the CPU, seeded with the request's seed:
    its initial noise is bit-identical in every batch and on every device. Pixels agree within one of 256 levels in
    float32. At lower precision they may differ more (`benchmarks precision`, a small model on a CPU: the largest
    difference within an image is 1 to 2 levels in bfloat16 and 1 in float16), so the manifest records the batch.

    Args:
        source: source of the pipeline.
        condition: how the pipeline starts from labelled images; None generates from prompts alone.
        steps, guidance: defaults for requests without them.
        scheduler: a name of `SCHEDULERS`, or "own" for the pipeline's.
        dtype: None means float16 on CUDA and float32 elsewhere.
        memory: names of `diffusers`' `enable_*` options that save memory.
        compile: compile the denoiser with `torch.compile`.

    Raises:
        ConfigError: steps < 1 or guidance < 0; at generation, a size that the model does not support, a request without
            the labelled image that the condition needs, or offloading without a GPU.
        WeightsError: at the first request: damaged files.
    """

    def __init__(
        self,
        source: FolderSource | TinySource,
        *,
        condition: Condition | None = None,
        steps: int = 50,
        guidance: float = 7.5,
        scheduler: str = "euler",
        dtype: torch.dtype | None = None,
        memory: Sequence[str] = (),
        compile: bool = False,
    ) -> None:
        super().__init__()
        if steps < 1 or guidance < 0:
            raise ConfigError(f"diffusion needs steps >= 1 and guidance >= 0, got steps={steps}, guidance={guidance}")
        self._source, self._steps, self._guidance = source, steps, guidance
        self._condition, self.reads_source = condition, condition is not None
        self._scheduler, self._dtype, self._memory, self._compile = scheduler, dtype, tuple(memory), compile
        self._loaded: tuple[torch.device, Any] | None = None
        self.place: torch.Tensor
        self.register_buffer("place", torch.empty(0), persistent=False)  # follows the module to its device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights on the module's device."""
        return self._dtype or (torch.float16 if self.place.device.type == "cuda" else torch.float32)

    def describe(self) -> Mapping[str, Any]:
        return {
            **self._source.facts,
            **(self._condition.facts if self._condition else {}),
            "scheduler": SCHEDULERS.get(self._scheduler, self._scheduler),
            "dtype": str(self.dtype).removeprefix("torch."),
            "steps": self._steps,
            "guidance": self._guidance,
        }

    def generate(self, requests: Iterable[GenerationRequest]) -> Iterator[GeneratedImage]:
        for (size, steps, guidance), group in groupby(requests, key=self._settings):
            batch = list(group)
            arrays = self._draw(batch, size=size, steps=steps, guidance=guidance)
            for request, pixels in zip(batch, arrays, strict=True):
                labels = self._condition.labels(request.source) if self._condition and request.source else None
                yield GeneratedImage(
                    request=request, image=pixels, labels=labels, label_kind="inherited" if self._condition else "exact"
                )

    def _settings(self, request: GenerationRequest) -> tuple[tuple[int, int], int, float]:
        steps = self._steps if request.steps is None else request.steps
        guidance = self._guidance if request.guidance is None else request.guidance
        return request.size, steps, guidance

    def _draw(
        self, requests: Sequence[GenerationRequest], *, size: tuple[int, int], steps: int, guidance: float
    ) -> np.ndarray:
        """Images of one batch, uint8 "b h w 3"."""
        pipeline = self._pipeline()
        multiple = pipeline.image_processor.config.vae_scale_factor  # FLUX: twice that of its VAE
        if size[0] % multiple or size[1] % multiple:
            raise ConfigError(f"size {size} (height, width) is not supported; both must be multiples of {multiple}")
        for request in requests:
            _warn_of_cut_words(request.prompt, pipeline)
        asked = {"height": size[0], "width": size[1]}
        answer = pipeline(
            prompt=[request.prompt for request in requests],
            **(self._condition.inputs(_sources(requests), steps) if self._condition else asked),
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=[torch.Generator().manual_seed(request.seed) for request in requests],
            output_type="np",
        )
        _warn_of_black(requests, answer)
        return (np.nan_to_num(answer.images, nan=0.0) * 255).round().astype(np.uint8)

    def _pipeline(self) -> Any:
        device = self.place.device
        if self._loaded is None or self._loaded[0] != device:
            self._loaded = None  # frees memory before loading again
            self._loaded = (device, self._load(device))
        return self._loaded[1]

    def _load(self, device: torch.device) -> Any:
        offloads = [name for name in self._memory if name in _OFFLOADS]
        if offloads and device.type == "cpu":
            raise ConfigError(
                f"memory option {offloads[0]!r} moves weights off a GPU, but the device is cpu; remove it"
            )
        pipeline = self._source.load(self.dtype)
        if self._condition:
            pipeline = self._condition.attach(pipeline, self.dtype)
        pipeline.set_progress_bar_config(disable=True)
        if self._scheduler != "own":
            kind = getattr(diffusers, SCHEDULERS[self._scheduler])
            pipeline.scheduler = kind.from_config(pipeline.scheduler.config)
        if not offloads:
            pipeline.to(device)
        for name in self._memory:
            _MEMORY[name](pipeline, device)
        if self._compile:
            parts = pipeline.components
            parts["unet" if "unet" in parts else "transformer"].compile()
        return pipeline


def _sources(requests: Sequence[GenerationRequest]) -> list[LabelledImage]:
    sources = [request.source for request in requests if request.source is not None]
    if len(sources) < len(requests):
        raise ConfigError("this generator starts from labelled images, and a request has no source; give one")
    return sources


def cut_words(prompt: str, tokenizer: Any) -> str:
    """The end of a prompt that exceeds the text encoder's length; empty if all fits."""
    ids = tokenizer(prompt).input_ids
    limit = tokenizer.model_max_length
    return "" if len(ids) <= limit else tokenizer.decode(ids[limit - 1 : -1]).strip()  # the last token ends the text


def _warn_of_cut_words(prompt: str, pipeline: Any) -> None:
    tokenizers = {name: part for name, part in pipeline.components.items() if name.startswith("tokenizer") and part}
    for name, tokenizer in tokenizers.items():
        cut = cut_words(prompt, tokenizer)
        if cut:
            warnings.warn(
                f"the prompt {prompt!r} is longer than the {tokenizer.model_max_length} tokens of the text encoder of "
                f"{name}: {cut!r} is cut off",
                stacklevel=2,
            )


def _warn_of_black(requests: Sequence[GenerationRequest], answer: Any) -> None:
    flagged = getattr(answer, "nsfw_content_detected", None) or [False] * len(requests)
    for request, pixels, refused in zip(requests, answer.images, flagged, strict=True):
        if refused:
            warnings.warn(f"seed {request.seed}: the safety checker made the image black", stacklevel=2)
        elif not np.isfinite(pixels).all():
            warnings.warn(
                f"seed {request.seed}: the model returned NaN or inf, shown as black; bfloat16 and float32 overflow "
                "less (option dtype)",
                stacklevel=2,
            )
