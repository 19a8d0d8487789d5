"""`--engine` and `--workers` of `clouds generate` and `clouds refine`; the engines are tested in `end_to_end`."""

import sys
from pathlib import Path

import pytest
from cli_helpers import Run, assert_one_line

GENERATE = ("generate", "--generator", "procedural", "--n", 1, "--size", 32, 32)


def test_a_missing_package_is_named_before_anything_is_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    outcome = run(*GENERATE, "--out", tmp_path / "out", "--engine", "ray")
    assert_one_line(outcome, "'ray' needs Ray, which is not installed", "pip install 'clouds-dgss[ray]'")
    assert not (tmp_path / "out").exists()
    assert run(*GENERATE, "--out", tmp_path / "out").code == 0
    outcome = run("refine", tmp_path / "out", "--refiner", "identity", "--engine", "ray")
    assert_one_line(outcome, "lacks label maps")
    assert run(*GENERATE, "--out", tmp_path / "out", "--keep-labels").code == 0
    outcome = run("refine", tmp_path / "out", "--refiner", "identity", "--engine", "ray")
    assert_one_line(outcome, "'ray' needs Ray, which is not installed", "pip install 'clouds-dgss[ray]'")
    assert not (tmp_path / "out-refined").exists()


def test_engines_and_workers_are_checked(run: Run, tmp_path: Path) -> None:
    outcome = run(*GENERATE, "--out", tmp_path / "out", "--engine", "rey")
    assert outcome.code == 2
    assert "rey" in outcome.err
    assert_one_line(run(*GENERATE, "--out", tmp_path / "out", "--workers", 2), "workers=2", "also give engine='ray'")
    assert not (tmp_path / "out").exists()
