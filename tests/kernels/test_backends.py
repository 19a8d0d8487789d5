"""Which implementation runs, and what is said when it cannot."""

from typing import Any

import pytest
import torch

from clouds.kernels import backends
from clouds.kernels.backends import KernelFallbackWarning, choose

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_auto_takes_plain_torch_on_a_cpu_and_triton_on_a_gpu() -> None:
    assert choose("op", "auto", CPU) == "torch"
    assert choose("op", "auto", CUDA) == "triton"


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("device", [CPU, CUDA])
def test_a_named_form_is_taken_at_its_word(backend: Any, device: torch.device) -> None:
    assert choose("op", backend, device, objection="float64") == backend


def test_a_fall_back_on_a_gpu_says_why() -> None:
    with pytest.warns(KernelFallbackWarning, match="op: runs in plain torch: no kernel for float64"):
        assert choose("op", "auto", CUDA, objection="no kernel for float64") == "torch"


def test_triton_that_was_asked_for_runs_or_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="'triton' cannot run: no kernel for float64; leave backend at 'auto'"):
        choose("op", "triton", CUDA, objection="no kernel for float64")
    monkeypatch.setattr("triton.knobs.runtime.interpret", False)
    with pytest.raises(ValueError, match="it needs tensors on a CUDA device, got cpu"):
        choose("op", "triton", CPU)
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="triton is not installed"):
        choose("op", "triton", CUDA)


def test_the_interpreter_runs_kernels_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("triton.knobs.runtime.interpret", True)
    assert choose("op", "triton", CPU) == "triton"


def test_an_unknown_backend_is_named(unchecked_types: None) -> None:
    with pytest.raises(
        ValueError, match="op: unknown backend 'cuda'; expected 'auto', 'triton', 'torch' or 'reference'"
    ):
        choose("op", "cuda", CPU)  # type: ignore[arg-type]
