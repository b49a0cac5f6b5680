"""A lock excludes everybody else, is freed by the death of its owner and by nothing less, and can be looked at unnoticed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import support

from mnemo_coord import errors
from mnemo_coord.disk import files, locks, probes
from mnemo_coord.disk.locks import LifeLock
from mnemo_coord.disk.probes import LockState
from mnemo_coord.disk.state_dir import StateDir
from mnemo_coord.disk.watch import Change, Watch

NAME = "a1b2c3d4.lock"

HOLD = """
    import sys, time
    from mnemo_coord.disk import locks
    from mnemo_coord.disk.state_dir import StateDir
    with locks.hold(StateDir.open(sys.argv[1]), "test", 5):
        print("held", flush=True)
        time.sleep(60)
"""

OWN = """
    import os, subprocess, sys, time
    from mnemo_coord.disk import files, locks
    folder = files.open_dir(sys.argv[1])
    lock = locks.LifeLock.create("a1b2c3d4.lock", dir_fd=folder)
    assert lock.is_held()
"""

COUNT = """
    import sys, threading
    from pathlib import Path
    from mnemo_coord.disk import locks
    from mnemo_coord.disk.state_dir import StateDir
    state, counter = StateDir.open(sys.argv[1]), Path(sys.argv[2])
    def count():
        for _ in range(40):
            with locks.hold(state, "test", 30):
                counter.write_text(str(int(counter.read_text()) + 1))
    threads = [threading.Thread(target=count) for _ in range(2)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
"""


def created(folder: int, name: str = NAME) -> LifeLock:
    lock = LifeLock.create(name, dir_fd=folder)
    assert lock is not None
    return lock


def seen(folder: int, name: str = NAME) -> LockState:
    return probes.probe(name, dir_fd=folder).state


def descriptors_of(path: Path) -> list[int]:
    """The descriptors of this process that lead to a file."""
    status = path.stat()
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            one = os.fstat(int(name))
        except OSError:
            continue
        if (one.st_dev, one.st_ino) == (status.st_dev, status.st_ino):
            found.append(int(name))
    return found


# Short locks


def test_threads_and_processes_exclude_each_other(state: StateDir, tmp_path: Path) -> None:
    """I12, R18. A counter that is not atomic loses nothing."""
    counter = tmp_path / "counter"
    counter.write_text("0")
    children = [support.python(COUNT, tmp_path / "children", state.path, counter) for _ in range(2)]
    try:
        for _ in range(80):
            with locks.hold(state, "test", 30):
                counter.write_text(str(int(counter.read_text()) + 1))
        assert [child.wait() for child in children] == [0, 0], [child.log for child in children]
    finally:
        for child in children:
            child.__exit__()
    assert counter.read_text() == "240"


def test_waiting_in_vain_says_who_holds_it(state: StateDir, tmp_path: Path) -> None:
    """C21."""
    with support.python(HOLD, tmp_path / "holder", state.path) as holder:
        holder.wait_for("held")
        with pytest.raises(errors.TimedOut) as caught, locks.hold(state, "test", 0.05):
            pytest.fail("two hold it")
        assert f"process {holder.pid} " in str(caught.value)
        assert str(state.path / "locks" / "test.lock") in str(caught.value)
        assert (caught.value.timeout, caught.value.exit_code) == (0.05, 5)
        with locks.hold(state, "another", 0):
            pass
        holder.kill()
        with locks.hold(state, "test", 1):
            pass


def test_a_lock_is_freed_when_its_block_raises(state: StateDir) -> None:
    with pytest.raises(RuntimeError), locks.hold(state, "test", 0):
        raise RuntimeError
    with locks.hold(state, "test", 0):
        pass


def test_its_file_is_permanent_and_empty(state: StateDir) -> None:
    """Unlinking a lock file would let two holders in."""
    path = state.path / "locks" / "test.lock"
    inodes = set()
    for _ in range(3):
        with locks.hold(state, "test", 0):
            inodes.add(path.stat().st_ino)
    assert inodes == {path.stat().st_ino}
    assert path.read_bytes() == b""
    assert descriptors_of(path) == []


def test_a_planted_lock_file_is_not_locked(state: StateDir, tmp_path: Path) -> None:
    """R17."""
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    state.folder("locks")
    (state.path / "locks" / "test.lock").symlink_to(target)
    with pytest.raises(errors.Untrusted), locks.hold(state, "test", 0):
        pytest.fail("held")
    assert target.read_bytes() == b"precious"


# Life locks


def test_one_has_the_name_and_others_see_it_held(folder: int, tmp_path: Path) -> None:
    lock = created(folder)
    status = (tmp_path / "folder" / NAME).stat()
    assert lock.identity == (status.st_dev, status.st_ino)
    assert probes.probe(NAME, dir_fd=folder) == probes.Probe(state=LockState.HELD, identity=lock.identity)
    assert LifeLock.create(NAME, dir_fd=folder) is None
    assert probes.share(NAME, dir_fd=folder) is None
    assert lock.is_held()
    lock.close()
    assert LifeLock.create(NAME, dir_fd=folder) is None, "its id stays drawn until it has been reaped"
    assert seen(folder) is LockState.FREE
    lock.close()


def test_what_a_probe_cannot_tell_is_unknown(folder: int, tmp_path: Path) -> None:
    place = tmp_path / "folder"
    os.mkfifo(place / "pipe")
    (place / "link").symlink_to("file")
    (place / "file").touch()
    (place / "many").mkdir()
    assert [seen(folder, name) for name in ("pipe", "link", "many", "none")] == [LockState.UNKNOWN] * 3 + [LockState.MISSING]
    assert seen(folder, "file") is LockState.FREE


def test_a_free_lock_that_is_shared_still_looks_free_and_is_not_taken(folder: int) -> None:
    created(folder).close()
    shared = [probes.share(NAME, dir_fd=folder) for _ in range(3)]
    assert None not in shared
    assert seen(folder) is LockState.FREE
    taken: list[bool] = []
    with files.opened(files.open_regular(NAME, dir_fd=folder)) as fd:
        taker = threading.Thread(target=lambda: taken.append(locks.take_descriptor(fd, 0.0)))
        taker.start()
        for held in shared:
            taker.join(0.02)
            assert not taken, "it is neither taken nor reported as held: whoever shares it is soon done"
            os.close(held or -1)
        taker.join()
        assert taken == [True]
        assert probes.share(NAME, dir_fd=folder) is None
    assert probes.share("none", dir_fd=folder) is None


def test_a_taker_gives_up_at_once_where_the_lock_is_held(folder: int) -> None:
    lock = created(folder)
    with files.opened(files.open_regular(NAME, dir_fd=folder)) as fd:
        begun = time.monotonic()
        assert not locks.take_descriptor(fd, 0.0)
        assert time.monotonic() - begun < 0.5
    assert lock.is_held()


def test_a_removed_lock_is_not_shared(folder: int) -> None:
    """I17."""
    created(folder).remove()
    assert probes.share(NAME, dir_fd=folder) is None
    assert seen(folder) is LockState.MISSING


def test_its_content_is_replaced_in_place(folder: int, tmp_path: Path) -> None:
    lock = created(folder)
    identity = lock.identity
    for content in (b"long content", b"short", b""):
        lock.write(content)
        assert (tmp_path / "folder" / NAME).read_bytes() == content
    assert lock.identity == identity
    assert lock.is_held()
    lock.close()


def test_removing_frees_the_name(folder: int) -> None:
    lock = created(folder)
    lock.remove()
    assert os.listdir(folder) == []
    created(folder).remove()


def test_a_lock_that_lost_its_file_does_not_remove_anothers(folder: int) -> None:
    lock = created(folder)
    os.unlink(NAME, dir_fd=folder)
    other = created(folder)
    lock.remove()
    assert other.is_held()
    other.remove()


# Death


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_lock_does_not_survive_its_owner(number: int, folder: int, tmp_path: Path) -> None:
    """H2."""
    program = OWN + "    print('owned', flush=True)\n    time.sleep(60)\n"
    with support.python(program, tmp_path / "owner", tmp_path / "folder") as owner:
        owner.wait_for("owned")
        assert seen(folder) is LockState.HELD
        owner.send_signal(number)
        owner.process.wait(10)
        assert seen(folder) is LockState.FREE


def test_a_stopped_owner_keeps_its_lock(folder: int, tmp_path: Path) -> None:
    """H1."""
    program = OWN + "    print('owned', flush=True)\n    time.sleep(60)\n"
    with support.python(program, tmp_path / "owner", tmp_path / "folder") as owner:
        owner.wait_for("owned")
        owner.send_signal(signal.SIGSTOP)
        support.wait_until(lambda: Path(f"/proc/{owner.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        assert seen(folder) is LockState.HELD


BORN = {
    "fork": "pid = os.fork() or (time.sleep(60), os._exit(0))",
    "exec": "pid = subprocess.Popen(['sleep', '60'], close_fds=False).pid",
    "fork of a fork": """
    reader, writer = os.pipe()
    if os.fork() == 0:
        pid = os.fork()
        if pid:
            os.write(writer, str(pid).encode())
            os._exit(0)
        time.sleep(60)
        os._exit(0)
    pid = int(os.read(reader, 20))
    """,
}


@pytest.mark.parametrize("how", BORN)
def test_a_child_does_not_keep_the_lock_of_a_dead_parent(how: str, folder: int, tmp_path: Path) -> None:
    """H2, V17."""
    program = OWN + f"    {BORN[how].strip()}\n    print('child', pid, flush=True)\n    time.sleep(60)\n"
    with support.python(program, tmp_path / "owner", tmp_path / "folder") as owner:
        child = int(owner.wait_for("child ").split()[1])
        try:
            assert seen(folder) is LockState.HELD, "the fork of a child does not free it"
            owner.kill()
            # A fork closes it as the first thing it does.
            support.wait_until(lambda: seen(folder) is LockState.FREE)
            os.kill(child, 0)
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_short_lock_is_not_kept_by_a_fork_either(state: StateDir, tmp_path: Path) -> None:
    program = HOLD.replace('print("held"', 'import os; pid = os.fork() or (time.sleep(60), os._exit(0)); print("held", pid')
    with support.python(program, tmp_path / "holder", state.path) as holder:
        child = int(holder.wait_for("held").split()[1])
        try:
            holder.kill()
            with locks.hold(state, "test", 5):
                os.kill(child, 0)
        finally:
            os.kill(child, signal.SIGKILL)


# What an owner notices


@pytest.fixture
def lock(folder: int) -> Iterator[LifeLock]:
    owned = created(folder)
    yield owned
    owned.close()


def test_an_owner_notices_that_its_file_was_deleted(lock: LifeLock, folder: int) -> None:
    """H10, R1."""
    os.unlink(NAME, dir_fd=folder)
    assert not lock.is_held()
    lock.reacquire()
    assert lock.is_held()
    assert seen(folder) is LockState.HELD


def test_an_owner_notices_that_its_file_was_replaced(lock: LifeLock, folder: int, tmp_path: Path) -> None:
    """H10."""
    (tmp_path / "folder" / "new").touch(0o600)
    os.rename("new", NAME, src_dir_fd=folder, dst_dir_fd=folder)
    assert not lock.is_held()
    lock.reacquire()
    assert lock.is_held()


def test_an_owner_notices_that_the_lock_alone_is_gone(lock: LifeLock, folder: int) -> None:
    """H19. The descriptor was replaced by an unlocked one of the same file."""
    other = files.open_regular(NAME, os.O_RDWR, dir_fd=folder)
    os.dup2(other, lock.fd)
    os.close(other)
    assert not lock.is_held()
    lock.reacquire()
    assert lock.is_held()


def test_an_owner_notices_that_all_its_descriptors_were_closed(folder: int, tmp_path: Path) -> None:
    """H19. As a library does that turns the process into a daemon."""
    program = (
        OWN
        + """
    os.closerange(3, 99)
    assert not lock.is_held()
    print("closed", flush=True)
    folder = files.open_dir(sys.argv[1])
    lock.reacquire()
    assert lock.is_held()
    print("taken again", flush=True)
    time.sleep(60)
"""
    )
    with support.python(program, tmp_path / "owner", tmp_path / "folder") as owner:
        owner.wait_for("taken again")
        assert seen(folder) is LockState.HELD
        owner.kill()
        assert seen(folder) is LockState.FREE


def test_taking_it_again_leaves_a_strangers_descriptor_alone(lock: LifeLock, folder: int, tmp_path: Path) -> None:
    """H19. The number of the lost descriptor belongs to another file by now."""
    stranger = os.open(tmp_path / "stranger", os.O_CREAT | os.O_RDWR)
    number = lock.fd
    os.dup2(stranger, number)
    try:
        assert not lock.is_held()
        lock.reacquire()
        assert os.fstat(number).st_ino == os.fstat(stranger).st_ino
        assert lock.is_held()
    finally:
        os.close(stranger)
        os.close(number)


def test_who_cannot_take_it_again_does_not_hold_it(lock: LifeLock, folder: int) -> None:
    """H10, I16. Somebody else holds the lock at this path now, and nothing may make that look like ours."""
    os.unlink(NAME, dir_fd=folder)
    other = created(folder)
    assert not lock.is_held()
    for _ in range(2):
        with pytest.raises(errors.LeaseLost, match=f"process {os.getpid()}"):
            lock.reacquire()
        assert not lock.is_held()
    assert other.is_held()
    other.close()
    lock.reacquire()
    assert lock.is_held()


# Looking unnoticed


def test_looking_wakes_nobody(lock: LifeLock, folder: int, tmp_path: Path) -> None:
    """No IN_CLOSE_WRITE: whoever probed would ring every watcher, which would probe again."""
    woken: list[str] = []
    created(folder, "free.lock").close()
    watch = Watch()
    watch.add(str(tmp_path / "folder"), Change.CLOSED, woken.append)
    kept = probes.KeptProbes()
    try:
        for name in (NAME, "free.lock", "none.lock"):
            for _ in range(20):
                probes.probe(name, dir_fd=folder)
                kept.is_held(name, lock.identity, dir_fd=folder)
        assert lock.is_held()
        fd = probes.share("free.lock", dir_fd=folder)
        assert fd is not None
        os.close(fd)
        kept.close()
        (tmp_path / "folder" / "end").write_text("x")
        support.wait_until(lambda: "end" in woken)
        assert woken == ["end"]
        lock.close()
        support.wait_until(lambda: woken == ["end", NAME], what="the end of the owner itself does")
    finally:
        watch.stop()


def test_kept_probes_answer_for_the_registered_file_only(lock: LifeLock, folder: int) -> None:
    kept = probes.KeptProbes()
    identity = lock.identity
    for _ in range(3):
        assert kept.is_held(NAME, identity, dir_fd=folder)
        assert not kept.is_held(NAME, (identity[0], identity[1] + 1), dir_fd=folder)
    os.unlink(NAME, dir_fd=folder)
    other = created(folder)
    assert kept.is_held(NAME, other.identity, dir_fd=folder)
    assert kept.is_held(NAME, other.identity, dir_fd=folder)
    other.close()
    assert not kept.is_held(NAME, other_identity(folder), dir_fd=folder)
    assert not kept.is_held("none.lock", identity, dir_fd=folder)
    with files.opened(files.open_regular(NAME, dir_fd=folder)) as fd:
        assert locks.take_descriptor(fd, 0), "looking leaves no lock behind"
    kept.close()


def other_identity(folder: int) -> tuple[int, int]:
    status = os.stat(NAME, dir_fd=folder)
    return status.st_dev, status.st_ino


def test_a_whole_fleet_is_asked_about_without_keeping_it_open(lock: LifeLock, folder: int) -> None:
    """`peek` answers as `is_held` does, and leaves neither a descriptor nor a lock behind."""
    free = created(folder, "free.lock")
    free_identity = free.identity
    free.close()
    before = set(os.listdir("/proc/self/fd"))
    kept = probes.KeptProbes()
    for is_kept in (False, True):
        assert kept.peek(NAME, lock.identity, dir_fd=folder)
        assert not kept.peek(NAME, (lock.identity[0], lock.identity[1] + 1), dir_fd=folder)
        assert not kept.peek("free.lock", free_identity, dir_fd=folder)
        assert not kept.peek("none.lock", lock.identity, dir_fd=folder)
        with files.opened(files.open_regular("free.lock", dir_fd=folder)) as fd:
            assert locks.take_descriptor(fd, 0)
        assert len(os.listdir("/proc/self/fd")) == len(before) + is_kept
        assert kept.is_held(NAME, lock.identity, dir_fd=folder)
    kept.close()
    assert set(os.listdir("/proc/self/fd")) == before


def test_kept_probes_are_bounded(folder: int) -> None:
    """I11."""
    owned = [created(folder, f"{number:08x}.lock") for number in range(100)]
    before = len(os.listdir("/proc/self/fd"))
    kept = probes.KeptProbes()
    for _ in range(2):
        for lock in owned:
            assert kept.is_held(lock.name, lock.identity, dir_fd=folder)
    assert len(os.listdir("/proc/self/fd")) - before <= 64
    kept.close()
    assert len(os.listdir("/proc/self/fd")) == before
    for lock in owned:
        lock.close()
