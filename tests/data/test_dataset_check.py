import json
import re
from pathlib import Path

import numpy as np
import pytest
from folder_helpers import SIZE, Add

from clouds import DataError, LabelSpace
from clouds.data.check import check_dataset, check_labelled
from clouds.data.folder import open_dataset


def test_clean_dataset(town: Path, add: Add, labels: LabelSpace) -> None:
    add("a", label=np.full(SIZE, 1, np.uint8))
    add("b", label=np.full(SIZE, 255, np.uint8))
    report = check_dataset(open_dataset(f"folder:{town}", labels))
    assert report.ok
    assert report.pixels == {"road": 0, "car": 24, "sky": 0, "ignore": 24}
    assert (report.name, report.images, report.unknown) == ("town:train", 2, {})


def test_every_fault_is_found(town: Path, add: Add, labels: LabelSpace) -> None:
    add("good")
    damaged = add("image")
    damaged.write_bytes(b"no picture")
    add("label", label=np.zeros(SIZE, np.uint16))
    add("missing", unlabelled=True)
    add("size", label=np.zeros((2, 2), np.uint8))
    add("values", label=np.full(SIZE, 9, np.uint8))
    add("values2", label=np.array([[9, 8]], np.uint8))
    add("orphan").unlink()
    report = check_dataset(open_dataset(f"folder:{town}", labels, require_labels=False))
    assert not report.ok
    assert [(fault.kind, Path(fault.file).stem) for fault in report.faults] == [
        ("image", "image"),
        ("label", "label"),
        ("missing label", "missing"),
        ("size", "size"),
        ("values", "values"),
        ("size", "values2"),
        ("values", "values2"),
        ("missing image", "orphan"),
    ]
    assert all(Path(fault.file).name in fault.message for fault in report.faults)
    assert report.unknown == {"9": 25, "8": 1}
    # Three label files can be counted: those of "good" and "image" in full, and the four pixels of "size".
    assert report.pixels["road"] == 2 * 24 + 4


@pytest.mark.parametrize("shape", [(4, 6), (2, 2)])
def test_label_maps_without_a_labelled_pixel(town: Path, add: Add, labels: LabelSpace, shape: tuple[int, int]) -> None:
    for name in ("a", "b"):
        add(name, image=np.zeros((*shape, 3), np.uint8), label=np.full(shape, 255, np.uint8))
    dataset = open_dataset(f"folder:{town}", labels)
    report = check_dataset(dataset)
    assert [(fault.kind, Path(fault.file).name) for fault in report.faults] == [("nothing labelled", "a.png")]
    assert "no labelled pixel in 2 label maps; encoding 'trainIds' ignores" in report.faults[0].message
    with pytest.raises(DataError, match=r"town:train: no labelled pixel in 2 label maps; .*`clouds datasets check`"):
        check_labelled(dataset)
    add("c", image=np.zeros((*shape, 3), np.uint8), label=np.zeros(shape, np.uint8))
    dataset = open_dataset(f"folder:{town}", labels)
    report = check_dataset(dataset)
    assert report.ok
    assert report.notes == (f"no labelled pixel in 2 label maps; the first is {dataset.items[0].label}",)
    check_labelled(dataset)


def test_a_label_map_that_cannot_be_read_is_not_taken_for_an_empty_one(
    town: Path, add: Add, labels: LabelSpace
) -> None:
    add("a", label=np.full(SIZE, 255, np.uint8))
    add("b", label=np.full(SIZE, 99, np.uint8))
    check_labelled(open_dataset(f"folder:{town}", labels))
    report = check_dataset(open_dataset(f"folder:{town}", labels))
    assert [fault.kind for fault in report.faults] == ["values"]


def test_what_is_not_read_is_named(town: Path, add: Add, labels: LabelSpace) -> None:
    add("a")
    add("b", suffix=".gif")
    (town / "images" / "train" / "more").mkdir()
    report = check_dataset(open_dataset(f"folder:{town}", labels, require_labels=False))
    assert [fault.message for fault in report.faults] == [
        f"{town}/labels/train/b.png: its image b.gif has a format that is not read"
    ]
    assert report.notes[0].startswith(f"folder:{town}:train: 2 files (b.gif, more): not read; pictures are files that")


def test_an_image_without_label_says_what_was_looked_for(town: Path, add: Add, labels: LabelSpace) -> None:
    add("a", unlabelled=True)
    (town / "labels" / "train").mkdir(parents=True)
    (town / "labels" / "train" / "a_labels.npy").write_bytes(b"")
    dataset = open_dataset(f"folder:{town}", labels, require_labels=False)
    wanted = rf"a\.png: has no label file; expected {town}/labels/train/a\.png, where a_labels\.npy is; the layout is"
    (fault,) = check_dataset(dataset).faults
    assert re.search(wanted, fault.message)
    with pytest.raises(DataError, match=wanted):
        dataset.read(0)


def test_json(town: Path, add: Add, labels: LabelSpace) -> None:
    add("a", label=np.full(SIZE, 9, np.uint8))
    report = json.loads(check_dataset(open_dataset(f"folder:{town}", labels)).to_json())
    assert not report["ok"]
    assert report["faults"][0]["kind"] == "values"
    assert report["unknown"] == {"9": 24}


def test_no_progress_bar_without_a_terminal(
    town: Path, add: Add, labels: LabelSpace, capsys: pytest.CaptureFixture[str]
) -> None:
    add("a")
    check_dataset(open_dataset(f"folder:{town}", labels), progress=True)
    assert capsys.readouterr() == ("", "")
