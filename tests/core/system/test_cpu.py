"""Dtypes that a CPU is slow with are named; where the CPU is not known, nothing is said."""

import warnings
from pathlib import Path

import pytest
import torch

import clouds
from clouds.core.system import cpu
from clouds.core.system.cpu import missing_instructions, warn_of_slow_dtype

TINY = {"name": "tiny", "dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
OLD = "processor\t: 0\nmodel name\t: Core 2\nflags\t\t: fpu avx avx2 avx512f\n\nprocessor\t: 1\nflags\t\t: fpu avx\n"
HERE = torch.device("cpu")


def pretend(monkeypatch: pytest.MonkeyPatch, path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(cpu, "_CPUINFO", path)


@pytest.mark.parametrize(("dtype", "flag"), [("bfloat16", "avx512_bf16"), ("float16", "avx512_fp16")])
def test_a_cpu_without_instructions_is_named(
    dtype: str, flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, tmp_path / "cpuinfo", OLD)
    match = rf"dtype {dtype} on a CPU \(Core 2\) that has none of {flag}, amx_\w+, avx_ne_convert: .*; do that"
    with pytest.warns(clouds.SlowDtypeWarning, match=match):
        warn_of_slow_dtype(dtype, HERE, remedy="do that")


@pytest.mark.parametrize(
    ("dtype", "text"),
    [
        ("bfloat16", OLD.replace("avx2", "avx512_bf16").replace("fpu avx\n", "fpu avx512_bf16\n")),
        ("bfloat16", "processor: 0\nflags: fpu amx_bf16\n"),
        ("float16", "processor: 0\nflags: fpu avx512_fp16\n"),
        ("bfloat16", "processor\t: 0\nFeatures\t: fp asimd\n"),
        (None, OLD),
    ],
    ids=["AVX512", "AMX", "float16", "ARM", "float32"],
)
def test_nothing_is_said_otherwise(
    dtype: str | None, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, tmp_path / "cpuinfo", text)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_slow_dtype(dtype, HERE, remedy="")
        warn_of_slow_dtype("bfloat16", torch.device("meta"), remedy="")
        monkeypatch.setattr(cpu, "_CPUINFO", tmp_path / "no such file")
        warn_of_slow_dtype("bfloat16", HERE, remedy="")


def test_missing_instructions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, tmp_path / "cpuinfo", OLD)
    assert missing_instructions("bfloat16") == ("avx512_bf16", "amx_bf16", "avx_ne_convert")
    assert missing_instructions("float32") == missing_instructions(None) == ()
    pretend(monkeypatch, tmp_path / "cpuinfo", "flags: fpu amx_bf16\n")
    assert missing_instructions("bfloat16") == ()


def test_compose_and_load_say_so_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, tmp_path / "cpuinfo", OLD)
    with pytest.warns(clouds.SlowDtypeWarning, match="leave dtype out, or at None") as composed:
        pipeline = clouds.compose(backbone=TINY, head={"name": "linear", "width": 16}, device="cpu", dtype="bfloat16")
    assert len(composed) == 1
    pipeline.save(tmp_path / "saved")
    with pytest.warns(clouds.SlowDtypeWarning, match=r"clouds\.load\('.*saved', dtype='float32'\)") as loaded:
        clouds.load(tmp_path / "saved", device="cpu")
    assert len(loaded) == 1
