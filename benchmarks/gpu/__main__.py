"""Run all that needs a GPU, in order of value; see `benchmarks/README.md`.

    python -m benchmarks.gpu --out FOLDER --limit SECONDS

Each row is written to FOLDER/results when it is ready, and the output of the parts to FOLDER/logs. FOLDER/summary.txt
is updated after each part and lists parts that are done, failed or not reached. Exit code 0: everything was done; 1:
something failed, was cut off or was not reached; 2: wrong use, or FOLDER cannot be written.
"""

from __future__ import annotations

import os
import signal
import sys
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu.parts import ENVIRONMENT, parts
from benchmarks.gpu.schedule import run


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, and run."""
    parser = ArgumentParser(prog="python -m benchmarks.gpu", description="Measure on a GPU, the most valuable first.")
    parser.add_argument("--out", type=Path, required=True, help="folder for rows, logs and the summary")
    parser.add_argument("--limit", type=_seconds, default=570.0, help="seconds in all (default: %(default)g)")
    parser.add_argument("--only", nargs="+", metavar="PART", help="these parts alone, after the environment")
    parser.add_argument(
        "--wheels", type=Path, help="folder of wheels that this machine lacks: installed beside, offline"
    )
    parser.add_argument("--beside", type=Path, metavar="TREE", help="another source tree, to compare operations with")
    parser.add_argument("--commit", help="what rows call this state of the source where git is missing")
    given = parser.parse_args(arguments)
    for name in ("wheels", "beside"):
        folder = getattr(given, name)
        if folder is not None and not folder.is_dir():
            parser.error(f"argument --{name}: {folder} is no folder")
    plan = parts(given.out.resolve(), wheels=given.wheels, beside=given.beside)
    unknown = set(given.only or ()) - {part.name for part in plan}
    if unknown:
        parser.error(f"argument --only: no part {min(unknown)!r}; known: {', '.join(part.name for part in plan)}")
    wanted = [part for part in plan if not given.only or part.name in (*given.only, ENVIRONMENT, "wheels")]
    if given.commit:
        os.environ["CLOUDS_COMMIT"] = given.commit
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that this process ends its current part
    try:
        return run(wanted, given.out.resolve(), given.limit)
    except OSError as error:
        print(f"cannot write to {given.out}: {error}; choose another --out", file=sys.stderr)
        return 2
    finally:
        signal.signal(signal.SIGTERM, before)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ArgumentTypeError(f"{text!r}: expected seconds above 0")
    return value


if __name__ == "__main__":
    raise SystemExit(main())
