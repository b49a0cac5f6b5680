"""Progress: what is waited for, a line for each service; on a terminal the last line moves."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from itertools import cycle
from types import TracebackType
from typing import Final, Self

from mnemo_coord.cli.output import talk
from mnemo_coord.display import printable

__all__ = ["Progress"]

_FRAMES: Final = "|/-\\"
_PACE: Final = 0.1
"""Seconds between two frames."""
_CLEAR: Final = "\r\x1b[K"


class Progress:
    """Tells on stderr what happens. Where that is no terminal it is plain lines and nothing that moves."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._begun = time.monotonic()
        self._waiting: dict[str, None] = {}
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._turn, daemon=True)

    def __enter__(self) -> Self:
        if not self._quiet and sys.stderr.isatty():
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.settle()

    def settle(self) -> None:
        """Nothing is waited for any more: the line that moves goes away. Idempotent."""
        if not self._done.is_set():
            self._done.set()
            if self._thread.is_alive():
                self._thread.join()

    def tell(self, what: str, text: str, *, waits: bool) -> None:
        """Says something of one service, and whether it is waited for from now on."""
        with self._lock:
            if waits:
                self._waiting[what] = None
            else:
                self._waiting.pop(what, None)
            if not self._quiet and text:
                if self._thread.is_alive():
                    sys.stderr.write(_CLEAR)
                talk(f"{what}: {text}")

    def seconds(self) -> str:
        """How long it has taken so far."""
        return f"{time.monotonic() - self._begun:.1f} s"

    def _turn(self) -> None:
        for frame in cycle(_FRAMES):
            if self._done.wait(_PACE):
                break
            with self._lock:
                if self._waiting:
                    text = printable(f"{frame} waiting for {', '.join(self._waiting)} ({self.seconds()})")
                    sys.stderr.write(_CLEAR + text[: shutil.get_terminal_size().columns - 1])
                    sys.stderr.flush()
        sys.stderr.write(_CLEAR)
        sys.stderr.flush()
