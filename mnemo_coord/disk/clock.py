"""Time, through one object that a test can replace.

Ages come from CLOCK_BOOTTIME, which does not jump and goes on through suspend; they mean something only within one boot,
so whoever stores such a time stores the boot id beside it. The wall clock is for display and for order among messages; no
decision that destroys anything looks at it.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Final, Protocol

__all__ = ["Clock", "Stamps", "SystemClock", "namespace", "rfc3339"]

_BOOT_ID_PATH: Final = "/proc/sys/kernel/random/boot_id"


class Clock(Protocol):
    """What the rest of the package asks of time."""

    @property
    def boot_id(self) -> str:
        """Names this boot of this machine; empty where the system has no such thing."""

    def age_ns(self) -> int:
        """Nanoseconds since the boot, counting suspend; never goes back within one boot."""

    def wall_ns(self) -> int:
        """Nanoseconds since 1970 by the wall clock, which may jump."""


class SystemClock:
    """The machine's clocks."""

    def __init__(self, boot_id_path: str = _BOOT_ID_PATH) -> None:
        self._boot_id_path = boot_id_path

    @cached_property
    def boot_id(self) -> str:
        """Names this boot; read once, because it cannot change while this process lives."""
        try:
            with open(self._boot_id_path, encoding="ascii") as stream:
                return stream.read(64).strip()
        except (OSError, UnicodeDecodeError):
            return ""

    def age_ns(self) -> int:
        """CLOCK_BOOTTIME where there is one, else the monotonic clock."""
        return time.clock_gettime_ns(_AGE_CLOCK)

    def wall_ns(self) -> int:
        """CLOCK_REALTIME."""
        return time.time_ns()


_AGE_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def rfc3339(wall_ns: int) -> str:
    """A wall clock time for display: RFC 3339 in UTC with milliseconds."""
    seconds, rest = divmod(wall_ns, 1_000_000_000)
    return f"{_second(seconds)}.{rest // 1_000_000:03d}Z"


@lru_cache(maxsize=4)
def _second(seconds: int) -> str:
    # A sender of thousands of messages a second would spend a tenth of its time on spelling out the same second.
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def namespace(kind: str) -> int:
    """The inode that names this process's namespace of a kind (``pid``, ``time``); 0 where there is none."""
    return _namespace(kind, os.getpid())


@lru_cache(maxsize=8)
def _namespace(kind: str, _pid: int) -> int:
    # A process never changes its own, but a forked child may have been born into another: hence the pid in the key.
    try:
        return os.stat(f"/proc/self/ns/{kind}").st_ino
    except OSError:
        return 0


@dataclass(slots=True)
class Stamps:
    """Rising stamps for the messages of one sender: the wall clock, and one more than the last where that went back.

    So a sender's messages stay in order whatever the clock does, and those of several senders are ordered as well as
    their clock allows (a hybrid logical clock in one number).
    """

    clock: Clock
    _last: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self) -> int:
        """The next stamp."""
        with self._lock:
            self._last = max(self.clock.wall_ns(), self._last + 1)
            return self._last
