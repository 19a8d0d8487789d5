"""The command line's tests under conditions that some machines have."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1] / "cli"
# `HOME` below a file can be written by nobody, root included.
CONDITIONS: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "warnings-are-errors": (("-W", "error"), {}),
    "strict-utf-8": (("-X", "utf8"), {"PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8:strict"}),
    "LANG=C": ((), {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
    "read-only-home": ((), {"HOME": f"{__file__}/home", "XDG_CACHE_HOME": "", "CLOUDS_CACHE": ""}),
}


@pytest.mark.slow
@pytest.mark.parametrize("condition", CONDITIONS)
def test_commands_work_under(condition: str, tmp_path: Path) -> None:
    flags, variables = CONDITIONS[condition]
    command = [sys.executable, *flags, "-m", "pytest", str(TESTS), "-q", "-p", "no:cacheprovider"]
    environment = {**os.environ, **variables, "COLUMNS": "300", "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
