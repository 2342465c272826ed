"""Headless Chromium, where there is one: the page as a reader sees it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

# Without the last three, Chromium looks for its maker's hosts at every start.
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def chromium(*, width: int = 1280, height: int = 900, phone: bool = False) -> Iterator[Any]:
    """A browser without a window, of its own profile; skips the test where there is none."""
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs:
        pytest.skip("needs chromium and chromedriver: apt-get install chromium chromium-driver")
    # Selenium would look for drivers to download, and tell its maker of it.
    os.environ.update({"SE_OFFLINE": "true", "SE_AVOID_STATS": "true"})
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(programs[0])
    for flag in (*_FLAGS, f"--window-size={width},{height}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    if phone:
        metrics = {"width": width, "height": height, "pixelRatio": 2.0}
        options.add_experimental_option("mobileEmulation", {"deviceMetrics": metrics})
    browser = webdriver.Chrome(options=options, service=Service(str(programs[1])))
    try:
        yield browser
    finally:
        browser.quit()


def opened(browser: Any, page: Path, fragment: str = "") -> None:
    """Open a file as a reader does, from the disk, and leave nothing of the last one."""
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get(page.resolve().as_uri() + fragment)


def errors(browser: Any) -> list[str]:
    """What the page complained of since it was opened."""
    return [entry["message"] for entry in browser.get_log("browser")]
