"""A Chromium for tests of pages: started through its driver, with nothing downloaded."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

_NAMES = ("chromium", "chromium-browser", "google-chrome")
REMEDY = "`apt-get install chromium chromium-driver` brings both"


def find_browser() -> tuple[str, str]:
    """Paths of the browser and its driver. Skips the test where one is missing, or fails it in CI."""
    found = next(filter(None, map(shutil.which, _NAMES)), None), shutil.which("chromedriver")
    missing = [name for name, path in zip(("Chromium", "chromedriver"), found, strict=True) if path is None]
    browser, driver = found
    if browser is None or driver is None:
        reason = f"needs a browser; {' and '.join(missing)} not found, {REMEDY}"
        if os.environ.get("CLOUDS_REQUIRE_BROWSER") == "1":
            pytest.fail(f"CLOUDS_REQUIRE_BROWSER=1, but {reason}")
        pytest.skip(reason)
    return browser, driver


def start_browser(profile: Path, *, width: int = 1280, height: int = 1000) -> Chrome:
    """A headless browser with an empty profile in the folder `profile`, which must not exist. Quit it when done."""
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    browser, driver = find_browser()
    options = ChromeOptions()
    options.binary_location = browser
    for argument in ("--headless=new", "--disable-dev-shm-usage", "--no-first-run", f"--user-data-dir={profile}"):
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # root, as in containers, cannot have one
    options.add_argument(f"--window-size={width},{height}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return Chrome(options, Service(driver))


def console_errors(browser: Chrome) -> list[str]:
    """Errors on the console since the last call: uncaught exceptions, refused and failed requests."""
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def prefer(browser: Chrome, scheme: str) -> None:
    """Set the user's colour scheme, "light" or "dark", for the pages of this browser."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
