"""What masked attention says when it cannot run."""

from importlib import import_module
from typing import Any

import pytest
import torch

from clouds.kernels.backends import KernelFallbackWarning
from clouds.kernels.masked_attention import masked_attention

module = import_module("clouds.kernels.masked_attention")

pytestmark = pytest.mark.usefixtures("unchecked_types")
GOOD = {"q": (2, 4, 5, 16), "k": (2, 4, 7, 16), "v": (2, 4, 7, 16), "mask_embed": (2, 5, 3), "mask_features": (2, 3, 7)}


def call(backend: Any = "auto", **changes: Any) -> None:
    tensors = {name: torch.zeros(shape) for name, shape in GOOD.items()}
    masked_attention(**(tensors | changes), backend=backend)


@pytest.mark.parametrize("backend", ["auto", "triton", "torch", "xformers", "reference"])
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("q", (2, 4, 5)),
        ("q", (2, 4, 6, 16)),
        ("k", (2, 4, 7, 32)),
        ("k", (2, 8, 7, 16)),
        ("v", (2, 4, 8, 16)),
        ("mask_embed", (1, 5, 3)),
        ("mask_embed", (2, 5)),
        ("mask_features", (2, 4, 7)),
        ("mask_features", (2, 3, 1)),
    ],
)
def test_shapes(name: str, shape: tuple[int, ...], backend: Any) -> None:
    with pytest.raises(ValueError, match=r'shapes \{.*\}; expected q "b m q d", k and v "b m n d", mask_embed "b q c"'):
        call(backend, **{name: torch.zeros(shape)})


def test_no_keys() -> None:
    empty = {"k": torch.zeros(2, 4, 0, 16), "v": torch.zeros(2, 4, 0, 16), "mask_features": torch.zeros(2, 3, 0)}
    with pytest.raises(ValueError, match=r"k \(2, 4, 0, 16\) has no keys to attend to; expected at least one"):
        call(**empty)


@pytest.mark.parametrize("name", GOOD)
def test_devices(name: str) -> None:
    with pytest.raises(ValueError, match=f"tensors on .*'{name}': 'meta'.*; expected one device"):
        call(**{name: torch.zeros(GOOD[name], device="meta")})


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("q", torch.bfloat16), ("k", torch.float64), ("v", torch.int32), ("mask_embed", torch.bool)],
)
def test_types(name: str, dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match=f"'{name}': {dtype}.*expected one floating point type for q, k and v"):
        call(**{name: torch.zeros(GOOD[name], dtype=dtype)})


def of_width(width: int) -> dict[str, torch.Tensor]:
    return {name: torch.zeros(*GOOD[name][:-1], width) for name in ("q", "k", "v")}


def test_widths_without_a_kernel() -> None:
    with pytest.raises(ValueError, match="takes heads of 16, 32, 64 or 128 channels, got 24; leave backend at 'auto'"):
        call("triton", **of_width(24))
    call("auto", **of_width(24))


def test_types_without_a_kernel() -> None:
    double = {name: torch.zeros(GOOD[name], dtype=torch.float64) for name in ("q", "k", "v")}
    with pytest.raises(ValueError, match=r"takes bfloat16, float16 and float32, got .*'q': torch\.float64"):
        call("triton", **double)
    with pytest.raises(ValueError, match="'xformers' cannot run: it takes bfloat16, float16 and float32"):
        call("xformers", **double)


def test_xformers_that_was_asked_for_runs_or_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: "found")
    with pytest.raises(ValueError, match="'xformers' cannot run: it needs tensors on a CUDA device, got cpu; leave"):
        call("xformers")
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="'xformers' cannot run: xformers is not installed"):
        call("xformers")


@pytest.mark.gpu
def test_auto_on_a_gpu_says_why_it_does_not_take_triton() -> None:
    tensors = {name: torch.zeros(shape, device="cuda") for name, shape in GOOD.items()}
    narrow = {name: tensors[name][..., :3] for name in ("q", "k", "v")}
    with pytest.warns(KernelFallbackWarning, match="runs in plain torch: it takes heads of 16"):
        masked_attention(**(tensors | narrow))
