"""Carries out kill drills: `python tests/torture/kill.py [NAME ...] [--twice]`; with `--twice` kills come in pairs."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NAMES = (
    *("generate", "shards", "refine", "datasets-convert-link", "datasets-convert-copy", "predict", "train", "save"),
    *("convert", "weights-fetch"),
)


def compile_preload(folder: Path) -> Path:
    """The library that counts and kills. Only Linux's C library has the functions that it names."""
    library = folder / "kill_at.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, HERE / "kill_at.c", "-ldl"], check=True)
    return library


def drill(name: str, preload: Path, folder: Path, *, twice: bool = False) -> dict[str, Any]:
    """Carry out one drill in a process of its own. Returns the number of kills, and all faults."""
    environment = {**os.environ, "LD_PRELOAD": str(preload), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, str(HERE / "drill.py"), name, str(folder), *["--twice"] * twice]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill at every operation on files.")
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--twice", action="store_true")
    given = parser.parse_args()
    faults = 0
    with tempfile.TemporaryDirectory() as base:
        preload = compile_preload(Path(base))
        for name in given.names:
            found = drill(name, preload, Path(base) / name, twice=given.twice)
            faults += len(found["faults"])
            lines = [f"{name:22} {found['kills']:5} kills  {len(found['faults']):5} faults", *found["faults"]]
            sys.stdout.write("\n  ".join(lines) + "\n")
            sys.stdout.flush()
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
