"""Whether the CPU has instructions for a dtype."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from clouds.core.system.errors import SlowDtypeWarning

_CPUINFO = Path("/proc/cpuinfo")
# Flags of x86; one of them is enough for oneDNN, which otherwise converts to float32 and back around every operation.
_INSTRUCTIONS = {
    "bfloat16": ("avx512_bf16", "amx_bf16", "avx_ne_convert"),
    "float16": ("avx512_fp16", "amx_fp16", "avx_ne_convert"),
}


def warn_of_slow_dtype(dtype: str | None, device: torch.device, *, remedy: str) -> None:
    """Warn where an x86 CPU lacks the instructions; what other CPUs have is not known, and nothing is said.

    Args:
        dtype: name of the autocast type, or None for float32.
        device: where the pipeline computes.
        remedy: what the user can do at the door that was used.

    Warns:
        SlowDtypeWarning: names the CPU, what it lacks, and the remedy.
    """
    if device.type != "cpu" or dtype not in _INSTRUCTIONS or not _CPUINFO.is_file():
        return
    lines = (line.partition(":") for line in _CPUINFO.read_text(encoding="utf-8").splitlines())
    facts = {name.strip(): value.strip() for name, _, value in lines}
    wanted = _INSTRUCTIONS[dtype]
    if "flags" in facts and not set(wanted) & set(facts["flags"].split()):
        warnings.warn(
            f"dtype {dtype} on a CPU ({facts.get('model name', 'of unknown name')}) that has none of "
            f"{', '.join(wanted)}: it is emulated, and much slower than float32; {remedy}",
            SlowDtypeWarning,
            stacklevel=3,
        )
