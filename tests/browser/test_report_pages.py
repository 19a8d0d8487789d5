"""The pages of results in a real browser: tables sort, pictures open, and everything works with the keyboard.

The fixture `browser` fails a test whose page logs an error.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsers import prefer
from PIL import Image

from clouds import LabelSpace
from clouds.core.system.files import write_text
from clouds.evaluation import html
from clouds.evaluation.evaluate import evaluate
from clouds.evaluation.pipeline_comparison import compare_pipelines

LABELS = LabelSpace.from_names(["road", "car", "sky"], name="toy")
HUES = np.array([[120, 60, 120], [30, 30, 160], [90, 150, 200]], np.uint8)


class _Answer:
    def __init__(self, image: np.ndarray, sharpness: float) -> None:
        distance = np.square(image[None].astype(np.float32) - HUES[:, None, None]).sum(-1)
        weights = np.exp(-sharpness * distance)
        self.values = weights / weights.sum(0)
        self.labels = distance.argmin(0).astype(np.uint8)

    def scores(self) -> np.ndarray:
        return self.values.astype(np.float32)


class NearestHue:
    """A model that knows the hue of each class; noise that it does not subtract makes it err."""

    labels = LABELS

    def __init__(self, shift: int = 0) -> None:
        self.shift = shift

    def predict_many(
        self, images: Iterable[np.ndarray], *, batch_size: int = 8, short_side: int | None = None, window: int = 2048
    ) -> Iterator[_Answer]:
        for image in images:
            yield _Answer(np.clip(image.astype(int) + self.shift, 0, 255), 1e-4)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Eight streets with more and more noise."""
    root, rng = tmp_path_factory.mktemp("streets"), np.random.default_rng(0)
    for index in range(8):
        truth = np.full((48, 64), 2, np.uint8)
        truth[24:] = 0
        truth[28:36, 8 * index : 8 * index + 8] = 1
        pixels = np.clip(HUES[truth] + rng.normal(0, 8 * index, (48, 64, 3)), 0, 255).astype(np.uint8)
        truth[:4] = 255
        for part, picture in (("images", pixels), ("labels", truth)):
            (root / part / "val").mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(root / part / "val" / f"street-{index}.png")
    return f"folder:{root}"


@pytest.fixture(scope="module")
def report(spec: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("pages") / "report.html"
    write_text(path, evaluate(NearestHue(), [spec], analysis=True, calibration=True).to_html())
    return path.as_uri()


@pytest.fixture(scope="module")
def comparison(spec: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("pages") / "comparison.html"
    write_text(path, compare_pipelines({"plain": NearestHue(), "shifted": NearestHue(25)}, [spec]).to_html())
    return path.as_uri()


def _headings(browser: Any) -> list[str]:
    return [one.text for one in browser.find_elements("css selector", "h2")]


def _table(browser: Any, words: str) -> Any:
    """The first table whose heading has these words."""
    tables = browser.find_elements("css selector", "table")
    return next(
        one for one in tables if words in one.find_element("css selector", "thead").get_attribute("textContent")
    )


def _column(table: Any, place: int) -> list[str]:
    cells = table.find_elements("css selector", f"tbody tr > :nth-child({place})")
    return [cell.get_attribute("textContent") for cell in cells]


def test_the_parts_of_a_report(browser: Any, report: str) -> None:
    browser.get(report)
    assert _headings(browser) == [
        "mIoU in percent",
        "IoU per class",
        "All figures",
        "Worst, median and best images",
        "Confusions",
        "Size and boundaries",
        "Calibration",
    ]
    assert len(browser.find_elements("css selector", ".figure .main-svg")) >= 4, "plots are drawn"


def test_a_click_sorts_a_table_and_a_screen_reader_hears_of_it(browser: Any, report: str) -> None:
    browser.get(report)
    table = _table(browser, "predicted as")
    heading = table.find_elements("css selector", "thead th")[2]
    pixels = [int(one) for one in _column(table, 3)]
    assert len(pixels) > 2
    assert heading.get_attribute("aria-sort") is None
    heading.find_element("css selector", "button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    assert [int(one) for one in _column(table, 3)] == sorted(pixels, reverse=True)
    heading.find_element("css selector", "button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    assert [int(one) for one in _column(table, 3)] == sorted(pixels)
    first = table.find_elements("css selector", "thead th")[0]
    first.find_element("css selector", "button").click()
    assert first.get_attribute("aria-sort") == "ascending"
    assert heading.get_attribute("aria-sort") is None
    assert _column(table, 1) == sorted(_column(table, 1))


def test_sums_stay_below_the_classes(browser: Any, report: str) -> None:
    browser.get(report)
    table = _table(browser, "class")
    below = [row.text for row in table.find_elements("css selector", "tfoot tr")]
    for _ in range(2):
        table.find_elements("css selector", "thead button")[1].click()
        assert [row.text for row in table.find_elements("css selector", "tfoot tr")] == below
    assert below[0].startswith("mIoU")


def test_rows_without_a_value_stay_at_the_end(browser: Any, tmp_path: Path) -> None:
    rows: list[list[html.Cell]] = [["a", None], ["b", html.Gain(-2.0)], ["c", html.Gain(10.0)], ["d", html.Gain(9.0)]]
    path = tmp_path / "page.html"
    write_text(path, html.page("Gains", [html.Section(title="Gains", content=[html.table(["name", "gain"], rows)])]))
    browser.get(path.as_uri())
    table = _table(browser, "gain")
    for expected in (["c", "d", "b", "a"], ["b", "d", "c", "a"]):
        table.find_elements("css selector", "thead button")[1].click()
        assert _column(table, 1) == expected
    assert _column(table, 2) == ["−2.0", "+9.0", "+10.0", "–"]


def test_the_keyboard_sorts_and_opens(browser: Any, report: str) -> None:
    from selenium.webdriver import ActionChains, Keys

    browser.get(report)

    def press(*keys: str) -> None:
        for key in keys:
            ActionChains(browser).send_keys(key).perform()

    # 1. the first stop is a heading of the first table; its focus is visible
    press(Keys.TAB)
    focused = browser.switch_to.active_element
    assert focused.tag_name == "button"
    assert focused.value_of_css_property("outline-style") == "solid"
    press(Keys.SPACE)
    heading = browser.execute_script("return document.activeElement.closest('th')")
    assert heading.get_attribute("aria-sort") == "ascending"
    # 2. a picture opens with Enter; arrows go to the next one; Escape closes, and the focus is where it was
    picture = browser.find_element("css selector", ".pictures button")
    browser.execute_script("arguments[0].focus()", picture)
    press(Keys.ENTER)
    dialog = browser.find_element("css selector", "dialog")
    assert dialog.is_displayed()
    assert "worst: street-7" in dialog.text
    press(Keys.ARROW_RIGHT)
    assert dialog.text.startswith("truth road")
    press(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert dialog.text.startswith("errors"), "the last picture of the grid"
    press(Keys.ESCAPE)
    assert not dialog.is_displayed()
    assert "errors" in browser.switch_to.active_element.find_element("css selector", "img").get_attribute("alt")


def test_a_click_opens_a_picture_and_another_one_closes_it(browser: Any, report: str) -> None:
    browser.get(report)
    pictures = browser.find_elements("css selector", ".pictures button")
    assert len(pictures) == 4 * 6
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", pictures[3])
    pictures[3].click()
    dialog = browser.find_element("css selector", "dialog")
    shown = dialog.find_element("css selector", "img")
    assert shown.get_attribute("src") == pictures[3].find_element("css selector", "img").get_attribute("src")
    assert int(shown.get_attribute("naturalWidth")) == 64
    assert "of the labelled pixels are wrong" in dialog.text
    dialog.find_element("css selector", "button").click()
    assert not dialog.is_displayed()


def test_what_a_screen_reader_finds(browser: Any, report: str, comparison: str) -> None:
    for page in (report, comparison):
        browser.get(page)
        assert browser.execute_script("return document.documentElement.lang") == "en"
        assert len(browser.find_elements("css selector", "h1")) == 1
        for selector in ("img:not([alt])", "img[alt='']", "thead th:not([scope=col])", "tbody th:not([scope=row])"):
            assert not browser.find_elements("css selector", selector), selector
        for figure in browser.find_elements("css selector", ".figure"):
            assert figure.get_attribute("role") == "img"
            assert figure.get_attribute("aria-label")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_are_readable_in_both_schemes(browser: Any, report: str, scheme: str) -> None:
    """Contrast of at least 4.5, as WCAG 2.2 asks for (success criterion 1.4.3), for text on the strongest heat, too."""
    prefer(browser, scheme)
    browser.get(report)
    ratios = browser.execute_script(_CONTRAST)
    assert len(ratios) > 100
    assert min(ratios) >= 4.5
    assert (browser.execute_script(_LIGHTNESS) > 0.5) == (scheme == "light")


def test_the_comparison(browser: Any, comparison: str) -> None:
    browser.get(comparison)
    expected = ["mIoU in percent", "IoU per class", "Image by image", "Images that changed most"]
    assert _headings(browser) == expected
    columns = [one.text for one in browser.find_elements("css selector", ".pictures .column")]
    assert columns == ["input", "truth", "plain", "shifted", "change"]
    assert "shifted − plain" in _table(browser, "shifted − plain").text
    assert browser.find_elements("css selector", ".figure .scatterlayer .point")


def test_narrow_pages_do_not_scroll_sideways(browser: Any, report: str, comparison: str) -> None:
    browser.set_window_size(500, 900)
    for page in (report, comparison):
        browser.get(page)
        width, shown = browser.execute_script(
            "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert width <= shown


_LIGHTNESS = """
const [r, g, b] = getComputedStyle(document.body).backgroundColor.match(/[\\d.]+/g).map(Number);
return (r + g + b) / 765;
"""
# The contrast of each element's own text against the colours behind it, drawn over each other on a canvas.
_CONTRAST = """
const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const luminance = (layers) => {
  canvas.clearRect(0, 0, 1, 1);
  for (const layer of layers) { canvas.fillStyle = layer; canvas.fillRect(0, 0, 1, 1); }
  const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((value) => {
    const share = value / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const found = [];
for (const element of document.querySelectorAll("h1, h2, h3, p, th, td, caption, summary, figcaption, .what, .value")) {
  if (!element.textContent.trim() || !element.getClientRects().length) continue;
  const behind = [];
  for (let one = element; one; one = one.parentElement) behind.unshift(getComputedStyle(one).backgroundColor);
  const [text, back] = [luminance([...behind, getComputedStyle(element).color]), luminance(behind)];
  found.push((Math.max(text, back) + 0.05) / (Math.min(text, back) + 0.05));
}
return found;
"""
