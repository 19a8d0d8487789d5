"""`clouds predict --format cityscapes-ids --zip`."""

import json
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from cli_helpers import Run
from PIL import Image

from clouds import ConfigError, LabelSpace
from clouds.cli.server_files import raw_ids
from clouds.core.contract.labels import CITYSCAPES


def test_raw_ids_in_a_zip(run: Run, checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    spec, plain = f"folder:{photos}:val", tmp_path / "plain"
    assert run("predict", checkpoint, spec, "--out", plain).code == 0
    options = ("--format", "cityscapes-ids", "--zip", "--json")
    outcome = run("predict", checkpoint, spec, "--out", tmp_path / "test", *options)
    assert outcome.code == 0, outcome.err
    assert [set(row) for row in json.loads(outcome.out)] == [{"image", "labels"}] * 2
    assert sorted(path.name for path in (tmp_path / "test").iterdir()) == ["a.png", "b.png"]
    with ZipFile(tmp_path / "test.zip") as archive:
        assert archive.namelist() == ["a.png", "b.png"]
        found = np.asarray(Image.open(archive.open("a.png")))
    assert np.array_equal(found, np.array(CITYSCAPES.ids)[np.asarray(Image.open(plain / "a.png"))])


def test_other_classes_have_no_raw_id() -> None:
    assert raw_ids(LabelSpace.from_names(["sky", "road"])).tolist() == [23, 7] + [0] * 254
    with pytest.raises(ConfigError, match=r"cityscapes-ids: label space 'custom' has 'lesion', which is not a class"):
        raw_ids(LabelSpace.from_names(["road", "lesion"]))
