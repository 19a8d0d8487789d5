import json
from pathlib import Path

import numpy as np
import pytest
from folder_helpers import SIZE, Add

from clouds import LabelSpace
from clouds.data.check import check_dataset
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
