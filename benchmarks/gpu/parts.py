"""The parts, in order of value. Each is a separate process, so that its failure or time-out affects no other."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from attrs import field, frozen

ENVIRONMENT = "environment"
_ROOT = Path(__file__).parents[2]
_TESTS = ("tests/kernels", "tests/bench", "tests/core/pipeline/test_cuda_graphs.py", "tests/heads/test_mask2former.py")
_MEASURED = {  # seconds
    "operations": 170,
    "graphs": 60,
    "replays": 60,
    "predict": 90,
    "head": 90,
    "end_to_end": 150,
    "providers": 240,
}
_WORKERS = 12  # parallel compilation: a kernel takes some seconds, and a test launches several


@frozen(kw_only=True)
class Part:
    """One process.

    Attributes:
        name: name of the part and its log.
        seconds: time limit.
        command: command with arguments; it runs in the root of the source tree.
        environment: additional environment variables.
        required: whether all other parts need this one.
    """

    name: str
    seconds: float
    command: tuple[str, ...] = field(converter=tuple)
    environment: Mapping[str, str] = field(factory=dict)
    required: bool = False


def parts(out: Path, *, wheels: Path | None = None, beside: Path | None = None) -> list[Part]:
    """Parts for the folder `out`, the most valuable first.

    Wrong results make times worthless, so tests are first; then the operations at the released size. Providers that
    compile for long or may not work on the machine are last.
    """
    site = out / "site"
    paths = [str(_ROOT), *([str(site)] if wheels else []), *filter(None, [os.environ.get("PYTHONPATH")])]
    shared = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", "TRITON_INTERPRET": "0"}
    shared |= {"CLOUDS_CACHE": str(out / "cache"), "HF_HUB_OFFLINE": "1", "TRITON_DEFAULT_FP_FUSION": "1"}

    def measured(name: str, seconds: float) -> Part:
        command = (sys.executable, "-m", "benchmarks.gpu.measure", name, str(out))
        return Part(name=name, seconds=seconds, command=command, environment=shared)

    plan = [
        Part(
            name=ENVIRONMENT,
            seconds=40,
            command=(sys.executable, "-m", "benchmarks.gpu.environment", str(out)),
            environment=shared,
            required=True,
        ),
        Part(
            name="tests",
            seconds=180,
            command=(sys.executable, "-m", "pytest", *_pytest(out)),
            environment={**shared, "CLOUDS_REQUIRE_GPU": "1"},
        ),
        *(measured(name, seconds) for name, seconds in _MEASURED.items()),
    ]
    if beside:
        command = (sys.executable, "-m", "benchmarks.gpu.beside", str(out), str(_ROOT), str(beside.resolve()))
        plan.insert(-1, Part(name="beside", seconds=150, command=command, environment=shared))
    if wheels:
        install = (sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile", "--target")
        files = sorted(map(str, wheels.resolve().glob("*.whl")))
        plan.insert(0, Part(name="wheels", seconds=60, command=(*install, str(site), *files)))
    return plan


def _pytest(out: Path) -> list[str]:
    """Command for tests that need a GPU. Warnings, as of other library versions, are not failures here."""
    options = ["-q", "-m", "gpu", "-W", "default", "-p", "no:cacheprovider", "--maxfail", "40"]
    workers = ["-n", str(_WORKERS), "--dist", "worksteal"] if find_spec("xdist") else []
    return [*options, *workers, f"--junitxml={out / 'tests.xml'}", *_TESTS]
