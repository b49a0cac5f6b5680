"""The ids of the messages that were acknowledged in a mailbox, so that none is handed out again.

::

    <box>/acknowledged      one id a line, with an empty line before it; appended before the message is removed
    <box>/acknowledged.1    the older half

Whoever is not sure that a message arrived sends it again under the same id, and a receiver may die between the two steps of
acknowledging: a message whose id stands here is removed, not handed out. The window is the newest `WINDOW` bytes or more,
some ten thousands of messages. Both files may be deleted by hand; the window is then empty.
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
WINDOW: Final = 512 * 1024
"""Bytes after which a file becomes the older one: about 18,000 ids.

At a thousand messages a second that is longer than `lock_timeout` can hold up somebody who sends again.
"""
_LOOKS: Final = 8
_FLAGS: Final = os.O_RDWR | os.O_APPEND


class _Half:
    """One of the two files, as far as it has been read."""

    def __init__(self, fd: int) -> None:
        self.file = locks.Descriptor(fd)
        self.identity = files.identity(fd)
        self.ids: set[str] = set()
        self._read_to = 0

    def read_on(self) -> None:
        """Reads what was appended since."""
        size = os.fstat(self.file.fd).st_size
        while self._read_to < size:
            data = os.pread(self.file.fd, WINDOW, self._read_to)
            whole = data[: data.rfind(b"\n") + 1]  # RACE: another may be writing the last one this instant
            if not whole:
                return
            self.ids.update(whole.decode("ascii", errors="replace").split())
            self._read_to += len(whole)


class Acknowledged:
    """The log of one mailbox, as one process reads and writes it. Not thread-safe: the mailbox sees to that."""

    def __init__(self, dir_fd: int) -> None:
        self._dir_fd = dir_fd
        self._newer: _Half | None = None
        self._older: _Half | None = None

    def __contains__(self, message_id: str) -> bool:
        if not self._is_current():
            self._open()
        # RACE: a receiver that is about to append when another turns the log over appends to the older one.
        halves = [half for half in (self._newer, self._older) if half is not None]
        for half in halves:
            half.read_on()
        return any(message_id in half.ids for half in halves)

    def add(self, message_id: str) -> None:
        """Records one id.

        Raises:
            OSError: it cannot be written now, on a full disk for example.
        """
        for _ in range(_LOOKS):
            if self._newer is None or not self._is_current():
                self._open()
            if self._newer is None:
                self._newer = _Half(self._create())
            # The line break before it sets it apart from what somebody could not write to the end.
            os.write(self._newer.file.fd, f"\n{message_id}\n".encode())
            status = os.fstat(self._newer.file.fd)
            # RACE: stopped before it wrote, for so long that the log was turned over twice: the note is in a file that is gone.
            if status.st_nlink:
                break
        if status.st_size > WINDOW:
            self._turn_over()

    @property
    def exists(self) -> bool:
        """Whether there was a log to write to, when it was last looked."""
        return self._newer is not None

    def _is_current(self) -> bool:
        """Whether what is open is what lies at the path. RACE: another receiver may turn it over at any time."""
        there = self._at(NAME)
        if self._newer is None:
            return there is None and (self._older is None) is (self._at(OLDER) is None)
        return self._newer.file.is_open and self._newer.identity == there

    def _at(self, name: str) -> tuple[int, int] | None:
        try:
            status = os.stat(name, dir_fd=self._dir_fd, follow_symlinks=False)
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _open(self) -> None:
        """Opens both as they are now; what was read before is not read again."""
        for _ in range(_LOOKS):
            # RACE: turned over between the two, the newer one would be read as the older one, and the older one not at all.
            before = (self._newer, self._older)
            self._newer, self._older = self._half(NAME), self._half(OLDER)
            for half in before:
                if half is not None and half not in {self._newer, self._older}:
                    half.file.close()
            if self._at(NAME) == (self._newer.identity if self._newer else None):
                return

    def _half(self, name: str) -> _Half | None:
        try:
            fd = files.open_regular(name, _FLAGS, dir_fd=self._dir_fd)
        except FileNotFoundError:
            return None
        except errors.Untrusted as error:
            _log.warning("%s: messages that were handled before are not recognised", error)
            return None
        for half in (self._newer, self._older):
            if half is not None and half.file.is_open and half.identity == files.identity(fd):
                os.close(fd)
                return half
        return _Half(fd)

    def _create(self) -> int:
        try:
            return files.create(NAME, dir_fd=self._dir_fd, flags=_FLAGS)
        except FileExistsError:  # RACE: another receiver made it
            return files.open_regular(NAME, _FLAGS, dir_fd=self._dir_fd)

    def _turn_over(self) -> None:
        """Begins a new file. Whoever has the lock of the old one does it; the others find the new one at their next look."""
        if self._newer is not None and locks.take_descriptor(self._newer.file.fd, 0.0) and self._is_current():
            os.rename(NAME, OLDER, src_dir_fd=self._dir_fd, dst_dir_fd=self._dir_fd)

    def close(self) -> None:
        """Closes the files. Idempotent."""
        for half in (self._newer, self._older):
            if half is not None:
                half.file.close()
        self._newer = self._older = None
