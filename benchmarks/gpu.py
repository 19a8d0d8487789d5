"""Everything that needs a GPU: its tests, its ceilings and the whole table. Rows are appended as they are made.

    python -m benchmarks.gpu                     # all parts
    python -m benchmarks.gpu tests
    python -m benchmarks.gpu kernels [OP ...]    # ceilings, and every operation, or those named
    python -m benchmarks.gpu head
    python -m benchmarks.gpu end_to_end

Each part takes some minutes; the kernels can be taken one by one. Tests need hypothesis, beartype and pytest, the peers
`transformers` and `deformops`; a peer that is not installed has no rows.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks import end_to_end, head, kernels
from benchmarks.decoder import Sizes
from benchmarks.rows import append

_ROOT = Path(__file__).parents[1]
_IMAGES = ((512, 1024), (1024, 2048))


def main(arguments: Sequence[str]) -> int:
    """Run the named part, or all; 0 when everything ran.

    Raises:
        RuntimeError: torch sees no CUDA device: figures come from a device that was used.
    """
    part, *ops = arguments or ["all"]
    if part not in (*PARTS, "all") or (ops and part != "kernels"):
        print(f"unknown part {' '.join(arguments)!r}; known: {', '.join(PARTS)}, kernels OP", file=sys.stderr)
        return 2
    if not torch.cuda.is_available():
        raise RuntimeError(
            "torch sees no CUDA device, so there is nothing to measure; `python -m benchmarks` is for CPUs"
        )
    names = PARTS if part == "all" else [part]
    return max(PARTS[name](tuple(ops)) for name in names)


def _tests(_: tuple[str, ...]) -> int:
    environment = {**os.environ, "CLOUDS_REQUIRE_GPU": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/kernels"]
    return subprocess.run(command, cwd=_ROOT, env=environment, check=False).returncode


def _kernels(ops: tuple[str, ...]) -> int:
    for rows in kernels.table(torch.device("cuda"), ops):
        for one in rows:
            print(
                one["metric"], one.get("direction", ""), one.get("shape", ""), one["provider"], one["p50"], one["unit"]
            )
        append("kernels", rows)
    return 0


def _head(_: tuple[str, ...]) -> int:
    for image in _IMAGES:
        print(append("head", head.run(Sizes(image=image), device="cuda", repeats=20)))
    return 0


def _end_to_end(_: tuple[str, ...]) -> int:
    device = torch.device("cuda")
    for image in _IMAGES:
        for batch in kernels.BATCHES:
            rows = end_to_end.measure(Sizes(image=image), batch, device, "bfloat16", backbone="clip-rn50", repeats=10)
            print(append("end_to_end", rows))
    return 0


PARTS: dict[str, Callable[[tuple[str, ...]], int]] = {
    "tests": _tests,
    "kernels": _kernels,
    "head": _head,
    "end_to_end": _end_to_end,
}

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
