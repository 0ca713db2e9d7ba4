"""A real headless browser for tests of pages, and what it asked the network for.

Chromium and its driver are the system's own. Where they are missing the tests
are skipped, except under CI (`CI` is set): there a missing browser is a failure,
because nobody would notice the skip.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-color-profile=srgb",
)
PATIENCE_SECONDS = 60


def start_browser(profile: Path) -> webdriver.Chrome:
    """A browser with a profile of its own; skips the test, or fails it under CI, when there is none."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        reason = (
            "no chromium with chromedriver here; install them, for example: apt-get install chromium chromium-driver"
        )
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    environment = {**os.environ, "HOME": str(profile), "SE_AVOID_STATS": "true"}
    return webdriver.Chrome(options=options, service=Service(driver, env=environment))


class Page:
    """One opened trace page, in the words of its reader."""

    def __init__(self, browser: webdriver.Chrome, path: Path) -> None:
        self.browser = browser
        self.url = path.as_uri()
        self.set_size(1400, 900)
        browser.get_log("performance")
        browser.get_log("browser")
        browser.get(self.url)
        self.wait_ready()

    def set_size(self, width: int, height: int) -> None:
        """The size of the viewport in CSS pixels; it takes effect at once."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def set_scheme(self, scheme: str) -> None:
        """`light` or `dark`, as the reader's system would say."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def run(self, script: str, *arguments: Any) -> Any:
        """The value of a script run in the page."""
        return self.browser.execute_script(script, *arguments)

    def wait_ready(self) -> None:
        """Until the page has drawn what was asked for last."""
        ready = "return document.body.dataset.state === 'ready'"
        WebDriverWait(self.browser, PATIENCE_SECONDS, 0.02).until(lambda browser: browser.execute_script(ready))

    def texts(self, selector: str) -> list[str]:
        """The visible texts of all elements, in order."""
        # In one step: rows are drawn anew whenever the list scrolls or changes its size.
        script = "return [...document.querySelectorAll(arguments[0])].map((element) => element.innerText.trim())"
        found: list[str] = self.run(script, selector)
        return found

    def text(self, selector: str) -> str:
        """The visible text of the first element."""
        return self.texts(selector)[0]

    def click(self, selector: str) -> None:
        """A click in the middle of the first element."""
        waiting = WebDriverWait(self.browser, PATIENCE_SECONDS, 0.02, (StaleElementReferenceException,))
        waiting.until(lambda browser: browser.find_element(By.CSS_SELECTOR, selector).click() is None)

    def press(self, *keys: str) -> None:
        """Keys to whatever has the focus, one after the other."""
        self.browser.switch_to.active_element.send_keys(*keys)
        self.wait_ready()

    def search(self, text: str) -> None:
        """Replace the search text and wait for the result."""
        field = self.browser.find_element(By.ID, "search")
        field.send_keys(Keys.CONTROL, "a", Keys.NULL, Keys.BACKSPACE, text)
        self.wait_ready()

    def rows(self) -> list[str]:
        """Kind and label of every drawn row, such as `tool grep`."""
        script = """return [...document.querySelectorAll('.row')].map((row) =>
          [...row.querySelectorAll('.kind, .label')].map((part) => part.textContent).join(' '))"""
        found: list[str] = self.run(script)
        return found

    def totals(self) -> dict[str, int]:
        """The counters of the head."""
        script = """return Object.fromEntries([...document.querySelectorAll('.total')].map((total) =>
          [total.dataset.total, Number(total.querySelector('dd').textContent.replace(/\\D/g, ''))]))"""
        found: dict[str, int] = self.run(script)
        return found

    def requests(self) -> list[str]:
        """Every address that was asked for since the page was opened, the page itself included."""
        messages = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
            and not message["params"]["documentURL"].startswith("chrome")  # the browser's own first page
        ]

    def complaints(self) -> list[str]:
        """What the browser's console holds: errors of the script and violations of the policy."""
        return [entry["message"] for entry in self.browser.get_log("browser")]
