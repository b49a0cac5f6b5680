"""Orders: what a person, or a job, wants of a queue. Each works whether or not somebody works the queue just now."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from mnemo_coord import errors
from mnemo_coord.disk.clock import rfc3339
from mnemo_coord.instances.services import VARIABLE
from mnemo_coord.supervise import tree
from mnemo_coord.supervise.backlog import UNFINISHED, Backlog
from mnemo_coord.supervise.jobs import PRIORITIES, Asked, Job, JobStatus, Queue, settle

__all__ = ["Wish", "add", "adopt", "cancel", "clean", "found", "pause", "view"]

RETRIES: Final = range(101)
_TITLE_LIMIT: Final = 200
"""Characters."""
_SIZE_LIMIT: Final = 32 * 1024
"""Characters of a command and its variables together."""
_PATIENCE: Final = 10.0
"""Seconds for a runner to note what has ended."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """A job as it is wanted."""

    argv: Sequence[str]
    folder: str
    title: str = ""
    priority: int = 5
    retries: int = 0
    env: Mapping[str, str] = field(default_factory=dict)

    def check(self) -> None:
        """Raises what is wrong with it.

        Raises:
            errors.Config: a value is not acceptable.
        """
        bad = next((name for name in self.env if VARIABLE.fullmatch(name) is None), None)
        if not self.argv or not self.argv[0]:
            raise errors.Config("a job needs a command", hint="`-- COMMAND…`", key="command")
        if bad is not None:
            raise errors.Config(f"{bad!r} is not the name of a variable", hint="letters, digits and _", key="env")
        if self.priority not in PRIORITIES or self.retries not in RETRIES:
            what = f"priority {self.priority}, retries {self.retries}: not acceptable"
            raise errors.Config(what, hint="a priority is 1 to 10, retries are 0 to 100", key="priority")
        if len(self.title) > _TITLE_LIMIT:
            raise errors.Config(f"the title has more than {_TITLE_LIMIT} characters", hint="shorten it", key="title")
        if sum(map(len, (*self.argv, *self.env, *self.env.values(), self.folder))) > _SIZE_LIMIT:
            what = f"the command and its variables have more than {_SIZE_LIMIT} characters"
            raise errors.Config(what, hint="put them into a script", key="command")


def add(backlog: Backlog, wish: Wish) -> Job:
    """Puts a job into the queue.

    Raises:
        errors.Config: a value is not acceptable.
        errors.Conflict: the queue is full.
        errors.TimedOut: somebody else holds the queue.
        errors.State: it cannot be read or written.
    """
    wish.check()
    job_id = f"j{os.urandom(4).hex()}"

    def act(queue: Queue) -> Queue:
        if sum(not job.status.is_final for job in queue.jobs) >= UNFINISHED:
            what = f"the queue of {backlog.name!r} has {UNFINISHED} jobs that are not done"
            raise errors.Conflict(what, hint="wait until some of them are", holder=None)
        job = Job(
            id=job_id,
            argv=tuple(wish.argv),
            folder=wish.folder,
            title=wish.title,
            priority=wish.priority,
            number=queue.number + 1,
            env=dict(wish.env),
            retries=wish.retries,
            added_at=rfc3339(time.time_ns()),
        )
        return replace(queue, jobs=(*queue.jobs, job), number=job.number)

    return found(backlog.change(act), backlog, job_id)


def view(backlog: Backlog) -> Queue:
    """The queue as it is: where nobody works it, what runs is orphaned, and what has ended meanwhile has.

    Raises:
        errors.State: it cannot be read.
    """
    queue = backlog.read()
    if not any(job.status.counts for job in queue.jobs) or backlog.runner() is not None:
        return queue
    return replace(queue, jobs=tuple(_as_it_is(backlog, job) for job in queue.jobs))


def _as_it_is(backlog: Backlog, job: Job) -> Job:
    if not job.status.counts:
        return job
    seen = settle(job, backlog.trace(job), time.time(), rfc3339(time.time_ns()))
    return seen if seen.status is not JobStatus.RUNNING else replace(seen, status=JobStatus.ORPHANED)


def found(queue: Queue, backlog: Backlog, job_id: str) -> Job:
    """A job by its id.

    Raises:
        errors.NotFound: there is none.
    """
    job = queue.get(job_id)
    if job is None:
        hint = f"`mnemosyne jobs list {backlog.name}` shows those that there are"
        raise errors.NotFound(f"the queue of {backlog.name!r} has no job {job_id!r}", hint=hint, job=job_id)
    return job


def pause(backlog: Backlog, *, paused: bool) -> None:
    """Has nothing started any more until it is resumed, or resumes it. What runs goes on.

    Raises:
        errors.TimedOut: somebody else holds the queue.
        errors.State: it cannot be read or written.
    """
    backlog.change(lambda queue: replace(queue, paused=paused))


def cancel(backlog: Backlog, job_id: str, grace: float) -> Job:
    """Takes a job off the queue; one that runs is ended, to its last process. Idempotent.

    Raises:
        errors.NotFound: there is none.
        errors.Conflict: it has ended by itself.
        errors.State: it could not be ended, or the queue cannot be read or written.
    """
    found(backlog.read(), backlog, job_id)  # before anything is made

    def ask(queue: Queue) -> Queue:
        job = found(queue, backlog, job_id)
        if job.status in {JobStatus.DONE, JobStatus.FAILED}:
            raise errors.Conflict(f"job {job_id!r} is {job.status} already", hint="there is nothing to cancel", holder=None)
        if job.status is JobStatus.PENDING:
            now = rfc3339(time.time_ns())
            return queue.with_job(replace(job, status=JobStatus.CANCELLED, ended_at=now, text="before it was started"))
        return queue.with_job(replace(job, asked=Asked.CANCEL)) if job.status.counts else queue

    job = found(backlog.change(ask), backlog, job_id)
    return _ended(backlog, job, grace) if job.status.counts else job


def clean(backlog: Backlog, job_ids: Collection[str], grace: float, *, drop: bool) -> list[Job]:
    """Ends orphans, by default all, and has them wait again, or drops them. Returns them as they are then.

    Raises:
        errors.NotFound: there is no such job.
        errors.Conflict: it is no orphan.
        errors.State: one could not be ended, or the queue cannot be read or written.
    """
    asked = _asked(backlog, job_ids, Asked.CANCEL if drop else Asked.RETURN)
    return [_ended(backlog, job, grace) for job in asked]


def adopt(backlog: Backlog, job_ids: Collection[str]) -> list[Job]:
    """Has orphans, by default all, taken as its own by who works the queue, now or next. Returns them.

    Raises:
        errors.NotFound: there is no such job.
        errors.Conflict: it is no orphan.
        errors.State: the queue cannot be read or written.
    """
    asked = _asked(backlog, job_ids, Asked.ADOPT)
    return [_noted(backlog, job, lambda now: now.status is JobStatus.ORPHANED or bool(now.asked)) for job in asked]


def _asked(backlog: Backlog, job_ids: Collection[str], what: Asked) -> list[Job]:
    seen = view(backlog)
    chosen = [found(seen, backlog, job_id) for job_id in dict.fromkeys(job_ids)]
    for job in chosen:
        if job.status is not JobStatus.ORPHANED:
            raise errors.Conflict(
                f"job {job.id!r} is {job.status}, no orphan", hint="`mnemosyne jobs cancel` ends it", holder=None
            )
    chosen = chosen or [job for job in seen.jobs if job.status is JobStatus.ORPHANED]
    if not chosen:
        return []
    tries = {job.start_id for job in chosen}

    def ask(queue: Queue) -> Queue:
        jobs = (replace(job, asked=what) if job.start_id in tries and job.status.counts else job for job in queue.jobs)
        return replace(queue, jobs=tuple(jobs))

    after = backlog.change(ask)
    return [found(after, backlog, job.id) for job in chosen]


def _ended(backlog: Backlog, job: Job, grace: float) -> Job:
    """Ends what runs of a job, and returns it once somebody has noted that."""
    left = tree.end(lambda: backlog.to_end(job), grace)
    if left:
        who = ", ".join(f"{one.pid} ({one.command})" for one in left)
        raise errors.State.at(backlog.workspace, f"could not end {who}", hint="end them by hand")
    noted = _noted(backlog, job, lambda now: now.start_id == job.start_id and now.status.counts)
    if noted.start_id != job.start_id or not noted.status.counts:
        return noted
    return found(backlog.change(_noting(backlog, job)), backlog, job.id)


def _noted(backlog: Backlog, job: Job, waits: Callable[[Job], bool]) -> Job:
    """A job as it is once whoever works the queue has done its part; at once where nobody does."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        worked = backlog.runner() is not None
        now = found(backlog.read(), backlog, job.id)
        if not worked or not waits(now) or time.monotonic() > deadline:
            return now
        time.sleep(0.02)  # another process: there is no waiting for it but looking


def _noting(backlog: Backlog, job: Job) -> Callable[[Queue], Queue]:
    def note(queue: Queue) -> Queue:
        now = queue.get(job.id)
        if now is None or now.start_id != job.start_id or not now.status.counts:
            return queue
        return queue.with_job(settle(now, backlog.trace(now), time.time(), rfc3339(time.time_ns())))

    return note
