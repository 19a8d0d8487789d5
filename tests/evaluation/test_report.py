import html
import json
import math
import re

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from clouds import ConfigError, Report
from clouds.evaluation.report import DomainResult
from clouds.evaluation.views import Views

NAMES = ["road", "<sky>"]
_counts = arrays(np.int64, (2, 3), elements=st.integers(0, 10**9))
_boundaries = _counts.map(lambda counts: np.stack([counts.min(axis=1), counts.max(axis=1), counts.max(axis=1)], axis=1))
_views = st.builds(
    Views,
    scales=st.lists(st.floats(0.1, 4), min_size=1, max_size=3, unique=True),
    flip=st.booleans(),
    window=st.integers(1, 5000),
)
_reports = st.builds(
    Report,
    protocol=st.sampled_from(["native", "published"]),
    views=_views,
    domains=st.dictionaries(
        st.text(min_size=1, max_size=8),
        st.builds(
            DomainResult.from_counts,
            _counts,
            _boundaries,
            names=st.just(NAMES),
            images=st.integers(0, 9),
        ),
        max_size=3,
    ),
)


@pytest.fixture
def report() -> Report:
    counts = {"fog:val": [[3, 1, 0], [0, 0, 0]], "rain:val": [[1, 1, 0], [0, 2, 0]], "void": [[0, 0, 0]] * 2}
    contours = {"fog:val": [[1, 2, 1], [0, 0, 3]], "rain:val": [[1, 2, 2], [0, 1, 0]], "void": [[0, 0, 0]] * 2}
    return Report(
        protocol="published",
        domains={
            name: DomainResult.from_counts(np.array(one), np.array(contours[name]), names=NAMES, images=len(name))
            for name, one in counts.items()
        },
    )


@given(report=_reports)
def test_json_round_trip(report: Report) -> None:
    assert Report.from_json(report.to_json()) == report


@given(report=_reports)
def test_every_figure_is_finite_or_none(report: Report) -> None:
    figures = [report.miou, *report.per_domain.values()]
    for result in report.domains.values():
        figures += [result.miou, result.fwiou, result.mean_accuracy, result.pixel_accuracy, result.boundary_miou]
        figures += [*result.iou.values(), *result.accuracy.values(), *result.boundary_iou.values()]
    assert all(figure is None or (math.isfinite(figure) and 0 <= figure <= 100) for figure in figures)
    json.loads(report.to_json(), parse_constant=pytest.fail)


def test_figures(report: Report) -> None:
    assert report.domains["fog:val"].iou == {"road": 75.0, "<sky>": None}
    assert report.per_domain == {"fog:val": 75.0, "rain:val": pytest.approx((50 + 200 / 3) / 2), "void": None}
    assert report.miou == pytest.approx((75 + (50 + 200 / 3) / 2) / 2)
    assert json.loads(report.to_json())["per_domain"]["void"] is None
    rain = report.domains["rain:val"]
    assert rain.accuracy == {"road": 50.0, "<sky>": 100.0}
    assert (rain.mean_accuracy, rain.pixel_accuracy) == (75.0, 75.0)
    assert rain.fwiou == pytest.approx((2 * 50 + 2 * 200 / 3) / 4)
    assert rain.boundary_iou == {"road": pytest.approx(100 / 3), "<sky>": 0.0}
    assert rain.boundary_miou == pytest.approx(100 / 6)
    assert report.domains["fog:val"].boundary_iou == {"road": 50.0, "<sky>": None}


def test_a_figure_that_nothing_was_labelled_for_is_none(report: Report) -> None:
    void = report.domains["void"]
    means = (void.miou, void.fwiou, void.mean_accuracy, void.pixel_accuracy, void.boundary_miou)
    assert means == (None,) * 5


def test_text(report: Report) -> None:
    lines = report.to_text().splitlines()
    assert lines[0] == (
        "mIoU 66.7 % over 2 of 3 domains, protocol published: image and label resized to a short side of 1024 pixels, "
        "scored at that size; windows of 2048 x 2048 where an image is larger"
    )
    assert lines[-2:] == [
        "fog:val: means over 1 of 2 classes; its labels lack <sky>",
        "void: no labelled pixel in 4 images, so nothing is measured",
    ]
    assert lines[-2] in html.unescape(report.to_html())
    assert json.loads(report.to_json())["missing"] == {"fog:val": ["<sky>"], "rain:val": [], "void": NAMES}
    assert report.unmeasured == ("void",)
    table = [re.split(r"\s{2,}", line.strip()) for line in lines[:-2] if line]
    assert ["class", "fog:val", "rain:val", "void"] in table
    assert ["road", "75.0", "50.0", "–"] in table
    assert ["<sky>", "–", "66.7", "–"] in table
    assert table[-6:] == [
        ["mIoU", "75.0", "58.3", "–"],
        ["frequency weighted IoU", "75.0", "58.3", "–"],
        ["mean accuracy", "75.0", "75.0", "–"],
        ["pixel accuracy", "75.0", "75.0", "–"],
        ["mean Boundary IoU", "50.0", "16.7", "–"],
        ["images", "7", "8", "4"],
    ]


def test_augmentation_stands_beside_every_figure(report: Report) -> None:
    augmented = evolve(report, views=Views(scales=(0.5, 1, 1.25), flip=True, window=1024))
    words = "scores averaged over scales 0.5, 1, 1.25 and their mirror images; windows of 1024 x 1024 where"
    assert words in augmented.to_text().splitlines()[0]
    assert words in augmented.to_html()
    assert json.loads(augmented.to_json())["views"] == {"scales": [0.5, 1.0, 1.25], "flip": True, "window": 1024}


def test_a_report_of_before_there_was_augmentation(report: Report) -> None:
    document = json.loads(report.to_json())
    del document["views"]
    assert Report.from_json(json.dumps(document)) == report


def test_domain_names_are_not_markup() -> None:
    result = DomainResult.from_counts(
        np.eye(2, 3, dtype=np.int64), np.ones((2, 3), np.int64), names=["[red]a", "[b]"], images=1
    )
    text = Report(protocol="native", domains={"[bold]day": result}).to_text()
    assert "[bold]day" in text
    assert "[red]a" in text


def test_html(report: Report) -> None:
    page = report.to_html()
    assert "protocol published" in page
    assert "&lt;sky&gt;" in page
    assert page.count("newPlot(") >= 1
    assert page.count("/*!\n* plotly.js") <= 1
    cells = [re.findall(r"<td[^>]*>([^<]*)</td>", table) for table in page.split("<table")[1:]]
    assert [one[:6] for one in cells[:3]] == [
        ["75.0", "50.0", "–", "–", "66.7", "–"],
        ["75.0", "50.0", "–", "–", "100.0", "–"],
        ["50.0", "33.3", "–", "–", "0.0", "–"],
    ]
    titles = re.findall(r"<summary>([^<]*)</summary>", page)
    assert [title.split(" per class")[0] for title in titles[:2]] == ["Accuracy", "Boundary IoU"]
    assert titles[2:] == ["Confusion matrix of fog:val", "Confusion matrix of rain:val"]


def test_html_of_nothing() -> None:
    assert "mIoU" in Report(protocol="native", domains={}).to_html()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "report: not JSON"),
        ("[]", "expected a JSON object with 'protocol' and 'domains'"),
        ('{"protocol": "native"}', "was it written by to_json"),
        ('{"protocol": "native", "domains": {"a": {"miou": "x"}}}', r"report: .*miou"),
        ('{"protocol": "nativ", "domains": {}}', "unknown evaluation protocol 'nativ'; did you mean 'native'"),
        ('{"protocol": "native", "views": {"scales": []}, "domains": {}}', "report: .*scales: expected"),
    ],
)
def test_json_of_something_else(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Report.from_json(text)
