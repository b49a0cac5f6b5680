"""Probes: looking whether somebody holds a lock, without disturbing its owner and without waking anybody.

A probe opens the file for reading only: closing a file that was open for writing wakes everybody who watches the folder, so
probing with a writable one would wake the fleet, which would probe again.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections import OrderedDict
from enum import StrEnum
from typing import Final, NamedTuple

from mnemo_coord import errors
from mnemo_coord.disk import files

__all__ = ["KeptProbes", "LockState", "Probe", "lock_state", "probe", "share"]

_KEPT_PROBES: Final = 64


class LockState(StrEnum):
    """What a probe saw."""

    HELD = "held"
    FREE = "free"
    MISSING = "missing"
    UNKNOWN = "unknown"


_HELD: Final = LockState.HELD
"""Nearly every answer, and naming a member costs Python 3.11 a function call."""


class Probe(NamedTuple):
    """A lock file as seen from outside."""

    state: LockState
    identity: tuple[int, int] | None = None
    """Device and inode of the file that is there now."""


def probe(name: str, *, dir_fd: int) -> Probe:
    """Looks whether a life lock is held, without disturbing its owner or waking anybody."""
    try:
        fd, status = files.open_seen(name, dir_fd=dir_fd)
    except FileNotFoundError:
        return Probe(state=LockState.MISSING)
    except (OSError, errors.Untrusted):
        return Probe(state=LockState.UNKNOWN)
    with files.opened(fd):
        return Probe(state=lock_state(fd), identity=(status.st_dev, status.st_ino))


class KeptProbes:
    """Probes of locks that are asked about again and again: their files stay open, for reading, and one call answers.

    Only *held* is answered from here; anything else is for a fresh `probe` to say.
    """

    def __init__(self) -> None:
        self._open: OrderedDict[str, tuple[int, tuple[int, int]]] = OrderedDict()
        self._mutex = threading.Lock()

    def is_held(self, name: str, identity: tuple[int, int], *, dir_fd: int) -> bool:
        """Whether the file with this name and identity (device, inode) is locked."""
        with self._mutex:
            kept = self._open.get(name)
            if kept is None or kept[1] != identity:
                self._drop(name)
                kept = self._keep(name, dir_fd)
            if kept is None or kept[1] != identity:
                return False
            if lock_state(kept[0]) is LockState.HELD:
                return True
            self._drop(name)  # closing lets go of the shared lock, too
            return False

    def peek(self, name: str, identity: tuple[int, int], *, dir_fd: int) -> bool:
        """As `is_held`, for who asks about a whole fleet once: a file that is not open here already is not kept open."""
        if name in self._open:
            return self.is_held(name, identity, dir_fd=dir_fd)
        seen = probe(name, dir_fd=dir_fd)
        return seen.state is _HELD and seen.identity == identity

    def _keep(self, name: str, dir_fd: int) -> tuple[int, tuple[int, int]] | None:
        try:
            fd, status = files.open_seen(name, dir_fd=dir_fd)
        except (OSError, errors.Untrusted):
            return None
        self._open[name] = (fd, (status.st_dev, status.st_ino))
        if len(self._open) > _KEPT_PROBES:
            self._drop(next(iter(self._open)))
        return self._open[name]

    def _drop(self, name: str) -> None:
        kept = self._open.pop(name, None)
        if kept is not None:
            os.close(kept[0])

    def close(self) -> None:
        """Closes all of them."""
        with self._mutex:
            for name in list(self._open):
                self._drop(name)


def lock_state(fd: int) -> LockState:
    """What the lock of an open file is; a free one is shared until the descriptor is closed."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _HELD
    except OSError:
        return LockState.UNKNOWN
    return LockState.FREE


def share(name: str, *, dir_fd: int) -> int | None:
    """Takes the shared lock of a life lock that nobody holds, through a read-only descriptor that the caller closes.

    Nobody can come to life under that name meanwhile, and whoever probes still finds it free: the exclusive lock would make a
    dead instance look alive to senders. None when it is held, or gone.
    """
    try:
        fd = files.open_regular(name, dir_fd=dir_fd)
    except FileNotFoundError:
        return None
    if lock_state(fd) is LockState.FREE and os.fstat(fd).st_nlink > 0:
        return fd
    os.close(fd)
    return None
