"""A shift: the time for which one process works the queue of an instance, held by a kernel lock."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final, Self

from mnemo_coord import errors
from mnemo_coord.disk import files, locks, vanishing
from mnemo_coord.supervise.backlog import FILE, FOLDER, RUNNER, Backlog

__all__ = ["Shift"]

_LOGS_KEPT: Final = 300
"""How many logs of jobs stay in a workspace; the oldest go first."""


class Shift:
    """One such time."""

    def __init__(self, backlog: Backlog, held: locks.Descriptor) -> None:
        self._backlog, self._held = backlog, held

    @classmethod
    def begin(cls, backlog: Backlog, bell: str) -> Self:
        """Makes this process the runner of a queue; who adds to it rings the bell.

        Raises:
            errors.Conflict: another process is.
            errors.State: the workspace cannot be used.
        """
        with backlog.opened() as folder:
            if folder is None:
                raise errors.State.at(backlog.workspace, "is not there")
            held = locks.Descriptor(_lock_file(backlog.workspace, folder))
        try:
            if not locks.take_descriptor(held.fd, 0):
                raise _refusal(backlog.name, locks.holder_pid(held.fd))
            _make_folders(backlog.workspace)
            backlog.change(lambda queue: replace(queue, bell=bell))
        except BaseException:
            held.close()
            raise
        return cls(backlog, held)

    def end(self, *, if_idle: bool = False) -> bool:
        """Ends it. Whatever is left to do stays in the queue; where nothing is, its files are removed. Idempotent.

        ``if_idle``: only if nothing is left. Returns whether it has ended.

        Raises:
            errors.TimedOut: somebody else holds the queue.
            errors.State: it cannot be read or written.
        """
        if not self._held.is_open:
            return True
        try:
            # Under the lock: who adds a job after this sees that nobody works the queue.
            with self._backlog.locked() as folder:
                queue = self._backlog.load(folder)
                if if_idle and queue.has_work:
                    return False
                if queue.is_needed:
                    self._backlog.store(folder, replace(queue, bell=""))
                else:
                    files.remove(FILE, dir_fd=folder)
                    _remove_exits(folder)
                self._held.close()
        finally:
            if not if_idle:
                self._held.close()
        return True


def _lock_file(workspace: Path, folder: int) -> int:
    try:
        return locks.open_lock_file(RUNNER, folder)
    except errors.Untrusted as error:
        raise errors.Untrusted.at(workspace / RUNNER, error.reason) from None
    except OSError as error:
        raise errors.State.at(workspace / RUNNER, (error.strerror or str(error)).lower()) from None


def _refusal(name: str, pid: int | None) -> errors.Conflict:
    who = f"process {pid}" if pid else "another process"
    return errors.Conflict(
        f"The queue of {name!r} is worked by {who} already", hint="one is enough: add jobs to it", holder=pid
    )


def _make_folders(workspace: Path) -> None:
    """That of the exit files and that of the logs, with the oldest logs removed where they are many."""
    for place in (workspace / FOLDER, workspace / "logs", workspace / "logs" / "jobs"):
        try:
            os.close(files.make_dir(str(place)))
        except errors.Untrusted as error:
            raise errors.Untrusted.at(place, error.reason) from None
        except OSError as error:
            raise errors.State.at(place, (error.strerror or str(error)).lower()) from None
    with suppress(OSError):  # another one removes them, too
        logs = sorted(place.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in logs[_LOGS_KEPT:]:
            path.unlink()


def _remove_exits(folder: int) -> None:
    with suppress(OSError, errors.Untrusted):
        with files.opened(files.open_dir(FOLDER, dir_fd=folder)) as inner:
            for name in vanishing.names(inner):
                files.remove(name, dir_fd=inner)
        vanishing.remove(FOLDER, dir_fd=folder)
