"""The ids of the messages that were acknowledged in a mailbox, so that none is handed out again.

::

    <box>/acknowledged      one id a line, with an empty line before it; appended before the message is removed
    <box>/acknowledged.1    the older half

Whoever is not sure that a message arrived sends it again under the same id, and a receiver may die between the two steps of
acknowledging: a message whose id stands here is removed, not handed out. The window is the newest `WINDOW` bytes or more,
some thousands of messages. Both files may be deleted by hand; the window is then empty.
"""

from __future__ import annotations

import logging
import os
from typing import Final

from mnemo_coord import errors
from mnemo_coord.disk import files, locks

_log = logging.getLogger(__name__)

__all__ = ["NAME", "OLDER", "WINDOW", "Acknowledged"]

NAME: Final = "acknowledged"
OLDER: Final = "acknowledged.1"
WINDOW: Final = 128 * 1024
"""Bytes after which a file becomes the older one: about 4,500 ids."""


class Acknowledged:
    """The log of one mailbox, as one process reads and writes it. Not thread-safe: the mailbox sees to that."""

    def __init__(self, dir_fd: int) -> None:
        self._dir_fd = dir_fd
        self._file = locks.Descriptor(-1)
        self._identity: tuple[int, int] | None = None
        self._read_to = 0
        self._ids: set[str] = set()
        self._older: set[str] = set()

    def __contains__(self, message_id: str) -> bool:
        self._catch_up()
        return message_id in self._ids or message_id in self._older

    def add(self, message_id: str) -> None:
        """Records one id.

        Raises:
            OSError: it cannot be written now, on a full disk for example.
        """
        if not self._is_open():
            self._open(make=True)
        if self._file.fd < 0:
            return
        # The line break before it sets it apart from what somebody could not write to the end.
        os.write(self._file.fd, f"\n{message_id}\n".encode())
        if os.fstat(self._file.fd).st_size > WINDOW:
            self._turn_over()

    def _is_open(self) -> bool:
        """Whether the file that is open is the one at the path. RACE: another receiver may turn it over at any time."""
        if not self._file.is_open:
            return False
        try:
            at_path = os.stat(NAME, dir_fd=self._dir_fd, follow_symlinks=False)
        except OSError:
            return False
        return (at_path.st_dev, at_path.st_ino) == self._identity

    def _catch_up(self) -> None:
        if not self._is_open():
            self._open(make=False)
        if self._file.fd >= 0:
            self._read_on()

    def _open(self, *, make: bool) -> None:
        self.close()
        self._ids, self._older, self._read_to = set(), set(_ids(_content(self._dir_fd))), 0
        try:
            fd = files.open_regular(NAME, os.O_RDWR | os.O_APPEND, dir_fd=self._dir_fd)
        except FileNotFoundError:
            if not make:
                return
            fd = _create(self._dir_fd)
        except errors.Untrusted as error:
            _log.warning("%s: messages that were handled before are not recognised", error)
            return
        self._file = locks.Descriptor(fd)
        self._identity = files.identity(fd)

    def _read_on(self) -> None:
        size = os.fstat(self._file.fd).st_size
        if size <= self._read_to:
            return
        data = os.pread(self._file.fd, min(size - self._read_to, 2 * WINDOW), self._read_to)
        whole = data[: data.rfind(b"\n") + 1]  # RACE: another may be writing the last one this instant
        self._ids.update(_ids(whole))
        self._read_to += len(whole)

    def _turn_over(self) -> None:
        """Begins a new file. Whoever has the lock of the old one does it; the others find the new one at their next look."""
        if locks.take_descriptor(self._file.fd, 0.0) and self._is_open():
            os.rename(NAME, OLDER, src_dir_fd=self._dir_fd, dst_dir_fd=self._dir_fd)

    def close(self) -> None:
        """Closes the file. Idempotent."""
        self._file.close()
        self._identity = None


def _create(dir_fd: int) -> int:
    try:
        return files.create(NAME, dir_fd=dir_fd, flags=os.O_RDWR | os.O_APPEND)
    except FileExistsError:  # RACE: another receiver made it
        return files.open_regular(NAME, os.O_RDWR | os.O_APPEND, dir_fd=dir_fd)


def _content(dir_fd: int) -> bytes:
    try:
        return files.read_bounded(OLDER, 4 * WINDOW, dir_fd=dir_fd)
    except (OSError, errors.State):
        return b""


def _ids(data: bytes) -> list[str]:
    return data.decode("ascii", errors="replace").split()
