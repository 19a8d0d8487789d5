import json
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import SMALL_RECIPE, Run, assert_one_line

from clouds.core.system.images import write_png
from clouds.training.ablation_arms import split_arms


@pytest.fixture
def photos(tmp_path: Path) -> str:
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for index in range(2):
            name = f"{split}/{index}.png"
            write_png(tmp_path / "photos" / "images" / name, rng.integers(0, 256, (32, 32, 3), np.uint8))
            write_png(tmp_path / "photos" / "labels" / name, rng.integers(0, 3, (32, 32), np.uint8))
    return f"folder:{tmp_path / 'photos'}"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL_RECIPE, encoding="utf-8")
    return path


def test_arms_are_trained_compared_and_drawn(run: Run, recipe: Path, photos: str, tmp_path: Path) -> None:
    command = ["ablate", recipe, "--set", f"data.source={photos}:train", "--out", tmp_path / "out"]
    command += ["--arms", "source,slow=source+optimizer.lr=1e-5", "--seeds", "0", "1", "--data", f"{photos}:val"]
    outcome = run(*command)
    assert outcome.code == 0, outcome.err
    assert "gain, over images" in outcome.out
    assert f"report: {tmp_path / 'out' / 'report.html'}" in outcome.out
    printed = json.loads(run(*command, "--json").out)
    assert [arm["name"] for arm in printed["arms"]] == ["source", "slow"]
    assert set(printed["intervals"]["slow"]) == {"miou", "gain"}


def test_bad_input_is_one_line(run: Run, recipe: Path, photos: str, tmp_path: Path) -> None:
    command = ["ablate", recipe, "--set", f"data.source={photos}:train", "--out", tmp_path / "out"]
    data = ["--data", f"{photos}:val"]
    assert_one_line(run(*command), "ablate needs domains to score on: --data", code=2)
    assert_one_line(run(*command, *data, "--arms", "source,sauce"), "arm 'sauce' is unknown; did you mean 'source'")
    (tmp_path / "out" / "note.txt").parent.mkdir()
    (tmp_path / "out" / "note.txt").write_text("mine", encoding="utf-8")
    assert_one_line(run(*command, *data, "--arms", "source"), "has no ablation.json; choose another folder")


@pytest.mark.parametrize(
    "own",
    [
        "own=source+data.crop=[32,64]+data.flip=false",
        'own=source+optimizer.groups=[{match="backbone.*",lr=0.1},{match="*.bias",decay=0}]',
    ],
)
def test_commas_separate_arms_but_not_values(own: str) -> None:
    assert split_arms(f"source,{own},refined") == ["source", own, "refined"]
