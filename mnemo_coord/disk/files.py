"""Opening, reading and publishing files without following, hanging on or trusting what somebody planted.

Every path is a single name inside a folder that is held open: a name cannot be swapped for a link between check and use.
What is read is a regular file of ours with one name, at most so many bytes. What is written is complete before it has its
final name. The crash points are the instants at which a test kills the process to see what is left.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
from contextlib import suppress
from enum import StrEnum
from typing import Final

from mnemo_coord import errors
from mnemo_coord.disk.opened import opened

__all__ = [
    "DIR_MODE",
    "FILE_MODE",
    "CrashPoint",
    "UnsyncedError",
    "close_if_same",
    "crash_point",
    "create",
    "identity",
    "make_dir",
    "open_dir",
    "open_regular",
    "open_seen",
    "opened",
    "ownership_problem",
    "publish",
    "read_at_most",
    "read_bounded",
    "remove",
    "replace",
    "rewrite",
    "ring",
    "write_all",
    "write_new",
]

DIR_MODE: Final = 0o700
FILE_MODE: Final = 0o600

# O_NONBLOCK: opening a planted FIFO for reading would otherwise hang for ever.
_SAFE: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_DIR: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PLANTED: Final = frozenset({errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.EISDIR})
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class CrashPoint(StrEnum):
    """Where a process may die in the middle of an operation. Named for what has just been done."""

    LIFE_LOCK_CREATED = "life-lock-created"
    LIFE_LOCK_TAKEN = "life-lock-taken"
    RECORD_WRITTEN = "record-written"
    FIRST_BEAT_WRITTEN = "first-beat-written"
    REGISTRY_LOCKED = "registry-locked"
    REGISTRY_TMP_CREATED = "registry-tmp-created"
    REGISTRY_TMP_WRITTEN = "registry-tmp-written"
    REGISTRY_REPLACED = "registry-replaced"
    MAILBOX_MADE = "mailbox-made"
    MESSAGE_TMP_CREATED = "message-tmp-created"
    MESSAGE_TMP_WRITTEN = "message-tmp-written"
    MESSAGE_PUBLISHED = "message-published"
    MESSAGE_CLAIMED = "message-claimed"
    MESSAGE_HANDLED = "message-handled"
    MESSAGE_ACK_NOTED = "message-ack-noted"
    MESSAGE_ACKNOWLEDGED = "message-acknowledged"
    CLAIM_LOCKED = "claim-locked"
    CLAIM_EPOCH_RAISED = "claim-epoch-raised"
    CLAIM_RECORDED = "claim-recorded"
    BRANCH_JOINED = "branch-joined"
    REAP_LOCKED = "reap-locked"
    REAP_MESSAGES_RETURNED = "reap-messages-returned"
    REAP_RECORD_REMOVED = "reap-record-removed"
    LEAVE_RECORD_REMOVED = "leave-record-removed"
    LEAVE_MAILBOX_REMOVED = "leave-mailbox-removed"


Points = tuple[CrashPoint, ...]
CRASH_VARIABLE: Final = "MNEMOSYNE_CRASH_POINT"
"""``NAME`` or ``NAME:N``: the process kills itself when it passes this point for the N-th time. For tests."""

_armed, _, _count = os.environ.get(CRASH_VARIABLE, "").partition(":")
_passes_left = int(_count or 1) if (_count or "1").isdecimal() else 1


def crash_point(point: CrashPoint) -> None:
    """Dies here by SIGKILL if the environment asks for it; otherwise costs a comparison."""
    global _passes_left  # noqa: PLW0603  # a process dies once: there is nothing to encapsulate
    if _armed and point == _armed:
        _passes_left -= 1
        if _passes_left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def open_dir(name: str, *, dir_fd: int | None = None) -> int:
    """Opens a folder for use as ``dir_fd``. Its last component is never a link.

    Raises:
        FileNotFoundError: there is none.
        errors.Untrusted: it is a link or no folder, another user's, or others may enter it.
    """
    try:
        fd = os.open(name, _DIR, dir_fd=dir_fd)
    except NotADirectoryError:
        raise errors.Untrusted.at(name, "is not a folder, or is a symbolic link") from None
    problem = ownership_problem(os.fstat(fd))
    if problem:
        os.close(fd)
        raise errors.Untrusted.at(name, problem, hint="`mnemosyne doctor --fix` tightens what is ours")
    return fd


def make_dir(name: str, *, dir_fd: int | None = None) -> int:
    """Opens a folder, making it with mode 0700 first where it is missing, whatever the umask."""
    with suppress(FileNotFoundError):
        return open_dir(name, dir_fd=dir_fd)
    # RACE: two processes make the same folder: the loser opens the winner's.
    with suppress(FileExistsError):
        os.mkdir(name, DIR_MODE, dir_fd=dir_fd)
        try:
            fd = os.open(name, _DIR, dir_fd=dir_fd)
        except PermissionError:  # a umask that takes away our own rights
            os.chmod(name, DIR_MODE, dir_fd=dir_fd)
            fd = os.open(name, _DIR, dir_fd=dir_fd)
        os.fchmod(fd, DIR_MODE)
        return fd
    return open_dir(name, dir_fd=dir_fd)


def ownership_problem(status: os.stat_result) -> str:
    """Why a file or folder must not be used, or an empty string."""
    if status.st_uid != os.geteuid():
        return f"belongs to user {status.st_uid}, not to us"
    if status.st_mode & 0o077:
        return f"has mode {stat.S_IMODE(status.st_mode):04o}: other users can reach it"
    return ""


def open_regular(name: str, flags: int = os.O_RDONLY, *, dir_fd: int, links: bool = False) -> int:
    """Opens an existing regular file of ours that has exactly this one name; with ``links`` it may have more.

    Raises:
        FileNotFoundError: there is none.
        errors.Untrusted: a link, FIFO, folder, device, socket, a second hard link, or another user's file.
        OSError: any other failure, such as EMFILE.
    """
    return open_seen(name, flags, dir_fd=dir_fd, links=links)[0]


def open_seen(name: str, flags: int = os.O_RDONLY, *, dir_fd: int, links: bool = False) -> tuple[int, os.stat_result]:
    """As `open_regular`, with the status that was looked at: who wants to know more of the file need not ask again."""
    try:
        fd = os.open(name, flags | _SAFE, dir_fd=dir_fd)
    except (FileNotFoundError, PermissionError):
        raise
    except OSError as error:
        if error.errno in _PLANTED:
            raise errors.Untrusted.at(name, "is not a regular file") from None
        raise
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode) and (links or status.st_nlink <= 1) and status.st_uid == os.geteuid():
        return fd, status
    os.close(fd)
    raise errors.Untrusted.at(name, _oddity(status))


def _oddity(status: os.stat_result) -> str:
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file"
    if status.st_nlink > 1:
        return "has a second hard link"
    return f"belongs to user {status.st_uid}, not to us"


def read_at_most(fd: int, limit: int) -> bytes:
    """Up to ``limit`` bytes from the start of an open file."""
    data = os.pread(fd, limit, 0)
    while 0 < len(data) < limit:
        more = os.pread(fd, limit - len(data), len(data))
        if not more:
            break
        data += more
    return data


def read_bounded(name: str, limit: int, *, dir_fd: int) -> bytes:
    """The whole content of a regular file of ours.

    Raises:
        FileNotFoundError: there is none.
        errors.Damaged: it has more than ``limit`` bytes; at most one more is read.
        errors.Untrusted: see `open_regular`.
    """
    fd, status = open_seen(name, dir_fd=dir_fd)
    with opened(fd):
        data = os.pread(fd, limit + 1, 0)
        if len(data) < min(limit + 1, status.st_size):  # it had more: the read was cut short, or the file has been
            data = read_at_most(fd, limit + 1)
    if len(data) > limit:
        raise errors.Damaged.at(name, f"is larger than {limit} bytes")
    return data


def write_all(fd: int, data: bytes) -> None:
    """Writes everything or raises: os.write may write less than it was given."""
    view = memoryview(data)
    while view:
        written = os.write(fd, view)
        view = view[written:]


def rewrite(fd: int, data: bytes) -> None:
    """Replaces the content of an open file in place, whole; whoever reads meanwhile may see a part.

    Raises:
        OSError: it cannot be written, or was written only in part.
    """
    written = 0
    while written < len(data):
        written += os.pwrite(fd, data[written:], written)
    if os.fstat(fd).st_size != len(data):
        os.ftruncate(fd, len(data))
    if os.pread(fd, len(data) + 1, 0) != data:
        raise OSError(errno.EIO, "Written only in part")


def create(name: str, *, dir_fd: int, flags: int = os.O_WRONLY) -> int:
    """Makes a new empty file with mode 0600, whatever the umask, and opens it.

    Raises:
        FileExistsError: the name is taken.
    """
    fd = os.open(name, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE, dir_fd=dir_fd)
    os.fchmod(fd, FILE_MODE)
    return fd


class UnsyncedError(OSError):
    """A file has appeared, and its folder could not be synced: a power cut might take it away again."""


def publish(
    name: str,
    data: bytes,
    *,
    dir_fd: int,
    tmp_name: str,
    tmp_fd: int,
    durable: bool,
    points: Points = (),
    mode: int = FILE_MODE,
    source: str = "",
) -> None:
    """Makes ``name`` appear with all of ``data``, or not at all, replacing what had that name.

    Not promised: that it survives a power cut unless ``durable``, and that nobody replaces it in the same instant. When
    it raises, the temporary file is gone and nothing has appeared, unless it says otherwise. Where there are hard links, it
    is another name of ``source``, a file beside the temporary one that holds ``data`` already (`write_new`).

    Raises:
        UnsyncedError: it has appeared, but its folder could not be synced.
        OSError: it cannot be written.
    """
    if not (source and _linked(source, name, tmp_fd, dir_fd)):
        write_new(tmp_name, data, dir_fd=tmp_fd, durable=durable, points=points, mode=mode)
        try:
            os.rename(tmp_name, name, src_dir_fd=tmp_fd, dst_dir_fd=dir_fd)
        except BaseException:
            remove(tmp_name, dir_fd=tmp_fd)
            raise
    if points:
        crash_point(points[2])
    if durable:
        try:
            os.fsync(dir_fd)
        except OSError as error:
            raise UnsyncedError(*error.args) from None


def _linked(source: str, name: str, source_fd: int, dir_fd: int) -> bool:
    with suppress(OSError):  # whatever it was: who then writes a file of its own meets it, too, or does not
        os.link(source, name, src_dir_fd=source_fd, dst_dir_fd=dir_fd, follow_symlinks=False)
        return True
    return False


def write_new(name: str, data: bytes, *, dir_fd: int, durable: bool, points: Points = (), mode: int = FILE_MODE) -> None:
    """Writes a temporary file, whole; when it raises, the file is gone.

    Raises:
        OSError: it cannot be written.
    """
    fd = _open_tmp(name, dir_fd)
    try:
        with opened(fd):
            if points:
                crash_point(points[0])
            os.fchmod(fd, mode)
            write_all(fd, data)
            if os.fstat(fd).st_size != len(data):
                raise OSError(errno.EIO, "Written only in part")
            if durable:
                os.fsync(fd)
        if points:
            crash_point(points[1])
    except BaseException:
        remove(name, dir_fd=dir_fd)
        raise


def _open_tmp(name: str, dir_fd: int) -> int:
    try:
        return os.open(name, _CREATE, FILE_MODE, dir_fd=dir_fd)
    except FileExistsError:
        # Names of temporary files carry their writer, so this is the leftover of a dead one with our process number.
        remove(name, dir_fd=dir_fd)
        return os.open(name, _CREATE, FILE_MODE, dir_fd=dir_fd)


def replace(name: str, data: bytes, *, dir_fd: int, writer: str, points: Points = ()) -> None:
    """Replaces a record durably; the temporary file is named for its writer, so that its leftover can be told."""
    publish(name, data, dir_fd=dir_fd, tmp_name=f"{name}.{writer}.tmp", tmp_fd=dir_fd, durable=True, points=points)


def remove(name: str, *, dir_fd: int) -> bool:
    """Unlinks a name; False when it was gone already."""
    try:
        os.unlink(name, dir_fd=dir_fd)
    except FileNotFoundError:
        return False
    return True


def ring(name: str, *, dir_fd: int) -> None:
    """Touches a bell: watchers of its folder wake. A bell that is missing is nobody's loss, the poll is underneath."""
    with suppress(OSError):
        if os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_nlink > 1:
            return  # somebody's own file under the name of a bell
        os.utime(name, dir_fd=dir_fd, follow_symlinks=False)


def identity(fd: int) -> tuple[int, int] | None:
    """Device and inode of what is open under a number; None when nothing is."""
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def close_if_same(fd: int, wanted: tuple[int, int] | None) -> None:
    """Closes a descriptor that was kept open for long, if it still is what it was.

    Programs that become daemons close every descriptor; the number may be that of a file of theirs by now.
    """
    if wanted is not None and identity(fd) == wanted:
        with suppress(OSError):
            os.close(fd)
