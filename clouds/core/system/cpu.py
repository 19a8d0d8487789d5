"""Dtypes that the CPU must emulate."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from clouds.core.system.errors import SlowDtypeWarning

_CPUINFO = Path("/proc/cpuinfo")
# x86 flags. oneDNN needs one of them; otherwise it converts to float32 and back for every operation.
_INSTRUCTIONS = {
    "bfloat16": ("avx512_bf16", "amx_bf16", "avx_ne_convert"),
    "float16": ("avx512_fp16", "amx_fp16", "avx_ne_convert"),
}


def missing_instructions(dtype: str | None) -> tuple[str, ...]:
    """The x86 instruction sets of which this CPU needs one to be fast in a dtype; empty if it has one.

    Also empty for float32, and for CPUs that are not x86 or not known.

    Args:
        dtype: name of the autocast type, or None for float32.
    """
    wanted = _INSTRUCTIONS.get(dtype or "", ())
    flags = _facts().get("flags")
    return wanted if flags is not None and set(flags.split()).isdisjoint(wanted) else ()


def warn_of_slow_dtype(dtype: str | None, device: torch.device, *, remedy: str) -> None:
    """Warn if an x86 CPU lacks instructions for a dtype. Other CPUs are not checked.

    Args:
        dtype: name of the autocast type, or None for float32.
        device: device of the pipeline.
        remedy: how the user can change the dtype in the interface in use.

    Warns:
        SlowDtypeWarning: names the CPU, the missing instructions, and the remedy.
    """
    missing = missing_instructions(dtype) if device.type == "cpu" else ()
    if missing:
        warnings.warn(
            f"dtype {dtype} on a CPU ({_facts().get('model name', 'of unknown name')}) that has none of "
            f"{', '.join(missing)}: it is emulated, and much slower than float32; {remedy}",
            SlowDtypeWarning,
            stacklevel=3,
        )


def _facts() -> dict[str, str]:
    """What the system says of its last processor, by name; empty where it says nothing."""
    if not _CPUINFO.is_file():
        return {}
    lines = (line.partition(":") for line in _CPUINFO.read_text(encoding="utf-8").splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}
