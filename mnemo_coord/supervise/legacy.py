"""The queue-state.json of Murmuration: its entries become jobs of one instance, once.

::

    queue-state.json                       as it is found: {"version":"1.0.0","entries":[…]}
    queue-state.json.migrating-<instance>  claimed for one instance: whoever is killed here goes on here
    queue-state.json.migrated              its jobs are in the queue; the backup
    queue-state.json.corrupt-<n>           what could not be understood, set aside

Everything happens under a kernel lock on the folder. That the entries are in the queue is written down in the same instant as
the entries themselves, so that a migration that was killed is gone on with and nothing is taken over twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from mnemo_coord import errors
from mnemo_coord.disk import files, locks
from mnemo_coord.disk.clock import rfc3339
from mnemo_coord.supervise.backlog import ID, Backlog
from mnemo_coord.supervise.jobs import PRIORITIES, Job, JobStatus, Queue

__all__ = ["NPM", "VERSION", "Migrated", "entries", "migrate"]

VERSION: Final = "1.0.0"
NPM: Final = ("npm", "run")
_LIMIT: Final = 4 * 1024 * 1024
"""Bytes."""
_PATIENCE: Final = 10.0
"""Seconds."""
_STATUS: Final = {
    "pending": JobStatus.PENDING,
    "queued": JobStatus.PENDING,
    "running": JobStatus.PENDING,
    "processing": JobStatus.PENDING,
    "completed": JobStatus.DONE,
    "failed": JobStatus.FAILED,
    "cancelled": JobStatus.CANCELLED,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Migrated:
    """What became of a file."""

    jobs: tuple[Job, ...]
    backup: Path


class _Unknown(Exception):
    """A version that may be a good one, and is not ours to judge."""


def migrate(file: Path, backlog: Backlog, folder: Path, runner: Sequence[str] = NPM) -> Migrated:
    """Takes the entries of a file over into a queue. The command of each is ``runner`` and its script, run in ``folder``.

    Raises:
        errors.NotFound: there is no such file; perhaps it was migrated before.
        errors.Conflict: it is being migrated into another instance, or the backup of one that was is in the way.
        errors.TimedOut: somebody else is about it.
        errors.Damaged: it is not such a file, and was set aside.
        errors.State: it cannot be read, or the queue not be written.
    """
    try:
        place = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise errors.NotFound(f"{file.parent}: {(error.strerror or str(error)).lower()}", path=str(file)) from None
    with files.opened(place):
        if not locks.take_descriptor(place, _PATIENCE):
            raise errors.TimedOut(f"{file}: another process is about it", hint="try again", timeout=_PATIENCE)
        try:
            return _migrated(file, place, backlog, folder, runner)
        except errors.CoordinationError:
            raise
        except OSError as error:
            raise errors.State.at(file, (error.strerror or str(error)).lower()) from None


def _migrated(file: Path, place: int, backlog: Backlog, folder: Path, runner: Sequence[str]) -> Migrated:
    claimed, backup = f"{file.name}.migrating-{backlog.name}", f"{file.name}.migrated"
    if not _is_there(claimed, place):
        _refuse(file, place, backup)
        _parsed(file, file.name, place, folder, runner)  # what cannot be understood is not claimed
        os.rename(file.name, claimed, src_dir_fd=place, dst_dir_fd=place)
    jobs, digest = _parsed(file, claimed, place, folder, runner)
    backlog.change(lambda queue: _with(queue, jobs, digest))
    os.rename(claimed, backup, src_dir_fd=place, dst_dir_fd=place)
    backlog.change(lambda queue: replace(queue, imported=""))
    return Migrated(jobs=tuple(jobs), backup=file.with_name(backup))


def _is_there(name: str, place: int) -> bool:
    return os.access(name, os.F_OK, dir_fd=place, follow_symlinks=False)


def _refuse(file: Path, place: int, backup: str) -> None:
    begun = next((name for name in sorted(os.listdir(place)) if name.startswith(f"{file.name}.migrating-")), None)
    if begun:
        other = begun.rpartition(".migrating-")[2]
        what = f"{file}: is being migrated into the instance {other!r}"
        raise errors.Conflict(what, hint=f"`mnemosyne jobs migrate --name {other} {file}` goes on with it", holder=other)
    if not _is_there(file.name, place):
        if _is_there(backup, place):
            raise errors.NotFound(
                f"{file}: was migrated already", hint=f"the backup is {file.with_name(backup)}", path=str(file)
            )
        raise errors.NotFound(f"{file}: is not there", hint="give the path of a queue-state.json", path=str(file))
    if _is_there(backup, place):
        what = f"{file}: one of that name was migrated already"
        raise errors.Conflict(what, hint=f"move {file.with_name(backup)} away if this one is to be, too", holder=None)


def _parsed(file: Path, name: str, place: int, folder: Path, runner: Sequence[str]) -> tuple[list[Job], str]:
    try:
        data = files.read_bounded(name, _LIMIT, dir_fd=place)
        return entries(data, str(folder), runner), hashlib.sha256(data).hexdigest()
    except errors.Untrusted as error:
        raise errors.Untrusted.at(file, error.reason) from None
    except _Unknown as error:
        raise errors.State.at(file, str(error), hint=f"only version {VERSION} can be migrated; it was left as it is") from None
    except (errors.Damaged, ValueError, RecursionError) as error:
        kept = _set_aside(file, name, place)
        raise errors.Damaged.at(file, f"is damaged ({error})", hint=f"it was set aside as {kept}") from None


def _set_aside(file: Path, name: str, place: int) -> Path:
    number = 1
    while True:
        kept = f"{file.name}.corrupt-{number}"
        with suppress(FileExistsError):
            os.link(name, kept, src_dir_fd=place, dst_dir_fd=place, follow_symlinks=False)  # never over another one
            os.unlink(name, dir_fd=place)
            return file.with_name(kept)
        number += 1


def _with(queue: Queue, jobs: Sequence[Job], digest: str) -> Queue:
    if queue.imported == digest:
        return queue  # whoever was killed had come so far
    known = {job.id for job in queue.jobs}
    fresh = [
        replace(job, number=queue.number + number) for number, job in enumerate((job for job in jobs if job.id not in known), 1)
    ]
    return replace(queue, jobs=(*queue.jobs, *fresh), number=queue.number + len(fresh), imported=digest)


def entries(data: bytes, folder: str, runner: Sequence[str] = NPM) -> list[Job]:
    """The jobs that a file stands for, in the order in which they were queued.

    Raises:
        ValueError: it is not such a file.
    """
    document = json.loads(data)
    if not isinstance(document, dict) or not isinstance(document.get("version"), str):
        raise ValueError("it has no version")
    if document["version"] != VERSION:
        raise _Unknown(f"has version {document['version']!r}")
    found = document.get("entries")
    if not isinstance(found, list):
        raise ValueError("it has no list of entries")
    jobs = [_job(entry, folder, runner) for entry in found]
    if len({job.id for job in jobs}) != len(jobs):
        raise ValueError("two entries have one id")
    return [replace(job, number=number) for number, job in enumerate(sorted(jobs, key=lambda job: job.added_at), 1)]


def _job(entry: Any, folder: str, runner: Sequence[str]) -> Job:
    if not isinstance(entry, dict) or not isinstance(entry.get("process"), dict):
        raise ValueError("an entry has no process")
    process = entry["process"]
    job_id, script = entry.get("id"), process.get("script_name")
    if not isinstance(job_id, str) or ID.fullmatch(job_id) is None:
        raise ValueError(f"{job_id!r} is not the id of an entry")
    if not isinstance(script, str) or not script:
        raise ValueError(f"{job_id} has no script_name")
    status = _STATUS.get(str(entry.get("status")))
    if status is None:
        raise ValueError(f"{job_id} has the status {entry.get('status')!r}")
    priority = _number(entry, "priority", _number(process, "priority", 5))
    if priority not in PRIORITIES:
        raise ValueError(f"{job_id} has the priority {priority}")
    title = next((text for text in (process.get("title"), process.get("name")) if isinstance(text, str) and text), script)
    return Job(
        id=job_id,
        argv=_argv(script, process.get("args"), runner),
        folder=folder,
        title=title,
        priority=priority,
        env=_env(process.get("env_vars")),
        retries=_number(entry, "maxRetries", 0),
        tries=_number(entry, "retryCount", 0) + status.is_final,
        status=status,
        added_at=_time(entry.get("queuedAt")),
        started_at=_time(entry.get("startedAt")) if status.is_final else "",
        ended_at=_time(entry.get("completedAt")) if status.is_final else "",
    )


def _number(body: dict[str, Any], name: str, default: int) -> int:
    found = body.get(name)
    if found is None:
        return default
    if type(found) is not int or found < 0:
        raise ValueError(f"{name} is {found!r}")
    return found


def _argv(script: str, args: Any, runner: Sequence[str]) -> tuple[str, ...]:
    given = [] if args is None else args
    if not isinstance(given, list) or not all(isinstance(word, str) for word in given):
        raise ValueError(f"the args of {script} are no list of texts")
    # npm takes what stands before `--` for itself.
    return (*runner, script, *(["--"] if given and tuple(runner) == NPM else []), *given)


def _env(found: Any) -> dict[str, str]:
    given = {} if found is None else found
    if not isinstance(given, dict) or not all(isinstance(value, (str, int, float)) for value in given.values()):
        raise ValueError("env_vars are no texts")
    return {name: str(value) for name, value in given.items()}


def _time(found: Any) -> str:
    """A time as text: ISO 8601 as it is, or milliseconds since 1970."""
    if isinstance(found, (int, float)) and not isinstance(found, bool):
        return rfc3339(int(found * 1_000_000))
    return found if isinstance(found, str) and len(found) <= 40 else rfc3339(time.time_ns())
