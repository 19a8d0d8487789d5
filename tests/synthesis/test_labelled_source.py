"""Generators that start from labelled images: what they get, and what the manifest says of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from source_helpers import PART, SIZE, Dim, open_source, write_labelled

import clouds
from clouds.core.contract.labels import CITYSCAPES
from clouds.core.system.errors import ConfigError, DataError
from clouds.core.system.images import read_image
from clouds.synthesis.generate import generate_set
from clouds.synthesis.generated_set import GeneratedSet, open_generated
from clouds.synthesis.labelled_source import LabelledSource
from clouds.synthesis.manifest import FILE_NAME


def make(folder: Path, *, n: int = 4, generator: clouds.Generator | None = None, count: int = 3) -> GeneratedSet:
    source = open_source(folder / "source", count)
    return generate_set(generator or Dim(), PART, ["fog"], n=n, out=folder / "set", source=source, size=SIZE)


def test_seeds_show_each_image_once_and_then_smaller_crops(tmp_path: Path) -> None:
    source = open_source(tmp_path)
    drawn = [source.draw(seed, SIZE) for seed in range(6)]
    assert [int(one.image[0, 0, 2]) for one in drawn] == [0, 1, 2, 0, 1, 2]
    boxes = [one.origin["crop"] for one in drawn]
    assert [box[3] - box[1] for box in boxes[:3]] == [24, 24, 24]
    assert all(12 - 1e-3 <= box[3] - box[1] <= 24 for box in boxes[3:])  # crops have 3 decimals


def test_labels_are_cropped_with_the_image(tmp_path: Path) -> None:
    source = open_source(tmp_path)
    for seed in range(20):
        drawn = source.draw(seed, SIZE)
        assert drawn.image.shape == (*SIZE, 3)
        sky = drawn.image[..., 0] > 130  # between the two levels
        edge = np.abs(np.diff(drawn.labels[0].astype(int))).nonzero()[0]
        away = np.ones(SIZE, bool)
        for column in edge:  # Lanczos rings within its support of 3 pixels
            away[:, max(0, column - 3) : column + 5] = False
        np.testing.assert_array_equal(sky[away], (drawn.labels == 10)[away])


def test_the_manifest_says_whose_labels_an_image_has(tmp_path: Path) -> None:
    made = make(tmp_path)
    assert [row.label_kind for row in made.rows] == ["inherited"] * 4
    assert made.labels is not None  # written without being asked for
    for row, image, label in zip(made.rows, made.images, made.labels, strict=True):
        drawn = open_source(tmp_path / "source").draw(row.seed, SIZE)
        np.testing.assert_array_equal(read_image(label)[..., 0], drawn.labels)
        assert (read_image(image) <= drawn.image // 2 + 30).all()
        assert row.origin == drawn.origin
        assert Path(row.origin["file"]).name == f"{row.seed % 3}.png"
    source = made.rows[0].source
    assert source is not None
    assert (source["spec"], source["images"]) == (f"folder:{tmp_path / 'source'}:train", 3)
    assert source["classes"] == list(CITYSCAPES.names)
    assert open_generated(made.folder).rows == made.rows


def test_a_repeated_call_makes_what_is_missing_alone(tmp_path: Path) -> None:
    first = make(tmp_path)
    again = Dim()
    assert make(tmp_path, generator=again).rows == first.rows
    assert again.seeds == []
    first.images[2].unlink()
    rows = make(tmp_path, generator=again).rows
    assert (again.seeds, [row.sha256 for row in rows]) == ([2], [row.sha256 for row in first.rows])


def test_another_source_does_not_continue_a_dataset(tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(DataError, match="image 0 was made with source"):
        make(tmp_path, count=4)


def test_a_generator_and_a_source_need_each_other(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="generator dim starts from labelled images; give their SPEC as source"):
        generate_set(Dim(), PART, ["fog"], n=1, out=tmp_path / "set", size=SIZE)
    pipeline = clouds.compose(backbone="tiny", head="linear", generator="procedural", device="cpu")
    spec = write_labelled(tmp_path / "source")
    with pytest.raises(ConfigError, match="procedural does not start from labelled images; leave out the source"):
        clouds.generate(pipeline, 1, out=tmp_path / "set", prompts=["fog"], source=spec, size=SIZE)


def test_rows_without_the_kind_of_label_are_read(tmp_path: Path) -> None:
    """Manifests that were written before say by the label file alone whether labels are exact."""
    make(tmp_path)
    path = tmp_path / "set" / FILE_NAME
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        del row["label_kind"], row["regions"], row["source"]
    rows[1]["labels"] = None
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    read = open_generated(tmp_path / "set").rows
    assert [row.label_kind for row in read] == ["exact", "pseudo", "exact", "exact"]
    assert read[0].source is None


def test_the_source_is_a_dataset_with_labels(tmp_path: Path) -> None:
    write_labelled(tmp_path)
    (tmp_path / "labels" / "train" / "1.png").unlink()
    with pytest.raises(DataError, match=r"1 of 3 images have no label file"):
        LabelledSource.open(f"folder:{tmp_path}", CITYSCAPES)
