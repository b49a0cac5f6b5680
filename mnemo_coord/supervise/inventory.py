"""What an instance has started and still runs, its services and its jobs, and ending one of them and nobody else."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Final

from mnemo_coord import errors
from mnemo_coord.disk.clock import rfc3339
from mnemo_coord.supervise import orders, tenure, tree
from mnemo_coord.supervise.backlog import Backlog
from mnemo_coord.supervise.jobs import Job, JobStatus

__all__ = ["Entry", "Kind", "Target", "command_of", "end", "find", "inventory"]

_COMMAND_LIMIT: Final = 4096
"""Bytes of a command line that are read."""


class Kind(StrEnum):
    """What was started."""

    SERVICE = "service"
    JOB = "job"


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A service or a job that runs."""

    instance: str
    kind: Kind
    name: str
    """That of the service, or the id of the job."""
    state: str
    pid: int
    """Its first process that still runs: that of the service, or of the command of the job."""
    since: str
    """When that started."""
    command: str
    """Its words."""
    processes: tuple[tree.Process, ...] = field(repr=False)
    """Everything that belongs to it."""
    shepherd: int | None = None
    """The process that waits for the command of a job."""

    @property
    def pids(self) -> list[int]:
        """The numbers of its processes."""
        return [one.pid for one in self.processes]


def inventory(name: str, workspace: Path) -> list[Entry]:
    """What the instance in a workspace has started and still runs: its services, then its jobs. Changes nothing.

    Raises:
        errors.State: what is written there cannot be read.
    """
    known = tenure.look(workspace)
    services = [_service(name, known, service) for service in known.services]
    backlog = Backlog(name, workspace)
    jobs = [_job(backlog, job) for job in orders.view(backlog).jobs if job.status.counts]
    return [one for one in [*services, *jobs] if one is not None]


def _service(instance: str, known: tenure.Tenure, service: str) -> Entry | None:
    record = known.services[service]
    leaders = {} if record.pid is None else {record.pid: record.start_time}
    found = tree.members(known.start_id, leaders, service) if known.start_id else []
    first = next((one for one in found if one.pid == record.pid), None) or next(iter(found), None)
    state = "orphaned" if known.status in {tenure.Status.ORPHANED, tenure.Status.STOPPED} else str(record.state)
    return _entry(instance, Kind.SERVICE, service, state, first, found) if first else None


def _job(backlog: Backlog, job: Job) -> Entry | None:
    found = backlog.processes(job)
    first = command_of(job, found) or next(iter(found), None)
    return _entry(backlog.name, Kind.JOB, job.id, str(job.status), first, found, job.pid) if first else None


def command_of(job: Job, found: Iterable[tree.Process]) -> tree.Process | None:
    """The process of its command: the oldest child of its shepherd. None where that has ended."""
    below = [one for one in found if one.parent == job.pid]
    return min(below, key=lambda one: (one.start_time, one.pid), default=None)


def _entry(
    instance: str,
    kind: Kind,
    name: str,
    state: str,
    first: tree.Process,
    found: list[tree.Process],
    shepherd: int | None = None,
) -> Entry:
    return Entry(
        instance=instance,
        kind=kind,
        name=name,
        state=state,
        pid=first.pid,
        since=_since(first),
        command=_command(first),
        processes=tuple(found),
        shepherd=shepherd,
    )


def _command(process: tree.Process) -> str:
    try:
        with open(f"/proc/{process.pid}/cmdline", "rb") as stream:
            words = stream.read(_COMMAND_LIMIT).rstrip(b"\0").split(b"\0")
    except OSError:
        words = []
    return " ".join(word.decode(errors="replace") for word in words) or process.command


def _since(process: tree.Process) -> str:
    seconds = _booted() + process.start_time / os.sysconf("SC_CLK_TCK")
    return rfc3339(int(seconds * 1e9))


@cache
def _booted() -> int:
    """When this machine was started, in seconds since 1970."""
    with open("/proc/stat", encoding="ascii") as stream:
        return next((int(line.split()[1]) for line in stream if line.startswith("btime ")), 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What is meant by a word: a service or a job, or one process of it with all that it has started."""

    entry: Entry
    process: tree.Process | None = None


def find(word: str, own: Iterable[Entry], others: Iterable[Entry]) -> Target:
    """What a process number, the id of a job or the name of a service means, among what one's own instance runs.

    Raises:
        errors.NotFound: nothing that we have started.
        errors.Conflict: something that another instance has.
    """
    for target in _meant(word, own):
        return target
    for target in _meant(word, (one for one in others if one.kind is Kind.JOB or word.isdecimal())):
        entry = target.entry
        what = f"{word} is {_described(entry, target.process)} of the instance {entry.instance!r}"
        hint = f"`mnemosyne kill --name {entry.instance} {word}` is for its owner"
        raise errors.Conflict(what, hint=hint, holder=entry.instance)
    hint = "`mnemosyne ps` shows what runs; what nobody here has started is left alone"
    raise errors.NotFound(f"{word}: no process, job or service that this instance runs", hint=hint, process=word)


def _meant(word: str, entries: Iterable[Entry]) -> Iterator[Target]:
    listed = list(entries)
    if word.isascii() and word.isdecimal():
        for entry in listed:
            process = next((one for one in entry.processes if one.pid == int(word)), None)
            if process is not None:
                whole = process.pid in {entry.pid, entry.shepherd}
                yield Target(entry=entry, process=None if whole else process)
    for kind in (Kind.JOB, Kind.SERVICE):
        yield from (Target(entry=one) for one in listed if one.kind is kind and one.name == word)


def _described(entry: Entry, process: tree.Process | None) -> str:
    whole = f"the {entry.kind} {entry.name}"
    return f"a process of {whole}" if process else whole


def end(target: Target, workspace: Path, grace: float) -> list[int]:
    """Ends it with all that it has started: SIGTERM, then SIGKILL after ``grace`` seconds. Returns the processes that it had.

    A job is cancelled by it. A service has ended, for its supervisor, and is started again by its rules.

    Raises:
        errors.State: something of it could not be ended.
    """
    entry = target.entry
    if entry.kind is Kind.JOB and target.process is None:
        job = orders.cancel(Backlog(entry.instance, workspace), entry.name, grace)
        if job.status is not JobStatus.CANCELLED:
            raise errors.Conflict(f"job {entry.name!r} is {job.status} meanwhile", hint="there is nothing to end", holder=None)
        return entry.pids
    first = entry.processes if target.process is None else (target.process,)
    find = tree.offspring(first)
    before = [one.pid for one in find()]
    left = tree.end(find, grace)
    if left:
        who = ", ".join(f"{one.pid} ({one.command})" for one in left)
        raise errors.State.at(workspace, f"could not end {who}", hint="end them by hand")
    return before
