"""A name, a role and an id have their written form and no other, an id is drawn by one, and a process knows who it is."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
import support
from unit.fake_clock import FakeClock

from mnemo_coord import errors
from mnemo_coord.disk import probes
from mnemo_coord.disk.locks import LifeLock
from mnemo_coord.disk.probes import LockState
from mnemo_coord.disk.state_dir import StateDir
from mnemo_coord.members import identity
from mnemo_coord.members.identity import ProcessIdentity, check_name, check_role, draw, is_id, lock_name

GOOD_NAMES = [
    "a",
    "Z",
    "0",
    "_",
    "-",
    "A-b_9",
    "x" * 64,
    "deadbee",
    "deadbeef0",
    "DEADBEEF",
    "deadbeeg",
    "defaults",
    "tmp2",
    "-rf",
]

BAD_NAMES: dict[Any, str] = {
    "": "is empty",
    "x" * 65: "has 65 characters, 64 are allowed",
    "a\n": "has a character",
    "\n": "has a character",
    "a\nb": "has a character",
    "a\0": "has a character",
    "a b": "has a character",
    " a": "has a character",
    "a.b": "has a character",
    ".": "has a character",
    "..": "has a character",
    "../x": "has a character",
    "a/b": "has a character",
    "a\\b": "has a character",
    "@a": "has a character",
    "a:b": "has a character",
    "é": "has a character",
    "\u0663": "has a character",
    "\uff11\uff12": "has a character",
    "a\u200b": "has a character",
    "\u017f": "has a character",
    "\u212a": "has a character",
    "\ud800": "has a character",
    "default": "is reserved",
    "Default": "is reserved",
    "CONFIG": "is reserved",
    "tMp": "is reserved",
    "ALL": "is reserved",
    "mnemosyne": "is reserved",
    "Mnemosyne": "is reserved",
    "deadbeef": "looks like an instance id",
    "00000000": "looks like an instance id",
    "a1b2c3d4": "looks like an instance id",
    None: "is not text",
    7: "is not text",
    b"name": "is not text",
    ("a",): "is not text",
}


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_a_good_name_and_role(name: str) -> None:
    assert check_name(name) == name
    assert check_role(name) == check_role(f"@{name}") == name


@pytest.mark.parametrize(("name", "rule"), BAD_NAMES.items(), ids=[ascii(name)[:20] for name in BAD_NAMES])
def test_a_bad_name_is_refused_with_the_rule_it_breaks(name: Any, rule: str) -> None:
    """S3, Q10."""
    with pytest.raises(errors.Config) as caught:
        check_name(name)
    assert rule in str(caught.value)
    assert str(caught.value).startswith("name ")
    assert (caught.value.key, caught.value.exit_code) == ("name", 2)
    assert len(str(caught.value).splitlines()) == 1
    str(caught.value).encode()


@pytest.mark.parametrize("name", [name for name in BAD_NAMES if isinstance(name, str) and not name.startswith("@")], ids=ascii)
def test_a_role_has_the_same_grammar(name: str) -> None:
    for role in (name, f"@{name}", "@@a"):
        with pytest.raises(errors.Config, match=r"^role "):
            check_role(role)


@pytest.mark.parametrize("text", ["a1b2c3d4", "00000000", "ffffffff"])
def test_an_id(text: str) -> None:
    """S3."""
    assert is_id(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a1b2c3d",
        "a1b2c3d45",
        "A1B2C3D4",
        "a1b2c3d4\n",
        "\na1b2c3d",
        "a1b2c3g4",
        "\u0660" * 8,
        "\uff11" * 8,
        "../../..",
        "a1b2 3d4",
    ],
    ids=ascii,
)
def test_no_id(text: str) -> None:
    """S3."""
    assert not is_id(text)


# Drawing


def test_an_id_is_drawn_once(state: StateDir) -> None:
    drawn: list[tuple[str, LifeLock]] = []

    def draw_some() -> None:
        drawn.extend(draw(state) for _ in range(10))

    threads = [threading.Thread(target=draw_some) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ids = [instance_id for instance_id, _ in drawn]
    assert len(set(ids)) == 40
    assert all(is_id(instance_id) for instance_id in ids)
    assert state.listing("instances") == sorted(map(lock_name, ids))
    for instance_id, lock in drawn:
        assert probes.probe(lock_name(instance_id), dir_fd=state.folder("instances")).state is LockState.HELD
        lock.remove()


def test_a_taken_id_is_not_drawn_again(state: StateDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """The random numbers are the fault that is injected here."""
    dice = iter([b"\0\0\0\1", b"\0\0\0\1", b"\0\0\0\1", b"\0\0\0\2"])
    monkeypatch.setattr(os, "urandom", lambda size: next(dice))
    (first, lock), (second, other) = draw(state), draw(state)
    assert (first, second) == ("00000001", "00000002")
    lock.close()
    other.close()


def test_when_every_id_is_taken_it_says_so(state: StateDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "urandom", lambda size: b"\0\0\0\1")
    _, lock = draw(state)
    with pytest.raises(errors.State, match="all taken"):
        draw(state)
    lock.close()


# Processes


def test_a_process_knows_itself(clock: FakeClock) -> None:
    own = ProcessIdentity.own(clock)
    assert own.pid == os.getpid()
    assert own.start_time == int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    assert (own.uid, own.boot_id) == (os.geteuid(), clock.boot_id)
    assert own.machine
    assert own.pid_namespace == os.stat("/proc/self/ns/pid").st_ino
    assert own.time_namespace == os.stat("/proc/self/ns/time").st_ino
    assert ProcessIdentity(**own.to_body()) == own
    fd = os.pidfd_open(os.getpid())
    assert own.pidfd_inode in {0, os.fstat(fd).st_ino}
    os.close(fd)


def test_two_processes_differ(clock: FakeClock, tmp_path: Path) -> None:
    """R13. In more than the number."""
    program = """
    from mnemo_coord.disk.clock import SystemClock
    from mnemo_coord.members.identity import ProcessIdentity
    own = ProcessIdentity.own(SystemClock())
    print("own", own.pid, own.start_time, own.pidfd_inode, own.machine, flush=True)
    """
    own = ProcessIdentity.own(clock)
    with support.python(program, tmp_path / "child") as child:
        _, pid, start_time, inode, machine = child.wait_for("own ").split()
        assert int(pid) == child.pid != own.pid
        assert int(start_time) > own.start_time
        assert machine == own.machine
        assert int(inode) != own.pidfd_inode or not own.pidfd_inode
        child.wait()


@pytest.mark.parametrize("name", ["plain", "a) Z 1 (b", ") R 0 0 (", "a b c", "))))"])
def test_a_process_may_have_any_name(name: str, tmp_path: Path) -> None:
    """R13. Parentheses and spaces in /proc/PID/stat."""
    program = tmp_path / name
    shutil.copy(shutil.which("sleep") or "sleep", program)
    with support.Child([str(program), "60"], tmp_path / "child") as child:
        support.wait_until(lambda: Path(f"/proc/{child.pid}/comm").read_text() == f"{name[:15]}\n")
        support.wait_until(lambda: identity.start_time_and_state(child.pid)[1] == "S")
        ticks = identity.start_time_and_state(child.pid)[0]
        assert ticks >= ProcessIdentity.own(FakeClock()).start_time
        child.send_signal(signal.SIGSTOP)
        support.wait_until(lambda: identity.start_time_and_state(child.pid) == (ticks, "T"))


def test_a_process_that_is_gone_has_no_start_time() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert identity.start_time_and_state(gone.pid) == (0, "")
