"""Parts of pages say in words and numbers what was counted."""

import html as markup
import re

import numpy as np

from clouds.evaluation import html, parts
from clouds.evaluation.analysis import Analysis, count_bands, count_sizes
from clouds.evaluation.calibration import Calibration, count_confidences

NAMES = ["road", "<car>", "sky"]


def _cells(section: html.Section) -> list[list[str]]:
    """The words of each row of its tables."""
    rows = re.findall(r"<tr>(.*?)</tr>", "".join(one.html for one in section.content))
    return [[markup.unescape(cell) for cell in re.findall(r"<t[hd][^>]*>([^<]*)<", row)] for row in rows]


def test_confusions() -> None:
    counts = np.array([[6, 1, 0, 1], [3, 1, 0, 0], [0, 0, 0, 0]])
    cells = _cells(parts.confusions({"fog": counts}, NAMES))
    frequent = [["<car>", "road", "3", "75.0"], ["road", "<car>", "1", "12.5"], ["road", "ignore", "1", "12.5"]]
    assert cells[1:4] == frequent
    # Sky is neither in the truth nor predicted.
    assert cells[4] == ["truth \\ prediction", "road", "<car>", "ignore"]
    assert cells[5:] == [["road", "75.0", "12.5", "12.5"], ["<car>", "75.0", "25.0", "0.0"]]
    perfect = parts.confusions({"fog": np.eye(3, 4, dtype=np.int64)}, NAMES)
    assert "No pixel is wrong." in "".join(one.html for one in perfect.content)


def test_calibration() -> None:
    sure = np.array([[0.9, 0.9, 0.9, 0.9]])
    counts = count_confidences(sure, np.array([[True, True, False, False]]), np.ones((1, 4), np.bool_))
    cells = _cells(parts.calibration({"fog": Calibration.from_counts(counts)}))
    assert ["fog", "40.0"] in cells
    assert ["86.7 %", "4", "90.0", "50.0"] in cells
    assert len(cells) == 2 + 1 + 15


def test_sizes_and_boundaries() -> None:
    truth = np.zeros((20, 20), np.uint8)
    truth[:, 10:] = 1
    prediction = np.where(np.arange(20) < 9, 0, 1).astype(np.uint8)[None].repeat(20, axis=0)
    sizes, bands = count_sizes(truth, prediction, classes=3), count_bands(truth, prediction)
    found = Analysis.from_counts(sizes, bands, names=NAMES)
    cells = _cells(parts.sizes_and_boundaries({"fog": found}))
    assert ["10 % and more", "95.0"] in cells
    assert ["10 % and more", "2"] in cells
    assert ["road", "–", "–", "–", "90.0"] in cells
    assert ["<car>", "–", "–", "–", "100.0"] in cells
    assert not any(row[0] == "sky" for row in cells if row)
    assert ["1", "50.0"] in cells
    assert ["2", "100.0"] in cells


def test_class_differences() -> None:
    models: dict[str, dict[str, float | None]] = {
        "old": {"road": 50.0, "sky": None},
        "new": {"road": 48.5, "sky": 1.0},
        "newer": {"road": 50.0, "sky": None},
    }
    header, rows = parts.class_differences(models)
    assert header == ["class", "old", "new", "newer", "new − old", "newer − old"]
    assert [list(map(html.number, row)) for row in rows] == [
        ["road", "50.0", "48.5", "50.0", "−1.5", "0.0"],
        ["sky", "–", "1.0", "–", "–", "–"],
    ]
    drawn = html.table(header, rows).html
    assert '<td class="number loss" style="--share:7.5%">−1.5</td>' in drawn


def test_image_scatter() -> None:
    old = {"fog": {"a": 10.0, "b": 20.0, "c": None, "d": 5.0}}
    new = {"fog": {"a": 15.0, "b": 19.0, "c": None, "d": 5.0}}
    section = parts.image_scatter({"old": old, "new": new})
    assert _cells(section)[1:] == [["fog", "1", "1", "1", "+1.3"]]
    assert "new against old" in section.content[0].html
    assert len(parts.image_scatter({"old": old, "new": new, "newer": new}).content) == 6


def test_a_page_of_no_changed_image() -> None:
    section = parts.changed_images({"fog": ()}, first="old", last="new")
    assert [one.html for one in section.content] == ["<p>No image changed.</p>"]
