import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from folder_helpers import SIZE, Add
from layout_helpers import TREES, Tree
from PIL import Image

from clouds import DataError, LabelSpace
from clouds.core.contract.labels import CITYSCAPES
from clouds.core.system.files import only_writer
from clouds.core.system.images import write_png
from clouds.data import convert
from clouds.data.convert import convert_dataset
from clouds.data.folder import Dataset, open_dataset


def _open(tree: Tree, root: Path) -> Dataset:
    tree.fill(root)
    return open_dataset(f"{tree.kind}:{root}:{tree.split}", CITYSCAPES)


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_every_kind_becomes_the_same_data_in_folders(tree: Tree, tmp_path: Path) -> None:
    before = _open(tree, tmp_path / "raw")
    made = convert_dataset(before, tmp_path / "out")
    assert (made.spec, made.images, made.written) == (f"folder:{tmp_path / 'out'}:{tree.split}", 2, 2)
    after = open_dataset(made.spec, CITYSCAPES)
    assert [item.name for item in after.items] == list(tree.shown)
    for index in range(2):
        assert all(np.array_equal(a, b) for a, b in zip(before.read(index), after.read(index), strict=True))


@pytest.mark.parametrize("images", ["link", "copy"])
def test_images_are_links_or_copies(tmp_path: Path, images: Literal["link", "copy"]) -> None:
    dataset = _open(TREES["gta5"], tmp_path / "raw")
    convert_dataset(dataset, tmp_path / "out", images=images)
    placed = tmp_path / "out" / "images" / "train" / "00001.png"
    assert placed.is_symlink() == (images == "link")
    assert placed.read_bytes() == dataset.items[0].image.read_bytes()


def test_links_to_what_has_moved_are_made_anew(tmp_path: Path) -> None:
    dataset = _open(TREES["gta5"], tmp_path / "raw")
    convert_dataset(dataset, tmp_path / "out")
    placed = tmp_path / "out" / "images" / "train" / "00001.png"
    placed.unlink()
    placed.symlink_to(tmp_path / "gone.png")
    convert_dataset(dataset, tmp_path / "out")
    assert placed.read_bytes() == dataset.items[0].image.read_bytes()


def test_what_an_interrupt_leaves_is_no_dataset_and_is_completed(
    town: Path, add: Add, labels: LabelSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        add(f"{number:02}", label=np.full(SIZE, number % 3, np.uint8))
    dataset, out = open_dataset(f"folder:{town}", labels), tmp_path / "out"

    def write_until_interrupted(path: Path, pixels: np.ndarray) -> None:
        if path.stem == "07":
            raise KeyboardInterrupt
        write_png(path, pixels)

    with monkeypatch.context() as patch:
        patch.setattr(convert, "write_png", write_until_interrupted)
        with pytest.raises(KeyboardInterrupt):
            convert_dataset(dataset, out)
    with pytest.raises(DataError, match=r"of 20 images have no label file"):
        open_dataset(f"folder:{out}", labels)
    kept = len(list((out / "labels" / "train").iterdir()))
    assert convert_dataset(dataset, out).written == 20 - kept
    assert convert_dataset(dataset, out).written == 0
    assert len(open_dataset(f"folder:{out}", labels)) == 20


def test_a_killed_run_leaves_whole_files_alone(town: Path, add: Add, tmp_path: Path) -> None:
    for number in range(200):
        add(
            f"{number:03}",
            image=np.zeros((300, 300, 3), np.uint8),
            label=np.full((300, 300), number % 19, np.uint8),
        )
    out = tmp_path / "out"
    code = (
        "from clouds.core.contract.labels import CITYSCAPES; from clouds.data.convert import convert_dataset; "
        f"from clouds.data.folder import open_dataset; "
        f"convert_dataset(open_dataset({f'folder:{town}'!r}, CITYSCAPES), {str(out)!r})"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    folder = out / "labels" / "train"
    while process.poll() is None and len(list(folder.glob("[!.]*.png"))) < 5:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it had finished before it was killed"
    for path in folder.glob("[!.]*.png"):
        assert np.array(Image.open(path)).max() == int(path.stem) % 19
    dataset = open_dataset(f"folder:{town}", CITYSCAPES)
    assert 0 < convert_dataset(dataset, out).written < 200
    assert len(open_dataset(f"folder:{out}", CITYSCAPES)) == 200


def test_a_conversion_owns_its_folder(town: Path, add: Add, labels: LabelSpace, tmp_path: Path) -> None:
    add("a")
    dataset, out = open_dataset(f"folder:{town}", labels), tmp_path / "out"
    convert_dataset(dataset, out)
    left = [out / ".dataset.0123abcd.tmp.toml", out / "labels" / "train" / ".a.0123abcd.tmp.png"]
    for path in left:
        path.write_text("half", encoding="utf-8")
    with (
        only_writer(out / ".lock"),
        pytest.raises(DataError, match="another run is writing to this folder; wait until it has ended"),
    ):
        convert_dataset(dataset, out)
    assert all(path.exists() for path in left)  # they may be the other run's
    assert convert_dataset(dataset, out).written == 0
    assert not any(path.exists() for path in left)


def test_a_label_that_cannot_be_read_stops_it_by_name(town: Path, add: Add, labels: LabelSpace, tmp_path: Path) -> None:
    add("a")
    add("b", label=np.full(SIZE, 9, np.uint8))
    with pytest.raises(DataError, match=r"labels/train/b\.png: label values 9"):
        convert_dataset(open_dataset(f"folder:{town}", labels), tmp_path / "out")
    assert not (tmp_path / "out" / "labels" / "train" / "b.png").exists()


def test_splits_share_a_folder_and_the_fold(town: Path, add: Add, labels: LabelSpace, tmp_path: Path) -> None:
    for split in ("train", "val"):
        add("a", split=split)
    (town / "dataset.toml").write_text('[fold]\ncar = "road"\nsky = "ignore"\n', encoding="utf-8")
    for split in ("train", "val"):
        convert_dataset(open_dataset(f"folder:{town}:{split}", labels), tmp_path / "out")
    for split in ("train", "val"):
        fold = open_dataset(f"folder:{tmp_path / 'out'}:{split}", labels).fold
        assert fold is not None
        assert fold[[0, 1, 2]].tolist() == [0, 0, 255]
    (town / "dataset.toml").unlink()
    add("b", split="test")
    with pytest.raises(DataError, match=r"dataset\.toml: its \[labels\] or \[fold\] differ from those of folder:"):
        convert_dataset(open_dataset(f"folder:{town}:test", labels), tmp_path / "out")


def test_other_data_are_left_alone(town: Path, add: Add, labels: LabelSpace, tmp_path: Path) -> None:
    add("a")
    dataset = open_dataset(f"folder:{town}", labels)
    with pytest.raises(DataError, match=r"split 'train' has files of unknown origin, not folder:.*; choose another"):
        convert_dataset(dataset, town)
    convert_dataset(dataset, tmp_path / "out")
    other = _open(TREES["gta5"], tmp_path / "raw")
    with pytest.raises(
        DataError,
        match=r"split 'train' has folder:.*toy \(road, car, sky\), not gta5:.*raw:train, encoding gta5, label",
    ):
        convert_dataset(other, tmp_path / "out")


def test_a_pair_of_two_sizes_is_not_written(town: Path, add: Add, labels: LabelSpace, tmp_path: Path) -> None:
    add("a", label=np.zeros((2, 2), np.uint8))
    with pytest.raises(DataError, match=r"a\.png is 4x6, but its label .* is 2x2 \(height x width\)"):
        convert_dataset(open_dataset(f"folder:{town}", labels), tmp_path / "out")
    assert not list((tmp_path / "out").glob("labels/train/*.png"))


@pytest.mark.parametrize("name", ["stra\u00dfe \U0001f697", "b\udcff", 'e\x7f"\n[x]', "\ufffe0041"])
def test_any_folder_name_can_be_converted_and_read_again(
    labels: LabelSpace, tmp_path: Path, add: Add, town: Path, name: str
) -> None:
    add("a")
    folder = tmp_path / name
    town.rename(folder)
    source = open_dataset(f"folder:{folder}/", labels)
    assert convert_dataset(source, tmp_path / "out").written == 1
    assert convert_dataset(source, tmp_path / "out").written == 0
    assert len(open_dataset(f"folder:{tmp_path / 'out'}", labels)) == 1


def test_the_largest_image_that_is_meant_is_handed_on(town: Path, add: Add, labels: LabelSpace, tmp_path: Path) -> None:
    add("a")
    (town / "dataset.toml").write_text("max_pixels = 24\n", encoding="utf-8")
    convert_dataset(open_dataset(f"folder:{town}", labels), tmp_path / "out")
    assert open_dataset(f"folder:{tmp_path / 'out'}", labels).max_pixels == 24
