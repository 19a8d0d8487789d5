import json
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from clouds import ConfigError, Report
from clouds.evaluation.report import DomainResult

NAMES = ["road", "<sky>"]
_counts = arrays(np.int64, (2, 3), elements=st.integers(0, 10**9))
_reports = st.dictionaries(st.text(min_size=1, max_size=8), _counts, max_size=3).map(
    lambda domains: Report(
        protocol="native",
        domains={name: DomainResult.from_counts(counts, names=NAMES, images=3) for name, counts in domains.items()},
    )
)


@pytest.fixture
def report() -> Report:
    counts = {"fog:val": [[3, 1, 0], [0, 0, 0]], "rain:val": [[1, 1, 0], [0, 2, 0]], "void": [[0, 0, 0]] * 2}
    return Report(
        protocol="published",
        domains={
            name: DomainResult.from_counts(np.array(one), names=NAMES, images=len(name)) for name, one in counts.items()
        },
    )


@given(report=_reports)
def test_json_round_trip(report: Report) -> None:
    assert Report.from_json(report.to_json()) == report


@given(report=_reports)
def test_every_figure_is_finite_or_none(report: Report) -> None:
    figures = [report.miou, *report.per_domain.values()]
    for result in report.domains.values():
        figures += [result.pixel_accuracy, *result.iou.values()]
    assert all(figure is None or (math.isfinite(figure) and 0 <= figure <= 100) for figure in figures)
    json.loads(report.to_json(), parse_constant=pytest.fail)


def test_figures(report: Report) -> None:
    assert report.domains["fog:val"].iou == {"road": 75.0, "<sky>": None}
    assert report.per_domain == {"fog:val": 75.0, "rain:val": pytest.approx((50 + 200 / 3) / 2), "void": None}
    assert report.miou == pytest.approx((75 + (50 + 200 / 3) / 2) / 2)
    assert json.loads(report.to_json())["per_domain"]["void"] is None


def test_text(report: Report) -> None:
    lines = report.to_text().splitlines()
    assert lines[0] == (
        "mIoU 66.7 % over 3 domains, protocol published: image and label resized to a short side of 1024 pixels, "
        "scored at that size"
    )
    table = [re.split(r"\s{2,}", line.strip()) for line in lines]
    assert ["class", "fog:val", "rain:val", "void"] in table
    assert ["road", "75.0", "50.0", "–"] in table
    assert ["<sky>", "–", "66.7", "–"] in table
    assert ["mIoU", "75.0", "58.3", "–"] in table
    assert ["pixel accuracy", "75.0", "75.0", "–"] in table
    assert ["images", "7", "8", "4"] in table


def test_domain_names_are_not_markup() -> None:
    result = DomainResult.from_counts(np.eye(2, 3, dtype=np.int64), names=["[red]a", "[b]"], images=1)
    text = Report(protocol="native", domains={"[bold]day": result}).to_text()
    assert "[bold]day" in text
    assert "[red]a" in text


def test_html(report: Report) -> None:
    page = report.to_html()
    assert "protocol published" in page
    assert "&lt;sky&gt;" in page
    assert page.count("newPlot(") >= 1
    assert page.count("/*!\n* plotly.js") <= 1
    table = page[page.index("<table>") : page.index("</table>")]
    assert re.findall(r"<td[^>]*>([^<]*)</td>", table)[:6] == ["75.0", "50.0", "–", "–", "66.7", "–"]


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
    ],
)
def test_json_of_something_else(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Report.from_json(text)
