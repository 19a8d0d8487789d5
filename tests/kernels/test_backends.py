"""Which implementation runs, and what is said when it cannot."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from clouds.kernels import backends
from clouds.kernels.backends import KernelFallbackWarning, choose

ROOT = Path(__file__).parents[2]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_auto_takes_plain_torch_on_a_cpu_and_triton_on_a_gpu() -> None:
    assert choose("op", "auto", CPU) == "torch"
    assert choose("op", "auto", CUDA) == "triton"


@pytest.mark.parametrize(
    ("op", "dtype", "gradients", "expected"),
    [
        ("masked_attention", torch.float32, True, "triton"),
        ("masked_attention", torch.bfloat16, False, "torch"),
        ("masked_attention", torch.float16, True, "torch"),
        ("point_sample", torch.float32, False, "triton"),
        ("point_sample", torch.float32, True, "torch"),
        ("mask_pool", torch.bfloat16, False, "triton"),
        ("mask_pool", torch.bfloat16, True, "torch"),
        ("deformable_attention", torch.bfloat16, True, "triton"),
    ],
)
def test_auto_takes_what_was_faster_on_a_gpu(op: str, dtype: torch.dtype, gradients: bool, expected: str) -> None:
    """Silently, since nothing is missing; what was asked for runs all the same."""
    assert choose(op, "auto", CUDA, dtype=dtype, gradients=gradients) == expected
    assert choose(op, "triton", CUDA, dtype=dtype, gradients=gradients) == "triton"
    assert choose(op, "auto", CPU, dtype=dtype, gradients=gradients) == "torch"


@pytest.mark.parametrize("op", ["masked_attention", "point_sample", "mask_pool"])
def test_auto_takes_deterministic_forms_where_they_are_required(op: str) -> None:
    torch.use_deterministic_algorithms(True)
    try:
        assert choose(op, "auto", CUDA, dtype=torch.bfloat16, gradients=True) == "triton"
    finally:
        torch.use_deterministic_algorithms(False)


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


@pytest.mark.parametrize(
    ("there", "said", "expected"), [(True, None, "0"), (False, None, "1"), (True, "1", "1"), (False, "0", "0")]
)
def test_tests_interpret_kernels_where_torch_sees_no_gpu(there: bool, said: str | None, expected: str) -> None:
    """Whatever files a driver without a device has left, unless the variable says which."""
    program = f"""if True:
        import os, runpy, torch
        torch.cuda.is_available = lambda: {there}
        runpy.run_path("tests/conftest.py")
        print(os.environ["TRITON_INTERPRET"])
    """
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {} if said is None else {"TRITON_INTERPRET": said}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == [expected], done.stderr


def test_a_gpu_that_is_required_and_not_there_fails_its_tests() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "gpu", "-k", "gather", "tests/bench"]
    environment = {**os.environ, "CLOUDS_REQUIRE_GPU": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Failed: CLOUDS_REQUIRE_GPU=1, but torch sees no CUDA device" in done.stdout
