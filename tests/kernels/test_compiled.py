"""Every kernel, as it is shipped, compiles for three generations of GPUs within their limits; no GPU is needed."""

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHARED_MEMORY = {80: 163 * 1024, 89: 99 * 1024, 90: 227 * 1024}  # bytes that a program may ask for

FIRST_FORMS = """if True:
    import json
    from benchmarks import compiled
    forms = {one.kernel: one for one in reversed(list(compiled.variants()))}
    compiled.variants, compiled.CAPABILITIES = forms.values, [90]
    for row in compiled.run():
        print(json.dumps(row))
"""


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((["-c", FIRST_FORMS], {90}), id="first forms"),
        # some 150, half a second of compiling for each
        pytest.param((["-m", "benchmarks.compiled"], set(SHARED_MEMORY)), id="all forms", marks=pytest.mark.slow),
    ],
)
def rows(request: pytest.FixtureRequest) -> list[dict]:
    """Rows of the benchmark, in a process of its own: Triton cannot compile where it interprets."""
    arguments, capabilities = request.param
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert {one["capability"] for one in found} == capabilities
    return found


def test_every_module_of_kernels_is_compiled(rows: list[dict]) -> None:
    found = {one["provider"].split()[0].removesuffix("_forward").removesuffix("_backward") for one in rows}
    modules = {path.stem for path in (ROOT / "clouds/kernels/_triton").glob("*.py")} - {"__init__", "variant"}
    assert modules <= found


def test_no_forward_kernel_spills_registers(rows: list[dict]) -> None:
    spilled = defaultdict(list)
    for one in rows:
        if one["metric"] == "spilled" and one["forward"] and one["p50"]:
            spilled[one["provider"]].append((one["capability"], one["p50"]))
    assert not spilled


def test_shared_memory_fits(rows: list[dict]) -> None:
    large = [
        (one["provider"], one["capability"], one["p50"])
        for one in rows
        if one["metric"] == "shared memory" and one["p50"] > SHARED_MEMORY[one["capability"]]
    ]
    assert not large
