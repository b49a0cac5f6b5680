"""Branch work on the web dashboard, in a real browser, on a real fleet and a real repository."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import support
from playwright.sync_api import Page, expect
from wire import Served

from mnemo_coord import Coordinator, Settings

FAST = Settings(heartbeat_interval=0.5, poll_interval=0.2)
HOSTILE = "<img/src=x/onerror=alert(1)>"
LONG = "feature/" + "a-long-name-of-a-branch-" * 6


@pytest.fixture
def served(state_dir: Path, port_base: int) -> Iterator[Served]:
    git = ["git", "-C", str(state_dir.parent), "-c", "user.name=x", "-c", "user.email=x@y.example"]
    subprocess.run([*git, "init", "-q", "-b", "main"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    with Served(state_dir, port_base, "--name", "planner") as served:
        yield served


@pytest.fixture
def builder(served: Served, state_dir: Path) -> Iterator[support.Serve]:
    with support.Serve(state_dir, "--name", "builder") as builder:
        yield builder


def enter(page: Page, served: Served) -> None:
    page.goto(served.ask("/session/codes", method="POST").json["url"])
    expect(page.locator("#connection")).to_contain_text("live")


def branch(state_dir: Path, *args: str) -> support.Cli:
    return support.run("--dir", state_dir, "branch", *args)


def rows(page: Page) -> Any:
    return page.locator("#branch-rows tr")


def cell(page: Page, instance_id: str) -> Any:
    return page.locator(f'[data-instance="{instance_id}"] .c-branch')


def test_who_joins_is_shown_who_is_refused_is_not_and_who_leaves_is_gone(
    page: Page, served: Served, builder: support.Serve, state_dir: Path
) -> None:
    enter(page, served)
    expect(page.locator("#branches")).to_contain_text("Nobody works on a branch.")
    expect(page.locator("#branches-scroll")).to_be_hidden()
    assert branch(state_dir, "join", "main", "--for", served.instance_id).returncode == 0
    expect(rows(page)).to_have_count(1)
    expect(rows(page)).to_contain_text(re.compile("main.*planner.*full, alone"))
    expect(page.locator("#branches-note")).to_be_hidden()
    expect(cell(page, served.instance_id)).to_contain_text("mainfull, alone")
    expect(page.locator("#events [data-kind=branch_joined]")).to_have_text(
        re.compile("planner works on main \\(full, alone\\)\\.")
    )
    refused = branch(state_dir, "join", "main", "write", "--files", "src/**", "--for", "builder")
    assert refused.returncode == 4
    assert branch(state_dir, "join", "docs", "read", "--for", "builder").returncode == 0
    expect(rows(page)).to_have_count(2)
    expect(cell(page, builder.instance_id)).to_have_text("docsread")
    assert branch(state_dir, "join", "main", "read", "--for", "builder").returncode == 0
    expect(cell(page, builder.instance_id)).to_have_text("mainread +1")
    expect(page.locator("#branches-count")).to_have_text("2")
    assert branch(state_dir, "release", "--for", "planner").returncode == 0
    expect(rows(page)).to_have_count(2)
    expect(page.locator("#branches")).not_to_contain_text("planner")
    expect(cell(page, served.instance_id)).to_have_text("")
    expect(page.locator("#events [data-kind=branch_released]")).to_contain_text("planner no longer works on main.")
    builder.kill()
    expect(rows(page)).to_have_count(0)
    expect(page.locator("#branches")).to_contain_text("Nobody works on a branch.")


def test_what_is_close_stands_beside_the_branch_and_what_is_in_the_way_under_attention(
    page: Page, served: Served, builder: support.Serve, state_dir: Path
) -> None:
    enter(page, served)
    files = ["--files", "src/a.py", "--files", "b", "--files", "c", "--files", "d", "--files", "e"]
    assert branch(state_dir, "join", "main", *files, "--mode", "coordinated", "--for", "planner").returncode == 0
    expect(rows(page)).to_contain_text("src/a.py, b, c, and 2 more")
    expect(rows(page)).to_contain_text("write, coordinated")
    near = branch(state_dir, "join", "main", "--files", "src/b.py", "--mode", "coordinated", "--for", "builder")
    assert near.returncode == 0
    expect(rows(page)).to_have_count(2)
    expect(rows(page).nth(0)).to_contain_text("close to builder")
    expect(rows(page).nth(1)).to_contain_text("close to planner")
    expect(page.locator("#attention")).to_contain_text(re.compile("all is well", re.IGNORECASE))
    with Coordinator(state_dir, name="chief", roles=["orchestrator"], settings=FAST):
        past = branch(state_dir, "join", "main", "--for", "chief")
        assert past.returncode == 0
        found = page.locator("#attention .item")
        expect(found).to_have_count(2)
        expect(found.filter(has_text="builder")).to_contain_text(
            re.compile("chief.*and builder.*are in each other's way on main")
        )
        expect(found.first).to_contain_text("mnemosyne branch conflicts")
        expect(rows(page).nth(2).locator(".close")).to_have_text("")
        assert branch(state_dir, "release", "--for", "chief").returncode == 0
        expect(found).to_have_count(0)


def test_names_of_branches_and_files_stay_text(page: Page, served: Served, state_dir: Path) -> None:
    """A17, Q37."""
    enter(page, served)
    joined = branch(state_dir, "join", HOSTILE, "--files", f"{HOSTILE}\u00adx", "--files", "<b>x/**", "--for", "planner")
    joined = joined if joined.returncode == 0 else branch(state_dir, "join", HOSTILE, "--files", HOSTILE, "--for", "planner")
    assert joined.returncode == 0, joined
    expect(rows(page)).to_contain_text(HOSTILE)
    expect(rows(page).locator(".w-files")).to_contain_text(HOSTILE)
    expect(cell(page, served.instance_id)).to_contain_text(HOSTILE)
    expect(page.locator("#events [data-kind=branch_joined]")).to_contain_text(HOSTILE)
    assert page.evaluate("() => !document.querySelector('img, #branches b, .c-branch b')")


def show(page: Page, served: Served, **more: Any) -> None:
    """Shows the page an overview that no fleet would write, as an instance of another version or a broken one might."""
    overview = json.dumps(served.ask("/overview").json | more)
    body = f"event: snapshot\ndata: {overview}\n\n"
    page.route("**/events?*", lambda route: route.fulfill(content_type="text/event-stream", body=body))
    page.goto(served.ask("/session/codes", method="POST").json["url"])


def work(instance_id: str, name: str = "main", **more: Any) -> dict[str, Any]:
    said = {"intent": "write", "mode": "coordinated", "files": ["src/**"], "epoch": 1, "since": "2026-01-01T00:00:00Z"}
    return {"branch": name, "instance_id": instance_id, **said} | more


def conflict(one: str, other: str, **more: Any) -> dict[str, Any]:
    said = {"severity": "error", "reason": "may change the same", "files": ["src/**"], "kind": "assignment"}
    return {"branch": "main", "instance_id": one, "other": other, **said} | more


def test_what_nobody_should_write_is_shown_escaped(page: Page, served: Served) -> None:
    odd = "<b>\u202egnp\x1b[31m"
    mad = work(odd, odd, intent=odd, mode=odd, files=[odd, {"a": odd}, None, 7, odd], since=odd)
    found = [conflict(odd, odd, branch=odd, reason=odd, files=[odd]), conflict(odd, odd, branch=odd, severity="warning")]
    mine = work(served.instance_id, odd)
    show(page, served, branches=[mad, mine, {}, None, 7, {"files": "x"}], conflicts=[*found, {}, None])
    expect(rows(page).first).to_contain_text("<b>\ufffdgnp^[[31m")
    expect(cell(page, served.instance_id)).to_contain_text("<b>\ufffdgnp^[[31m")
    expect(page.locator("#attention .item").first).to_contain_text("<b>\ufffdgnp^[[31m")
    everything = page.evaluate(
        "() => [document.body.innerText, ...Array.from(document.querySelectorAll('[title]'), n => n.title)].join()"
    )
    assert not {"\u202e", "\x1b"} & set(everything)
    assert page.evaluate("() => !document.querySelector('main table b:not(.depth b, .says b)')")


def test_edits_and_critical_files_are_problems_and_the_rest_is_to_be_checked(page: Page, served: Served) -> None:
    me = served.instance_id
    found = [
        conflict(me, "00000001", severity="error"),
        conflict(me, "00000002", severity="block"),
        conflict(me, "00000003", kind="edits", files=["a", "b", "c", "d"]),
        conflict(me, "00000004", severity="warning"),
    ]
    show(page, served, branches=[work(me)], conflicts=found)
    items = page.locator("#attention .item")
    expect(items).to_have_count(3)
    assert [item.get_attribute("data-level") for item in items.all()] == ["bad", "bad", "warn"]
    expect(items.nth(1)).to_contain_text("planner")
    expect(items.nth(1)).to_contain_text("change the same files on main")
    expect(items.nth(1)).to_contain_text("may change the same: a, b, c, and 1 more")
    expect(rows(page).locator(".close")).to_have_text("close to 00000004")


def test_two_hundred_at_work(page: Page, served: Served) -> None:
    """Each with two branches, and everybody close to everybody."""
    crowd = [f"{number:08x}" for number in range(200)]
    (me,) = served.ask("/instances").json
    everybody = [work(one, name) for name in ("main", "other") for one in crowd]
    close = [conflict(one, other, severity="warning") for place, one in enumerate(crowd) for other in crowd[:place:7]]
    instances = [{**me, "instance_id": one, "name": None} for one in crowd]
    show(page, served, instances=instances, branches=everybody, conflicts=close)
    expect(rows(page)).to_have_count(200)
    expect(page.locator("#branches-note")).to_have_text("and 200 more: `mnemosyne branch status`")
    expect(page.locator("#branches-count")).to_have_text("2")
    expect(cell(page, crowd[7])).to_contain_text("+1")
    page.locator("#instances input").first.fill("other")
    expect(page.locator("[data-instance]:visible")).to_have_count(200)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (360, 740)])
def test_long_names_fit(scheme: str, width: int, height: int, page: Page, served: Served, state_dir: Path) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": height})
    enter(page, served)
    glob = "a-long-folder/" * 12 + "**"
    assert branch(state_dir, "join", LONG, "--files", glob, "--for", "planner").returncode == 0
    expect(rows(page)).to_have_count(1)
    for shown, whole in ((rows(page).locator("bdi").first, LONG), (rows(page).locator(".w-files bdi"), glob)):
        expect(shown).to_be_visible()
        assert shown.get_attribute("title") == whole
        assert shown.evaluate(
            "node => node.scrollWidth > node.clientWidth && getComputedStyle(node).textOverflow == 'ellipsis'"
        )
    assert page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth"), "nothing sticks out to the side"
    scroll = page.locator("#branches-scroll")
    assert scroll.evaluate("node => node.scrollWidth <= node.clientWidth"), "nor out of its section"
    scroll.focus()
    assert scroll.evaluate("node => document.activeElement === node")
