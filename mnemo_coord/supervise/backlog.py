"""The queue of an instance on disk: its jobs, who works it, and how each try ended.

::

    <workspace>/jobs.json          {"version":1,"paused":false,"number":7,"bell":"@…","jobs":[{…}, …]}; replaced whole
    <workspace>/.jobs.lock         kernel lock, held for each change of jobs.json; empty, never removed
    <workspace>/.jobs.runner       kernel lock, held by the runner as long as it works the queue; empty, never removed
    <workspace>/jobs/<id>.exit     how the last try of a job ended: "<start id> <exit code> [<why>]", by its shepherd
    <workspace>/logs/jobs/<id>.log what it printed

The members of a job are those of `mnemo_coord.supervise.jobs.Job`; others are passed over, and get lost with the next change. A
job that runs is written down as running, with the number of its try, before its command can do anything: so whatever is killed,
and when, the next runner knows what there was. jobs.json and ``jobs/`` are removed by a runner that leaves nothing to do.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Final

from mnemo_coord import errors
from mnemo_coord.disk import files, locks, probes, vanishing
from mnemo_coord.disk.clock import SystemClock
from mnemo_coord.supervise import tree
from mnemo_coord.supervise.bell import ring
from mnemo_coord.supervise.jobs import Asked, Job, JobStatus, Queue, Trace, trimmed

__all__ = ["FILE", "FOLDER", "ID", "RUNNER", "UNFINISHED", "Backlog", "decode", "encode", "parse_exit"]

ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)
"""What a job can be called: it is a part of file names."""
UNFINISHED: Final = 1000
"""How many jobs that are not done there may be."""
FILE, RUNNER, FOLDER, _LOCK = "jobs.json", ".jobs.runner", "jobs", ".jobs.lock"
_LIMIT: Final = 4 * 1024 * 1024
_EXIT_LIMIT: Final = 4096
"""Bytes."""
_PATIENCE: Final = 10.0
"""Seconds."""
_EXIT: Final = re.compile(r"(\S+) (-|-?[0-9]{1,3})(?: (.*))?\n?", re.DOTALL)


class Backlog:
    """The queue in one workspace."""

    def __init__(self, name: str, workspace: Path) -> None:
        self.name = name
        """That of the instance."""
        self.workspace = workspace

    def read(self) -> Queue:
        """All of it. Makes nothing, waits for nobody.

        Raises:
            errors.State: it cannot be read, is damaged, or is not ours.
        """
        with self.opened() as folder:
            return Queue() if folder is None else self.load(folder)

    def change(self, act: Callable[[Queue], Queue]) -> Queue:
        """Replaces it by what ``act`` makes of it, while nobody else can; wakes who works it. Returns what it is now.

        Raises:
            errors.Conflict: it has become too large.
            errors.TimedOut: somebody else holds it.
            errors.State: it cannot be read or written.
        """
        with self.locked() as folder:
            before = self.load(folder)
            after, gone = trimmed(act(before))
            if after != before:
                self.store(folder, after)
        for job in gone:
            self.forget(job.id, logs=True)
        if after != before:
            ring(after.bell)
        return after

    def runner(self) -> int | None:
        """The process that works it; 0 where somebody does and it cannot be told who, None where nobody does."""
        with self.opened() as folder:
            if folder is None or probes.probe(RUNNER, dir_fd=folder).state is not probes.LockState.HELD:
                return None
            with suppress(OSError, errors.Untrusted), files.opened(files.open_regular(RUNNER, dir_fd=folder)) as fd:
                return locks.holder_pid(fd) or 0
        return 0

    # How a try ended

    def exit_file(self, job_id: str) -> Path:
        """Where the shepherd of a job writes how it ended."""
        return self.workspace / FOLDER / f"{job_id}.exit"

    def log(self, job_id: str) -> Path:
        """What a job prints."""
        return self.workspace / "logs" / "jobs" / f"{job_id}.log"

    def processes(self, job: Job) -> list[tree.Process]:
        """What runs of the last try of a job."""
        if not job.start_id or job.boot_id != SystemClock().boot_id:
            return []
        return tree.members(job.start_id, {} if job.pid is None else {job.pid: job.start_time})

    def to_end(self, job: Job) -> list[tree.Process]:
        """What is to be ended of it now: the shepherd last. It ends by itself; until then nothing gets away from below it."""
        found = self.processes(job)
        return [one for one in found if one.pid != job.pid] or found

    def trace(self, job: Job) -> Trace:
        """What there is to see of the last try of a job."""
        runs = bool(self.processes(job))  # before the file is read: it is written before the last of them ends
        return replace(self.exit(job), runs=runs)

    def exit(self, job: Job) -> Trace:
        """What its shepherd has written down, as if nothing ran any more."""
        with suppress(OSError, errors.State), self.opened() as folder:
            if folder is not None:
                with files.opened(files.open_dir(FOLDER, dir_fd=folder)) as inner:
                    return parse_exit(files.read_bounded(f"{job.id}.exit", _EXIT_LIMIT, dir_fd=inner), job.start_id)
        return Trace(runs=False)

    def forget(self, job_id: str, *, logs: bool = False) -> None:
        """Removes what a try has left."""
        with suppress(OSError):
            self.exit_file(job_id).unlink()
        for path in self.log(job_id).parent.glob(f"{job_id}.*log") if logs else ():
            with suppress(OSError):
                path.unlink()

    def version(self) -> tuple[int, int, int]:
        """Changes whenever the file does."""
        try:
            status = os.lstat(self.workspace / FILE)
        except OSError:
            return (0, 0, 0)
        return status.st_ino, status.st_mtime_ns, status.st_size

    # The file

    @contextmanager
    def opened(self) -> Iterator[int | None]:
        """The workspace, open; None where it is not there.

        Raises:
            errors.State: it cannot be used.
        """
        try:
            folder = files.open_dir(str(self.workspace))
        except FileNotFoundError:
            yield None
            return
        except errors.Untrusted as error:
            raise errors.Untrusted.at(self.workspace, error.reason) from None
        except OSError as error:
            raise errors.State.at(self.workspace, (error.strerror or str(error)).lower()) from None
        with files.opened(folder):
            yield folder

    @contextmanager
    def locked(self) -> Iterator[int]:
        """The workspace, open, while nobody else changes the queue.

        Raises:
            errors.TimedOut: somebody else holds it.
            errors.State: it is not there, or cannot be used.
        """
        with self.opened() as folder:
            if folder is None:
                raise errors.State.at(self.workspace, "is not there")
            held = locks.Descriptor(self._lock_file(folder))
            try:
                if not locks.take_descriptor(held.fd, _PATIENCE):
                    who = locks.holder_pid(held.fd) or "another process"
                    what = f"{self.workspace / _LOCK}: still held by {who} after {_PATIENCE:g} s"
                    raise errors.TimedOut(what, hint="try again; if that process hangs, end it", timeout=_PATIENCE)
                vanishing.sweep(folder, FILE)
                yield folder
            finally:
                held.close()

    def _lock_file(self, folder: int) -> int:
        try:
            return locks.open_lock_file(_LOCK, folder)
        except errors.Untrusted as error:
            raise errors.Untrusted.at(self.workspace / _LOCK, error.reason) from None
        except OSError as error:
            raise errors.State.at(self.workspace / _LOCK, (error.strerror or str(error)).lower()) from None

    def load(self, folder: int) -> Queue:
        """What the file says; an empty queue where there is none.

        Raises:
            errors.State: see `read`.
        """
        path = self.workspace / FILE
        try:
            return decode(files.read_bounded(FILE, _LIMIT, dir_fd=folder))
        except FileNotFoundError:
            return Queue()
        except errors.Untrusted as error:
            raise errors.Untrusted.at(path, error.reason) from None
        except (errors.Damaged, ValueError, TypeError, KeyError, RecursionError) as error:
            raise errors.Damaged.at(path, f"is damaged ({error})", hint="move it away; its jobs are lost then") from None
        except OSError as error:
            raise errors.State.at(path, (error.strerror or str(error)).lower()) from None

    def store(self, folder: int, queue: Queue) -> None:
        """Writes the file anew, whole or not at all.

        Raises:
            errors.Conflict: it would be too large.
            errors.State: it cannot be written.
        """
        data = encode(queue)
        if len(data) > _LIMIT:
            what = f"{self.workspace / FILE}: would be larger than {_LIMIT} bytes"
            raise errors.Conflict(what, hint="wait until some of its jobs are done", holder=None)
        try:
            files.replace(FILE, data, dir_fd=folder, writer=str(os.getpid()))
        except OSError as error:
            raise errors.State.at(self.workspace / FILE, (error.strerror or str(error)).lower()) from None


def parse_exit(data: bytes, start_id: str) -> Trace:
    """What a shepherd has written down or said of a try; nothing where that was another one."""
    found = _EXIT.fullmatch(data.decode(errors="replace"))
    if found is None or found[1] != start_id:
        return Trace(runs=False)
    if found[2] == "-":
        return Trace(runs=False, begun=False)
    return Trace(runs=False, code=int(found[2]), text=(found[3] or "").strip())


def encode(queue: Queue) -> bytes:
    """As it is stored."""
    body = {"version": 1, "paused": queue.paused, "number": queue.number, "bell": queue.bell, "imported": queue.imported}
    # Not orjson: a word of a command may hold bytes that are no text.
    return json.dumps({**body, "jobs": [asdict(job) for job in queue.jobs]}, indent=1).encode() + b"\n"


def decode(data: bytes) -> Queue:
    """From what is stored.

    Raises:
        ValueError: it is not that, or not version 1.
        TypeError: likewise.
        KeyError: likewise.
    """
    body = json.loads(data)
    if not isinstance(body, dict) or body.get("version") != 1:
        raise ValueError("not version 1")
    jobs = tuple(_job(one) for one in body["jobs"])
    if len({job.id for job in jobs}) != len(jobs):
        raise ValueError("one id twice")
    texts = {name: str(body.get(name, "")) for name in ("bell", "imported")}
    return Queue(jobs=jobs, paused=bool(body["paused"]), number=int(body["number"]), **texts)


_KINDS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "argv": tuple, "env": dict, "status": JobStatus, "asked": Asked, "retry_at": float,
}  # fmt: skip
_NUMBERS: Final = frozenset({"priority", "number", "retries", "tries", "exit_code", "pid", "start_time"})
_PERHAPS: Final = frozenset({"exit_code", "pid"})


def _job(body: Any) -> Job:
    given = {one.name: body[one.name] for one in fields(Job) if one.name in body}
    for name, value in given.items():
        if value is None and name in _PERHAPS:
            continue
        if name in _KINDS:
            given[name] = _KINDS[name](value)
        elif type(value) is not (int if name in _NUMBERS else str):
            raise ValueError(f"{name} is {value!r}")
    job = Job(**given)
    words = [*job.argv, *job.env, *job.env.values()]
    if ID.fullmatch(job.id) is None or not job.argv or not all(isinstance(word, str) for word in words):
        raise ValueError(f"{job.id!r} is no job")
    return job
