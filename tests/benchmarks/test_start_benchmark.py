"""The rows of the start-up benchmark, of one turn."""

import subprocess
from pathlib import Path

import pytest

from benchmarks import start


def test_every_case_is_started_beside_torch() -> None:
    rows = start.run(start.Load(rounds=1, cases=("clouds info tiny", "clouds.compose")))
    found = {(one["case"], one["metric"]): one["p50"] for one in rows}
    assert found.keys() >= {(start.TORCH, "CPU time"), ("clouds info tiny", "CPU time"), ("clouds.compose", "CPU time")}
    assert all(one["provider"] == "clouds" and one["unit"] == "s" and one["p50"] > 0 for one in rows)


def test_what_fails_is_no_row(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError, match="no_such_module"):
        start._cpu_seconds(["import no_such_module"], tmp_path)
