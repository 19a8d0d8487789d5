"""CPU-seconds of an import, a pipeline or a command: user and system time of a fresh process.

All alternate with `import torch`, and differences are within a turn. A first, uncounted turn writes the byte code that
an installed package has. Processes start in an empty folder, so that PYTHONPATH decides which source tree of `clouds`
they import: `PYTHONPATH=OTHER_WORKTREE python -m benchmarks start` measures another one, and rows name it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from attrs import frozen

from benchmarks.rows import row
from clouds.core.system.images import write_png

TORCH = "import torch"
_COMPOSE = "import clouds; clouds.compose(backbone='tiny', head='mask2former', device='cpu')"
_COMMAND = "from clouds.cli.app import main; raise SystemExit(main())"
_SETUP = """
import clouds
pipeline = clouds.compose(backbone="tiny", head="mask2former", device="cpu")
pipeline.trained = True
pipeline.save("model")
"""


@frozen(kw_only=True)
class Load:
    """Amount of work: the named `cases` (None: all), in each of `rounds` turns."""

    rounds: int = 5
    cases: tuple[str, ...] | None = None


def run(load: Load | None = None) -> list[dict[str, Any]]:
    """Rows of CPU-seconds; for cases that import torch, also of the time beyond `import torch`."""
    load = load or Load()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _prepare(folder)
        provider = imported_tree(folder)
        known = _cases(folder)
        cases = {case: known[case] for case in (TORCH, *(load.cases or known))}
        turns = [{case: _cpu_seconds(words, folder) for case, words in cases.items()} for _ in range(load.rounds + 1)][
            1:
        ]
    rows: list[dict[str, Any]] = []
    for case in cases:
        rows.append(row("start", provider, "CPU time", "s", [turn[case] for turn in turns], case=case))
        beyond = [turn[case] - turn[TORCH] for turn in turns]
        if case != TORCH and min(beyond) > 0:
            rows.append(row("start", provider, "beyond import torch", "s", beyond, case=case))
    return rows


def _cases(folder: Path) -> dict[str, Sequence[str]]:
    """Arguments of `python -c` by case; a command also does its work, on the smallest input."""
    image, data = folder / "data" / "images" / "val" / "0.png", f"folder:{folder / 'data'}:val"
    generate = ["generate", "--generator", "procedural", "--prompts", "prompts.txt", "--n", "1", "--out", "generated"]
    commands = {
        "clouds --help": ["--help"],
        "clouds list": ["list"],
        "clouds info tiny": ["info", "tiny"],
        "clouds plan demo": ["plan", "demo"],
        "clouds predict": ["predict", "model", str(image), "--out", "predicted"],
        "clouds evaluate": ["evaluate", "model", "--data", data],
        "clouds generate": generate,
        "clouds doctor": ["doctor"],
    }
    cases: dict[str, Sequence[str]] = {TORCH: [TORCH], "clouds.compose": [_COMPOSE]}
    return {**cases, **{name: [_COMMAND, *words] for name, words in commands.items()}}


def _cpu_seconds(words: Sequence[str], folder: Path) -> float:
    """CPU-seconds of a process and the children that it waited for.

    Raises:
        CalledProcessError: the process failed; the error has its output.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    arguments = [sys.executable, "-c", *words]
    with tempfile.TemporaryFile() as said, tempfile.TemporaryDirectory(dir=folder) as fresh:
        for name in ("model", "prompts.txt"):
            Path(fresh, name).symlink_to(folder / name)
        child = subprocess.Popen(arguments, stdout=said, stderr=said, cwd=fresh, env=environment)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        if child.returncode:
            raise subprocess.CalledProcessError(child.returncode, arguments, said.read().decode(errors="replace"))
    return usage.ru_utime + usage.ru_stime


def _prepare(folder: Path) -> None:
    """Write a saved pipeline, one labelled image and one prompt."""
    rng = np.random.default_rng(0)
    write_png(folder / "data" / "images" / "val" / "0.png", rng.integers(0, 256, (64, 96, 3), np.uint8))
    write_png(folder / "data" / "labels" / "val" / "0.png", rng.integers(0, 19, (64, 96), np.uint8))
    (folder / "prompts.txt").write_text("A photo of a street with cars.\n", encoding="utf-8")
    subprocess.run([sys.executable, "-c", _SETUP], cwd=folder, check=True)


def imported_tree(folder: Path) -> str:
    """`clouds`; for another source tree than this one, with its commit."""
    find = [sys.executable, "-c", "import clouds; print(clouds.__file__)"]
    tree = Path(subprocess.run(find, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()).parents[1]
    if tree == Path(__file__).parents[1]:
        return "clouds"
    git = ["git", "-C", str(tree), "describe", "--always", "--dirty"]
    return f"clouds at {subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()}"
