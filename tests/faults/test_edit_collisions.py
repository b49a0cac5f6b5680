"""Edit collisions: whoever changes a file that another is changing, too, is told at once, whatever the file is called."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import support
from support import git
from unit.kernel import unshare

from mnemo_coord import Coordinator, Fleet, Settings, edit_watch, errors
from mnemo_coord.holdings import checkout, edits

FAST = Settings(heartbeat_interval=0.2, poll_interval=0.2)
BLIND = {"MNEMOSYNE_POLL_INTERVAL": "60", "MNEMOSYNE_HEARTBEAT_INTERVAL": "0.2"}
"""What is noticed within a test is noticed because the kernel says so."""


@pytest.fixture
def root(state_dir: Path) -> Path:
    """A repository with one commit; the fleet's state directory is in it."""
    folder = state_dir.parent
    git(folder, "init", "-q", "-b", "main")
    for name in ("a", "b", "src/c", "migrations/1.sql"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("first\n")
    (folder / ".gitignore").write_text("node_modules/\n*.log\n")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    return folder.resolve()


@pytest.fixture
def linked(root: Path) -> Path:
    """A second checkout of it."""
    git(root, "worktree", "add", "-q", "-b", "other", str(root.parent / "linked"))
    return root.parent / "linked"


WATCHER = """
import json, sys, time
from mnemo_coord import Coordinator
with Coordinator(sys.argv[1]) as me:
    say = lambda what, **more: print(json.dumps({"what": what, "at": time.time(), **more}) + "\\n", end="", flush=True)
    me.on_event(lambda event: say(event.kind, about=event.instance_id, **event.data))
    me.on_message(lambda message: say("message", sender=message.from_agent, type=message.message_type, **message.payload))
    me.watch_edits(sys.argv[2])
    say("watching", id=me.instance_id)
    sys.stdin.read() if len(sys.argv) > 3 else time.sleep(100)
"""


class Watcher(support.Child):
    """An instance in a process of its own that watches a checkout."""

    def __init__(self, state_dir: Path, place: Path, env: dict[str, str] | None = None) -> None:
        argv = [sys.executable, "-c", WATCHER, str(state_dir), str(place)]
        super().__init__(argv, state_dir.parent.parent / "watchers", env=env)
        self.instance_id: str = self.first("watching")["id"]
        self.state_dir = state_dir
        support.wait_until(lambda: self.edits is not None, what="it says what it changes")

    def said(self, what: str) -> list[dict[str, Any]]:
        whole = self.printed[: self.printed.rfind("\n") + 1]
        return [one for one in map(json.loads, whole.splitlines()) if one["what"] == what]

    def first(self, what: str, number: int = 1) -> dict[str, Any]:
        support.wait_until(lambda: len(self.said(what)) >= number, what=f"{what} in {self.log} {self.printed}")
        return self.said(what)[number - 1]

    @property
    def edits(self) -> edits.Edits | None:
        with Fleet.open(self.state_dir) as fleet:
            return edits.read(fleet.state, fleet.signer, self.instance_id)

    def changes(self, *paths: str) -> None:
        """Waits until it says that it changes exactly these."""
        support.wait_until(lambda: self.edits is not None and self.edits.files == paths, what=f"{paths}, not {self.edits}")


@pytest.fixture
def two(state_dir: Path, root: Path, linked: Path) -> Iterator[tuple[Watcher, Watcher]]:
    with Watcher(state_dir, root, BLIND) as one, Watcher(state_dir, linked, BLIND) as other:
        yield one, other


def conflicts(state_dir: Path) -> list[dict[str, Any]]:
    return support.run("--dir", state_dir, "branch", "conflicts", "--json").json


# Told


def test_both_are_told_at_once_and_once(state_dir: Path, root: Path, linked: Path, two: tuple[Watcher, Watcher]) -> None:
    one, other = two
    (linked / "a").write_text("other's\n")
    other.changes("a")
    saved = time.time()
    (root / "a").write_text("mine\n")
    message = other.first("message")
    assert message["at"] - saved < 5.0, "the poll would take a minute; on an idle machine it is 0.2 s"
    assert {key: message[key] for key in ("sender", "type", "kind", "branch", "severity", "files")} == {
        "sender": one.instance_id, "type": "ConflictNotification", "kind": "edits", "branch": "main", "severity": "error", "files": ["a"],
    }  # fmt: skip
    for who, whom, branch in ((one, other, "main"), (other, one, "other")):
        event = who.first("edits_collided")
        assert event["at"] - saved < 5.0
        found = (event["about"], event["other"], event["branch"], event["severity"], event["files"])
        assert found == (who.instance_id, whom.instance_id, branch, "error", ["a"])
        assert whom.instance_id in event["reason"]
    (shown,) = conflicts(state_dir)
    assert {shown["instance_id"], shown["other"]} == {one.instance_id, other.instance_id}
    assert (shown["kind"], shown["severity"], shown["files"]) == ("edits", "error", ["a"])
    printed = support.run("--dir", state_dir, "branch", "conflicts")
    assert printed.returncode == 1
    assert "edits" in printed.stdout
    # Whatever else they do, this is not said again; what is new is, alone.
    (root / "a").write_text("mine again\n")
    (linked / "b").write_text("other's\n")
    other.changes("a", "b")
    (root / "b").write_text("mine\n")
    assert other.first("message", 2)["files"] == ["b"]
    assert one.first("edits_collided", 2)["files"] == other.first("edits_collided", 2)["files"] == ["b"]
    assert [len(who.said("edits_collided")) for who in two] == [2, 2]
    assert (len(one.said("message")), len(other.said("message"))) == (0, 2), "only who came later sends"


def test_a_commit_ends_it_and_the_next_change_is_news(
    state_dir: Path, root: Path, linked: Path, two: tuple[Watcher, Watcher]
) -> None:
    one, other = two
    for place, who in ((root, one), (linked, other)):
        (place / "a").write_text("x\n")
        who.changes("a")
    one.first("edits_collided")
    git(linked, "commit", "-qam", "done")
    other.changes()
    assert conflicts(state_dir) == []
    (linked / "a").write_text("y\n")
    one.first("edits_collided", 2)
    assert one.first("message")["sender"] == other.instance_id
    git(root, "checkout", "-q", "--", "a")
    one.changes()


def test_critical_files_block(state_dir: Path, root: Path, linked: Path, two: tuple[Watcher, Watcher]) -> None:
    for place, who in zip((root, linked), two, strict=True):
        (place / "migrations/1.sql").write_text("x\n")
        who.changes("migrations/1.sql")
    assert [who.first("edits_collided")["severity"] for who in two] == ["block", "block"]
    assert conflicts(state_dir)[0]["severity"] == "block"


def test_new_folders_renames_and_deletions(root: Path, linked: Path, two: tuple[Watcher, Watcher]) -> None:
    one, _ = two
    (root / "new" / "deep" / "er").mkdir(parents=True)
    (root / "new/deep/er/f").write_text("x")
    one.changes("new/deep/er/f")
    (root / "empty" / "below").mkdir(parents=True)
    (root / "sentinel").touch()
    one.changes("new/deep/er/f", "sentinel")
    (root / "empty/below/g").write_text("x")
    one.changes("empty/below/g", "new/deep/er/f", "sentinel")
    (root / "new").rename(root / "newer")
    one.changes("empty/below/g", "newer/deep/er/f", "sentinel")
    (root / "newer/deep/er/h").write_text("x")
    one.changes("empty/below/g", "newer/deep/er/f", "newer/deep/er/h", "sentinel")
    shutil.rmtree(root / "newer")
    shutil.rmtree(root / "empty")
    (root / "src/c").unlink()
    one.changes("sentinel", "src/c")
    (root / "a").rename(root / "src/a")
    one.changes("a", "sentinel", "src/a", "src/c")
    git(root, "stash", "-q", "--include-untracked")
    one.changes()


def test_a_folder_made_while_its_parent_was_not_watched_yet(
    state_dir: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    survey = checkout.Checkout.folders

    def folders(self: checkout.Checkout) -> set[str]:
        found = survey(self)
        if "new" in found:
            (root / "new" / "inner").mkdir(exist_ok=True)
        return found

    monkeypatch.setattr(checkout.Checkout, "folders", folders)
    with Coordinator(state_dir, settings=FAST) as me:
        found = lambda: edits.read(me.fleet.state, me.fleet.signer, me.instance_id)  # noqa: E731
        me.watch_edits(root)
        support.wait_until(found)
        (root / "new").mkdir()
        (root / "a").write_text("x")
        support.wait_until(lambda: (said := found()) and said.files == ("a",))
        (root / "new/inner/f").write_text("x")
        support.wait_until(lambda: (said := found()) and said.files == ("a", "new/inner/f"), 10)


def test_what_is_ignored_is_not_looked_at(state_dir: Path, root: Path, linked: Path, two: tuple[Watcher, Watcher]) -> None:
    before = [watches(who.pid) for who in two]
    for place in (root, linked):
        for number in range(5000):
            (place / "node_modules" / str(number)).mkdir(parents=True)
            (place / "new" / "node_modules" / str(number)).mkdir(parents=True)
        (place / "node_modules/1/f").write_text("x")
        (place / "x.log").write_text("x")
        (place / f"end-{place.name}").touch()
    two[0].changes(f"end-{root.name}")
    two[1].changes(f"end-{linked.name}")
    support.wait_until(lambda: [watches(who.pid) for who in two] == [number + 1 for number in before], what="new/ is watched")
    assert conflicts(state_dir) == []
    with Watcher(state_dir, root) as third:
        assert watches(third.pid) <= before[0] + 3
        assert psutil.Process(third.pid).num_threads() < 20


def watches(pid: int) -> int:
    """How many folders and files the kernel watches for a process."""
    found = 0
    for name in os.listdir(f"/proc/{pid}/fdinfo"):
        with open(f"/proc/{pid}/fdinfo/{name}") as info:
            found += sum(line.startswith("inotify") for line in info)
    return found


@pytest.mark.parametrize("name", ["a\nb", 'say "x"', "\udcff\udc80", "x" * 250, "50%25", "\x1b[31m", "-f", " "], ids=ascii)
def test_hostile_names(name: str, state_dir: Path, root: Path, linked: Path, two: tuple[Watcher, Watcher]) -> None:
    one, other = two
    (linked / name).write_text("x")
    other.changes(name)
    (root / name).write_text("y")
    spelled = edits.spelled(name)
    assert one.first("edits_collided")["files"] == [spelled]
    assert other.first("message")["files"] in ([spelled], ["…"])
    printed = support.run("--dir", state_dir, "branch", "conflicts").stdout
    assert printed.isascii()
    assert printed.replace("\n", "").isprintable()
    assert "Traceback" not in one.log + other.log


# Harm


def test_a_killed_one_leaves_nothing(state_dir: Path, root: Path, linked: Path) -> None:
    with Watcher(state_dir, root) as one, Watcher(state_dir, linked) as other:
        for place, who in ((root, one), (linked, other)):
            (place / "a").write_text("x\n")
            who.changes("a")
        assert len(conflicts(state_dir)) == 1
        other.kill()
        support.wait_until(lambda: os.listdir(state_dir / "edits") == [f"{one.instance_id}.json"])
        assert conflicts(state_dir) == []
        one.kill()
    assert support.run("--dir", state_dir, "doctor", "--fix").returncode == 0
    assert os.listdir(state_dir / "edits") == []


def test_ending_it_and_leaving_remove_the_record(state_dir: Path, root: Path, linked: Path) -> None:
    with Coordinator(state_dir, settings=FAST) as me:
        mine = state_dir / "edits" / f"{me.instance_id}.json"
        first = me.watch_edits(root)
        support.wait_until(mine.exists)
        second = me.watch_edits(linked)
        first()  # its place was taken: nothing ends
        support.wait_until(lambda: json.loads(mine.read_bytes())["checkout"] == str(linked))
        second()
        second()
        assert not mine.exists()
        me.watch_edits(root)
        support.wait_until(mine.exists)
    assert not mine.exists()
    with Coordinator(state_dir, settings=FAST) as me, pytest.raises(errors.NotFound):
        me.watch_edits("/")


def test_the_state_directory_is_removed_under_it(state_dir: Path, root: Path, linked: Path) -> None:
    with Watcher(state_dir, root) as one, Watcher(state_dir, linked) as other:
        (root / "a").write_text("x\n")
        one.changes("a")
        gone = state_dir.rename(state_dir.with_name("gone"))  # at once: they write into it until they notice
        shutil.rmtree(gone, ignore_errors=True)
        support.wait_until((state_dir / "edits" / f"{one.instance_id}.json").exists)
        (linked / "a").write_text("x\n")
        other.first("edits_collided")
        one.first("edits_collided")


UNWATCHED = """
import sys
from pathlib import Path
from faults.test_edit_collisions import Watcher
state_dir, root, linked = map(Path, sys.argv[1:])
with Watcher(state_dir, root) as one, Watcher(state_dir, linked) as other:
    for place, who in ((root, one), (linked, other)):
        (place / "a").write_text("x\\n")
        who.changes("a")
    one.first("edits_collided")
    other.first("edits_collided")
    one.first("message")["kind"] == "edits" if one.said("message") else other.said("message")
    assert one.log.count("cannot notify us of edits") == 1, one.log
"""


@pytest.mark.parametrize("limit", ["instances", "watches"])
def test_without_notifications_it_polls(limit: str, state_dir: Path, root: Path, linked: Path) -> None:
    setup = f'echo 0 > /proc/sys/user/max_inotify_{limit}; exec "$@"'
    argv = [*unshare("-Ur"), "sh", "-ec", setup, "sh", sys.executable, "-c", UNWATCHED, str(state_dir), str(root), str(linked)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_too_many_folders_are_not_watched(
    state_dir: Path, root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(checkout, "MOST_FOLDERS", 2)
    monkeypatch.setattr(edit_watch, "_SELDOM", 0.0)  # so that it tries again at every poll
    with Coordinator(state_dir, settings=FAST) as me:
        me.watch_edits(root)
        (root / "migrations/1.sql").write_text("x")
        found = lambda: edits.read(me.fleet.state, me.fleet.signer, me.instance_id)  # noqa: E731
        support.wait_until(lambda: (said := found()) and said.files == ("migrations/1.sql",))
        (root / "a").write_text("x")
        support.wait_until(lambda: (said := found()) and said.files == ("a", "migrations/1.sql"))
    assert caplog.text.count("more than 2 folders") == 1


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_git_that_hangs_keeps_nobody_from_leaving(
    when: str, state_dir: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs = tmp_path / "hang"
    fake = tmp_path / "bin" / "git"
    fake.parent.mkdir()
    real = shutil.which("git")
    fake.write_text(f'#!/bin/sh\n[ -e {hangs} ] && {{ echo >> {hangs}; sleep 60; }}\nexec {real} "$@"\n')
    fake.chmod(0o700)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    with Coordinator(state_dir, settings=FAST) as me:
        if when == "before":
            hangs.touch()
            with pytest.raises(errors.TimedOut):
                me.watch_edits(root)
        else:
            me.watch_edits(root)
            support.wait_until((state_dir / "edits" / f"{me.instance_id}.json").exists)
            hangs.touch()
            (root / "a").write_text("x")
            support.wait_until(hangs.read_text)
        started = time.monotonic()
        me.unregister()
        assert time.monotonic() - started < 3.0
    assert os.listdir(state_dir / "edits") == []


def test_without_git_it_says_so(state_dir: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with Coordinator(state_dir, settings=FAST) as me, pytest.raises(errors.Command, match="cannot be started"):
        me.watch_edits(root)


def test_with_nothing_changing_git_is_not_asked(
    state_dir: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = tmp_path / "asked"
    fake = tmp_path / "bin" / "git"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\necho "$*" >> {asked}\nexec {shutil.which("git")} "$@"\n')
    fake.chmod(0o700)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    with Coordinator(state_dir, settings=FAST) as me:
        me.watch_edits(root)
        beat = state_dir / "instances" / f"{me.instance_id}.beat"
        support.wait_until((state_dir / "edits" / f"{me.instance_id}.json").exists)
        before = asked.read_text()
        for _ in range(10):  # a poll each
            last = beat.read_bytes()
            support.wait_until(lambda last=last: beat.read_bytes() != last)
        assert asked.read_text() == before
        (root / "a").write_text("x")
        support.wait_until(lambda: asked.read_text() != before)


def test_who_holds_the_branch_is_told(state_dir: Path, root: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    git(elsewhere, "init", "-q", "-b", "main")
    with Coordinator(state_dir, settings=FAST) as holder, Coordinator(state_dir, settings=FAST) as me:
        seen: list[Any] = []
        me.on_event(lambda event: seen.append(event) if event.kind == "edits_collided" else None)
        holder.branches.join("main", files=["src/**"], mode="coordinated")
        end = me.watch_edits(elsewhere)
        (elsewhere / "src").mkdir()
        (elsewhere / "src/c").write_text("x")
        found = lambda: edits.read(me.fleet.state, me.fleet.signer, me.instance_id)  # noqa: E731
        support.wait_until(lambda: (said := found()) and said.files == ("src/c",))
        end()
        assert seen == [], "the same branch of another repository is none of its business"
        assert list(holder.receive()) == []
        me.watch_edits(root)
        (root / "a").write_text("x")
        (root / "src/c").write_text("x")
        (message,) = list(holder.receive(timeout=10))
        with message as said:
            assert (said.message_type, said.payload["files"]) == ("ConflictNotification", ["src/c"])
            assert me.instance_id in said.payload["reason"]
        assert [(event.instance_id, event.data["other"], event.data["files"]) for event in seen] == [
            (me.instance_id, holder.instance_id, ["src/c"])
        ]
        holder.branches.join("main", files=["a"], mode="coordinated")
        (message,) = list(holder.receive(timeout=10))
        with message as said:
            assert said.payload["files"] == ["a"], "also who comes when it is being changed already"
        holder.branches.join("main", files=["src/**"], mode="coordinated")
        (shown,) = me.branches.conflicts()
        assert (shown.kind, shown.other, shown.files) == ("edits", holder.instance_id, ("src/c",))


def test_a_checkout_that_is_gone_has_no_changes(root: Path, linked: Path, two: tuple[Watcher, Watcher]) -> None:
    (linked / "a").write_text("x")
    two[1].changes("a")
    shutil.rmtree(linked)
    two[1].changes()


def test_serve_watches_the_checkout_that_it_works_in(state_dir: Path, root: Path, linked: Path) -> None:
    argv = [support.MNEMOSYNE, "serve", "--watch-edits", "--worktree=false"]
    with support.Child(argv, root.parent / "logs", cwd=linked) as served, Watcher(state_dir, root) as one:
        served.wait_for("is in the fleet at")
        (root / "a").write_text("x\n")
        one.changes("a")
        (linked / "a").write_text("x\n")
        line = served.wait_for("is changing the same files")
        assert one.instance_id in line
        assert line.endswith(": a")
        assert served.stop() == 0
        assert os.listdir(state_dir / "edits") == [f"{one.instance_id}.json"]
