"""Memories on the web dashboard, in a real browser: shown where there are any, as text whatever is in them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from wire import Served

HOSTILE = "<img/src=x/onerror=alert(1)>\u202e \x1b[31m"


@pytest.fixture
def served(state_dir: Path, port_base: int) -> Iterator[Served]:
    with Served(state_dir, port_base, "--name", "planner") as served:
        yield served


def test_memories_are_shown_as_text_once_there_are_any(page: Page, served: Served) -> None:
    page.goto(served.ask("/session/codes", method="POST").json["url"])
    expect(page.locator("#connection")).to_contain_text("live")
    expect(page.locator("#memories")).to_be_hidden()
    stored = served.ask("/memories", method="POST", body={"content": HOSTILE, "namespace": "project:p", "importance": 9})
    assert stored.status == 200
    expect(page.locator("#memory-rows tr")).to_have_count(1)
    expect(page.locator("#memories")).to_contain_text("<img/src=x/onerror=alert(1)>")
    expect(page.locator("#memory-rows")).to_contain_text("project:p")
    expect(page.locator("#memory-rows")).to_contain_text("planner")
    expect(page.locator("#memories-count")).to_have_text("1, 0 links")
    expect(page.locator("#event-list")).to_contain_text("remembered something")
    assert page.evaluate("() => !document.querySelector('img') && !document.body.textContent.includes('\\u202e')")
