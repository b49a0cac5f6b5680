"""The owner lock of any file: whoever holds ``<path>.lock`` may use ``path``.

For a file that only one program may use at a time: a jobs database, a session, a cache. The lock file lies beside it, is
locked for the life of the owner, and is never unlinked. It is the same lock however the path is spelled, through a link too.
Its content says who took it last, for people; the lock itself is the kernel's.
"""

from __future__ import annotations

import os
from collections.abc import Callable
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
_VARIABLE = "MNEMOSYNE_INSTANCE"


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


def own(
    path: str | os.PathLike[str],
    clock: Clock,
    *,
    instance_id: str | None = None,
    retry: float = 0.0,
    component: str | None = None,
    variable: Callable[[], str] = lambda: _VARIABLE,
) -> OwnerLock:
    """Takes the owner lock of ``path``, waiting up to ``retry`` seconds. The file itself need not exist.

    Args:
        path: what is to be owned.
        clock: for the time in the lock file.
        instance_id: who takes it, for people.
        retry: seconds.
        component: what is not started where it is held, such as ``the scheduler``.
        variable: finds the variable that tells instances apart, for the hint; called only where it is held.

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
        pid, other = _holder(where, descriptor.fd)
        descriptor.close()
        raise _conflict(where, pid, other, component, variable())
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


def _holder(path: Path, fd: int) -> tuple[int | None, str | None]:
    """The process that has it and, where that is the one that wrote the lock file, its instance."""
    said = {}
    with suppress(OSError, errors.State):
        said = records.parse(files.read_at_most(fd, _CONTENT_LIMIT), str(path))
    noted, instance_id = said.get("pid"), said.get("instance_id")
    noted = noted if type(noted) is int else None
    pid = locks.holder_pid(fd)
    # RACE: who has just taken it has not written yet: what stands there is of the owner before.
    is_of_holder = pid in {None, noted} and isinstance(instance_id, str)
    return pid or noted, instance_id if is_of_holder else None


def _conflict(path: Path, pid: int | None, instance_id: str | None, component: str | None, variable: str) -> errors.Conflict:
    known = ", ".join([f"process {pid}"] * bool(pid) + [f"instance {instance_id}"] * bool(instance_id))
    return errors.Conflict(
        f"{path.name} at {path} is already owned by another live instance"
        + (f" ({known})" if known else "")
        + (f" — not starting {component}" if component else ""),
        hint=f"Run each instance with a distinct {variable} so they don't share a {path.name}; --retry S waits for it",
        holder=pid,
        instance_id=instance_id,
    )
