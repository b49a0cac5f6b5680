"""The ground floor: sealing, keys, safe files, locks, finding the state directory, being woken."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import support

from mnemo_coord import errors
from mnemo_coord.disk import files, locks, probes, records, signing, state_dir
from mnemo_coord.disk.clock import Stamps, SystemClock, rfc3339
from mnemo_coord.disk.signing import Purpose, Signer
from mnemo_coord.disk.state_dir import StateDir
from mnemo_coord.disk.watch import Change, Watch

KEY = Signer(b"k" * 32)


@pytest.fixture
def folder(tmp_path: Path) -> int:
    place = tmp_path / "folder"
    place.mkdir(mode=0o700)
    return files.open_dir(str(place))


# Records


def test_a_sealed_record_comes_back() -> None:
    body = {"b": 1, "a": [True, None, "ü"], "n": -1.5}
    sealed = records.seal(body, KEY, Purpose.RECORD)
    assert len(sealed) == len(records.encode(body)) - 1 + records.SEAL_LENGTH
    assert records.unseal(sealed, KEY, Purpose.RECORD, "x") == body
    reformatted = json.loads(json.dumps(json.loads(sealed), indent=3))
    assert records.reseal(reformatted) == sealed, "what was verified is what is used"


TAMPERED: dict[str, Any] = {
    "another key": lambda sealed: records.seal({"a": 1}, Signer(b"x" * 32), Purpose.RECORD),
    "another purpose": lambda sealed: records.seal({"a": 1}, KEY, Purpose.MESSAGE),
    "a byte changed": lambda sealed: sealed.replace(b'"a":1', b'"a":2'),
    "a byte added": lambda sealed: sealed + b" ",
    "a byte in front": lambda sealed: b" " + sealed,
    "63 digits": lambda sealed: sealed[:-3] + b'"}',
    "65 digits": lambda sealed: sealed[:-2] + b'0"}',
    "upper case": lambda sealed: sealed[:-66] + sealed[-66:-2].upper() + b'"}',
    "no signature": lambda sealed: b'{"a":1}',
    "signature first": lambda sealed: b'{"signature":"' + b"0" * 64 + b'","a":1}',
    "nothing": lambda sealed: b"",
}


@pytest.mark.parametrize("change", TAMPERED.values(), ids=TAMPERED)
def test_a_tampered_record_is_untrusted(change: Any) -> None:
    with pytest.raises(errors.Untrusted):
        records.unseal(change(records.seal({"a": 1}, KEY, Purpose.RECORD)), KEY, Purpose.RECORD, "x")


@pytest.mark.parametrize("value", [None, 1, [], "x", {}, {"a": 1}, {"signature": "x", "a": 1}])
def test_what_was_never_sealed_cannot_be_resealed(value: Any) -> None:
    assert records.reseal(value) is None


def test_nesting_ends_at_32() -> None:
    value: Any = 1
    for _ in range(31):
        value = [value]
    records.encodable(value)
    with pytest.raises(errors.NotEncodable):
        records.encodable([value])


# Keys


def test_the_key_is_made_once(tmp_path: Path) -> None:
    """S4. Sixteen at the same moment all have the same."""
    place = tmp_path / "fleet" / ".mnemosyne"
    found: list[str] = []
    start = threading.Barrier(16)

    def load() -> None:
        state = StateDir.open(place)
        start.wait()
        found.append(signing.load(state, {}).key_id)

    threads = [threading.Thread(target=load) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 16
    assert len(set(found)) == 1
    assert (place / "secret").stat().st_mode & 0o777 == 0o600
    assert len(bytes.fromhex((place / "secret").read_text())) == 32


@pytest.mark.parametrize("content", ["", "zz" * 32, "ab" * 31, "ab" * 33, "AB" * 32, "ab" * 32 + "\n\n"])
def test_a_damaged_key_is_not_used(content: str, tmp_path: Path) -> None:
    state = StateDir.open(tmp_path / "fleet" / "s")
    (state.path / "secret").write_text(content)
    (state.path / "secret").chmod(0o600)
    with pytest.raises(errors.Damaged):
        signing.load(state, {})
    (finding,) = signing.check(state, stamp=1)
    assert finding.code == "secret-damaged"
    (fixed,) = signing.check(state, stamp=1, fix=True)
    assert fixed.fixed
    assert signing.load(state, {}).key_id
    assert signing.check(state, stamp=2) == []


def test_a_new_key_is_adopted_and_a_lost_one_put_back(tmp_path: Path) -> None:
    state = StateDir.open(tmp_path / "fleet" / "s")
    signer = signing.load(state, {})
    assert not signing.refresh(signer, state)
    (state.path / "secret").unlink()
    before = signer.key_id
    assert not signing.refresh(signer, state)
    assert signing.load(state, {}).key_id == before
    files.replace("secret", b"cd" * 32, dir_fd=state.fd, writer="t")
    assert signing.refresh(signer, state)
    assert signer.key_id == signing.load(state, {}).key_id != before


# Files


def test_publishing_replaces_whole_and_leaves_no_temporary(folder: int, tmp_path: Path) -> None:
    for content in (b"one", b"two" * 1000):
        files.replace("record", content, dir_fd=folder, writer="w")
        assert (tmp_path / "folder" / "record").read_bytes() == content
    (tmp_path / "folder" / "record.w.tmp").write_bytes(b"left by a dead writer of our number")
    files.replace("record", b"three", dir_fd=folder, writer="w")
    assert os.listdir(folder) == ["record"]


def test_a_short_write_publishes_nothing(tmp_path: Path) -> None:
    """RLIMIT_FSIZE lets write(2) write less than it was given, and then fail."""
    place = tmp_path / "folder"
    place.mkdir(mode=0o700)
    code = """
    import os, resource, signal, sys
    from mnemo_coord.disk import files
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    folder = files.open_dir(sys.argv[1])
    files.replace("record", b"old", dir_fd=folder, writer="w")
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    try:
        files.replace("record", b"n" * 300, dir_fd=folder, writer="w")
    except OSError as error:
        print("refused", error.errno, flush=True)
    """
    with support.python(code, tmp_path / "child", place) as child:
        assert child.wait() == 0, child.log
        assert "refused" in child.printed
    assert (place / "record").read_bytes() == b"old"
    assert os.listdir(place) == ["record"]


@pytest.mark.parametrize("kind", ["symlink", "FIFO", "folder", "socket", "device", "hard link"])
def test_only_regular_files_of_ours_are_opened(kind: str, folder: int, tmp_path: Path) -> None:
    path, target = tmp_path / "folder" / "x", tmp_path / "target"
    target.write_text("precious")
    if kind == "symlink":
        path.symlink_to(target)
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        os.mknod(path, 0o020600, os.makedev(1, 5))
    elif kind == "hard link":
        os.link(target, path)
    else:
        with socket.socket(socket.AF_UNIX) as listener:
            os.chdir(path.parent)
            listener.bind("x")
    start = time.monotonic()
    for flags in (os.O_RDONLY, os.O_RDWR):
        with pytest.raises(errors.Untrusted):
            files.open_regular("x", flags, dir_fd=folder)
    assert time.monotonic() - start < 1
    assert target.read_text() == "precious"


def test_reading_is_bounded(folder: int, tmp_path: Path) -> None:
    (tmp_path / "folder" / "x").write_bytes(b"y" * 100)
    assert files.read_bounded("x", 100, dir_fd=folder) == b"y" * 100
    with pytest.raises(errors.Damaged):
        files.read_bounded("x", 99, dir_fd=folder)


# Locks


def test_a_short_lock_excludes_threads(tmp_path: Path) -> None:
    """I12. A counter that is not atomic loses nothing."""
    state = StateDir.open(tmp_path / "fleet" / "s")
    counter = tmp_path / "counter"
    counter.write_text("0")

    def count() -> None:
        for _ in range(50):
            with locks.hold(state, "test", 20):
                counter.write_text(str(int(counter.read_text()) + 1))

    threads = [threading.Thread(target=count) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter.read_text() == "300"


def test_waiting_in_vain_names_the_holder(tmp_path: Path) -> None:
    state = StateDir.open(tmp_path / "fleet" / "s")
    with locks.hold(state, "test", 1), pytest.raises(errors.TimedOut) as caught, locks.hold(state, "test", 0.1):
        pass
    assert f"process {os.getpid()}" in str(caught.value)
    assert caught.value.timeout == 0.1


def test_a_life_lock_and_those_who_look_at_it(folder: int) -> None:
    lock = locks.LifeLock.create("a.lock", dir_fd=folder)
    assert lock is not None
    assert locks.LifeLock.create("a.lock", dir_fd=folder) is None, "the name is taken"
    seen = probes.probe("a.lock", dir_fd=folder)
    assert (seen.state, seen.identity) == (probes.LockState.HELD, lock.identity)
    assert probes.share("a.lock", dir_fd=folder) is None
    assert lock.is_held()
    lock.close()
    assert probes.probe("a.lock", dir_fd=folder).state is probes.LockState.FREE
    fd = probes.share("a.lock", dir_fd=folder)
    assert fd is not None
    os.close(fd)
    assert probes.probe("b.lock", dir_fd=folder).state is probes.LockState.MISSING


def test_an_owner_notices_what_it_lost(folder: int) -> None:
    lock = locks.LifeLock.create("a.lock", dir_fd=folder)
    assert lock is not None
    os.unlink("a.lock", dir_fd=folder)
    assert not lock.is_held()
    lock.reacquire()
    assert lock.is_held()
    os.close(lock.fd)  # as a library does that closes everything
    assert not lock.is_held()
    lock.reacquire()
    assert lock.is_held()


def test_kept_probes_notice_the_end(folder: int) -> None:
    lock = locks.LifeLock.create("a.lock", dir_fd=folder)
    assert lock is not None
    kept = probes.KeptProbes()
    for _ in range(3):
        assert kept.is_held("a.lock", lock.identity, dir_fd=folder)
    assert not kept.is_held("a.lock", (1, 1), dir_fd=folder), "another file than the registered one"
    identity = lock.identity
    lock.close()
    assert not kept.is_held("a.lock", identity, dir_fd=folder)
    with files.opened(files.open_regular("a.lock", dir_fd=folder)) as fd:
        assert locks.take_descriptor(fd, 0), "looking leaves no lock behind"
    kept.close()


def test_a_forked_child_holds_nothing(folder: int) -> None:
    lock = locks.LifeLock.create("a.lock", dir_fd=folder)
    assert lock is not None
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    lock.close()
    try:
        # The child closes it as the first thing it does.
        support.wait_until(lambda: probes.probe("a.lock", dir_fd=folder).state is probes.LockState.FREE)
    finally:
        child.kill()
        child.join()


# The state directory


def test_where_the_state_directory_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@example.org", "-C"]
    main, linked = tmp_path / "main", tmp_path / "linked"
    subprocess.run(["git", "init", "-q", str(main)], check=True)
    subprocess.run([*git, str(main), "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    subprocess.run([*git, str(main), "worktree", "add", "-q", str(linked)], check=True, capture_output=True)
    module = tmp_path / "module"
    module.mkdir()
    (main / ".git" / "modules" / "m").mkdir(parents=True)
    (module / ".git").write_text(f"gitdir: {main}/.git/modules/m\n")
    bare = tmp_path / "project" / ".bare"
    subprocess.run(["git", "clone", "-q", "--bare", str(main), str(bare)], check=True, capture_output=True)
    subprocess.run(["git", "-C", str(bare), "worktree", "add", "-q", "../wt"], check=True, capture_output=True)
    plain = tmp_path / "plain" / "inner"
    plain.mkdir(parents=True)
    for here, expected in [
        (main, main),
        (linked, main),
        (module, module),
        (tmp_path / "project" / "wt", tmp_path / "project"),
        (plain, plain),
    ]:
        monkeypatch.chdir(here)
        assert state_dir.locate(None, {}) == expected / ".mnemosyne"
    (plain.parent / ".mnemosyne").mkdir()
    monkeypatch.chdir(plain)
    assert state_dir.locate(None, {}) == plain.parent / ".mnemosyne"
    assert state_dir.locate(None, {"MNEMOSYNE_DIR": str(tmp_path / "v")}) == tmp_path / "v"
    assert state_dir.locate(tmp_path / "f", {"MNEMOSYNE_DIR": str(tmp_path / "v")}) == tmp_path / "f"
    (linked / ".git").write_text("gitdir: /nowhere\n")
    monkeypatch.chdir(linked)
    assert state_dir.locate(None, {}) == linked / ".mnemosyne", "a broken link is its own root"


def test_git_is_told_once_to_look_away(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path / "repo")], check=True)
    for _ in range(2):
        StateDir.open(tmp_path / "repo" / ".mnemosyne").close()
        (tmp_path / "repo" / ".mnemosyne").rmdir()
    exclude = (tmp_path / "repo" / ".git" / "info" / "exclude").read_text()
    assert exclude.count(".mnemosyne") == 1


def test_a_replaced_directory_is_noticed(tmp_path: Path) -> None:
    state = StateDir.open(tmp_path / "fleet" / "s")
    state.folder("instances")
    assert state.is_current()
    state.path.rename(tmp_path / "fleet" / "away")
    assert not state.is_current()
    state.reopen()
    assert state.is_current()
    state.folder("instances")
    os.rmdir(state.path / "instances")
    assert not state.is_current()
    state.close()


def test_symlinked_directories_are_refused_at_every_level(tmp_path: Path) -> None:
    """X2."""
    (tmp_path / "real").mkdir(mode=0o700)
    place = tmp_path / "fleet" / "s"
    place.symlink_to(tmp_path / "real")
    with pytest.raises(errors.Untrusted):
        StateDir.open(place)
    place.unlink()
    state = StateDir.open(place)
    (place / "instances").symlink_to(tmp_path / "real")
    with pytest.raises(errors.Untrusted):
        state.folder("instances")


# Being woken


def test_a_close_after_writing_wakes_and_a_look_does_not(tmp_path: Path) -> None:
    place = tmp_path / "watched"
    place.mkdir()
    woken: list[str] = []
    watch = Watch()
    watch.add(str(place), Change.CLOSED, woken.append)
    try:
        (place / "one").write_text("x")
        support.wait_until(lambda: woken == ["one"])
        (place / "one").read_text()
        (place / "two").write_text("x")
        support.wait_until(lambda: "two" in woken)
        assert woken == ["one", "two"], "reading woke nobody"
    finally:
        watch.stop()


def test_a_touch_wakes_even_after_a_callback_raised_and_the_folder_was_replaced(tmp_path: Path) -> None:
    place = tmp_path / "bell"
    place.mkdir()
    (place / "bell").touch()
    woken: list[str] = []

    def wake(name: str) -> None:
        woken.append(name)
        raise RuntimeError("broken callback")

    watch = Watch()
    watch.add(str(place), Change.TOUCHED, wake)
    try:
        os.utime(place / "bell")
        support.wait_until(lambda: woken == ["bell"])
        os.utime(place / "bell")
        support.wait_until(lambda: len(woken) == 2)
        (place / "bell").unlink()
        place.rmdir()
        place.mkdir()
        (place / "bell").touch()
        support.wait_until(lambda: watch.mend() or not watch.degraded)
        before = len(woken)

        def rung() -> bool:
            watch.mend()
            os.utime(place / "bell")
            return len(woken) > before

        support.wait_until(rung)
    finally:
        watch.stop()


# Time


def test_stamps_rise_whatever_the_clock_does() -> None:
    class Broken(SystemClock):
        times = iter([100, 50, 50, 200, 10])

        def wall_ns(self) -> int:
            return next(self.times)

    stamps = Stamps(Broken())
    assert [stamps.next() for _ in range(5)] == [100, 101, 102, 200, 201]


@pytest.mark.parametrize(
    ("wall", "shown"), [(0, "1970-01-01T00:00:00.000Z"), (1_762_318_440_123_999_999, "2025-11-05T04:54:00.123Z")]
)
def test_times_are_shown_in_utc(wall: int, shown: str) -> None:
    assert rfc3339(wall) == shown


def test_no_boot_id_where_there_is_none(tmp_path: Path) -> None:
    assert SystemClock(str(tmp_path / "none")).boot_id == ""
    (tmp_path / "id").write_text("abc\n")
    assert SystemClock(str(tmp_path / "id")).boot_id == "abc"
