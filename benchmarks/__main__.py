"""Run benchmarks: all, or those named on the command line."""

from __future__ import annotations

import sys

from benchmarks import (
    compiled,
    decoder,
    end_to_end,
    evaluation,
    head,
    kernels,
    loading,
    manifest,
    memory,
    precision,
    predict,
    refiners,
    sam,
    start,
)
from benchmarks.rows import append

BENCHMARKS = {
    "compiled": compiled.run,
    "decoder": decoder.run,
    "end_to_end": end_to_end.run,
    "evaluation": evaluation.run,
    "head": head.run,
    "kernels": kernels.run,
    "loading": loading.run,
    "manifest": manifest.run,
    "memory": memory.run,
    "precision": precision.run,
    "predict": predict.run,
    "refiners": refiners.run,
    "sam": sam.run,
    "start": start.run,
}


def main(names: list[str]) -> int:
    """Run the named benchmarks (all by default) and print their rows."""
    unknown = sorted(set(names) - set(BENCHMARKS))
    if unknown:
        print(f"unknown benchmark {unknown[0]!r}; known: {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    for name in names or BENCHMARKS:
        rows = BENCHMARKS[name]()
        for one in rows:
            print(
                f"{one['benchmark']:<10} {one['provider']:<32} {one['metric']:<34} "
                f"{one['p50']:>10.4f} {one['unit']}  [{one['p20']:.4f} .. {one['p80']:.4f}]"
            )
        print(f"-> {append(name, rows)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
