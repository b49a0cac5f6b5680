"""Links: the names that a broadcast gets, one in the mailbox of each of its recipients (`messages.shared`).

Sending opens a mailbox and keeps it open, because the next message goes there, too. A broadcast comes by once, and a thousand
mailboxes are opened for it: only what the link and the bell need, each folder checked as ever, and one of them kept.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Self

from mnemo_coord import errors
from mnemo_coord.disk import files
from mnemo_coord.messages import shared
from mnemo_coord.messages.mailbox import BELL, NEW

__all__ = ["Links"]


class Links:
    """Links one message into mailboxes, for a block; at its end all of their bells are rung.

    Whoever is woken takes the processor: many mailboxes are filled before any bell is rung.
    """

    def __init__(self, source: str, file: str, *, tmp_fd: int, queue_fd: int) -> None:
        self._source = source
        self._file = file
        self._tmp = tmp_fd
        self._queue = queue_fd
        self._filled: list[int] = []

    def add(self, folder: str, admit: Callable[[int], object]) -> None:
        """Gives the message its name in one mailbox. ``admit`` is asked first, with the open folder; it raises or returns.

        Raises:
            OSError: there is no such mailbox, or it takes no link; nothing has appeared.
            errors.Untrusted: something else lies there.
        """
        if not self._source:
            raise FileNotFoundError(errno.ENOENT, "There is nothing to link to")
        root = files.open_dir(folder, dir_fd=self._queue)
        try:
            with files.opened(files.open_dir(NEW, dir_fd=root)) as new:
                admit(new)
                os.link(self._source, self._file, src_dir_fd=self._tmp, dst_dir_fd=new, follow_symlinks=False)
        except BaseException:
            os.close(root)
            raise
        self._filled.append(root)
        files.crash_point(shared.POINTS[2])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for root in self._filled:
            with files.opened(root), suppress(OSError, errors.State), files.opened(files.open_dir(BELL, dir_fd=root)) as bell:
                files.ring(BELL, dir_fd=bell)
        self._filled.clear()
