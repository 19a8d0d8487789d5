from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clouds.core.contract.labels import CITYSCAPES, LabelSpace
from clouds.core.system.errors import DataError, LeftOutWarning
from clouds.core.system.images import read_image, write_png
from clouds.data.folder import open_dataset
from clouds.synthesis.generated_set import labelled_set, open_generated

PIXELS = np.zeros((2, 3, 3), np.uint8)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """The layout of the published dataset."""
    for index in (10, 9, 100):
        write_png(tmp_path / "images" / f"im_{index}_p{index % 100}.png", PIXELS)
    (tmp_path / "train_dict.json").write_text("[]", encoding="utf-8")
    return tmp_path


def test_the_published_dataset_is_read_in_order(published: Path) -> None:
    made = open_generated(published)
    assert [path.name for path in made.images] == ["im_9_p9.png", "im_10_p10.png", "im_100_p0.png"]
    assert made.rows == ()
    assert made.labels is None


def test_published_labels_count_when_every_image_has_them(published: Path) -> None:
    for index in (9, 10):
        write_png(published / "labels" / f"im_{index}_p{index}_labelTrainIds.png", PIXELS[..., 0])
    assert open_generated(published).labels is None
    write_png(published / "labels" / "im_100_p0_labelTrainIds.png", PIXELS[..., 0])
    labels = open_generated(published).labels
    assert labels is not None
    assert labels[0].name == "im_9_p9_labelTrainIds.png"


def test_links_may_lead_elsewhere(published: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "a.png"
    write_png(elsewhere, PIXELS)
    (published / "images" / "im_1_p1.png").symlink_to(elsewhere)
    images = open_generated(published).images
    assert images[0].name == "im_1_p1.png"
    assert np.array_equal(read_image(images[0]), PIXELS)


def test_pictures_of_all_formats_are_read_and_other_files_are_named(published: Path) -> None:
    Image.fromarray(PIXELS).save(published / "images" / "im_1_p1.webp")
    (published / "images" / "im_2_p2.gif").write_bytes(b"GIF89a")
    (published / "images" / "im_3_p3.png").symlink_to("nowhere.png")
    with pytest.warns(LeftOutWarning, match=r"images: 2 files \(im_2_p2\.gif, im_3_p3\.png\): not read; pictures "):
        images = open_generated(published).images
    assert images[0].name == "im_1_p1.webp"


def test_a_folder_without_pictures_is_named(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match=r"has no manifest\.jsonl, and images/ has no image \(\.jpg"):
        open_generated(tmp_path)


def test_exact_labels_are_matched_by_class_name(tmp_path: Path) -> None:
    labels = np.array([[0, 10, 255], [CITYSCAPES.index("car"), 0, 10]], np.uint8)
    write_png(tmp_path / "made" / "images" / "im_0_p0.png", PIXELS)
    write_png(tmp_path / "made" / "labels" / "im_0_p0_labelTrainIds.png", labels)
    made, other = open_generated(tmp_path / "made"), LabelSpace.from_names(["car", "deer", "road"], ignore=3)
    found = open_dataset(labelled_set(made, tmp_path / "other", other), other)
    assert found.read_label(0).tolist() == [[2, 255, 255], [0, 2, 255]]
    same = open_dataset(labelled_set(made, tmp_path / "same", CITYSCAPES), CITYSCAPES)
    assert np.array_equal(same.read_label(0), labels)
    assert labelled_set(made, tmp_path / "none", LabelSpace.from_names(["deer", "lawn"])) == ""
