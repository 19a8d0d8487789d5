"""Fuzzes all doors: `python tests/torture/fuzz.py N [--seed S] [--start NUMBER] [--door NAME] [--out DIR] [--row F]`.

An input is known by seed, door and number. It is read in a fork with a bound on memory and an alarm,
so that hangs and crashes are found, too; the fork after them goes on with the next number.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attrs import frozen

SECONDS = 10  # more is a hang
BYTES = 2 << 30  # of address space, beyond what this process has before it reads an input
NUMBER = struct.Struct("<q")


@frozen
class Failure:
    """An input that led to neither a value nor an error in one line."""

    door: str
    number: int
    what: str


def fuzz(door, numbers: range, seed: int) -> Iterator[Failure]:
    """Read inputs, and yield those that fail."""
    at = numbers.start
    with tempfile.TemporaryFile() as found, mmap.mmap(-1, NUMBER.size) as reached:
        while at < numbers.stop:
            NUMBER.pack_into(reached, 0, at)
            child = os.fork()
            if child == 0:
                try:
                    _read_all(door, range(at, numbers.stop), seed, reached, found.fileno())
                except BaseException:  # noqa: BLE001 - the fork must never go on with what its parent does
                    traceback.print_exc()
                    os._exit(1)
                os._exit(0)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            (at,) = NUMBER.unpack_from(reached)
            if code > 0:
                raise RuntimeError(f"the fuzzer itself failed at {door.name} {at}")
            if code < 0:
                killed = f"more than {SECONDS} s" if code == -signal.SIGALRM else signal.Signals(-code).name
                yield Failure(door.name, at, killed)
            at += 1
        found.seek(0)
        for line in found:
            number, what = json.loads(line)
            yield Failure(door.name, number, what)


def _read_all(door, numbers: range, seed: int, reached: mmap.mmap, found: int) -> None:
    from doors import require_one_line

    from clouds.core.system.errors import CloudsError

    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * mmap.PAGESIZE
    resource.setrlimit(resource.RLIMIT_AS, (pages + BYTES, pages + BYTES))
    warnings.simplefilter("ignore")
    for number in numbers:
        content = door.input(seed, number)
        NUMBER.pack_into(reached, 0, number)
        signal.alarm(SECONDS)  # without a handler it ends the process, whatever that is busy with
        try:
            try:
                door.enter(content)
            except CloudsError as error:
                require_one_line(error)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - that is what is looked for
            where = traceback.extract_tb(error.__traceback__)[-1]
            what = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
            os.write(found, json.dumps([number, " ".join(what.split())[:400]]).encode() + b"\n")
        finally:
            signal.alarm(0)


def run(n: int, *, seed: int, start: int, names: list[str], out: Path, rows: Path | None) -> list[Failure]:
    """Fuzz the doors with n inputs in all, from number `start` of each; print tried and failed, keep what failed, and
    append a row for each door to a file."""
    import torch
    from doors import open_doors

    from benchmarks.rows import append

    torch.set_num_threads(1)  # a fork has none of its parent's threads
    failures: list[Failure] = []
    with tempfile.TemporaryDirectory() as folder:
        doors = [door for door in open_doors(Path(folder)) if not names or door.name in names]
        shares = sum(door.share for door in doors)
        for door in doors:
            count, before = max(1, n * door.share // shares), time.monotonic()
            found = list(fuzz(door, range(start, start + count), seed))
            failures += found
            took = time.monotonic() - before
            say(f"{door.name:15} {count:9} inputs  {len(found):6} failures  {took:7.1f} s")
            _keep(found, door, seed, out)
            if rows:
                append(rows.stem, [door_row(door.name, count, len(found), took, seed=seed, start=start)], rows.parent)
    return failures


def door_row(door: str, inputs: int, failures: int, seconds: float, *, seed: int, start: int = 0) -> dict[str, Any]:
    """What came of a door, as a row of `benchmarks/results/torture.jsonl`."""
    from benchmarks.rows import row

    facts = {"door": door, "inputs": inputs, "seconds": round(seconds, 1), "seed": seed, "start": start}
    return row("torture", "clouds", "inputs that led to neither a value nor one line", "inputs", [failures], **facts)


def _keep(found: list[Failure], door, seed: int, out: Path) -> None:
    """Save one input of each sort of failure."""
    kinds = {failure.what.partition(":")[0] + failure.what.rpartition("(")[2]: failure for failure in reversed(found)}
    for failure in kinds.values():
        out.mkdir(parents=True, exist_ok=True)
        path = out / f"{door.name.strip('.').replace(' ', '-')}-{seed}-{failure.number}"
        path.write_bytes(door.input(seed, failure.number))
        say(f"  {path}: {failure.what}")


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz all doors.")
    parser.add_argument("n", type=int, help="inputs in all")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4)))
    parser.add_argument("--start", type=int, default=0, help="number of the first input of each door")
    parser.add_argument("--door", action="append", default=[], help="only these")
    parser.add_argument("--out", type=Path, default=Path("torture"), help="folder for inputs that fail")
    parser.add_argument("--row", type=Path, help="file NAME.jsonl to append a row for each door to")
    given = parser.parse_args()
    say(f"seed {given.seed}, from number {given.start}")
    failures = run(given.n, seed=given.seed, start=given.start, names=given.door, out=given.out, rows=given.row)
    say(f"{len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
