import json
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_helpers import Run, assert_one_line

import clouds
from clouds.core.system.images import write_png


@pytest.fixture
def checkpoints(tmp_path: Path) -> list[Path]:
    """Three pipelines with other random weights, the last of other classes."""
    found = [tmp_path / name for name in ("one", "two", "other")]
    for seed, path in enumerate(found):
        labels = ["a", "b", "c"] if path.name != "other" else ["x", "y"]
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            tiny = {"name": "tiny", "dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
            head = {"name": "linear", "width": 8}
            pipeline = clouds.compose(backbone=tiny, head=head, refiner="regions", labels=labels, device="cpu")
        pipeline.trained = True
        pipeline.save(path)
    return found


@pytest.fixture
def photos(tmp_path: Path) -> str:
    rng = np.random.default_rng(0)
    for index in range(3):
        name = f"val/{index}.png"
        write_png(tmp_path / "photos" / "images" / name, rng.integers(0, 256, (32, 48, 3), np.uint8))
        write_png(tmp_path / "photos" / "labels" / name, rng.integers(0, 3, (32, 48), np.uint8))
    return f"folder:{tmp_path / 'photos'}:val"


def test_scores_and_their_correlations_are_printed(
    run: Run, checkpoints: list[Path], photos: str, tmp_path: Path
) -> None:
    one, two, _ = checkpoints
    pictures = tmp_path / "photos" / "images" / "val"
    outcome = run("score", one, two, "--pictures", pictures, "--count", "2", "--device", "cpu")
    assert (outcome.code, outcome.err) == (0, "")
    assert "in percent, on 2 pictures; higher is better" in outcome.out
    assert "consensus" in outcome.out
    assert "rank correlation" not in outcome.out
    assert "refinement" not in outcome.out  # it was not asked for
    command = ["score", one, two, "--pictures", photos, "--data", photos, "--refiner", "regions", "--device", "cpu"]
    assert "its choice" in run(*command).out
    printed = json.loads(run(*command, "--json").out)
    assert printed["pictures"] == 3
    assert [row["name"] for row in printed["checkpoints"]] == [str(one), str(two)]
    assert printed["checkpoints"][0]["scores"]["consensus"] == printed["checkpoints"][1]["scores"]["consensus"]
    for row, path in zip(printed["checkpoints"], (one, two), strict=True):
        assert row["miou"] == clouds.evaluate(clouds.load(path, device="cpu"), [photos]).miou
        assert "refinement" in row["scores"]
    assert printed["rank_correlations"]["stability"]["rho"] is None  # of two checkpoints


def test_bad_input_is_one_line(run: Run, checkpoints: list[Path], photos: str, tmp_path: Path) -> None:
    one, _, other = checkpoints
    assert run("score", one).code == 2
    assert run("score", one, "--pictures", photos, "--count", "0").code == 2
    assert_one_line(run("score", one, one, "--pictures", photos), "expected one or more different checkpoints")
    assert_one_line(
        run("score", one, other, "--pictures", photos), "has the classes of", "score checkpoints of the same"
    )
    assert_one_line(run("score", one, "--pictures", tmp_path / "nowhere"), "nowhere")
    assert "did you mean 'regions'" in run("score", one, "--pictures", photos, "--refiner", "regoins").err
    assert_one_line(run("score", tmp_path / "photos", "--pictures", photos), str(tmp_path / "photos"))
