"""A short run of the fuzzers; `make torture N=1000000` is a long one."""

import subprocess
import sys
from pathlib import Path

import pytest
from fuzz import door_row

from benchmarks.rows import read_rows
from benchmarks.table import torture_table

N = 12_000


@pytest.mark.slow
def test_every_input_is_read_or_refused_in_one_line(tmp_path: Path) -> None:
    rows = tmp_path / "torture.jsonl"
    command = [sys.executable, str(Path(__file__).with_name("fuzz.py")), str(N), "--out", str(tmp_path), "--row", rows]
    done = subprocess.run(command, capture_output=True, text=True, timeout=540, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    tried = sum(int(line.split()[-6]) for line in done.stdout.splitlines() if " inputs " in line)
    assert tried > 0.9 * N, done.stdout
    written = read_rows("torture", tmp_path)
    assert sum(row["inputs"] for row in written) == tried
    assert f"| all |  | {tried:,} | 0 | " in torture_table(written)


def test_a_row_for_each_door_makes_the_table() -> None:
    rows = [door_row("images", 2000, 0, 8.04, seed=7), door_row("SPEC", 10, 1, 3.2, seed=7, start=5)]
    assert [(row["door"], row["inputs"], row["p50"], row["seconds"], row["start"]) for row in rows] == [
        ("images", 2000, 0, 8.0, 0),
        ("SPEC", 10, 1, 3.2, 5),
    ]
    lines = torture_table(rows).splitlines()
    assert lines[2:] == [
        "| `images` | 7 | 2,000 | 0 | 8 |",
        "| `SPEC` | 7 | 10 | 1 | 3 |",
        "| all |  | 2,010 | 1 | 11 |",
    ]
    assert torture_table([*rows, *rows]) == torture_table(rows)
    assert torture_table([]) == "not measured"
