"""A short run of the fuzzers; `make torture N=1000000` is a long one."""

import subprocess
import sys
from pathlib import Path

import pytest

N = 12_000


@pytest.mark.slow
def test_every_input_is_read_or_refused_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, str(Path(__file__).with_name("fuzz.py")), str(N), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=540, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    tried = sum(int(line.split()[-6]) for line in done.stdout.splitlines() if " inputs " in line)
    assert tried > 0.9 * N, done.stdout
