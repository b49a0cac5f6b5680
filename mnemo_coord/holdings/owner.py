"""The owner lock of any file: whoever holds ``<path>.lock`` may use ``path``.

For a file that only one program may use at a time: a jobs database, a session, a cache. The lock file lies beside it, is
locked for the life of the owner, and is never unlinked. It is the same lock however the path is spelled, through a link too.
Its content says who took it last, for people; the lock itself is the kernel's.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from mnemo_coord import errors
from mnemo_coord.disk import files, locks, records
from mnemo_coord.disk.clock import Clock, rfc3339

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["OwnerLock", "own"]

_CONTENT_LIMIT = 512


class OwnerLock:
    """An owner lock that is held. Release it, leave its ``with`` block, or end."""

    def __init__(self, path: Path, descriptor: locks.Descriptor) -> None:
        self.path = path
        """The lock file."""
        self._descriptor = descriptor

    def release(self) -> None:
        """Gives it up. Idempotent."""
        self._descriptor.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()


def own(path: str | os.PathLike[str], clock: Clock, *, instance_id: str | None = None, retry: float = 0.0) -> OwnerLock:
    """Takes the owner lock of ``path``, waiting up to ``retry`` seconds. The file itself need not exist.

    Raises:
        errors.Conflict: another owner has it; ``holder`` says which process.
        errors.State: the lock file cannot be made or is not ours.
    """
    try:
        where = Path(os.path.realpath(path))
        lock_path = where.with_name(f"{where.name}.lock")
    except ValueError as error:
        raise errors.Config(f"{os.fspath(path)!r} cannot be owned: {error}", key="path") from None
    try:
        folder = os.open(where.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        with files.opened(folder):
            descriptor = locks.Descriptor(locks.open_lock_file(lock_path.name, folder))
    except errors.Untrusted as error:
        raise errors.Untrusted.at(lock_path, error.reason) from None
    except (OSError, ValueError) as error:
        raise errors.State.at(lock_path, str(getattr(error, "strerror", "") or error).lower()) from None
    if not locks.take_descriptor(descriptor.fd, retry):
        conflict = _conflict(where, descriptor.fd)
        descriptor.close()
        raise conflict
    _sign(descriptor.fd, clock, instance_id)
    return OwnerLock(lock_path, descriptor)


def _sign(fd: int, clock: Clock, instance_id: str | None) -> None:
    content = {"pid": os.getpid(), "instance_id": instance_id, "since": rfc3339(clock.wall_ns())}
    if not _is_ours(fd):
        return  # somebody's own file has the name, such as poetry.lock: it serves as a lock all the same
    with suppress(OSError):  # a full disk is no reason not to own
        os.ftruncate(fd, 0)
        os.pwrite(fd, records.encode(content) + b"\n", 0)


def _is_ours(fd: int) -> bool:
    data = files.read_at_most(fd, _CONTENT_LIMIT)
    try:
        return not data or records.parse(data, "").keys() == {"pid", "instance_id", "since"}
    except errors.State:
        return False


def _conflict(path: Path, fd: int) -> errors.Conflict:
    said = {}
    with suppress(OSError, errors.State):
        said = records.parse(files.read_at_most(fd, _CONTENT_LIMIT), str(path))
    pid = locks.holder_pid(fd) or said.get("pid")
    instance_id = said.get("instance_id")
    who = f"process {pid}" if isinstance(pid, int) else "another process"
    as_instance = f" (instance {instance_id})" if isinstance(instance_id, str) else ""
    return errors.Conflict(
        f"{path} is owned by {who}{as_instance}",
        hint="it is freed when that process ends; --retry S waits for it",
        holder=pid,
        instance_id=instance_id,
    )
