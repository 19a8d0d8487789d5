"""The class index: written by a check, read for training, refused for any other dataset."""

import json
from pathlib import Path

import numpy as np
import pytest
from folder_helpers import SIZE, Add

from clouds import ConfigError, DataError, LabelSpace
from clouds.data.check import check_dataset
from clouds.data.class_index import read_class_index
from clouds.data.folder import Dataset, open_dataset


@pytest.fixture
def dataset(town: Path, add: Add, labels: LabelSpace) -> Dataset:
    half = np.zeros(SIZE, np.uint8)
    half[:2], half[3] = 1, 255
    add("a", label=half)
    add("b", label=np.full(SIZE, 2, np.uint8))
    return open_dataset(f"folder:{town}", labels)


@pytest.fixture
def path(dataset: Dataset, tmp_path: Path) -> Path:
    index = check_dataset(dataset).class_index
    assert index is not None
    index.write(tmp_path / "index.json")
    return tmp_path / "index.json"


def test_it_counts_the_labelled_pixels_of_each_image(dataset: Dataset, path: Path) -> None:
    assert read_class_index(path, dataset).counts.tolist() == [[6, 12, 0], [0, 0, 24]]


def test_a_dataset_with_faults_has_none(town: Path, add: Add, labels: LabelSpace) -> None:
    add("a", label=np.full(SIZE, 9, np.uint8))
    assert check_dataset(open_dataset(f"folder:{town}", labels)).class_index is None


def test_the_index_of_another_dataset_is_refused(path: Path, town: Path, add: Add, labels: LabelSpace) -> None:
    def read(space: LabelSpace = labels) -> None:
        read_class_index(path, open_dataset(f"folder:{town}", space))

    others = LabelSpace.from_names(["road", "car", "tree"], ids=[7, 26, 21])
    with pytest.raises(DataError, match=r"is not the index of .* counts 3 other classes than label space"):
        read(others)
    (town / "dataset.toml").write_text('[labels.mapping]\n"9" = "ignore"\n', encoding="utf-8")
    with pytest.raises(DataError, match="it was counted with another label encoding"):
        read()
    (town / "dataset.toml").unlink()
    file = town / "labels" / "train" / "b.png"
    content = file.read_bytes()
    add("b", label=np.random.default_rng(0).integers(0, 3, SIZE, np.uint8))
    with pytest.raises(DataError, match=r"b\.png has \d+ bytes; the index says \d+; write it with: clouds datasets"):
        read()
    file.write_bytes(content)
    read()
    for part in ("images", "labels"):
        (town / part / "train" / "b.png").rename(town / part / "train" / "c.png")
    with pytest.raises(DataError, match="it has image 'b', the dataset 'c'"):
        read()
    add("d")
    with pytest.raises(DataError, match=r"it has 2 images, the dataset 3; write it with: clouds datasets check"):
        read()


def test_what_is_no_index_is_refused(path: Path, dataset: Dataset) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    for text in (None, "{", "[]", json.dumps({**document, "more": 1})):
        path.unlink() if text is None else path.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match=r"index\.json.*"):
            read_class_index(path, dataset)
    for change in ({"names": ["a"]}, {"pixels": [[1], [2]]}, {"pixels": [[1, 2, -1], [1, 2, 3]]}):
        path.write_text(json.dumps(document | change), encoding="utf-8")
        with pytest.raises(ConfigError, match="its columns do not fit each other; write it with"):
            read_class_index(path, dataset)
