"""Warning about dtypes that the CPU must emulate."""

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


def warn_of_slow_dtype(dtype: str | None, device: torch.device, *, remedy: str) -> None:
    """Warn if an x86 CPU lacks instructions for a dtype. Other CPUs are not checked.

    Args:
        dtype: name of the autocast type, or None for float32.
        device: device of the pipeline.
        remedy: how the user can change the dtype in the interface in use.

    Warns:
        SlowDtypeWarning: names the CPU, the missing instructions, and the remedy.
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
