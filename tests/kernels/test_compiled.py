"""Every kernel, as it is launched, compiles for three generations of GPUs within their limits; no GPU is needed."""

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
    first = {name.split()[0]: name for name in reversed(compiled.FORMS)}
    for row in compiled.rows([90], first.values()):
        print(json.dumps(row))
"""


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: Triton cannot compile where it interprets."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((["-c", FIRST_FORMS], {90}), id="first forms"),
        # some 160, a second of compiling for each
        pytest.param((["-m", "benchmarks.compiled"], set(SHARED_MEMORY)), id="all forms", marks=pytest.mark.slow),
    ],
)
def rows(request: pytest.FixtureRequest) -> list[dict]:
    """Rows of the benchmark."""
    arguments, capabilities = request.param
    done = python(*arguments)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert {one["capability"] for one in found} == capabilities
    return found


def test_every_kernel_is_compiled(rows: list[dict]) -> None:
    """Each function that a launch can name: they are called as their module and what they do."""
    expected = {
        line.removeprefix("def ").partition("(")[0]
        for path in (*(ROOT / "clouds/kernels/_triton").glob("*.py"), ROOT / "clouds/bench/gather.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith(f"def {path.stem}_")
    }
    assert expected
    assert {one["provider"].split()[0] for one in rows} == expected


def test_no_forward_kernel_spills_registers(rows: list[dict]) -> None:
    spilled = defaultdict(list)
    for one in rows:
        if one["metric"] == "spilled" and "_backward" not in one["provider"] and one["p50"]:
            spilled[one["provider"]].append((one["capability"], one["p50"]))
    assert not spilled


def test_shared_memory_fits(rows: list[dict]) -> None:
    large = [
        (one["provider"], one["capability"], one["p50"])
        for one in rows
        if one["metric"] == "shared memory" and one["p50"] > SHARED_MEMORY[one["capability"]]
    ]
    assert not large


def test_the_figures_are_those_of_the_machine_code(rows: list[dict]) -> None:
    """What any kernel must have, and what one of these has none of: a gather loops, a combination does not."""
    figures: dict[str, dict[str, float]] = defaultdict(dict)
    for one in rows:
        figures[f"{one['provider']} {one['capability']}"][one["metric"]] = one["p50"]
    assert sum(map(len, figures.values())) == len(rows)  # no two kernels have one name
    for name, made in figures.items():
        assert 0 < made["registers"] <= 255, name
        assert 0 <= made["inner loop"] < made["instructions"], name
    loops = {name.split()[0]: made["inner loop"] for name, made in figures.items()}
    assert loops["gather_forward"] > 0
    assert loops["masked_attention_combine"] == 0


def test_an_interpreter_compiles_nothing() -> None:
    code = "from benchmarks.compile_only import compile_only\nwith compile_only(90):\n    pass"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "RuntimeError: TRITON_INTERPRET is set, so there is nothing to compile; unset it" in done.stderr
