"""Describes the machine in `environment.json`, and in one line on standard output."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = "torch torchvision triton numpy transformers deformops xformers open_clip_torch timm pytest pytest-xdist"
_QUERY = "name,driver_version,memory.total,memory.used,clocks.sm,clocks.mem,power.limit"


def main(out: Path) -> int:
    """Write the description; return 0 if there is a device."""
    facts: dict[str, Any] = software() | {"smi": _smi(f"--query-gpu={_QUERY}", "--format=csv,noheader")}
    _write(out, facts)  # importing torch may fail
    facts |= card()
    _write(out, facts)
    print(json.dumps(facts, indent=1))
    if "name" not in facts:
        print(f"no CUDA device: {facts['obstacle']}")
        return 1
    lacking = "" if facts["bfloat16"] else ", no bfloat16"
    memory = f"{facts['free'] / 1e9:.0f} of {facts['memory'] / 1e9:.0f} GB free"
    print(f"{facts['name']}, capability {facts['capability']}{lacking}, {memory}, torch {facts['torch']}")
    return 0


def software() -> dict[str, Any]:
    """Versions, and available tools."""
    tools = {tool: shutil.which(tool) for tool in ("git", "gcc", "ninja", "nvcc", "ncu")}
    return {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES.split()}, **tools}


def card() -> dict[str, Any]:
    """The first CUDA device; without one, the reason as "obstacle"."""
    import torch

    if torch.version.cuda is None:
        return {"obstacle": f"torch {torch.__version__} was built without CUDA"}
    if not torch.cuda.is_available():
        there = "there" if Path("/dev/nvidiactl").exists() else "not there"
        return {"obstacle": f"torch {torch.__version__} sees none; /dev/nvidiactl is {there}; nvidia-smi: {_smi('-L')}"}
    free, memory = torch.cuda.mem_get_info()
    capability = torch.cuda.get_device_capability()
    return {
        "name": torch.cuda.get_device_name(),
        "capability": "{}.{}".format(*capability),
        "bfloat16": capability >= (8, 0),  # older cards emulate it in float32, so times are meaningless
        "multiprocessors": torch.cuda.get_device_properties(0).multi_processor_count,
        "free": free,
        "memory": memory,
        "cuda": torch.version.cuda,
    }


def _smi(*arguments: str) -> str:
    """Output of nvidia-smi."""
    try:
        done = subprocess.run(["nvidia-smi", *arguments], capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return (done.stdout.strip() or done.stderr.strip()).replace("\n", "; ")


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _write(out: Path, facts: dict[str, Any]) -> None:
    (out / "environment.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
