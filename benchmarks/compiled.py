"""Compiler statistics of every launched kernel, without a GPU: registers, spills, barriers, instructions.

Operations run with random inputs of the released sizes, through the functions that launch their kernels, on a driver
without a device (`compile_only`). Triton's `cuobjdump` disassembles the machine code.

    python -m benchmarks compiled       # appends rows to benchmarks/results/: compute capabilities 8.0, 8.9 and 9.0
    python -m benchmarks.compiled 90    # prints rows of one capability as JSON lines
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from benchmarks.compile_only import compile_only
from benchmarks.compiled_forms import FORMS
from benchmarks.rows import row
from clouds.bench.problems import KernelProblem

CAPABILITIES = (80, 89, 90)
_UNITS = {"registers": "registers", "spilled": "B", "shared memory": "B"}
_INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:@!?\w+ )?(\w+)((?:\.\w+)*)\s*([^;]*);", re.MULTILINE)
_TARGET = re.compile(r"0x([0-9a-f]+)$")


def run() -> list[dict[str, Any]]:
    """A row per kernel, capability and figure."""
    return list(rows(CAPABILITIES, FORMS))


def rows(capabilities: Iterable[int], names: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Rows of the named forms. A kernel that two forms share is listed with the first.

    If a form launches several kernels compiled from one function, they are numbered from the second on.
    """
    for capability in capabilities:
        seen: set[str] = set()
        for name in names:
            launches = {compiled.hash: (kernel, compiled) for kernel, compiled in launched(FORMS[name], capability)}
            counts: Counter[str] = Counter()
            for key, (kernel, compiled) in launches.items():
                counts[kernel] += 1
                number = f" ({counts[kernel]})" if counts[kernel] > 1 else ""
                if key not in seen:
                    yield from _rows(f"{kernel} {name.partition(' ')[2]}{number}", compiled, capability)
            seen |= launches.keys()


def launched(make: Callable[[], KernelProblem], capability: int) -> list[tuple[str, Any]]:
    """All kernel launches of a form, forward and backward, as (kernel name, compiled kernel)."""
    problem = make()
    leaves = problem.leaves()
    with compile_only(capability) as launches:
        for leaf in leaves:
            leaf.requires_grad_()
        outputs = problem.run("triton")
        if leaves:
            torch.autograd.grad(outputs, leaves, [torch.ones_like(output) for output in outputs])
    return launches


def _rows(provider: str, compiled: Any, capability: int) -> Iterator[dict[str, Any]]:
    facts = {"capability": capability, "num_warps": compiled.metadata.num_warps, "launched": True}
    figures = {**machine_code(compiled.asm["cubin"]), "shared memory": compiled.metadata.shared}
    for name, value in figures.items():
        yield row("compiled", provider, name, _UNITS.get(name, "instructions"), [value], **facts)


def machine_code(cubin: bytes) -> dict[str, int]:
    """Statistics of one kernel's machine code.

    Registers and spilled bytes (stores and loads) per thread; barriers; all instructions; and instructions of the
    longest innermost loop, which the assembler may have unrolled.

    Raises:
        RuntimeError: the code cannot be disassembled.
    """
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as stream:
        stream.write(cubin)
        stream.flush()
        command = [knobs.nvidia.cuobjdump.path, "-res-usage", "-sass", stream.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    registers = re.search(r"REG:(\d+)", done.stdout)
    if done.returncode or not registers:
        raise RuntimeError(f"cuobjdump failed with exit code {done.returncode}: {done.stderr.strip()}")
    code = [
        (int(address, 16), name, types, operands.strip())
        for address, name, types, operands in _INSTRUCTION.findall(done.stdout)
        if name != "NOP"  # padding behind the end
    ]
    return {
        "registers": int(registers[1]),
        "spilled": sum(_width(types) for _, name, types, _ in code if name in ("STL", "LDL")),
        "barriers": sum(name == "BAR" for _, name, _, _ in code),
        "instructions": len(code),
        "inner loop": _inner_loop(code),
    }


def _width(types: str) -> int:
    """Bytes of a local load or store: 4 unless it specifies bits."""
    bits = re.search(r"\.[US]?(\d+)$", types)
    return int(bits[1]) // 8 if bits else 4


def _inner_loop(code: list[tuple[int, str, str, str]]) -> int:
    """Instructions of the longest innermost loop, 0 without loops; a loop ends with a branch to its start."""
    jumps = [(address, _TARGET.search(operands)) for address, name, _, operands in code if name == "BRA"]
    loops = [(int(found[1], 16), address) for address, found in jumps if found and int(found[1], 16) < address]
    inner = [
        one for one in loops if not any(other != one and one[0] <= other[0] and other[1] <= one[1] for other in loops)
    ]
    return max((sum(start <= address <= stop for address, *_ in code) for start, stop in inner), default=0)


if __name__ == "__main__":
    for one in rows(map(int, sys.argv[1:]) if sys.argv[1:] else CAPABILITIES, FORMS):
        print(json.dumps(one), flush=True)
