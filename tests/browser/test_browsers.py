"""The browser of these tests sees errors and colour schemes; a missing one is named."""

from pathlib import Path
from typing import Any

import pytest
from browsers import console_errors, find_browser, prefer


def _write(folder: Path, body: str) -> str:
    path = folder / "page.html"
    path.write_text(f"<!doctype html><title>A page</title>{body}", encoding="utf-8")
    return path.as_uri()


def test_the_browser_reports_errors_of_scripts_and_of_files(browser: Any, tmp_path: Path) -> None:
    browser.get(_write(tmp_path, "<script>missing()</script><img src='none.png'>"))
    image, script = sorted(console_errors(browser), key=lambda message: "is not defined" in message)
    assert "missing is not defined" in script
    assert "none.png" in image
    assert console_errors(browser) == []


def test_the_browser_has_the_colour_scheme_that_a_test_sets(browser: Any, tmp_path: Path) -> None:
    browser.get(_write(tmp_path, ""))
    dark = "return matchMedia('(prefers-color-scheme: dark)').matches"
    assert browser.execute_script(dark) is False
    prefer(browser, "dark")
    assert browser.execute_script(dark) is True


def test_a_missing_browser_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CLOUDS_REQUIRE_BROWSER", raising=False)
    with pytest.raises(pytest.skip.Exception, match="needs a browser; Chromium and chromedriver not found, `apt-get"):
        find_browser()
    monkeypatch.setenv("CLOUDS_REQUIRE_BROWSER", "1")
    with pytest.raises(pytest.fail.Exception, match="CLOUDS_REQUIRE_BROWSER=1, but needs a browser"):
        find_browser()
