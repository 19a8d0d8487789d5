"""What the compiler makes of every kernel, without a GPU: registers, spills and shared memory.

Each form of each kernel (`VARIANTS` of the modules in `clouds/kernels/_triton`) is compiled for compute capability 8.0,
8.9 and 9.0 as it is shipped, and assembled by the `ptxas` that comes with Triton.

    python -m benchmarks compiled     # appends rows to benchmarks/results/
    python -m benchmarks.compiled     # prints rows as JSON lines
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from benchmarks.rows import row

CAPABILITIES = (80, 89, 90)
_REGISTERS = re.compile(r"Used (\d+) registers")
_SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")


def run() -> list[dict[str, Any]]:
    """A row per kernel, form, capability and figure."""
    return [one for variant in variants() for capability in CAPABILITIES for one in _rows(variant, capability)]


def variants() -> Iterator[Any]:
    """Every form of every kernel."""
    package = import_module("clouds.kernels._triton")
    for module in iter_modules(package.__path__):
        yield from getattr(import_module(f"{package.__name__}.{module.name}"), "VARIANTS", ())


def compile_variant(variant: Any, capability: int) -> dict[str, int]:
    """Registers per thread, bytes spilled per thread, and bytes of shared memory per program.

    Raises:
        RuntimeError: Triton runs as an interpreter, or `ptxas` refuses the code.
    """
    import triton
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    if knobs.runtime.interpret:
        raise RuntimeError("TRITON_INTERPRET is set, so there is nothing to compile; unset it")
    constants = {**variant.constants, **variant.launch.blocks}
    signature = {name: variant.signature.get(name, "constexpr") for name in variant.kernel.arg_names}
    places = {(variant.kernel.arg_names.index(name),): value for name, value in constants.items()}
    options = {"num_warps": variant.launch.num_warps, "num_stages": variant.launch.num_stages}
    aligned = {  # as allocations are, which a launch finds out; without, no load is wider than one element
        (place,): [["tt.divisibility", 16]] for place, kind in enumerate(signature.values()) if str(kind)[0] == "*"
    }
    source = ASTSource(variant.kernel, signature=signature, constexprs=places, attrs=aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    return {**_assembled(compiled.asm["ptx"]), "shared memory": compiled.metadata.shared}


def _assembled(ptx: str) -> dict[str, int]:
    """What `ptxas -v` says of the code; the newer one takes what the older one does not know."""
    import triton

    target = re.search(r"^\.target (\w+)", ptx, re.MULTILINE)
    folder = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    name = "ptxas-blackwell" if target and target[1] == "sm_90a" else "ptxas"
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as stream:
        stream.write(ptx)
        stream.flush()
        command = [str(folder / name), "-v", f"-arch={target[1] if target else ''}", stream.name, "-o", "/dev/null"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    registers, spills = _REGISTERS.search(done.stderr), _SPILLS.search(done.stderr)
    if done.returncode or not registers or not spills:
        raise RuntimeError(f"{name} failed with exit code {done.returncode}: {done.stderr.strip()}")
    return {"registers": int(registers[1]), "spilled": int(spills[1]) + int(spills[2])}


def _rows(variant: Any, capability: int) -> list[dict[str, Any]]:
    units = {"registers": "registers", "spilled": "B", "shared memory": "B"}
    facts = {"capability": capability, "forward": variant.forward, "num_warps": variant.launch.num_warps}
    return [
        row("compiled", variant.name, name, units[name], [value], **facts)
        for name, value in compile_variant(variant, capability).items()
    ]


if __name__ == "__main__":
    for one in run():
        print(json.dumps(one), flush=True)
