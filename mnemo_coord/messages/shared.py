"""What many mailboxes share: a broadcast is one file, with a name in the mailbox of each of its recipients.

::

    coordination_queue/tmp/<sender>.<pid>.<stamp>.all    the file, as long as the names are made
    coordination_queue/<id>/new/<file>                   one of its names

Making a file costs ten times what a name does, and on ext4 more, the more files were removed just before. Nobody writes to a
message, so nobody notices that others read the same bytes; each removes his own name. Anything else with a second name is
somebody's file that was planted: only a message to nobody in particular may have several (`messages.message.decode`). Where the
file system has no hard links, or no more of them, each gets a file of his own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from mnemo_coord.disk import files
from mnemo_coord.disk.files import CrashPoint

__all__ = ["POINTS", "Linked", "read", "written_once"]

POINTS = (CrashPoint.MESSAGE_TMP_CREATED, CrashPoint.MESSAGE_TMP_WRITTEN, CrashPoint.MESSAGE_PUBLISHED)


class Linked(bytes):
    """The content of a file that has other names, too."""


def read(name: str, limit: int, *, dir_fd: int) -> bytes:
    """At most ``limit`` + 1 bytes of a message; `Linked` where its file has other names.

    Raises:
        errors.Untrusted: it is no regular file of ours.
        OSError: it cannot be read now.
    """
    with files.opened(files.open_regular(name, dir_fd=dir_fd, links=True)) as fd:
        data = files.read_at_most(fd, limit + 1)
        return Linked(data) if os.fstat(fd).st_nlink > 1 else data


@contextmanager
def written_once(data: bytes, tmp_name: str, *, tmp_fd: int, durable: bool) -> Iterator[str]:
    """The name of a file in ``tmp/`` that holds the message while a block links it; empty where it cannot be made.

    Then each recipient gets, or is refused, a file of his own.
    """
    name = f"{tmp_name}.all"
    try:
        files.write_new(name, data, dir_fd=tmp_fd, durable=durable, points=POINTS)
    except OSError:
        yield ""
        return
    try:
        yield name
    finally:
        with suppress(OSError):  # the doctor removes it when its sender is gone
            files.remove(name, dir_fd=tmp_fd)
