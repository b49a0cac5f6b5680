"""Works the queue of an instance: starts its jobs, so many at once, sees how they end, and ends what has to be ended.

One thread and one loop. What becomes of a job is decided by `mnemo_coord.supervise.jobs`; here are the effects. A job counts
until nothing of its tree runs any more: when its command has ended, what is left of it is ended, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

from mnemo_coord import errors
from mnemo_coord.disk.clock import rfc3339
from mnemo_coord.supervise.attempt import Attempt
from mnemo_coord.supervise.backlog import Backlog
from mnemo_coord.supervise.bell import Bell
from mnemo_coord.supervise.jobs import Asked, Job, JobStatus, Queue, Trace, choose, delay, settle, stopped
from mnemo_coord.supervise.shift import Shift
from mnemo_coord.supervise.vigil import Vigil

__all__ = ["Runner", "Tally", "Work"]

_POLL: Final = 1.5
"""Seconds after which the queue is looked at, if nobody has rung."""
_TROUBLED: Final = 1.0
"""Seconds after which it is tried again to write it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """How a queue is to be worked."""

    environ: Mapping[str, str]
    """What every job is started with."""
    limit: int = 4
    """How many run at once."""
    grace: float = 10.0
    """Seconds between SIGTERM and SIGKILL."""
    drain: bool = False
    """Whether it ends when nothing is left to do."""
    adopt: bool = False
    """Whether what a runner that was killed has left is taken as one's own."""


@dataclass(kw_only=True, slots=True)
class Tally:
    """How many jobs have come to their end in a run."""

    done: int = 0
    failed: int = 0
    cancelled: int = 0

    def count(self, job: Job) -> None:
        """Counts one, if it has."""
        if job.status.is_final:
            setattr(self, job.status, getattr(self, job.status) + 1)


class Runner:
    """Works one queue until it is asked to end. Use from the main thread.

    ``tell`` is called with each job of which something has become, ``warn`` with what goes wrong meanwhile.
    """

    def __init__(self, backlog: Backlog, work: Work, tell: Callable[[Job], None], warn: Callable[[str], None]) -> None:
        self._backlog, self._work, self._tell, self._warn = backlog, work, tell, warn
        self._bell = Bell.open()
        self._attempts: list[Attempt] = []
        self._fresh: list[Attempt] = []
        self._news: list[Job] = []
        self._queue = Queue()
        self._version = (-1, 0, 0)
        self._trouble = ""
        self._tally = Tally()
        self._vigil = Vigil()

    def run(self, ready: Callable[[Queue], None]) -> Tally:
        """Works it. ``ready`` is called once jobs that are added will be seen. Returns how many have come to their end.

        Raises:
            errors.Conflict: another process works it.
            errors.State: the queue cannot be used, or something could not be ended.
        """
        with self._vigil:
            try:
                shift = Shift.begin(self._backlog, self._bell.name)
                try:
                    self._queue = self._backlog.change(self._restored)
                    ready(self._queue)
                    self._publish()
                    self._loop(shift)
                finally:
                    shift.end()
            finally:
                self._bell.close()
                for one in self._attempts:
                    one.close()
        return self._tally

    def _restored(self, queue: Queue) -> Queue:
        """What a runner before us has left, each once."""
        for job in [job for job in queue.jobs if job.status.counts]:
            wanted = replace(job, asked=Asked.ADOPT) if self._work.adopt and not job.asked else job
            now = self._settled(wanted, self._backlog.trace(job), settle)
            if now.status.counts:
                self._attempts.append(Attempt.found(self._backlog, job, is_orphan=now.status is JobStatus.ORPHANED))
            queue = queue.with_job(now)
        return queue

    def _settled(self, job: Job, trace: Trace, decide: Callable[..., Job], **how: bool) -> Job:
        now = time.time()
        after: Job = decide(job, trace, now, rfc3339(int(now * 1e9)), **how)
        if after.status is JobStatus.RUNNING and after.asked is Asked.ADOPT:
            after = replace(after, asked=Asked.NOTHING)
        self._news.append(after)
        return after

    def _loop(self, shift: Shift) -> None:
        while True:
            ended = self._vigil.fetch()
            self._look()
            for one in list(self._attempts):
                one.fetched(ended)
                self._attend(one)
            self._change()
            if self._vigil.signals and not self._left():
                return
            if self._work.drain and not self._queue.has_work and shift.end(if_idle=True):
                return
            self._wait()

    def _look(self) -> None:
        """Reads the queue again, where somebody has changed it."""
        version = self._backlog.version()
        if version != self._version:
            with self._troubled():
                self._queue, self._version = self._backlog.read(), version

    def _attend(self, one: Attempt) -> None:
        job = self._queue.get(one.job.id)
        is_ours = job is not None and job.start_id == one.job.start_id and job.status.counts
        asked = job.asked if job is not None and is_ours else Asked.CANCEL
        if one.is_orphan and not is_ours:  # somebody else has ended it
            one.close()
            self._attempts.remove(one)
            return
        if asked is Asked.ADOPT:
            one.is_orphan = False
        stops = self._vigil.signals > 0 and not one.is_orphan
        one.attend(
            self._work.grace, end=stops or asked in {Asked.CANCEL, Asked.RETURN}, hurry=stops and self._vigil.signals > 1
        )

    def _left(self) -> list[Attempt]:
        """What has to end before us.

        Raises:
            errors.State: nothing helps.
        """
        left = [one for one in self._attempts if not one.is_orphan]
        if left and all(one.ending and one.ending.is_in_vain for one in left):
            found = [process for one in left for process in self._backlog.processes(one.job)]
            who = ", ".join(f"{process.pid} ({process.command})" for process in found)
            raise errors.State.at(self._backlog.workspace, f"could not end {who}", hint="end them by hand")
        return left

    def _change(self) -> None:
        """Writes down what has ended, and what begins; only then does it begin."""
        gone = [one for one in self._attempts if one.has_gone]
        if not gone and not self._chosen(self._queue) and not self._adopted(self._queue):
            return
        self._fresh, self._news = [], []
        try:
            with self._troubled():
                self._queue = self._backlog.change(lambda queue: self._next(queue, gone))
                for one in gone:
                    one.close()
                    self._backlog.forget(one.job.id)  # before it can begin anew and leave the next one
                for one in self._fresh:
                    one.begin()
                self._attempts = [*(one for one in self._attempts if one not in gone), *self._fresh]
                self._fresh = []
                self._publish()
        finally:
            for one in self._fresh:  # not recorded: it ends without having begun
                one.close()

    def _chosen(self, queue: Queue) -> list[Job]:
        return [] if self._vigil.signals else choose(queue, self._work.limit, time.time())

    def _adopted(self, queue: Queue) -> list[Job]:
        """Orphans that are ours by now, and not recorded as such."""
        ours = {one.job.start_id for one in self._attempts if not one.is_orphan}
        return [job for job in queue.jobs if job.status is JobStatus.ORPHANED and job.start_id in ours]

    def _next(self, queue: Queue, gone: list[Attempt]) -> Queue:
        for one in gone:
            job = queue.get(one.job.id)
            if job is not None and job.start_id == one.job.start_id and job.status.counts:
                queue = queue.with_job(self._outcome(one, job))
        for job in self._adopted(queue):
            queue = queue.with_job(self._settled(replace(job, asked=Asked.ADOPT), Trace(runs=True), settle))
        for job in self._chosen(queue):
            queue = queue.with_job(self._started(job))
        return queue

    def _outcome(self, one: Attempt, job: Job) -> Job:
        if self._vigil.signals and not one.is_orphan:
            return self._settled(job, one.trace(), stopped)
        return self._settled(job, one.trace(), settle, runner=one.is_our_child)

    def _started(self, job: Job) -> Job:
        try:
            attempt = Attempt.prepare(self._backlog, job, self._work.environ)
        except errors.Command as error:
            tried = replace(job, tries=job.tries + 1, started_at=rfc3339(time.time_ns()))
            return self._settled(tried, Trace(runs=False, code=127, text=error.message), settle, runner=True)
        self._fresh.append(attempt)
        self._news.append(attempt.job)
        return attempt.job

    def _publish(self) -> None:
        news, self._news = self._news, []
        for job in news:
            self._tally.count(job)
            self._tell(job)

    def _wait(self) -> None:
        now = time.time()
        times = [_POLL, *(one.pause for one in self._attempts if one.pause is not None)]
        if self._trouble:
            times = [max(_TROUBLED, min(times))]
        else:
            waits = [delay(job, now) for job in self._queue.jobs if job.status is JobStatus.PENDING]
            times += [seconds for seconds in waits if seconds > 0]
            times += [0.0] if self._chosen(self._queue) else []
        watched = {fd: one for one in self._attempts for fd in one.descriptors()}
        ready = self._vigil.wait(min(times), [self._bell.fileno(), *watched])
        self._bell.hush()
        for fd in ready & set(watched):
            watched[fd].hear()

    @contextmanager
    def _troubled(self) -> Iterator[None]:
        """Goes on where the queue cannot be read or written, such as on a full disk, and says so once."""
        try:
            yield
            self._trouble = ""
        except (errors.State, errors.TimedOut, errors.Conflict) as error:
            if self._trouble != error.message:
                self._warn(error.message)
            self._trouble = error.message
