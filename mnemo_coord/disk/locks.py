"""Kernel locks on files: held by a process, freed by the kernel whatever way the process ends.

Two kinds. *Short* locks (`hold`) guard one read-modify-write; their files under ``locks/`` are permanent and empty, because
unlinking a lock file lets two holders in. *Life* locks (`LifeLock`) are held as long as their owner lives and are the proof
that it does; others look at them with `probes`.

All are flock(2) locks through filelock's descriptor API: a lock belongs to an open file description, so two threads of a
process exclude each other as two processes do. A forked child inherits the description and would keep a dead parent's lock;
therefore every descriptor here is closed in the child.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from mnemo_coord import errors
from mnemo_coord.disk import files
from mnemo_coord.disk.probes import LockState, lock_state, probe
from mnemo_coord.disk.state_dir import LOCKS, StateDir

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "Descriptor",
    "LifeLock",
    "hold",
    "holder_pid",
    "open_lock_file",
    "take_descriptor",
]

_SHORTEST_PAUSE: Final = 0.0005
_LONGEST_PAUSE: Final = 0.010
"""Waiting for a short lock: filelock's own 50 ms between tries makes fifty writers wait for each other for half a second."""
_PROBE_PATIENCE: Final = 1.0
"""A probe holds a shared lock for microseconds; whoever takes a lock for good tries again for so many seconds."""


def take_descriptor(fd: int, timeout: float) -> bool:
    """Takes the exclusive lock of an open file, waiting up to ``timeout`` seconds."""
    # Imported here: probing needs neither, and most commands only probe.
    import random

    from filelock import lock_descriptor

    begun, pause = time.monotonic(), _SHORTEST_PAUSE
    while not lock_descriptor(fd, blocking=False):
        waited = time.monotonic() - begun
        if waited >= timeout and (waited >= _PROBE_PATIENCE or not _is_only_shared(fd)):
            return False
        pause = min(2 * pause, _LONGEST_PAUSE)
        time.sleep(pause * (0.5 + random.random()))  # noqa: S311  # spreads waiters, guards nothing
    return True


def _is_only_shared(fd: int) -> bool:
    """Whether nobody has the exclusive lock: somebody who looks, or clears away, is in the way for a moment."""
    if lock_state(fd) is not LockState.FREE:
        return False
    fcntl.flock(fd, fcntl.LOCK_UN)
    return True


@contextmanager
def hold(state: StateDir, name: str, timeout: float) -> Iterator[None]:
    """Holds the short lock ``name`` for a block.

    Raises:
        errors.TimedOut: somebody else held it all the time; the message says who.
        errors.State: it cannot be opened or locked; Untrusted where what lies at its path is no lock file of ours.
    """
    held = _taken(state, name, timeout)
    try:
        yield
    finally:
        held.close()


def _taken(state: StateDir, name: str, timeout: float) -> Descriptor:
    try:
        held = Descriptor(open_lock_file(f"{name}.lock", state.folder(LOCKS)))
        try:
            if take_descriptor(held.fd, timeout):
                return held
            who = _describe(held.fd)
        except BaseException:
            held.close()
            raise
    except errors.State:
        raise
    except OSError as error:
        raise errors.State.at(state.path / LOCKS / f"{name}.lock", (error.strerror or str(error)).lower()) from None
    held.close()
    raise errors.TimedOut(
        f"{state.path / LOCKS / name}.lock: still held by {who} after {timeout:g} s",
        hint="try again; if that process hangs, end it",
        timeout=timeout,
    )


def open_lock_file(name: str, folder: int) -> int:
    """Opens a permanent lock file, making it where it is missing."""
    try:
        return files.open_regular(name, os.O_RDWR, dir_fd=folder)
    except FileNotFoundError:
        pass
    # RACE: two processes make it: the loser opens the winner's.
    try:
        return files.create(name, dir_fd=folder, flags=os.O_RDWR)
    except FileExistsError:
        return files.open_regular(name, os.O_RDWR, dir_fd=folder)


class Descriptor:
    """An open file that a forked child must not keep: it would hold its locks, and hide the death of its owner."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._opened_as = files.identity(fd)
        _held.add(self)

    @property
    def is_open(self) -> bool:
        """Whether it is open, and nobody has closed it behind our back."""
        return self.fd >= 0 and files.identity(self.fd) == self._opened_as

    def close(self) -> None:
        """Closes it. Idempotent."""
        fd, self.fd = self.fd, -1
        files.close_if_same(fd, self._opened_as)


_held: weakref.WeakSet[Descriptor] = weakref.WeakSet()


def _close_in_child() -> None:
    for held in tuple(_held):
        held.close()


os.register_at_fork(after_in_child=_close_in_child)


class LifeLock(Descriptor):
    """The lock file of one owner, open for writing and locked until `close` or death.

    Open for writing on purpose: when the process dies the kernel closes the file, which tells every watcher of the folder.
    The file may carry content, written in place by its owner.
    """

    def __init__(self, name: str, dir_fd: int, fd: int) -> None:
        super().__init__(fd)
        self.name = name
        self._dir_fd = dir_fd

    @classmethod
    def create(cls, name: str, *, dir_fd: int) -> LifeLock | None:
        """Makes the file and takes its lock; None when the name is taken."""
        try:
            fd = files.create(name, dir_fd=dir_fd, flags=os.O_RDWR)
        except FileExistsError:
            return None
        files.crash_point(files.CrashPoint.LIFE_LOCK_CREATED)
        lock = cls(name, dir_fd, fd)
        # RACE: between the two a reaper may find a free lock file without a record and remove it: then start over.
        if take_descriptor(fd, _PROBE_PATIENCE) and lock._at_path():
            files.crash_point(files.CrashPoint.LIFE_LOCK_TAKEN)
            return lock
        lock.close()
        return None

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode of the file."""
        status = os.fstat(self.fd)
        return status.st_dev, status.st_ino

    def write(self, data: bytes) -> None:
        """Replaces the content, in place.

        Raises:
            OSError: it cannot be written now.
        """
        files.rewrite(self.fd, data)

    def is_held(self) -> bool:
        """Whether this process still holds the file at this path: the check that an owner makes of itself.

        Libraries close descriptors behind our back and people delete files, and neither tells us.
        """
        if not self._at_path():
            return False
        # A second descriptor must be refused; if it is not, the lock went away without the file.
        return probe(self.name, dir_fd=self._dir_fd).state is LockState.HELD

    def _at_path(self) -> bool:
        try:
            mine, at_path = os.fstat(self.fd), os.stat(self.name, dir_fd=self._dir_fd, follow_symlinks=False)
        except OSError:
            return False
        return mine.st_nlink > 0 and (mine.st_dev, mine.st_ino) == (at_path.st_dev, at_path.st_ino)

    def move(self, dir_fd: int) -> None:
        """Looks for the file in another folder from now on: the one that is where its folder was."""
        self._dir_fd = dir_fd

    def reacquire(self) -> None:
        """Takes the lock again after `is_held` said no, making the file where it is gone.

        Raises:
            errors.LeaseLost: somebody else holds it now.
        """
        self.close()
        super().__init__(open_lock_file(self.name, self._dir_fd))
        if not take_descriptor(self.fd, _PROBE_PATIENCE):
            holder = _describe(self.fd)
            self.close()
            raise errors.LeaseLost(f"{self.name}: now held by {holder}")

    def remove(self) -> None:
        """Unlinks the file while it is held, then lets go: its name is free for good."""
        if self._at_path():
            files.remove(self.name, dir_fd=self._dir_fd)
        self.close()


def holder_pid(fd: int) -> int | None:
    """The process that holds the lock of an open file, read off /proc/locks; None where that cannot be told.

    Nothing is written into lock files for this: it would cost every holder to serve the rare one who has to wait in vain.
    """
    status = os.fstat(fd)
    wanted = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    try:
        with open("/proc/locks", encoding="ascii") as table:
            found = (_LOCK_LINE.match(line) for line in table)
            return next((int(line[1]) for line in found if line and line[2] == wanted), None)
    except OSError:
        return None


_LOCK_LINE: Final = re.compile(r"\d+: FLOCK +\S+ +\S+ +(\d+) (\S+) ")


def _describe(fd: int) -> str:
    pid = holder_pid(fd)
    return f"process {pid}" if pid else "another process"
