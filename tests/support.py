"""What the tests share: real processes, and waiting for conditions instead of sleeping."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import psutil

MNEMOSYNE = str(Path(sys.executable).parent / "mnemosyne")
REPOSITORY = Path(__file__).resolve().parent.parent


def wait_until(condition: Callable[[], Any], timeout: float = 15.0, what: str = "") -> Any:
    """Returns the first truthy value of ``condition``; fails when there is none in time."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what or condition}")
        time.sleep(0.005)


def git(root: Path, *args: str) -> str:
    """What git prints there; commits are those of somebody."""
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(["git", *identity, *args], cwd=root, capture_output=True, text=True, check=True).stdout


class Cli(subprocess.CompletedProcess[str]):
    """A finished command."""

    @property
    def json(self) -> Any:
        """Its standard output as one JSON document."""
        return json.loads(self.stdout)


def run(
    *args: object,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    input: str | None = None,  # noqa: A002
    timeout: float = 30.0,
    prefix: Sequence[str] = (),
) -> Cli:
    """Runs ``mnemosyne ARGS`` to its end, whatever its exit code. ``prefix`` goes before it, such as unshare."""
    argv = [*prefix, MNEMOSYNE, *map(str, args)]
    done = subprocess.run(
        argv,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        input=input,
        stdin=subprocess.DEVNULL if input is None else None,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return Cli(done.args, done.returncode, done.stdout, done.stderr)


class Child:
    """A process of a test with its output in files; ended when its ``with`` block is left."""

    def __init__(
        self, argv: Sequence[str], place: Path, *, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> None:
        place.mkdir(parents=True, exist_ok=True)
        number = len(list(place.glob("*.err")))
        self.out = place / f"{number}.out"
        self.err = place / f"{number}.err"
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env={**os.environ, **(env or {})}, cwd=cwd
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return self.err.read_text(errors="replace")

    @property
    def printed(self) -> str:
        return self.out.read_text(errors="replace")

    def wait_for(self, text: str, timeout: float = 15.0) -> str:
        """Waits until a line of its output or log holds ``text``; returns the line."""

        def found() -> str | None:
            whole = [said[: said.rfind("\n") + 1] for said in (self.log, self.printed)]  # one may be half written
            return next((line for said in whole for line in said.splitlines() if text in line), None)

        try:
            return wait_until(found, timeout, repr(text))
        except AssertionError as error:
            raise AssertionError(f"{error} in:\n{self.log}\n{self.printed}\n{self._whereabouts()}") from None

    def _whereabouts(self) -> str:
        """Of each of its threads: what it is called, its state, and where in the kernel it waits."""
        found = [f"exit code {self.process.poll()}"]
        for task in sorted(Path(f"/proc/{self.pid}/task").glob("*")):
            with contextlib.suppress(OSError):
                state = task.joinpath("status").read_text().partition("State:\t")[2].partition("\n")[0]
                found.append(f"{task.joinpath('comm').read_text().strip()}: {state}, {task.joinpath('wchan').read_text()}")
        return "\n".join(found)

    def send_signal(self, number: int) -> None:
        """Sends a signal; one that stops it has done so when this returns."""
        self.process.send_signal(number)
        if number == signal.SIGSTOP:
            wait_until(lambda: psutil.Process(self.pid).status() in {psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE})

    def kill(self) -> None:
        """SIGKILL, and waits until the kernel has reaped it."""
        self.process.kill()
        self.process.wait(10)

    def stop(self, number: int = signal.SIGTERM, timeout: float = 10.0) -> int:
        """Asks it to end and returns its exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout)

    def wait(self, timeout: float = 30.0) -> int:
        return self.process.wait(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait(10)


class Serve(Child):
    """``mnemosyne serve`` on a state directory, registered when the constructor returns."""

    def __init__(
        self, state_dir: Path, *args: object, env: Mapping[str, str] | None = None, prefix: Sequence[str] = ()
    ) -> None:
        argv = [*prefix, MNEMOSYNE, "--dir", str(state_dir), "serve", *map(str, args)]
        super().__init__(argv, state_dir.parent / "serve-logs", env=env)
        try:
            line = self.wait_for("is in the fleet at")
        except BaseException:
            self.__exit__()  # so that one failure does not become that of the next test, too
            raise
        self.instance_id = line.split(" Instance ")[1].split()[0]


def python(code: str, place: Path, *args: object, env: Mapping[str, str] | None = None) -> Child:
    """Starts a Python program given as text, in a process of its own."""
    return Child([sys.executable, "-c", textwrap.dedent(code), *map(str, args)], place, env=env)


def strace(*options: str, processor: int | None = None) -> list[str]:
    """What runs a command under strace, with everything that it starts.

    On one processor: a traced process stops at each of its calls, and waking the tracer on another one takes six times as long.
    """
    processor = one_processor() if processor is None else processor
    return ["taskset", "-c", str(processor), "strace", "-f", "-qq", *options]


def one_processor() -> int:
    """One of those that we may use."""
    return random.choice(sorted(os.sched_getaffinity(0)))


def status_of(state_dir: Path, instance_id: str) -> str | None:
    """What ``mnemosyne list`` says of an instance; None when it is not listed."""
    listed = run("--dir", state_dir, "list", "--json").json
    return next((entry["status"] for entry in listed if entry["instance_id"] == instance_id), None)


def tree(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Every path below a folder with mode, modification time and content: two equal trees mean that nothing was changed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found[str(path.relative_to(folder))] = (status.st_mode, status.st_mtime_ns, content)
    return found


def descendants(pid: int) -> list[psutil.Process]:
    """Everything that a process has started and that still runs."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
