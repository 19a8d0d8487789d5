import json
from pathlib import Path

import pytest
from cli_helpers import Run, assert_one_line, write_evaluated_run


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two seeds of a recipe, and another recipe."""
    return [
        write_evaluated_run(tmp_path / "base-0"),
        write_evaluated_run(tmp_path / "base-1", "seed=1", score=51.0),
        write_evaluated_run(tmp_path / "other", "optimizer.lr=0.5", score=52.0),
    ]


def test_runs_are_printed_and_drawn(run: Run, runs: list[Path], tmp_path: Path) -> None:
    outcome = run("compare", *runs, "--report", tmp_path / "report")
    assert (outcome.code, outcome.err) == (0, "")
    assert "50.5 ± 0.7" in outcome.out
    assert "optimizer.lr" in outcome.out
    assert "50.5 ± 0.7" in (tmp_path / "report" / "comparison.html").read_text(encoding="utf-8")
    printed = run("compare", *runs, "--json")
    assert (tmp_path / "report" / "comparison.json").read_text(encoding="utf-8") == printed.out
    assert [arm["name"] for arm in json.loads(printed.out)["arms"]] == ["base", "other"]


def test_bad_input_is_one_line(run: Run, runs: list[Path], tmp_path: Path) -> None:
    assert_one_line(
        run("compare", tmp_path), f"{tmp_path}: not the folder of a run: has no recipe.json; give the --out"
    )
    log = runs[1] / "log.jsonl"
    log.write_text(log.read_text(encoding="utf-8").replace('"day"', '"night"'), encoding="utf-8")
    assert_one_line(run("compare", *runs), "base-1, step 4: scored night, but base-0 scored day; compare runs that")
    log.write_text("", encoding="utf-8")
    assert_one_line(run("compare", *runs), "base-1: has no evaluation with scores per domain; train with")
    assert run("compare").code == 2
