"""Whether a folder is empty, for who asks again and again: it is listed only when its time has changed.

Every name that comes or goes changes the time of its folder. Listing one takes eight system calls, looking at its time one.
"""

from __future__ import annotations

import os
import time
from typing import Final

__all__ = ["Emptiness"]

_COARSEST: Final = 2.5
"""Seconds. Times are counted in ticks, of 2 s on FAT: what comes in the tick of the last change does not change the time."""


class Emptiness:
    """Of one folder that is open. Used by one thread at a time."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._time: tuple[int, int, int] | None = None
        """Device, inode and time of the folder when it was first seen empty as it is now."""
        self._since = 0.0

    def holds(self) -> bool:
        """Whether it is empty now.

        Raises:
            OSError: it cannot be looked at.
        """
        # RACE: the time is taken before the list: a name that comes in between is in the list, or changes the time.
        status = os.fstat(self._fd)
        seen, now = (status.st_dev, status.st_ino, status.st_mtime_ns), time.monotonic()
        if seen == self._time and now - self._since > _COARSEST:
            return True
        if os.listdir(self._fd):
            self._time = None
            return False
        if seen != self._time:
            self._time, self._since = seen, now
        return True
