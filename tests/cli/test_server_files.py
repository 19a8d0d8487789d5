"""`clouds predict --format cityscapes-ids --zip`."""

import json
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from cli_helpers import Run
from PIL import Image

from clouds import ConfigError, LabelSpace
from clouds.core.contract.labels import CITYSCAPES
from clouds.inference.formats import check_formats, cityscapes_ids, own_ids


def test_raw_ids_in_a_zip(run: Run, checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    spec, plain = f"folder:{photos}:val", tmp_path / "plain"
    assert run("predict", checkpoint, spec, "--out", plain).code == 0
    options = ("--format", "cityscapes-ids", "--zip", "--json")
    outcome = run("predict", checkpoint, spec, "--out", tmp_path / "test", *options)
    assert outcome.code == 0, outcome.err
    assert [set(row) for row in json.loads(outcome.out)] == [{"image", "labels"}] * 2
    assert sorted(path.name for path in (tmp_path / "test").glob("*.png")) == ["a.png", "b.png"]
    with ZipFile(tmp_path / "test.zip") as archive:
        assert archive.namelist() == ["a.png", "b.png"]
        found = np.asarray(Image.open(archive.open("a.png")))
    assert np.array_equal(found, np.array(CITYSCAPES.ids)[np.asarray(Image.open(plain / "a.png"))])


def test_other_classes_have_no_raw_id() -> None:
    assert cityscapes_ids(LabelSpace.from_names(["sky", "road"])).tolist() == [23, 7] + [0] * 254
    with pytest.raises(ConfigError, match=r"cityscapes-ids: label space 'custom' has 'lesion', which is not a class"):
        check_formats(["cityscapes-ids"], LabelSpace.from_names(["road", "lesion"]))


def test_ids_of_any_label_space_that_a_png_holds() -> None:
    large = own_ids(LabelSpace.from_names(["a", "b"], ids=[3, 459]))
    assert (large.dtype, large[:3].tolist()) == (np.uint16, [3, 459, 0])
    with pytest.raises(ConfigError, match=r"format ids: label space 'custom' has id -1; a PNG holds 0\.\.65535"):
        check_formats(["ids"], LabelSpace.from_names(["a", "b"], ids=[0, -1]))
