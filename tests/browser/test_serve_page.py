"""The page of `clouds serve`, in a browser, as a visitor uses it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from served import PATIENCE, served

pytestmark = pytest.mark.slow
TINY = {"name": "tiny", "dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
SMALL = {"queries": 20, "width": 64, "layers": 2, "encoder_layers": 1, "points": 60}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A page with a model of fixed classes and one that takes words, in a process of its own."""
    pytest.importorskip("gradio", reason="gradio is not installed: pip install 'clouds-dgss[serve]'")
    import clouds

    folder = tmp_path_factory.mktemp("models")
    for name, head in (("fixed", {"name": "linear", "width": 16}), ("words", {"name": "mask2former-text", **SMALL})):
        pipeline = clouds.compose(backbone=TINY, head=head, device="cpu")
        pipeline.trained = True
        pipeline.save(folder / name)
    with served("fixed", "words", folder=folder) as found:
        yield found


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    blocks = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    Image.fromarray(blocks.repeat(16, 0).repeat(16, 1)).save(tmp_path / "street.png")
    return tmp_path / "street.png"


def wait(browser: Any, condition: Any) -> Any:
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, PATIENCE).until(condition)


def shown(browser: Any, css: str, text: str = "") -> list[Any]:
    """Visible elements with this text in them."""
    return [one for one in browser.find_elements("css selector", css) if one.is_displayed() and text in one.text]


def give(browser: Any, path: Path) -> None:
    """Choose a file as the picture, and wait until it is uploaded."""
    wait(browser, lambda b: b.find_elements("css selector", "input[type=file]"))[0].send_keys(str(path))
    wait(browser, lambda b: shown(b, "button[aria-label='Remove Image']"))


def press(browser: Any, name: str) -> None:
    browser.execute_script("arguments[0].click()", wait(browser, lambda b: shown(b, "button", name))[0])


def test_a_visitor_segments_a_picture_with_classes_in_words(browser: Any, address: str, picture: Path) -> None:
    browser.get(address)
    give(browser, picture)
    press(browser, "Segment")
    wait(browser, lambda b: shown(b, "p", "128 x 96 pixels"))
    overlays = browser.find_elements("css selector", 'img[alt^="The picture in the classes\' colours"]')
    assert len(overlays) == 2
    sizes = "return arguments[0].complete && [arguments[0].naturalWidth, arguments[0].naturalHeight]"
    assert all(wait(browser, lambda b, one=one: b.execute_script(sizes, one)) == [128, 96] for one in overlays)
    assert len(shown(browser, "table")) == 2

    field = shown(browser, "textarea, input[type=text]")[0]
    field.send_keys("zebra, river\n")  # the Enter key starts, too
    wait(browser, lambda b: len(shown(b, "table")) == 2 and re.search("zebra|river", shown(b, "table")[1].text))
    assert "zebra" not in shown(browser, "table")[0].text  # fixed classes
    assert re.search(r"1 (zebra|river) 0\.\d\d", " ".join(one.text for one in shown(browser, "button.legend-item")))

    outside = "return performance.getEntriesByType('resource').map(one => one.name)"
    assert [one for one in browser.execute_script(outside) if not one.startswith((address, "data:", "blob:"))] == []


@pytest.mark.parametrize("words", ["", "deer, road, deer"])
def test_a_visitor_is_told_what_is_wrong(browser: Any, address: str, picture: Path, words: str) -> None:
    browser.get(address)
    if words:
        give(browser, picture)
        shown(browser, "textarea, input[type=text]")[0].send_keys(words)
    else:
        picture = picture.with_name("notes.png")
        picture.write_text("no picture", encoding="utf-8")
        give(browser, picture)
    press(browser, "Segment")
    told = wait(browser, lambda b: shown(b, "[data-testid=toast-text]"))[0].text
    expected = "classes named twice: deer; name each once" if words else "notes.png: not a picture that can be read"
    assert expected in told
    assert "Traceback" not in told


def test_the_page_is_usable_with_the_keyboard_and_in_the_dark(browser: Any, address: str) -> None:
    from browsers import prefer

    prefer(browser, "dark")
    browser.get(address)
    wait(browser, lambda b: shown(b, "button", "Segment"))
    light = (
        "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0)"
    )
    assert browser.execute_script(light) < 200
    focus = browser.switch_to.active_element
    names: list[str] = []
    for _ in range(20):
        focus.send_keys("\ue004")  # the Tab key
        focus = browser.switch_to.active_element
        names.append(focus.text or focus.tag_name)
    assert "Segment" in names
    assert "textarea" in names or "input" in names
