"""The descriptors that somebody keeps open for long: whether what they opened is still there, and closing them.

Programs that become daemons close every descriptor, and libraries close some, behind our back: a number may be that of another
file by now. So each is remembered with what it was opened as.
"""

from __future__ import annotations

import os

from mnemo_coord.disk import files

__all__ = ["Handles"]


class Handles:
    """Descriptors that are closed together."""

    def __init__(self, *fds: int) -> None:
        self._opened = [(fd, files.identity(fd)) for fd in fds]

    def open_dir(self, name: str, *, dir_fd: int) -> int:
        """Opens a folder, as `files.open_dir` does, and keeps it."""
        return self.keep(files.open_dir(name, dir_fd=dir_fd))

    def keep(self, fd: int) -> int:
        """Takes over a descriptor that has just been opened, and returns it."""
        self._opened.append((fd, files.identity(fd)))
        return fd

    def are_there(self) -> bool:
        """Whether all of them are still open, and nothing of it has been removed."""
        return all(_is_there(fd, opened_as) for fd, opened_as in self._opened)

    def close(self) -> None:
        """Closes them. Idempotent."""
        while self._opened:
            files.close_if_same(*self._opened.pop())


def _is_there(fd: int, opened_as: tuple[int, int] | None) -> bool:
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == opened_as and status.st_nlink > 0
