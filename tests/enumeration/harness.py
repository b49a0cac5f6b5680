"""Runs one operation with one fault at its n-th system call, for n = 1 until it is not hit any more."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import support

_TRIES = 3


@dataclass(frozen=True)
class Fault:
    """What strace is told. It counts each system call for itself, so each is enumerated for itself."""

    calls: tuple[str, ...]
    injection: str

    def at(self, call: str, number: int) -> list[str]:
        return ["-e", f"trace={call}", "-e", f"inject={call}:{self.injection}:when={number}"]


WRITES = ("mkdirat", "renameat", "linkat", "unlinkat", "write", "pwrite64", "fsync", "ftruncate")
FAULTS = {
    # Whatever changes a file or a lock: between any two of them a process may die.
    "SIGKILL": Fault((*WRITES, "openat", "flock", "fchmod", "utimensat"), "signal=KILL"),
    "ENOSPC": Fault((*WRITES[:3], *WRITES[4:], "openat"), "error=ENOSPC"),
    "EIO": Fault((*WRITES[1:], "pread64"), "error=EIO"),
    "EMFILE": Fault(("openat", "inotify_init1", "pidfd_open"), "error=EMFILE"),
    "short write": Fault(("write", "pwrite64"), "retval=3"),
}


@dataclass
class Outcome:
    """What came of one case."""

    hit: bool
    code: int
    said: list[list[Any]] = field(default_factory=list)

    def words(self, first: str) -> list[list[Any]]:
        return [words[1:] for words in self.said if words[0] == first]


class Zygote:
    """See `operations.serve_cases`."""

    def __init__(self, log: Path) -> None:
        self._log = log
        folder = Path(__file__).parent
        self._process = subprocess.Popen(
            [sys.executable, str(folder / "operations.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env={**os.environ, "MNEMOSYNE_QUIET": "1"},
        )

    def run(self, operation: str, place: Path, injection: list[str]) -> Outcome:
        """One case."""
        case = self._ask({"operation": operation, "place": str(place)})
        said_path, go_path = (f"/proc/{case['fds']}/fd/{case[name]}" for name in ("said", "go"))
        said = os.open(said_path, os.O_RDONLY)
        try:
            seen = self._until_ready(said)
            tracer = self._attach(case["pid"], injection)
            with open(go_path, "wb", buffering=0) as go:
                go.write(b"!")
            self._await_end(tracer, case["pid"])
            status = self._ask({"over": True})["status"]
            seen += _read_all(said)
        finally:
            os.close(said)
        words = [json.loads(line) for line in seen.splitlines()]
        return Outcome(hit="(INJECTED)" in self._log.read_text() or status == -signal.SIGKILL, code=status, said=words)

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(question) + "\n")
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    @staticmethod
    def _until_ready(said: int) -> bytes:
        seen = b""
        while b'["ready"]' not in seen:
            more = os.read(said, 65536)
            assert more, seen
            seen += more
        return seen

    def _attach(self, pid: int, injection: list[str]) -> subprocess.Popen[bytes]:
        self._log.write_text("")
        processor = support.one_processor()
        os.sched_setaffinity(pid, [processor])
        argv = support.strace("-o", str(self._log), *injection, "-p", str(pid), processor=processor)
        # In one of some thousand cases strace never attaches. The operation has not begun, so another one may try.
        for _ in range(_TRIES):
            tracer = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                support.wait_until(lambda: _is_traced(pid), 10, "strace attaches")
            except AssertionError:
                tracer.kill()
                tracer.wait(10)
            else:
                return tracer
        raise AssertionError(f"strace did not attach to {pid} in {_TRIES} tries")

    @staticmethod
    def _await_end(tracer: subprocess.Popen[bytes], pid: int) -> None:
        # It ends when what it traces has ended. Popen.wait would look every 50 ms, which is longer than most operations.
        ended = os.pidfd_open(tracer.pid)
        try:
            if not select.select([ended], [], [], 15)[0]:
                os.kill(pid, signal.SIGKILL)
                pytest.fail("the operation hangs")
        finally:
            os.close(ended)
            tracer.wait(10)

    def close(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


def _is_traced(pid: int) -> bool:
    with suppress(OSError), open(f"/proc/{pid}/task/{pid}/status") as status:
        tracers = [line.split()[1] for line in status if line.startswith("TracerPid")]
        threads = os.listdir(f"/proc/{pid}/task")
        return tracers != ["0"] and all(_thread_is_traced(pid, thread) for thread in threads)
    return False


def _thread_is_traced(pid: int, thread: str) -> bool:
    with open(f"/proc/{pid}/task/{thread}/status") as status:
        return "TracerPid:\t0\n" not in status.read()


def _read_all(fd: int) -> bytes:
    seen = b""
    while more := os.read(fd, 65536):
        seen += more
    return seen


@contextmanager
def zygote(log: Path) -> Iterator[Zygote]:
    running = Zygote(log)
    try:
        yield running
    finally:
        running.close()
