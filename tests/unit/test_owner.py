"""A file has one owner at a time, however its path is spelled, and who comes second is told which process that is."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
import support
from unit.fake_clock import FakeClock

from mnemo_coord import errors
from mnemo_coord.holdings.owner import own

OWN = """
    import sys, time
    from mnemo_coord.disk.clock import SystemClock
    from mnemo_coord.holdings.owner import own
    lock = own(sys.argv[1], SystemClock(), instance_id="e5f6a7b8")
    print("owned", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A file in a folder, with other ways to it."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "db").write_text("precious")
    (tmp_path / "folder-link").symlink_to("real")
    (tmp_path / "file-link").symlink_to("real/db")
    (tmp_path / "link-to-link").symlink_to("file-link")
    return tmp_path / "real" / "db"


SPELLINGS = ["real/db", "folder-link/db", "file-link", "link-to-link", "real/../real/./db", "folder-link/../real/db"]


@pytest.mark.parametrize("second", SPELLINGS)
@pytest.mark.parametrize("first", ["real/db", "folder-link/db", "file-link"])
def test_it_is_the_same_lock_however_the_path_is_spelled(
    first: str, second: str, target: Path, tmp_path: Path, clock: FakeClock
) -> None:
    """I16."""
    with own(tmp_path / first, clock) as lock:
        assert lock.path == target.with_name("db.lock")
        with pytest.raises(errors.Conflict):
            own(tmp_path / second, clock)
    own(tmp_path / second, clock).release()
    assert target.read_text() == "precious"
    assert sorted(path.name for path in target.parent.iterdir()) == ["db", "db.lock"]


def test_a_relative_path_is_the_same_too(target: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(target.parent)
    with own("db", clock), pytest.raises(errors.Conflict):
        own(target, clock)


def test_the_second_is_told_which_process_owns_it(target: Path, tmp_path: Path, clock: FakeClock) -> None:
    with support.python(OWN, tmp_path / "owner", tmp_path / "folder-link" / "db") as owner:
        owner.wait_for("owned")
        with pytest.raises(errors.Conflict) as caught:
            own(target, clock)
        assert (caught.value.holder, caught.value.instance_id, caught.value.exit_code) == (owner.pid, "e5f6a7b8", 4)
        who = f"another live instance (process {owner.pid}, instance e5f6a7b8)"
        assert str(caught.value) == f"db at {target} is already owned by {who}"
        hint = "Run each instance with a distinct MNEMOSYNE_INSTANCE so they don't share a db; --retry S waits for it"
        assert caught.value.hint == hint
        owner.kill()
        with own(target, clock, instance_id="a1b2c3d4"):
            content = json.loads(target.with_name("db.lock").read_text())
            assert content == {"pid": os.getpid(), "instance_id": "a1b2c3d4", "since": "2027-01-15T08:00:00.000Z"}


@pytest.mark.parametrize("content", ["", "nonsense", "[]", '{"pid": "x", "instance_id": 7}', "x" * 10_000, "\0"])
def test_what_stands_in_the_lock_file_does_not_matter(content: str, target: Path, clock: FakeClock) -> None:
    """The kernel says who it is."""
    with own(target, clock):
        target.with_name("db.lock").write_text(content)
        with pytest.raises(errors.Conflict) as caught:
            own(target, clock)
        assert caught.value.holder == os.getpid()


def test_what_is_not_started_and_how_instances_are_kept_apart(target: Path, clock: FakeClock) -> None:
    asked: list[str] = []

    def variable() -> str:
        asked.append("")
        return "AGENT"

    with own(target, clock, component="the scheduler", variable=variable):
        assert not asked, "only who is refused wants to know"
        with pytest.raises(errors.Conflict) as caught:
            own(target, clock, component="the scheduler", variable=variable)
    assert (
        caught.value.message
        == f"db at {target} is already owned by another live instance (process {os.getpid()}) — not starting the scheduler"
    )
    assert "a distinct AGENT so" in caught.value.hint


def test_the_instance_is_named_only_where_it_is_that_of_the_process(target: Path, clock: FakeClock) -> None:
    """Who has just taken it has not written yet: what stands in the lock file is of the owner before."""
    with own(target, clock):
        target.with_name("db.lock").write_text('{"pid": 1, "instance_id": "e5f6a7b8", "since": "x"}')
        with pytest.raises(errors.Conflict) as caught:
            own(target, clock)
    assert (caught.value.holder, caught.value.instance_id) == (os.getpid(), None)


def test_who_waits_gets_it_when_it_is_free(target: Path, clock: FakeClock) -> None:
    lock = own(target, clock)
    threading.Timer(0.05, lock.release).start()
    own(target, clock, retry=10).release()
    lock.release()


def test_the_lock_file_stays_and_is_private(target: Path, clock: FakeClock) -> None:
    """Unlinking it would let two owners in."""
    before = os.umask(0)
    try:
        own(target, clock).release()
    finally:
        os.umask(before)
    status = target.with_name("db.lock").stat()
    assert status.st_mode & 0o777 == 0o600
    own(target, clock).release()
    assert target.with_name("db.lock").stat().st_ino == status.st_ino


def test_it_leaves_no_descriptor_open(target: Path, clock: FakeClock) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    with own(target, clock), pytest.raises(errors.Conflict):
        own(target, clock)
    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("name", ["new", "folder"])
def test_what_is_owned_need_not_be_a_file(name: str, target: Path, clock: FakeClock) -> None:
    (target.parent / "folder").mkdir()
    with own(target.parent / name, clock) as lock:
        assert lock.path == target.parent / f"{name}.lock"
    assert not (target.parent / "new").exists()


NOT_OWNED = {
    "no/such/folder/db": errors.State,
    "real/db/below-a-file": errors.State,
    "real/" + "x" * 251: errors.State,
    "/": errors.Config,
    "a\0b": errors.Config,
}


@pytest.mark.parametrize(("path", "kind"), NOT_OWNED.items(), ids=[ascii(path)[:24] for path in NOT_OWNED])
def test_what_cannot_be_owned_is_an_error_of_ours(
    path: str, kind: type[errors.CoordinationError], target: Path, tmp_path: Path, clock: FakeClock
) -> None:
    """I27."""
    with pytest.raises(kind) as caught:
        own(tmp_path / path, clock)
    assert caught.value.exit_code == kind.exit_code


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "hard link"])
def test_a_planted_lock_file_is_refused_and_left_alone(kind: str, target: Path, tmp_path: Path, clock: FakeClock) -> None:
    """R17."""
    lock, precious = target.with_name("db.lock"), tmp_path / "precious"
    precious.write_text("precious")
    if kind == "link":
        lock.symlink_to(precious)
    elif kind == "pipe":
        os.mkfifo(lock)
    elif kind == "folder":
        lock.mkdir()
    else:
        os.link(precious, lock)
    before = support.tree(tmp_path)
    with pytest.raises(errors.State, match=str(lock)):
        own(target, clock)
    assert support.tree(tmp_path) == before


def test_a_file_of_the_user_is_not_overwritten(target: Path, clock: FakeClock) -> None:
    """R17. ``own poetry`` beside a ``poetry.lock`` that is no lock of ours."""
    users = target.with_name("db.lock")
    users.write_text("# resolved versions\nnumpy = 2.3\n")
    users.chmod(0o600)
    try:
        own(target, clock).release()
    except errors.CoordinationError as error:
        assert str(users) in str(error)  # refusing it by name would do, too
    assert users.read_text() == "# resolved versions\nnumpy = 2.3\n"
