"""`clouds serve` in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

COMMAND = "from clouds.cli.app import main; raise SystemExit(main())"
PATIENCE = 120  # seconds; a busy machine makes no test wrong


@contextmanager
def served(*models: str, folder: Path, **environment: str) -> Iterator[str]:
    """Serve models at a free port, and yield the page's address. Its pictures are in `folder`, and gone at the end.

    SIGTERM stops it; the exit code must be 0.
    """
    command = [sys.executable, "-c", COMMAND, "serve", *models, "--port", "0", "--device", "cpu"]
    environment = {**os.environ, "TMPDIR": str(folder), **environment}
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.fullmatch(r".+ at (http://127\.0\.0\.1:\d+/) \(Ctrl-C stops\)\n", line)
            assert found, line
            assert len(list(folder.glob("clouds-serve-*"))) == 1
            yield found[1]
        finally:
            process.terminate()
            code = process.wait(PATIENCE)
    assert code == 0
    assert list(folder.glob("clouds-serve-*")) == []
