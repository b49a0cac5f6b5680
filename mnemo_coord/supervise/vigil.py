"""Watching over child processes in one thread: signals, their deaths and whatever else can wake, waited for in one place.

Signals arrive as bytes in a pipe (signal.set_wakeup_fd), so that none is lost between looking and waiting. Orphans of what was
started come to this process (prctl(2), PR_SET_CHILD_SUBREAPER), not to init, so that they are found among its children.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self

__all__ = ["Vigil"]

_STOPPING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_PR_SET_CHILD_SUBREAPER: Final = 36
_LOOK: Final = 0.05
"""Seconds between two looks at what is about to end."""


class Vigil:
    """One such watch, kept for a ``with`` block. Use from the main thread; nothing else in this process has children."""

    def __init__(self) -> None:
        self.signals = 0
        """How many came that ask this process to end."""
        self._wakeup, self._woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        def count(_number: int, _frame: object) -> None:
            self.signals += 1

        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._before = {number: signal.signal(number, count) for number in _STOPPING}
        self._before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._wakeup)
        os.close(self._woken)

    def wait(self, timeout: float | None, others: Iterable[int] = ()) -> set[int]:
        """Until a signal comes, a child has ended, one of the other descriptors can be read, or so many seconds are over.

        Returns those of the others that can be read.
        """
        # RACE: a signal that came before this is a byte in the pipe: select returns at once.
        ready, _, _ = select.select([self._wakeup, *others], [], [], timeout)
        with suppress(BlockingIOError):
            os.read(self._wakeup, 4096)
        return set(ready) - {self._wakeup}

    @staticmethod
    def fetch() -> dict[int, int]:
        """Takes leave of every child that has ended: their exit codes, negative where a signal ended them.

        Several may stand behind one SIGCHLD, and some were not started by us: they are orphans.
        """
        ended = {}
        with suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                ended[found[0]] = os.waitstatus_to_exitcode(found[1])
        return ended

    def await_end(self, processes: list[subprocess.Popen[bytes]], timeout: float, fetch: Callable[[], object]) -> None:
        """Until the list is empty, from which ``fetch`` removes those that have ended, or so many seconds are over."""
        deadline = time.monotonic() + timeout
        fetch()
        while processes and time.monotonic() < deadline:
            self.wait(_LOOK)
            fetch()
