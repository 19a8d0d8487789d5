"""Peak memory is that of this process, not of the one that started it."""

import subprocess
import sys

import numpy as np

from clouds.core.system.memory import peak_memory

PROGRAM = "from clouds.core.system.memory import peak_memory; print(peak_memory())"


def test_what_was_held_counts_and_is_not_handed_on() -> None:
    before = peak_memory()
    held = np.ones(1 << 26)  # 512 MiB
    assert peak_memory() >= max(before, held.nbytes)
    child = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert 0 < int(child.stdout) < held.nbytes  # of a program that imports no torch
