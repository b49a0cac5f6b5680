"""Following a source in a thread of its own, and connecting again when it ends."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from mnemo_coord.client import Frame
from mnemo_coord.dash.reading import text
from mnemo_coord.dash.source import Source
from mnemo_coord.errors import CoordinationError

__all__ = ["Connection", "Follower", "Phase", "delays"]

_FIRST: Final = 0.5
_LONGEST: Final = 5.0
_AT_ONCE: Final = 1000
"""Frames that may wait to be shown: whoever sends more is made to wait rather than fill the memory."""


class Phase(StrEnum):
    """How it stands with the source."""

    CONNECTING = "connecting"
    LIVE = "live"
    WAITING = "waiting"


@dataclass(frozen=True, slots=True)
class Connection:
    """How it stands with the source, and why."""

    phase: Phase
    reason: str = ""
    """Why the last attempt ended."""
    until: float = 0.0
    """When the next attempt comes, on the monotonic clock."""

    @property
    def live(self) -> bool:
        """Whether what is shown is renewed."""
        return self.phase is Phase.LIVE


def delays() -> Iterator[float]:
    """The seconds to wait before each new attempt."""
    delay = _FIRST
    while True:
        yield delay
        delay = min(delay * 2, _LONGEST)


class Follower:
    """The thread that follows. What it learns is taken from it with `take`, in the order in which it came."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._came: queue.Queue[Frame | Connection] = queue.Queue(_AT_ONCE)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mnemo-dash", daemon=True)

    def start(self) -> None:
        """Starts to follow."""
        self._thread.start()

    def take(self) -> list[Frame | Connection]:
        """What came since the last call. Does not wait."""
        taken: list[Frame | Connection] = []
        with suppress(queue.Empty):
            while len(taken) < _AT_ONCE:
                taken.append(self._came.get_nowait())
        return taken

    def stop(self) -> None:
        """Has it end soon. Does not wait."""
        self._stopping.set()
        with suppress(Exception):  # nobody is left to be told
            self._source.close()

    def join(self, timeout: float = 2.0) -> bool:
        """Waits for the end, but not for ever. Returns whether it came."""
        if self._thread.is_alive():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        waits, reason = delays(), ""
        while not self._stopping.is_set():
            self._put(Connection(Phase.CONNECTING, reason))
            came, reason = self._follow()
            waits = delays() if came else waits
            delay = next(waits)
            self._put(Connection(Phase.WAITING, reason, time.monotonic() + delay))
            self._stopping.wait(delay)

    def _follow(self) -> tuple[bool, str]:
        """Follows to the end. Returns whether anything came, and why it ended."""
        came = False
        try:
            for frame in self._source.follow():
                if not came:
                    self._put(Connection(Phase.LIVE))
                    came = True
                self._put(frame)
                if self._stopping.is_set():
                    break
        except CoordinationError as error:
            return came, text(f"{error.message} ({error.hint})" if error.hint else error.message)
        except Exception as error:
            return came, text(f"{type(error).__name__}: {error}")
        return came, "the stream ended"

    def _put(self, item: Frame | Connection) -> None:
        while not self._stopping.is_set():
            with suppress(queue.Full):
                self._came.put(item, timeout=0.1)
                return
