"""Tidy rows: one measurement each, with everything needed to compare it years later."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

RESULTS = Path(__file__).parent / "results"
_MEASURED = ("p20", "p50", "p80", "repeats", "commit", "torch", "triton", "python", "driver", "threads", "seconds")
_RESULTS = (
    *("rate", "rate_unit", "share", "ceiling", "ceilings", "peak_memory_mb", "error", "classes", "label_free"),
    *("alone_seconds", "cluster_seconds"),
)
Row = dict[str, Any]


def row(benchmark: str, provider: str, metric: str, unit: str, values: Sequence[float], **facts: Any) -> Row:
    """One row: the 20th, 50th and 80th percentile of repeated measurements, with settings and environment.

    A computation that could not run has no values, `error` among its facts, and percentiles None.
    """
    low, middle, high = (
        round(float(np.percentile(values, share)), 5) if len(values) else None for share in (20, 50, 80)
    )
    return {
        "benchmark": benchmark,
        "provider": provider,
        "metric": metric,
        "unit": unit,
        "p20": low,
        "p50": middle,
        "p80": high,
        "repeats": len(values),
        **facts,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu",
        "driver": _driver(),
        "threads": torch.get_num_threads(),
        "torch": version("torch"),
        "triton": _version("triton"),
        "python": platform.python_version(),
        "commit": _commit(),
    }


def seconds(run: Callable[[], object], *, repeats: int) -> list[float]:
    """Wall-clock seconds of each repeat, after one warm-up."""
    run()
    return [clock(run) for _ in range(repeats)]


def clock(run: Callable[[], object]) -> float:
    """Wall-clock seconds of one run, including its work on a GPU."""
    _finish()
    start = time.perf_counter()
    run()
    _finish()
    return time.perf_counter() - start


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def append(name: str, rows: Sequence[Row], folder: Path = RESULTS) -> Path:
    """Append rows to `<name>.jsonl` in a folder; earlier rows are never changed."""
    path = folder / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as lines:
        lines.writelines(json.dumps(one) + "\n" for one in rows)
    return path


def read_rows(name: str, folder: Path = RESULTS) -> list[Row]:
    """All rows of one file, oldest first; none if there is no file."""
    path = folder / f"{name}.jsonl"
    return list(map(json.loads, path.read_text(encoding="utf-8").splitlines())) if path.exists() else []


def latest(rows: Iterable[Row]) -> list[Row]:
    """Only the last row of each measurement."""
    found: dict[str, Row] = {}
    for one in rows:
        key = json.dumps({fact: value for fact, value in one.items() if fact not in (*_MEASURED, *_RESULTS)})
        found.pop(key, None)  # so that the last run comes last
        found[key] = one
    return list(found.values())


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


@cache
def _driver() -> str | None:
    """Driver version of the GPU from nvidia-smi; None without a GPU or the tool."""
    if not torch.cuda.is_available():
        return None
    return _output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").partition("\n")[0] or None


@cache
def _commit() -> str:
    """Commit from git; without git or a repository, from `CLOUDS_COMMIT`."""
    said = _output_of("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty")
    return said or os.environ.get("CLOUDS_COMMIT", "unknown")


def _output_of(*command: str) -> str:
    """Output of a command; empty if it is not installed or fails."""
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode else done.stdout.strip()
