"""Fenced files: a file that refuses the late write of a former holder.

::

    <path>          replaced whole at each write
    <path>.epoch    locked for the time of a write; its *length* is the highest epoch that has written

A process may lose a claim without knowing it yet: its lock file was deleted, its descriptors were closed behind its back, it
was stopped while another took its place on a file system whose locks prove nothing. What protects the data then is not the
lock but the store: it remembers the highest epoch and refuses a lower one (the fencing token of Kleppmann, "How to do
distributed locking"). The epoch is a length for the reason that it is one in `claims`: it cannot be half written.
"""

from __future__ import annotations

import os
from pathlib import Path

from mnemo_coord import errors
from mnemo_coord.disk import files, locks

__all__ = ["write"]


def write(path: str | os.PathLike[str], data: bytes, epoch: int, *, patience: float = 10.0) -> None:
    """Replaces ``path`` by ``data``, whole and durably, in the name of ``epoch``.

    ``patience`` is how many seconds another write to the same file is waited for.

    Raises:
        errors.LeaseLost: a later epoch has written already; nothing was changed.
        errors.TimedOut: another write took too long.
        errors.State: it cannot be written.
    """
    where = Path(os.path.realpath(path))
    try:
        folder = os.open(where.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        with files.opened(folder):
            guard = locks.Descriptor(locks.open_lock_file(f"{where.name}.epoch", folder))
            try:
                _admit(guard.fd, epoch, where, patience)
                files.replace(where.name, data, dir_fd=folder, writer=f"{os.getpid()}")
            finally:
                guard.close()
    except errors.CoordinationError:
        raise  # TimedOut is an OSError too
    except OSError as error:
        raise errors.State.at(where, (error.strerror or str(error)).lower()) from None


def _admit(fd: int, epoch: int, where: Path, patience: float) -> None:
    if not locks.take_descriptor(fd, patience):
        raise errors.TimedOut(f"{where}: another write took more than {patience:g} s", hint="try again", timeout=patience)
    highest = os.fstat(fd).st_size
    if epoch < highest:
        raise errors.LeaseLost(
            f"{where}: epoch {highest} has written it already, {epoch} comes too late",
            hint="somebody else holds the claim now: stop what is done in its name",
            epoch=highest,
        )
    os.ftruncate(fd, epoch)
