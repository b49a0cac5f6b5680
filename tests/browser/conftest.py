"""A real Chromium, started once for each test process."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--no-first-run"]


@pytest.fixture
def browser() -> Iterator[Browser]:
    found = shutil.which("chromium")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("chromium is not installed")
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that fails its test when a script of it throws, or when anything breaks its security policy."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(f"thrown: {error}"))
    page.on("console", lambda message: problems.append(message.text) if _is_a_problem(message.text) else None)
    page.on(
        "request",
        lambda request: problems.append(request.url) if not request.url.startswith(("http://127.", "data:")) else None,
    )
    yield page
    context.close()
    assert problems == []


def _is_a_problem(text: str) -> bool:
    return "Content Security Policy" in text or "Content-Security-Policy" in text
