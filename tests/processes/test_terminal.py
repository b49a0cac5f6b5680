"""The terminal dashboard in a real terminal, on a real instance."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import support
from wire import Served

DASH = str(Path(sys.executable).parent / "mnemosyne-dash")


class Terminal:
    """A tmux server of its own, with one window."""

    def __init__(self, place: Path, argv: list[str], width: int, height: int) -> None:
        self._socket = str(place / f"tmux{len(list(place.glob('tmux*')))}")
        command = " ".join([f"'{word}'" for word in argv]) + "; echo ended with $?; exec sleep 600"
        self._tmux("-f", "/dev/null", "new-session", "-d", "-x", str(width), "-y", str(height), command)

    def _tmux(self, *args: str) -> str:
        argv = ["tmux", "-S", self._socket, *args]
        return subprocess.run(
            argv, capture_output=True, text=True, check=True, env={**os.environ, "TERM": "xterm-256color"}
        ).stdout

    @property
    def screen(self) -> str:
        return self._tmux("capture-pane", "-p")

    def press(self, *keys: str) -> None:
        self._tmux("send-keys", *keys)

    def shows(self, *texts: str, timeout: float = 20.0) -> str:
        deadline = time.monotonic() + timeout
        while not all(text in (screen := self.screen) for text in texts):
            assert time.monotonic() < deadline, f"not within {timeout} s: {texts} on:\n{screen}"
            time.sleep(0.1)  # each look is a process
        return screen

    def end(self) -> None:
        subprocess.run(["tmux", "-S", self._socket, "kill-server"], check=False, capture_output=True)


@pytest.fixture
def open_terminal(tmp_path: Path) -> Iterator[object]:
    if shutil.which("tmux") is None:
        if os.environ.get("CI"):
            pytest.fail("tmux is not installed")
        pytest.skip("tmux is not installed")
    opened: list[Terminal] = []

    def start(*argv: str, width: int = 80, height: int = 24) -> Terminal:
        opened.append(Terminal(tmp_path, list(argv), width, height))
        return opened[-1]

    yield start
    for terminal in opened:
        terminal.end()


@pytest.fixture
def repository(state_dir: Path) -> Path:
    git = ["git", "-C", str(state_dir.parent), "-c", "user.name=x", "-c", "user.email=x@y.example"]
    subprocess.run([*git, "init", "-q", "-b", "main"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    return state_dir.parent


def test_it_shows_a_fleet_and_connects_again(open_terminal, state_dir: Path, port_base: int) -> None:
    with Served(state_dir, port_base, "--name", "planner"):
        terminal = open_terminal(DASH, "--api", f"http://127.0.0.1:{port_base}", "--dir", str(state_dir))
        terminal.shows("planner", "alive", "live", "All is well")
        support.run("--dir", state_dir, "report", "stuck", "no \x1b[31m password", "--as", "planner")
        support.run("--dir", state_dir, "send", "--to", "planner", "Hello", "--from", "ci")
        terminal.shows(r"is stuck: no \x1b[31m password", "planner received Hello from ci")
        terminal.press("?")
        terminal.shows("pause")
        terminal.press("Escape")
    terminal.shows("reconnecting")
    with Served(state_dir, port_base, "--name", "planner"):
        support.wait_until(lambda: "reconnecting" not in terminal.screen and "connecting" not in terminal.screen)
        terminal.shows("live", "1 alive")
        terminal.press("q")
        terminal.shows("ended with 0")


def test_without_an_api_it_reads_the_state_directory(open_terminal, state_dir: Path) -> None:
    with support.Serve(state_dir, "--name", "builder"):
        terminal = open_terminal(DASH, "--dir", str(state_dir), width=120, height=40)
        terminal.shows("builder", "alive", "live", "joined, pid")
        terminal.press("C-c")
        terminal.shows("ended with 0")


def test_who_works_on_which_branch(open_terminal, repository: Path, state_dir: Path) -> None:
    with support.Serve(state_dir, "--name", "builder"), support.Serve(state_dir, "--name", "chief", "--role", "orchestrator"):
        terminal = open_terminal(DASH, "--dir", str(state_dir))
        listed = open_terminal(support.MNEMOSYNE, "--dir", str(state_dir), "list", "--watch")
        terminal.shows("All is well", "Branches 0")
        assert "BRANCH" not in listed.shows("builder", "API")
        join = ("--dir", state_dir, "branch", "join", "main")
        assert support.run(*join, "--for", "builder").returncode == 0
        terminal.shows("Branches 1", "main (full, alone)", "works on main (full, alone)")
        assert "main" in listed.shows("BRANCH")
        assert support.run(*join, "--files", "src/**", "--for", "chief").returncode == 0
        terminal.shows("conflict", "are in each other's way")
        terminal.press("4")
        terminal.shows("write, alone", "src/**")
        assert support.run("--dir", state_dir, "branch", "release", "--for", "chief").returncode == 0
        assert support.run("--dir", state_dir, "branch", "release", "--for", "builder").returncode == 0
        terminal.shows("All is well", "Branches 0", "no longer works on main")
        support.wait_until(lambda: "BRANCH" not in listed.screen)


def test_a_list_that_is_watched(open_terminal, state_dir: Path) -> None:
    with support.Serve(state_dir, "--name", "builder") as builder:
        terminal = open_terminal(support.MNEMOSYNE, "--dir", str(state_dir), "list", "--watch")
        terminal.shows("builder", "alive")
        support.run("--dir", state_dir, "report", "working", "x" * 200, "--as", "builder")
        screen = terminal.shows("working: xxx")
        assert "…" in screen
        assert screen.count("builder") == 1
        builder.kill()
        terminal.shows("dead")
        terminal.press("C-c")
        terminal.shows("ended with 130")


def test_where_there_is_no_terminal_it_says_so(state_dir: Path) -> None:
    done = subprocess.run(
        [DASH, "--dir", str(state_dir)], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "is not a terminal" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert subprocess.run([DASH, "--version"], capture_output=True, text=True, check=True).stdout.startswith("mnemosyne-dash ")
