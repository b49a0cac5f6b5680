"""The web dashboard in a real browser, on a real fleet."""

from __future__ import annotations

import re
import signal
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import support
from playwright.sync_api import Page, expect
from wire import Served

from mnemo_coord import Coordinator, Settings
from mnemo_coord.disk.watch import Watch

FAST = Settings(heartbeat_interval=0.5, poll_interval=0.2)
HOSTILE = "<img src=x onerror=alert(1)>\"'</script><script>window.pwned=1</script>\u202egnp\x1b[31m"


@pytest.fixture
def served(state_dir: Path, port_base: int) -> Iterator[Served]:
    with Served(state_dir, port_base, "--name", "planner") as served:
        yield served


def address(served: Served) -> str:
    url: str = served.ask("/session/codes", method="POST").json["url"]
    return url


def enter(page: Page, served: Served) -> None:
    page.goto(address(served))
    expect(page.locator("#connection")).to_contain_text("live")


def row(page: Page, instance_id: str) -> Any:
    return page.locator(f'[data-instance="{instance_id}"]')


def test_a_person_gets_in_by_the_printed_address_once(page: Page, served: Served, state_dir: Path) -> None:
    printed = support.run("--dir", state_dir, "dashboard").stdout.strip()
    page.goto(printed)
    expect(page.locator("#connection")).to_contain_text("live")
    assert page.url == f"http://127.0.0.1:{served.port}/", "the code is gone from the address"
    expect(row(page, served.instance_id)).to_have_attribute("data-status", "alive")
    expect(page.locator("#attention")).to_contain_text(re.compile("all is well", re.IGNORECASE))
    page.context.clear_cookies()
    page.goto("about:blank")
    page.goto(printed)
    expect(page.locator("body")).to_contain_text("used")
    page.get_by_label(re.compile("token", re.IGNORECASE)).fill(served.token)
    page.keyboard.press("Enter")
    expect(page.locator("#connection")).to_contain_text("live")


def test_who_comes_from_another_site_gets_in_by_a_click_of_its_own(
    page: Page, served: Served, state_dir: Path, port_base: int
) -> None:
    """A link from one dashboard to another is a navigation from another site; a session there is enough."""
    with Served(state_dir, port_base) as other:
        enter(page, other)
        enter(page, served)
        expect(row(page, other.instance_id)).to_be_visible()
        with page.context.expect_page() as opened:
            link = row(page, other.instance_id).get_by_role("link", name=str(other.port))
            link.evaluate("link => link.target = '_blank'")
            link.click()
        expect(opened.value.locator("#connection")).to_contain_text("live")
        assert opened.value.url == f"http://127.0.0.1:{other.port}/"


def test_what_happens_is_seen_at_once(page: Page, served: Served, state_dir: Path) -> None:
    """Comes, talks, says, dies."""
    enter(page, served)
    expect(page.locator("#events")).to_contain_text("planner joined")
    with support.Serve(state_dir, "--name", "builder", "--role", "coder") as builder:
        expect(row(page, builder.instance_id)).to_have_attribute("data-status", "alive")
        expect(row(page, builder.instance_id)).to_contain_text("builder")
        expect(row(page, builder.instance_id)).to_contain_text("coder")
        support.run("--dir", state_dir, "send", "--to", "planner", "Hello", "--from", "ci")
        expect(page.locator('[data-flow="ci>' + served.instance_id + '"]')).to_have_count(1)
        expect(page.locator("#events [data-kind=message_received]")).to_have_count(1)
        support.run("--dir", state_dir, "send", "--to", "builder", "Hello", "--from", "ci")
        expect(page.locator('[data-flow="ci>' + builder.instance_id + '"]')).to_have_count(1)
        support.run("--dir", state_dir, "report", "stuck", "no password", "--as", "builder")
        expect(row(page, builder.instance_id)).to_contain_text("no password")
        expect(page.locator("#attention")).to_contain_text("no password")
        builder.process.send_signal(signal.SIGSTOP)
        expect(row(page, builder.instance_id)).to_have_attribute("data-status", re.compile("stalled|paused"))
        builder.kill()
        expect(page.locator("#events [data-kind=instance_died]")).to_have_count(1)
        expect(row(page, builder.instance_id)).to_have_count(0)
    expect(page.locator("#attention")).not_to_contain_text("no password")


def test_findings_come_with_the_command_that_mends_them(page: Page, served: Served, state_dir: Path) -> None:
    enter(page, served)
    (state_dir / "claims").chmod(0o755)
    expect(page.locator("#attention")).to_contain_text("mnemosyne doctor --fix", timeout=15_000)
    assert support.run("--dir", state_dir, "doctor", "--fix").returncode == 0
    expect(page.locator("#attention")).to_contain_text(re.compile("all is well", re.IGNORECASE), timeout=15_000)


def test_an_event_reaches_the_page_within_50_ms_of_its_cause(page: Page, served: Served, state_dir: Path) -> None:
    enter(page, served)
    page.evaluate("""() => {
        window.seen = {};
        new MutationObserver(() => {
            for (const item of document.querySelectorAll('#events [data-event]')) window.seen[item.dataset.event] ??= Date.now();
        }).observe(document.querySelector('#events'), {childList: true, subtree: true});
    }""")
    delays = []
    with Coordinator(state_dir, settings=FAST) as me:
        for number in range(20):
            sent = time.time() * 1000
            me.send("planner", "T")
            expect(page.locator("#events [data-kind=message_acknowledged]")).to_have_count(number + 1)
            first = page.evaluate(
                "() => Math.min(...Array.from(document.querySelectorAll('#events [data-kind=message_received]'), i => window.seen[i.dataset.event]).slice(0, 1))"
            )
            delays.append(first - sent)
    print(f"from sending to the page: median {statistics.median(delays):.0f} ms, longest {max(delays):.0f} ms")
    assert statistics.median(delays) < 50


def test_what_strangers_say_stays_text(page: Page, served: Served, state_dir: Path) -> None:
    """A17, Q37."""
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    enter(page, served)
    with Coordinator(state_dir, settings=FAST) as me:
        me.report("stuck", HOSTILE[:200])
        me.send("planner", "<b>bold</b>" + "<script>alert(2)</script>", {"text": HOSTILE})
        (state_dir / "reports" / "<script>alert(3)<b>.state").write_text("x")
        expect(page.locator("#attention")).to_contain_text("<img src=x onerror=alert(1)>")
        expect(page.locator("#events")).to_contain_text("<b>bold</b>")
        expect(page.locator("#attention")).to_contain_text("<script>alert(3)", timeout=15_000)
    assert dialogs == []
    assert page.evaluate("() => window.pwned === undefined && !document.querySelector('img[src=x]')")
    assert page.evaluate("() => !document.body.innerText.includes('\\u202e') && !document.body.innerText.includes('\\u001b')")


def test_it_finds_back_when_the_server_starts_again(page: Page, state_dir: Path, port_base: int) -> None:
    with Served(state_dir, port_base) as first:
        enter(page, first)
        first.kill()
    expect(page.locator("#connection")).not_to_contain_text("live")
    with Served(state_dir, port_base) as second:
        assert second.port == port_base
        expect(page.locator("#connection")).to_contain_text("live", timeout=15_000)
        expect(row(page, second.instance_id)).to_have_attribute("data-status", "alive")
        expect(row(page, first.instance_id)).to_have_count(0)
        assert second.stop() == 0
        assert "Traceback" not in second.log


def test_another_fleet_at_the_same_port_is_not_let_in(page: Page, state_dir: Path, tmp_path: Path, port_base: int) -> None:
    with Served(state_dir, port_base) as first:
        enter(page, first)
        first.kill()
    (tmp_path / "other").mkdir()
    with Served(tmp_path / "other" / ".mnemosyne", port_base) as second:
        assert second.port == port_base
        expect(page.locator("body")).to_contain_text("mnemosyne dashboard", timeout=15_000)
        expect(row(page, second.instance_id)).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (360, 740)])
def test_it_fits_and_can_be_read(scheme: str, width: int, height: int, page: Page, served: Served, state_dir: Path) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": height})
    with Coordinator(state_dir, name="a-name-that-is-rather-long-for-a-telephone-but-allowed", settings=FAST) as me:
        me.report("waiting", "x" * 200)
        enter(page, served)
        expect(row(page, me.instance_id)).to_be_visible()
        assert page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth"), (
            "nothing sticks out to the side"
        )
        dark = page.evaluate(
            "() => getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number).reduce((a, b) => a + b)"
        )
        assert (dark < 200) is (scheme == "dark")


def test_it_can_be_used_by_keyboard(page: Page, served: Served) -> None:
    enter(page, served)
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                "() => { const e = document.activeElement; return e.tagName + ':' + (e.textContent || e.getAttribute('aria-label') || e.placeholder || '').trim().slice(0, 20) }"
            )
        )
        outline = page.evaluate(
            "() => { const s = getComputedStyle(document.activeElement); return s.outlineStyle !== 'none' || s.boxShadow !== 'none' || document.activeElement === document.body }"
        )
        assert outline, "one can see where one is"
    assert any(name.startswith("INPUT") for name in reached)
    assert any(name.startswith("SELECT") for name in reached)
    assert any("Pause" in name for name in reached)


def test_two_hundred_instances(page: Page, served: Served, state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Registered by one process, and without watching: the kernel gives a user 128 watchers, and other tests need some."""
    monkeypatch.setattr(Watch, "mend", lambda _: None)
    slow = Settings(heartbeat_interval=5, poll_interval=60)
    with ExitStack() as stack:
        crowd = [stack.enter_context(Coordinator(state_dir, settings=slow)) for _ in range(199)]
        enter(page, served)
        expect(page.locator("[data-instance]")).to_have_count(200, timeout=20_000)
        crowd[0].send("planner", "T")
        expect(page.locator(f'[data-flow="{crowd[0].instance_id}>{served.instance_id}"]')).to_have_count(1)
        expect(page.locator("#picture")).to_contain_text(re.compile(r"\+ ?17\d quiet"))
        page.locator("#instances input").first.fill(crowd[7].instance_id)
        expect(page.locator("[data-instance]:visible")).to_have_count(1)
        busy = page.evaluate("""async () => {
            let busy = 0;
            new PerformanceObserver(list => { for (const task of list.getEntries()) busy += task.duration; }).observe({entryTypes: ['longtask']});
            await new Promise(done => setTimeout(done, 4000));
            return busy / 4000;
        }""")
        print(f"long tasks with 200 instances: {100 * busy:.0f} %")
        assert busy < 0.5
