"""Run benchmarks: all, or those named on the command line."""

from __future__ import annotations

import sys
from importlib import import_module

from benchmarks.rows import append

# Imported on demand, because a benchmark does not need the libraries of others.
BENCHMARKS = (
    "adapters",
    "cluster",
    "compiled",
    "decoder",
    "end_to_end",
    "evaluation",
    "head",
    "kernels",
    "loading",
    "manifest",
    "memory",
    "precision",
    "predict",
    "refiners",
    "sam",
    "start",
    "walks",
)


def main(names: list[str]) -> int:
    """Run the named benchmarks (all by default) and print their rows."""
    unknown = sorted(set(names) - set(BENCHMARKS))
    if unknown:
        print(f"unknown benchmark {unknown[0]!r}; known: {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    for name in names or BENCHMARKS:
        rows = import_module(f"benchmarks.{name}").run()
        for one in rows:
            if "error" in one:
                print(f"{one['benchmark']:<10} {one['provider']:<32} {one['metric']:<34} cannot run: {one['error']}")
                continue
            print(
                f"{one['benchmark']:<10} {one['provider']:<32} {one['metric']:<34} "
                f"{one['p50']:>10.4f} {one['unit']}  [{one['p20']:.4f} .. {one['p80']:.4f}]"
            )
        print(f"-> {append(name, rows)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
