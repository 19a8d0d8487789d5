import os
from pathlib import Path

import numpy as np
import pytest
from folder_helpers import SIZE, Add, save
from PIL import Image

from clouds import ConfigError, DataError, LabelSpace
from clouds.core.system.errors import LeftOutWarning
from clouds.core.system.images import EXTENSIONS
from clouds.data.folder import dataset_images, open_dataset


def _checkerboard() -> np.ndarray:
    return (np.indices(SIZE).sum(axis=0) % 2).astype(np.uint8)


def test_pairs_are_found_and_sorted(town: Path, add: Add, labels: LabelSpace) -> None:
    for name, suffix in (("b", ".png"), ("a", ".jpg"), ("c.1", ".JPEG")):
        add(name, suffix=suffix, label=_checkerboard())
    (town / "images" / "train" / "notes.txt").write_text("no picture", encoding="utf-8")
    (town / "images" / "train" / ".a.tmp.png").write_text("unfinished", encoding="utf-8")
    (town / "images" / ".val.tmp").mkdir()
    with pytest.warns(LeftOutWarning, match=r"town:train: 1 file \(notes\.txt\): not read; pictures .* \.jpg, "):
        dataset = open_dataset(f"folder:{town}", labels)
    assert dataset.name == "town:train"
    assert [item.name for item in dataset.items] == ["a", "b", "c.1"]
    assert len(dataset) == 3
    image, label = dataset.read(0)
    assert (image.shape, image.dtype, label.dtype) == ((*SIZE, 3), np.uint8, np.uint8)
    assert np.array_equal(label, _checkerboard())


@pytest.mark.parametrize(
    ("splits", "asked", "default", "taken"),
    [
        (["train"], None, "val", "train"),
        (["train", "val"], None, "val", "val"),
        (["train", "val"], None, "train", "train"),
        (["train", "val"], "train", "val", "train"),
        (["night"], None, "val", "night"),
    ],
)
def test_split(
    town: Path, add: Add, labels: LabelSpace, splits: list[str], asked: str | None, default: str, taken: str
) -> None:
    for split in splits:
        add("a", split=split)
    spec = f"folder:{town}" + (f":{asked}" if asked else "")
    assert open_dataset(spec, labels, default_split=default).name == f"town:{taken}"


def test_own_configuration_and_one_in_its_place(town: Path, add: Add, labels: LabelSpace, tmp_path: Path) -> None:
    add("a", label=np.full(SIZE, 7, np.uint8))
    (town / "dataset.toml").write_text('[labels]\nencoding = "ids"\n', encoding="utf-8")
    assert open_dataset(f"folder:{town}", labels).read_label(0).max() == 0
    other = tmp_path / "other.toml"
    other.write_text('[labels.mapping]\n"7" = "sky"\n[fold]\ncar = "road"\n', encoding="utf-8")
    dataset = open_dataset(f"folder:{town}", labels, config=other)
    assert dataset.read_label(0).min() == 2
    assert dataset.fold is not None
    assert dataset.fold[1] == 0


@pytest.mark.parametrize("suffix", EXTENSIONS)
def test_pictures_of_every_format_are_read(town: Path, add: Add, labels: LabelSpace, suffix: str) -> None:
    add("a", suffix=suffix.upper())
    image, _ = open_dataset(f"folder:{town}", labels).read(0)
    assert np.abs(image.astype(int) - 90).max() <= 2  # JPEG and WebP round


def test_names_of_other_systems_find_each_other(town: Path, add: Add, labels: LabelSpace) -> None:
    composed, decomposed = "stra\u00dfe \u00fc", "stra\u00dfe u\u0308"
    add(composed, unlabelled=True)
    add("b")
    (town / "labels" / "train" / "b.png").rename(town / "labels" / "train" / f"{decomposed}.png")
    (town / "images" / "train" / "b.png").unlink()
    dataset = open_dataset(f"folder:{town}", labels)
    assert [(item.name, item.label is not None) for item in dataset.items] == [(composed, True)]
    add(decomposed, unlabelled=True)
    with pytest.raises(DataError, match=r"share the name.*\(.*\\xfc.*, .*\\u0308"):
        open_dataset(f"folder:{town}", labels)


def test_names_that_are_no_text(town: Path, add: Add, labels: LabelSpace) -> None:
    name = os.fsdecode(b"a\xff")
    add(name)
    dataset = open_dataset(f"folder:{town}", labels)
    assert [item.name for item in dataset.items] == [name]
    dataset.read(0)


def test_labels_without_an_image_are_said(town: Path, add: Add, labels: LabelSpace) -> None:
    for name in ("a", "b", "c"):
        add(name)
    (town / "images" / "train" / "b.png").unlink()
    with pytest.warns(LeftOutWarning, match=r"town:train: 1 file \(b\.png\): label files without an image"):
        open_dataset(f"folder:{town}", labels)


def test_sizes_that_differ_by_a_turn_are_explained(town: Path, add: Add, labels: LabelSpace) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = add("a")
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(path, exif=exif)
    with pytest.raises(
        DataError, match=r"a\.png is 6x4, but its label .*a\.png is 4x6 .*the EXIF orientation rotates the image"
    ):
        open_dataset(f"folder:{town}", labels).read(0)
    add("a", label=np.zeros(SIZE[::-1], np.uint8))
    with pytest.raises(DataError, match=r"is 4x6, but its label .* is 6x4 \(height x width\); the sizes must be equal"):
        open_dataset(f"folder:{town}", labels).read(0)


def test_the_largest_image_that_is_meant_stands_in_the_configuration(town: Path, add: Add, labels: LabelSpace) -> None:
    add("a")
    (town / "dataset.toml").write_text("max_pixels = 23\n", encoding="utf-8")
    dataset = open_dataset(f"folder:{town}", labels)
    for read in (dataset.read_image, dataset.read_label):
        with pytest.raises(DataError, match=r"a\.png: has 4 x 6 pixels .* more than 23"):
            read(0)
    (town / "dataset.toml").write_text("max_pixels = 24\n", encoding="utf-8")
    open_dataset(f"folder:{town}", labels).read(0)


def test_a_colon_in_a_folder_name_is_explained(tmp_path: Path, labels: LabelSpace) -> None:
    save(tmp_path / "run_10:30" / "images" / "train" / "a.png", np.zeros((*SIZE, 3), np.uint8))
    save(tmp_path / "run_10:30" / "labels" / "train" / "a.png", np.zeros(SIZE, np.uint8))
    with pytest.raises(DataError, match=r"'30' after the last colon is the split: a folder .* is .*/run_10:30/$"):
        open_dataset(f"folder:{tmp_path}/run_10:30", labels)
    assert len(open_dataset(f"folder:{tmp_path}/run_10:30/", labels)) == 1


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1"])
def test_image_modes_just_work(town: Path, add: Add, labels: LabelSpace, mode: str) -> None:
    add("a", image=Image.fromarray(np.full((*SIZE, 3), 255, np.uint8)).convert(mode))
    image = open_dataset(f"folder:{town}", labels).read_image(0)
    assert image.shape == (*SIZE, 3)
    assert image.min() == 255


def test_one_pixel(town: Path, add: Add, labels: LabelSpace) -> None:
    add("a", image=np.zeros((1, 1, 3), np.uint8), label=np.full((1, 1), 2, np.uint8))
    image, label = open_dataset(f"folder:{town}", labels).read(0)
    assert (image.shape, label.tolist()) == ((1, 1, 3), [[2]])


def test_palette_labels_are_indices(town: Path, add: Add, labels: LabelSpace) -> None:
    label = Image.fromarray(_checkerboard(), "L").convert("P")
    label.putpalette([200, 10, 10, 9, 9, 9])
    label.putdata(_checkerboard().ravel().tolist())
    add("a", label=label)
    assert np.array_equal(open_dataset(f"folder:{town}", labels).read_label(0), _checkerboard())


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_color_labels(town: Path, add: Add, labels: LabelSpace, mode: str) -> None:
    (town / "x").mkdir(parents=True)
    (town / "dataset.toml").write_text('[labels]\nencoding = "color"\n', encoding="utf-8")
    pixels = np.array(labels.palette, np.uint8)[_checkerboard()]
    picture = Image.fromarray(pixels)
    add("a", label=picture.quantize() if mode == "P" else picture.convert(mode))
    assert np.array_equal(open_dataset(f"folder:{town}", labels).read_label(0), _checkerboard())


def test_labels_of_the_wrong_form_are_named(town: Path, add: Add, labels: LabelSpace) -> None:
    spec = f"folder:{town}"
    add("a", label=np.zeros(SIZE, np.uint16))
    with pytest.raises(DataError, match=r"a\.png: label has mode I;16, but .*'trainIds' expects one channel of 8 bits"):
        open_dataset(spec, labels).read(0)
    add("a", label=np.zeros((*SIZE, 3), np.uint8))
    with pytest.raises(DataError, match=r"a\.png: label has mode RGB, but .* choose another labels\.encoding"):
        open_dataset(spec, labels).read(0)
    add("a", label=np.full(SIZE, 3, np.uint8))
    with pytest.raises(DataError, match=r"a\.png: label values 3 \(24 pixels\) are unknown"):
        open_dataset(spec, labels).read(0)
    (town / "dataset.toml").write_text('[labels]\nencoding = "color"\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"label has mode L, but encoding 'color' expects an 8-bit RGB image"):
        open_dataset(spec, labels).read(0)


def test_deep_images_are_named(town: Path, add: Add, labels: LabelSpace) -> None:
    add("a", image=np.zeros(SIZE, np.uint16))
    with pytest.raises(DataError, match=r"a\.png: has mode I;16"):
        open_dataset(f"folder:{town}", labels).read(0)


def test_sizes_that_differ(town: Path, add: Add, labels: LabelSpace) -> None:
    add("a", label=np.zeros((3, 3), np.uint8))
    with pytest.raises(DataError, match=r"images/train/a\.png is 4x6, but its label .*labels/train/a\.png is 3x3"):
        open_dataset(f"folder:{town}", labels).read(0)


@pytest.mark.parametrize("part", ["images", "labels"])
def test_truncated_files_are_named(town: Path, add: Add, labels: LabelSpace, part: str) -> None:
    noise = np.random.default_rng(0).integers(0, 3, (64, 64, 3), np.uint8)
    add("a", image=noise, label=noise[..., 0])
    path = town / part / "train" / "a.png"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=rf"{part}/train/a\.png: cannot be read"):
        open_dataset(f"folder:{town}", labels).read(0)


def test_missing_labels_are_counted(town: Path, add: Add, labels: LabelSpace) -> None:
    add("a")
    for name in "bc":
        add(name, unlabelled=True)
    with pytest.raises(
        DataError,
        match=r"2 of 3 images have no label file; the first is .*images/train/b\.png, expected .*train/b\.png",
    ):
        open_dataset(f"folder:{town}", labels)
    dataset = open_dataset(f"folder:{town}", labels, require_labels=False)
    assert [item.label is None for item in dataset.items] == [False, True, True]
    with pytest.raises(DataError, match=r"b\.png: has no label file"):
        dataset.read(1)


def test_folders_that_are_not_datasets(town: Path, add: Add, labels: LabelSpace, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"folder:/nowhere: no folder /nowhere/images; expected images/<split>"):
        open_dataset("folder:/nowhere", labels)
    add("a", split="val")
    add("a", split="train")
    with pytest.raises(DataError, match=r"has no split 'trian'; did you mean 'train'"):
        open_dataset(f"folder:{town}:trian", labels)
    (tmp_path / "bare" / "images" / "train").mkdir(parents=True)
    with pytest.raises(DataError, match=r"bare/images/train holds no image; expected images/<split>/NAME\(\.jpg"):
        open_dataset(f"folder:{tmp_path / 'bare'}", labels)


def test_two_images_of_one_label(town: Path, add: Add, labels: LabelSpace) -> None:
    add("a", suffix=".png")
    add("a", suffix=".jpg")
    with pytest.raises(DataError, match=r"a\.png and .*a\.jpg share the name 'a'; .* are paired by name"):
        open_dataset(f"folder:{town}", labels)


def test_configuration_that_is_asked_for_must_exist(town: Path, add: Add, labels: LabelSpace) -> None:
    add("a")
    with pytest.raises(ConfigError, match=r"none\.toml: no such file"):
        open_dataset(f"folder:{town}", labels, config="none.toml")


def test_images_are_listed_whether_they_have_labels_or_not(town: Path, add: Add) -> None:
    add("b", label=_checkerboard())
    Image.new("RGB", SIZE[::-1]).save(town / "images" / "train" / "a.jpg")
    assert [path.name for path in dataset_images(f"folder:{town}")] == ["a.jpg", "b.png"]
    with pytest.raises(DataError, match="has no split 'night'"):
        dataset_images(f"folder:{town}:night")
    with pytest.raises(ConfigError, match="unknown kind 'foldr'"):
        dataset_images(f"foldr:{town}")


def test_what_is_no_image_is_named_where_images_are_listed(town: Path, add: Add) -> None:
    add("a")
    (town / "images" / "train" / "b.gif").write_bytes(b"GIF89a")
    with pytest.warns(LeftOutWarning, match=r"town:train: 1 file \(b\.gif\): not read; pictures are files that end "):
        assert [path.name for path in dataset_images(f"folder:{town}:train")] == ["a.png"]


def test_a_folder_without_an_image_lists_none(town: Path) -> None:
    (town / "images" / "train").mkdir(parents=True)
    with pytest.raises(DataError, match="holds no image"):
        dataset_images(f"folder:{town}")
