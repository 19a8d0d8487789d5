import base64
import io
import re
from collections.abc import Callable
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from clouds.core.contract.labels import CITYSCAPES
from clouds.evaluation import html
from clouds.evaluation.spread import Spread

_VOID = {"meta", "img", "link", "br"}


class Tags(HTMLParser):
    """Collects tags and text, and checks that tags are closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def _page(*content: html.Fragment) -> str:
    return html.page("Title", [html.Section(title="Part", content=content)])


def _figure() -> html.Fragment:
    from plotly.graph_objects import Bar, Figure

    return html.figure(Figure([Bar(x=["a"], y=[1])]), name="bars", alt="Bars & more")


def test_plotly_comes_along_once_and_only_when_needed() -> None:
    from plotly.offline import get_plotlyjs

    script = get_plotlyjs()
    assert _page(_figure(), _figure()).count(script) == 1
    assert _page(html.folded("more", _figure())).count(script) == 1
    without = _page(html.folded("more", html.table(["a"], [["b"]])))
    assert without.count("<script") == 1, "sorting and enlarging"
    assert script not in without


def test_page_loads_nothing() -> None:
    picture = html.Picture(np.zeros((2, 2, 3), np.uint8))
    page = Tags(_page(html.legend(CITYSCAPES), html.picture_grid(["a"], [[picture]]), _figure()))
    for _, attributes in page.seen:
        assert not {"href", "srcset", "data"} & set(attributes)
        assert (attributes.get("src") or "data:").startswith("data:")
    policies = [one["content"] for tag, one in page.seen if tag == "meta" and "http-equiv" in one]
    assert len(policies) == 1
    assert (policies[0] or "").startswith("default-src 'none'")


@given(word=st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1).map(lambda word: f"<b>{word}&"))
def test_words_are_never_markup(word: str) -> None:
    picture = html.Picture(np.zeros((1, 1, 3), np.uint8), caption=word)
    section = html.Section(
        title=word,
        note=word,
        content=[
            html.text(word),
            html.cards([(word, word)]),
            html.table([word], [[word]]),
            html.picture_grid([word], [[picture]]),
            html.folded(word, html.text(word)),
        ],
    )
    page = Tags(html.page(word, [section], subtitle=word))
    assert "b" not in {tag for tag, _ in page.seen}
    assert page.words.count(word) == 14


def test_table() -> None:
    rows: list[list[html.Cell]] = [["fog", 12.34, "x"], ["rain", None, ""], ["mean", 12.34, ""]]
    fragment = html.table(["domain", "mIoU", "note"], rows, footer=1)
    page = Tags(fragment.html)
    kinds = [one["class"] for tag, one in page.seen if tag == "th" and one["scope"] == "col"]
    assert kinds == ["word", "number", "word"]
    words = [word for word in page.words if word.strip()]
    assert words == ["domain", "mIoU", "note", "fog", "12.3", "x", "rain", "–", "mean", "12.3"]
    assert fragment.html.index("<tfoot>") > fragment.html.index("rain")
    assert 'class=""' in fragment.html
    for look in ("bars", "heat"):
        looked = html.table(["a", "b"], [["c", 12.34]], **{look: True}).html
        assert f'<table class="{look}">' in looked
        assert "--share:12.3%" in looked


def test_numbers_and_ranges_written_as_text_sort_as_numbers() -> None:
    rows: list[list[html.Cell]] = [
        ["a", "-0.90", "-1.2 to 3.4", "0, 1", "1 to 2 m", "0.5"],
        ["b", None, None, "0", "3", "x"],
    ]
    fragment = html.table(["", "rank correlation", "interval", "seeds", "length", "mixed"], rows)
    kinds = [one["class"] for tag, one in Tags(fragment.html).seen if tag == "th" and one["scope"] == "col"]
    assert kinds == ["word", "number", "number", "word", "word", "word"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        *[(None, "–"), (float("nan"), "–"), (float("inf"), "–"), (3.14159, "3.1"), (7, "7"), ("x", "x")],
        *[(-0.04, "0.0"), (Spread(-0.04), "0.0"), (html.Gain(-0.04), "0.0"), (html.Gain(0.04), "+0.0")],
    ],
)
def test_number(value: html.Cell, shown: str) -> None:
    assert html.number(value) == shown


@pytest.mark.parametrize("style", [html.bar_style, html.line_style])
def test_more_series_than_colours_differ(style: Callable[[int], dict[str, object]]) -> None:
    styles = [style(index) for index in range(4 * len(html.SERIES))]
    assert all(one not in styles[:index] for index, one in enumerate(styles))


@given(label=arrays(np.uint8, (5, 7), elements=st.sampled_from([*range(19), 255])))
def test_label_maps_keep_their_colours(label: np.ndarray) -> None:
    picture = html.colorize(label, CITYSCAPES)
    shown = _decode(html.picture_grid(["label"], [[picture]]).html)
    assert np.array_equal(shown[label != 255], np.array(CITYSCAPES.palette)[label[label != 255]])
    assert np.all(shown[label == 255] == (24, 24, 27))


def test_photographs_become_small() -> None:
    photo = np.linspace(0, 255, 200 * 300 * 3).reshape(200, 300, 3).astype(np.uint8)
    fragment = html.picture_grid(["a", "b"], [[html.Picture(photo, "x"), None]])
    assert "data:image/jpeg" in fragment.html
    # Quality 88: a smooth picture stays within a few levels.
    assert np.abs(_decode(fragment.html).astype(int) - photo).mean() < 3
    assert fragment.html.count("<figure>") == 2


def test_legend_of_what_is_present() -> None:
    words = Tags(html.legend(CITYSCAPES, [13, 0, 255, 0]).html).words
    assert words == ["road", "car", "not labelled"]
    assert len(Tags(html.legend(CITYSCAPES).html).words) == 20


def _decode(fragment: str) -> np.ndarray:
    match = re.search(r"base64,([^\"]+)", fragment)
    assert match
    return np.array(Image.open(io.BytesIO(base64.b64decode(match[1]))).convert("RGB"))


def test_a_text_table_shows_words_literally() -> None:
    assert "folder:car:val [b]" in html.text_table(["domain"], [["folder:car:val [b]"]])
