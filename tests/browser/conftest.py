"""The browser of the tests in this folder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from browsers import console_errors, prefer, start_browser

if TYPE_CHECKING:
    from selenium.webdriver import Chrome


@pytest.fixture(scope="session")
def _browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    browser = start_browser(tmp_path_factory.mktemp("browser") / "profile")
    yield browser
    browser.quit()


@pytest.fixture
def browser(_browser: Chrome) -> Iterator[Chrome]:
    """A headless Chromium on an empty light page, 1280 pixels wide. The test fails if its pages log a console error.

    A test that expects errors takes them with `browsers.console_errors`.
    """
    _browser.set_window_size(1280, 1000)
    prefer(_browser, "light")
    yield _browser
    errors = console_errors(_browser)
    _browser.get("about:blank")
    assert not errors, errors
