"""The operations of two source trees side by side, on the same inputs.

    python -m benchmarks.gpu.beside OUT TREE OTHER    # rows in OUT/results/beside.jsonl

The trees run one after the other, each in its own process, then TREE again: its two runs differ only by noise. The
deviation is the distance of outputs from the reference, relative to their norm.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

FORMS = ((1024, 2048, 1), (512, 1024, 1), (512, 1024, 8))  # height, width, batch


def main(out: str, *trees: str) -> int:
    """Rows of the first tree, the second, and the first again."""
    from benchmarks.rows import append

    for run, tree in enumerate((*trees, trees[0])):
        for one in measured(Path(tree), run, "cuda", FORMS):
            append("beside", [one], Path(out) / "results")
            name = f"{tree}: {one['op']} {one['shape']} batch {one['batch']}"
            print(f"FAILED {name}: {one['error']}" if "error" in one else f"{name}: {one['p50']:.4g} ms", flush=True)
    return 0


def measured(tree: Path, run: int, device: str, forms: Sequence[Sequence[int]]) -> Iterator[dict[str, Any]]:
    """Rows of one tree, measured in a process that imports its `clouds`.

    Raises:
        RuntimeError: the process failed.
    """
    from benchmarks.rows import row

    paths = os.pathsep.join([str(tree), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, __file__, str(tree), device, json.dumps(forms)]
    environment = {**os.environ, "PYTHONPATH": paths}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            found = json.loads(line)
            yield row("beside", tree.name, found["op"], "ms", found.pop("ms", []), run=run, dtype="bfloat16", **found)
    if process.returncode:
        raise RuntimeError(f"{tree}: exit code {process.returncode}, for what is printed above")


def measure_here(tree: str, device: str, forms: str) -> None:
    """Runs in the process of a tree, and prints a line of JSON per operation."""
    import torch

    import clouds
    from clouds.bench.problems import PROBLEMS, Size
    from clouds.bench.timing import milliseconds

    if Path(tree) not in Path(clouds.__file__).parents:
        raise RuntimeError(f"clouds is that of {clouds.__file__}, not of {tree}")
    where = torch.device(device)
    for height, width, batch in json.loads(forms):
        for op, make in PROBLEMS.items():
            torch.manual_seed(0)
            found: dict[str, Any] = {"op": op, "shape": [height, width], "batch": batch}
            try:
                problem = make(Size(image=(height, width), batch=batch), torch.bfloat16, where)
                with torch.no_grad():
                    pairs = zip(problem.run("auto"), problem.run("reference"), strict=True)
                    found["deviation"] = max(float((a.float() - b.float()).norm() / b.float().norm()) for a, b in pairs)
                    found["ms"] = milliseconds({op: partial(problem.run, "auto")}, where, repeats=20)[op]
            except Exception as error:  # noqa: BLE001 - a kernel may raise anything; the others run
                found["error"] = f"{type(error).__name__}: {str(error)[:200]}"
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    if __package__:
        raise SystemExit(main(*sys.argv[1:]))
    measure_here(*sys.argv[1:])
