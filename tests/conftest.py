"""Every test has its own state directory and ports, and must leave no process behind."""

from __future__ import annotations

import compileall
import os
import random
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parent))

FAST = {"MNEMOSYNE_HEARTBEAT_INTERVAL": "0.2", "MNEMOSYNE_POLL_INTERVAL": "0.2"}


def pytest_configure(config: pytest.Config) -> None:
    """Compiles the package once, as pip does for one that is installed: another user cannot, and would do it at each start."""
    if not hasattr(config, "workerinput"):
        compileall.compile_dir(Path(__file__).parent.parent / "mnemo_coord", quiet=2)


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the caller's fleet and memories reaches a test, and heartbeats come ten times as often as usual."""
    monkeypatch.chdir(Path(__file__).parent.parent)  # and back again: some tests change it, to bind a socket to a short name
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data-of-user"))
    for name in [name for name in os.environ if name.startswith(("MNEMOSYNE_", "DATABASE_URL"))]:
        monkeypatch.delenv(name)
    for name, value in FAST.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(autouse=True)
def no_process_left() -> Iterator[None]:
    """Fails a test that leaves a child behind, and ends the child."""
    yield
    left = psutil.Process().children(recursive=True) if _has_children() else []
    names = [f"{child.pid} {child.name()}" for child in left if child.is_running()]
    for child in left:
        child.kill()
    psutil.wait_procs(left, 5)
    assert not names, f"left behind: {names}"


def _has_children() -> bool:
    """Asks the kernel, where it tells: looking at every process of the machine takes as long as many a test."""
    try:
        return any(path.read_text() for path in Path("/proc/self/task").glob("*/children"))
    except OSError:  # a thread has ended meanwhile
        return True


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    """Where the test's fleet lives; not made yet."""
    return tmp_path / "fleet" / ".mnemosyne"


@pytest.fixture(autouse=True)
def _parent_of_state_dir(tmp_path: Path) -> None:
    (tmp_path / "fleet").mkdir()


@pytest.fixture
def port_base() -> int:
    """The first of eleven ports that nobody uses."""
    for _ in range(200):
        base = random.randrange(20_000, 29_000)
        if all(_is_free(port) for port in range(base, base + 11)):
            return base
    pytest.fail("no eleven free ports in a row")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
