"""Training on renders, evaluating on photographs: that the whole way runs on real input. No score is asserted."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clouds.cli.app import main

DATA = os.environ.get("CLOUDS_DATA")
pytestmark = pytest.mark.skipif(not DATA, reason="CLOUDS_DATA does not name the folder of real test data")
FOLD = """
[fold]
rider = "bicycle"
truck = "car"
bus = "car"
"traffic light" = "traffic sign"
terrain = "ignore"
"""


def run(*words: object) -> int:
    try:
        return main([str(word) for word in words]) or 0
    except SystemExit as stop:
        return int(stop.code or 0)


def test_train_evaluate_predict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = Path(str(DATA))
    few = ["--set", "warmup.steps=3", "--set", "warmup.batch_size=2", "--set", "data.crop=[64,96]"]
    source = f"data.source=folder:{root / 'carla_town07'}"
    assert run("train", "folder", "--set", source, *few, "--out", tmp_path / "run") == 0

    config = tmp_path / "camvid.toml"
    config.write_text(FOLD, encoding="utf-8")
    checkpoint, target = tmp_path / "run" / "warmup", f"folder:{root / 'camvid'}:val"
    report = tmp_path / "report.json"
    words = ["--data", target, "--dataset-config", config, "--json", report]
    assert run("evaluate", checkpoint, *words) == 0
    result = json.loads(report.read_text(encoding="utf-8"))
    (domain,) = result["domains"].values()
    assert domain["images"] == 101
    assert sum(value is not None for value in domain["iou"].values()) == 11

    picture = sorted((root / "camvid" / "images" / "val").iterdir())[0]
    assert run("predict", checkpoint, picture, "--out", tmp_path / "out") == 0
    made = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "out").glob("*.png"))]
    assert len(made) == 2
    assert all(array.shape[:2] == (360, 480) for array in made)
