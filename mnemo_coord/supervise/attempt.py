"""One try of a job, watched by the runner: from its shepherd, which waits for a word, to the last process of its tree."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final, Self

from mnemo_coord.disk.clock import SystemClock, rfc3339
from mnemo_coord.members.identity import start_time_and_state
from mnemo_coord.supervise import tree
from mnemo_coord.supervise.backlog import Backlog, parse_exit
from mnemo_coord.supervise.jobs import Asked, Job, JobStatus, Trace
from mnemo_coord.supervise.spawn import Output, spawn_shepherd

__all__ = ["JOB_VARIABLE", "Attempt"]

JOB_VARIABLE: Final = "MNEMOSYNE_JOB"
_SAID_LIMIT: Final = 4096
"""Bytes."""
_WRITER_PATIENCE: Final = 5.0
"""Seconds for the log writer to write what is left: somebody who is no part of the job may hold its pipe open."""


class Attempt:
    """One such try."""

    def __init__(self, backlog: Backlog, job: Job, *, is_orphan: bool = False) -> None:
        self.job = job
        """As it was recorded for this try."""
        self.is_orphan = is_orphan
        """Whether it is only watched."""
        self.ending: tree.Ending | None = None
        """How far it is with being ended, once it is."""
        self._backlog = backlog
        self._line: socket.socket | None = None
        self._pidfd = -1
        self._process: subprocess.Popen[bytes] | None = None
        self._writer: subprocess.Popen[bytes] | None = None
        self._said = b""
        self._is_over = False
        self._gone_at: float | None = None

    @classmethod
    def prepare(cls, backlog: Backlog, job: Job, environ: Mapping[str, str]) -> Self:
        """Starts the shepherd of a pending job. Its command is started by `begin`, once its ``job`` is recorded.

        Raises:
            errors.Command: that cannot be started.
        """
        start_id = os.urandom(8).hex()
        variables = {**environ, **job.env, JOB_VARIABLE: job.id, tree.VARIABLE: tree.tag(start_id, job.id)}
        output = Output(backlog.log(job.id), f"{backlog.name}/{job.id}")
        process, writer, line = spawn_shepherd(
            job.argv, variables, Path(job.folder), output, backlog.exit_file(job.id), start_id
        )
        recorded = replace(
            job,
            status=JobStatus.RUNNING,
            tries=job.tries + 1,
            start_id=start_id,
            pid=process.pid,
            start_time=start_time_and_state(process.pid)[0],
            boot_id=SystemClock().boot_id,
            started_at=rfc3339(time.time_ns()),
            ended_at="",
            exit_code=None,
            text="",
            retry_at=0.0,
            asked=Asked.NOTHING,
        )
        made = cls(backlog, recorded)
        made._process, made._writer, made._line = process, writer, line
        line.setblocking(False)
        return made

    @classmethod
    def found(cls, backlog: Backlog, job: Job, *, is_orphan: bool) -> Self:
        """One that a runner before us has started."""
        made = cls(backlog, job, is_orphan=is_orphan)
        with suppress(OSError):
            made._pidfd = os.pidfd_open(job.pid or 0)
        # RACE: between the record and now another process may have got its number.
        if made._pidfd >= 0 and start_time_and_state(job.pid or 0)[0] != job.start_time:
            made.close()
        made._is_over = made._pidfd < 0
        return made

    @property
    def is_our_child(self) -> bool:
        """Whether this process has started it."""
        return self._process is not None

    def begin(self) -> None:
        """Has the command started."""
        if self._line:
            with suppress(OSError):  # somebody has killed the shepherd: that is noticed
                self._line.send(b"!")

    def descriptors(self) -> list[int]:
        """What becomes readable when something happens to it."""
        return [self._line.fileno()] if self._line else [self._pidfd] if self._pidfd >= 0 else []

    def hear(self) -> None:
        """Takes what its shepherd says; the end of the line, or of the shepherd, is the end of the command."""
        if self._line:
            with suppress(BlockingIOError):
                while said := _received(self._line):
                    self._said = (self._said + said)[:_SAID_LIMIT]
                self.close()
                self._is_over = True
        elif self._pidfd >= 0:
            self.close()
            self._is_over = True

    def fetched(self, ended: Mapping[int, int]) -> None:
        """Notes which of its processes, children of ours, have ended."""
        for process in (self._process, self._writer):
            if process is not None and process.pid in ended:
                process.returncode = ended[process.pid]

    def attend(self, grace: float, *, end: bool, hurry: bool) -> None:
        """Does what is due now. What is left when its command has ended is ended; all of it is where that is wanted."""
        if self._process is not None and self._process.returncode is not None:
            self._is_over = True
        elif self._line is None and not self._is_over:
            noted = self._backlog.exit(self.job)
            self._is_over = noted.code is not None or not noted.begun
        if self._gone_at is not None or not (self._is_over or end):
            return
        found = self._backlog.to_end(self.job)
        if not found:
            self._gone_at = time.monotonic()
        elif end or not self.is_orphan:
            self.ending = self.ending or tree.Ending(grace)
            if hurry:
                self.ending.hurry()
            self.ending.ask(found)

    @property
    def has_gone(self) -> bool:
        """Whether nothing of it runs any more, and its output is written."""
        if self._gone_at is None:
            return False
        writes = self._writer is not None and self._writer.returncode is None
        return not (writes and time.monotonic() - self._gone_at < _WRITER_PATIENCE)

    @property
    def pause(self) -> float | None:
        """Seconds after which it is to be attended again, whatever happens; None where something will tell."""
        if self._gone_at is not None:
            return 0.05
        return self.ending.pause if self.ending else None

    def trace(self) -> Trace:
        """How it ended."""
        trace = parse_exit(self._said, self.job.start_id) if self._said else self._backlog.exit(self.job)
        code = self._process.returncode if self._process is not None else None
        if trace.code is None and trace.begun and code is not None and code < 0:
            return replace(trace, code=code)  # somebody has killed the shepherd
        return trace

    def close(self) -> None:
        """Closes what is open for it. Where it was not begun its shepherd ends by that."""
        if self._line:
            self._line.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
        self._line, self._pidfd = None, -1


def _received(line: socket.socket) -> bytes:
    try:
        return line.recv(_SAID_LIMIT)
    except ConnectionError:
        return b""
