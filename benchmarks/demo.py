"""The table of `clouds demo` over several seeds, with CPU time and peak memory.

    python -m benchmarks.demo --out DIR [--seeds 0 1 2]

Each seed has a folder in `--out`; seeds that are finished there are not repeated. Rows that
`benchmarks/results/demo.jsonl` lacks are appended: mIoU of each column and domain, CPU seconds, and peak memory.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.rows import RESULTS, append, read_rows, row
from clouds.core.system.files import write_text
from clouds.core.system.memory import peak_memory
from clouds.demo.run import DemoResult, run_demo

NAME = "demo"
_ROWS = "rows.json"


def run(out: Path, seeds: list[int], results: Path = RESULTS, demo: Callable[..., DemoResult] = run_demo) -> None:
    """Run the seeds that are not finished in `out`, and append the rows that the results lack."""
    for seed in seeds:
        folder = out / f"seed-{seed}"
        if not (folder / _ROWS).is_file():
            write_text(folder / _ROWS, json.dumps(_measured(folder, seed, demo)))
        rows = json.loads((folder / _ROWS).read_text(encoding="utf-8"))
        known = {_key(one) for one in read_rows(NAME, results)}
        append(NAME, [one for one in rows if _key(one) not in known], results)


def _measured(folder: Path, seed: int, demo: Callable[..., DemoResult]) -> list[dict[str, Any]]:
    before = time.process_time()
    result = demo(folder, seed=seed, say=print)
    cost = {"CPU time": (time.process_time() - before, "s"), "peak memory": (peak_memory() / 1e9, "GB")}
    rows = [
        row(NAME, provider, "mIoU", "%", [value], domain=domain, seed=seed, steps=result.steps)
        for domain, *values in result.table()
        for provider, value in zip(result.header[1:], values, strict=True)
        if value is not None
    ]
    for arms in result.trained:
        for when, value in (("teacher", arms.pseudo_labels.before), ("refined teacher", arms.pseudo_labels.after)):
            if value is not None:
                facts = {"domain": "generated", "seed": seed, "steps": result.steps}
                rows.append(row(NAME, f"{arms.title}: {when}", "mIoU", "%", [value], **facts))
    costs = [row(NAME, "all columns", what, unit, [value], seed=seed) for what, (value, unit) in cost.items()]
    return [*rows, *costs]


def _key(one: dict[str, Any]) -> tuple[Any, ...]:
    return one["provider"], one["metric"], one.get("domain"), one["seed"], one["commit"]


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    asked = parser.parse_args()
    run(asked.out, asked.seeds)


if __name__ == "__main__":
    main()
