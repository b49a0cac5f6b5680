"""Jobs: the commands in the queue of an instance, and what is decided of them. All of it is pure.

::

    pending ──start──> running ──exit code 0──> done
                          ├──another one──> pending after a pause, while it has retries; else failed
                          ├──cancel──> cancelled
                          ├──its runner was asked to end──> pending, the try not counted
                          └──its runner was killed──> orphaned, while it runs on
    orphaned ──adopt──> running        orphaned ──clean──> pending

A *try* is one start of a job, with a number of its own that is drawn for it. What is known of a try that nobody watched is its
`Trace`: whether something of it still runs, and what its shepherd has written down.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from mnemo_coord.supervise.states import RestartRules, pause

__all__ = [
    "FINISHED_KEPT",
    "PRIORITIES",
    "Asked",
    "Job",
    "JobStatus",
    "Queue",
    "Trace",
    "choose",
    "delay",
    "how_ended",
    "settle",
    "shown",
    "stopped",
    "trimmed",
]

PRIORITIES: Final = range(1, 11)
FINISHED_KEPT: Final = 100
"""How many jobs that have ended stay in the queue, for people to look at; the oldest go first."""
_RULES: Final = RestartRules(limit=1_000_000)
"""How many tries there are is the job's own."""


class JobStatus(StrEnum):
    """Where a job is."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    """Its command has ended with exit code 0."""
    FAILED = "failed"
    """It has ended otherwise, as often as it may."""
    CANCELLED = "cancelled"
    """A person wanted it no more."""
    ORPHANED = "orphaned"
    """Whoever ran it is gone, and it still runs."""

    @property
    def is_final(self) -> bool:
        """Whether nothing more happens to it."""
        return self in {JobStatus.DONE, JobStatus.FAILED, JobStatus.CANCELLED}

    @property
    def counts(self) -> bool:
        """Whether it counts against the limit."""
        return self in {JobStatus.RUNNING, JobStatus.ORPHANED}


class Asked(StrEnum):
    """What a person wants of a job that runs."""

    NOTHING = ""
    CANCEL = "cancel"
    """It is ended, and that was it."""
    RETURN = "return"
    """It is ended, and waits to be started again."""
    ADOPT = "adopt"
    """A runner takes it as its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One command in a queue."""

    id: str
    argv: tuple[str, ...]
    folder: str
    """Where it is started."""
    title: str = ""
    priority: int = 5
    """1 to 10; 10 goes first."""
    number: int = 0
    """Rises with each job that is added: of one priority, the least goes first."""
    env: dict[str, str] = field(default_factory=dict)
    """Variables beside those of the instance."""
    retries: int = 0
    """How many tries there may be after the first."""
    tries: int = 0
    """How many there were, one that runs among them."""
    status: JobStatus = JobStatus.PENDING
    text: str = ""
    """Why it is not what it should be."""
    added_at: str = ""
    started_at: str = ""
    """When the last try was."""
    ended_at: str = ""
    exit_code: int | None = None
    """Of the last try; negative where a signal ended it."""
    start_id: str = ""
    """Drawn for the last try (`mnemo_coord.supervise.tree`)."""
    pid: int | None = None
    """The shepherd of the last try, leader of its session."""
    start_time: int = 0
    """Clock ticks after boot at which that started."""
    boot_id: str = ""
    retry_at: float = 0.0
    """By the wall clock, in seconds: not before then."""
    asked: Asked = Asked.NOTHING


@dataclass(frozen=True, kw_only=True, slots=True)
class Queue:
    """All jobs of an instance, in the order in which they were added."""

    jobs: tuple[Job, ...] = ()
    paused: bool = False
    """Whether what is pending is not started."""
    number: int = 0
    """That of the job that was added last."""
    bell: str = ""
    """The socket that wakes who works it, while somebody does."""
    imported: str = ""
    """SHA-256 of a file whose jobs are in it, until that file is out of the way (`mnemo_coord.supervise.legacy`)."""

    @property
    def is_needed(self) -> bool:
        """Whether it says anything that has to be known later."""
        return self.has_work or self.paused or bool(self.imported)

    @property
    def has_work(self) -> bool:
        """Whether anything in it is not final."""
        return any(not job.status.is_final for job in self.jobs)

    def get(self, job_id: str) -> Job | None:
        """A job by its id."""
        return next((job for job in self.jobs if job.id == job_id), None)

    def with_job(self, changed: Job) -> Queue:
        """The same with one of its jobs as it is now."""
        return replace(self, jobs=tuple(changed if job.id == changed.id else job for job in self.jobs))


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """What there is to see of a try."""

    runs: bool
    """Whether a process of it does."""
    begun: bool = True
    """False where its shepherd has written down that the command was never started."""
    code: int | None = None
    """The exit code that its shepherd has written down, negative for a signal."""
    text: str = ""
    """What it said to that."""


def choose(queue: Queue, limit: int, now: float) -> list[Job]:
    """Which are started now, the first first, so that no more than ``limit`` run. ``now`` is by the wall clock, in seconds."""
    free = limit - sum(job.status.counts for job in queue.jobs)
    if queue.paused or free <= 0:
        return []
    waiting = [job for job in queue.jobs if job.status is JobStatus.PENDING and delay(job, now) <= 0]
    return sorted(waiting, key=lambda job: (-job.priority, job.number))[:free]


def delay(job: Job, now: float) -> float:
    """Seconds for which a pending job is not to be started yet; never longer than they were, if the clock was set back."""
    wanted = job.retry_at - now
    return wanted if 0 < wanted <= _RULES.longest else 0.0


def settle(job: Job, trace: Trace, now: float, at: str, *, runner: bool = False) -> Job:
    """What becomes of a job whose try is known by its trace alone, or has ended. ``at`` is ``now`` for people.

    ``runner``: it is looked at by who started it, so that what still runs is running, and an end without a trace is a failure.
    Else what still runs is orphaned, unless somebody wants it adopted; and what is gone without a result is pending again, with
    this try counted: it may have done a part of its work.
    """
    if trace.runs:
        keeps = runner or job.asked is Asked.ADOPT
        return replace(job, status=JobStatus.RUNNING if keeps else JobStatus.ORPHANED)
    ended = replace(job, pid=None, start_time=0, asked=Asked.NOTHING, ended_at=at)
    if job.asked is Asked.CANCEL:
        return replace(ended, status=JobStatus.CANCELLED, exit_code=trace.code, text="was ended")
    if job.asked is Asked.RETURN:
        return _again(ended, "was ended, to be started again")
    if not trace.begun:
        return _again(replace(ended, tries=max(0, job.tries - 1)), "was not begun")
    if trace.code is None and not runner:
        return _again(ended, "was lost with its runner")
    if trace.code == 0:
        return replace(ended, status=JobStatus.DONE, exit_code=0, text="")
    return _failed(replace(ended, exit_code=trace.code), trace, now)


def _again(job: Job, text: str) -> Job:
    return replace(job, status=JobStatus.PENDING, text=text, ended_at="", exit_code=None)


def _failed(job: Job, trace: Trace, now: float) -> Job:
    how = trace.text or how_ended(trace.code)
    if job.tries > job.retries:
        return replace(job, status=JobStatus.FAILED, text=how)
    wait = pause(min(max(1, job.tries), 20), _RULES) or 0.0
    text = f"{how}; tried again after {wait:g} s"
    return replace(job, status=JobStatus.PENDING, text=text, ended_at="", retry_at=now + wait)


def how_ended(code: int | None) -> str:
    """In words."""
    if code is None:
        return "has ended without a trace"
    return f"has ended with exit code {code}" if code >= 0 else f"has ended with signal {-code}"


def stopped(job: Job, trace: Trace, now: float, at: str) -> Job:
    """What becomes of a job that was ended with its runner: pending, this try not counted, unless it was done just then."""
    if job.asked is Asked.CANCEL or trace.code == 0:
        return settle(job, trace, now, at, runner=True)
    back = replace(job, pid=None, start_time=0, asked=Asked.NOTHING, tries=max(0, job.tries - 1))
    return _again(back, "was ended with its runner")


def trimmed(queue: Queue) -> tuple[Queue, list[Job]]:
    """The queue without the oldest of those that have ended, where they are too many; and those that went."""
    ended = sorted((job for job in queue.jobs if job.status.is_final), key=lambda job: (job.ended_at, job.number))
    gone = ended[: max(0, len(ended) - FINISHED_KEPT)]
    names = {job.id for job in gone}
    return replace(queue, jobs=tuple(job for job in queue.jobs if job.id not in names)), gone


def shown(jobs: Iterable[Job]) -> list[Job]:
    """In the order in which people want to see them: what runs, what is next, what has ended, the last first."""
    order = (JobStatus.RUNNING, JobStatus.ORPHANED, JobStatus.PENDING)
    waiting = [job for job in jobs if not job.status.is_final]
    ended = [job for job in jobs if job.status.is_final]
    waiting.sort(key=lambda job: (order.index(job.status), -job.priority, job.number))
    ended.sort(key=lambda job: (job.ended_at, job.number), reverse=True)
    return [*waiting, *ended]
