"""The folders that somebody keeps open together: whether they are still there, and closing them.

Programs that become daemons close every descriptor, and libraries close some, behind our back: a number may be that of another
file by now. So each is remembered with what it was opened as.
"""

from __future__ import annotations

import os

from mnemo_coord.disk import files

__all__ = ["Handles"]


class Handles:
    """A folder, which is handed over open, and folders in it."""

    def __init__(self, root_fd: int) -> None:
        self.root = root_fd
        self._opened = [(root_fd, files.identity(root_fd))]

    def open(self, name: str) -> int:
        """Opens one of the folders in it.

        Raises:
            FileNotFoundError: there is none.
            errors.Untrusted: see `files.open_dir`.
        """
        fd = files.open_dir(name, dir_fd=self.root)
        self._opened.append((fd, files.identity(fd)))
        return fd

    def are_there(self) -> bool:
        """Whether all of them are still open, and none has been removed."""
        return all(_is_there(fd, opened_as) for fd, opened_as in self._opened)

    def close(self) -> None:
        """Closes them."""
        for fd, opened_as in self._opened:
            files.close_if_same(fd, opened_as)


def _is_there(fd: int, opened_as: tuple[int, int] | None) -> bool:
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == opened_as and status.st_nlink > 0
