from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_helpers import Run, assert_one_line

import clouds
from clouds.core.published import checkpoint as reference


@pytest.fixture
def readable(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """Every checkpoint is read as a small pipeline that keeps three tensors; the calls are noted."""
    calls: list[tuple[object, ...]] = []

    def read(*arguments: object, device: str) -> clouds.Pipeline:
        calls.append((*arguments, device))
        tiny = {"name": "tiny", "dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
        pipeline = clouds.compose(backbone=tiny, head={"name": "linear", "width": 16}, device=device)
        pipeline.trained = True
        pipeline.kept = {key: torch.rand(2) for key in ("void_embedding.weight", "sam.b", "sam.a")}
        return pipeline

    monkeypatch.setattr(reference, "from_reference_checkpoint", read)
    return calls


def test_it_says_what_was_found(run: Run, readable: list[tuple[object, ...]], tmp_path: Path) -> None:
    outcome = run("convert", tmp_path / "model.pth", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert readable == [(tmp_path / "model.pth", False, "cpu")]
    assert "backbone: tiny(" in outcome.out
    assert "head: linear(width=16, detail=None, detail_weight=0.1)" in outcome.out
    assert "classes: road, sidewalk, " in outcome.out
    assert "kept, but unused by any module: void_embedding.weight, sam.* (2)\n" in outcome.out
    loaded = clouds.load(tmp_path / "out", device="cpu")
    assert loaded.trained
    assert list(loaded.kept) == ["void_embedding.weight", "sam.b", "sam.a"]


def test_json_and_the_ensemble(run: Run, readable: list[tuple[object, ...]], tmp_path: Path) -> None:
    outcome = run("convert", tmp_path / "model.pth", tmp_path / "out", "--geometric-ensemble", "--json")
    assert readable == [(tmp_path / "model.pth", True, "cpu")]
    document = json.loads(outcome.out)
    assert document["head"] == "linear"
    assert document["options"] == {"width": 16, "detail": None, "detail_weight": 0.1}
    assert document["kept"] == ["void_embedding.weight", "sam.b", "sam.a"]
    assert document["checkpoint"] == str(tmp_path / "out")


def test_a_checkpoint_of_another_model_is_refused_in_one_line(run: Run, tmp_path: Path) -> None:
    torch.save({"model": {"backbone.res2.weight": torch.zeros(1)}}, tmp_path / "other.pth")
    outcome = run("convert", tmp_path / "other.pth", tmp_path / "out")
    assert_one_line(outcome, "other.pth: not a checkpoint of CLOUDS")
    assert not (tmp_path / "out").exists()


def test_a_truncated_checkpoint_is_refused_in_one_line(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "cut.pth"
    torch.save({"model": {"a": torch.zeros(100)}}, path)
    path.write_bytes(path.read_bytes()[:300])
    assert_one_line(run("convert", path, tmp_path / "out"), "cut.pth: not a whole checkpoint")


def test_a_checkpoint_with_code_is_refused_in_one_line(run: Run, tmp_path: Path) -> None:
    torch.save({"model": {"a": np.random.default_rng(0)}}, tmp_path / "code.pth")
    assert_one_line(run("convert", tmp_path / "code.pth", tmp_path / "out"), "code.pth: refused", "carries code")


def test_a_missing_argument_is_wrong_use(run: Run, tmp_path: Path) -> None:
    assert run("convert", tmp_path / "model.pth").code == 2
