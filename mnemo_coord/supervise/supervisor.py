"""Supervises the services of one instance: starts them, sees that they are ready, starts them again, ends them to the last one.

One thread and one loop. What happens to a service is decided by `mnemo_coord.supervise.states`; here are the effects. Every
change is written into the workspace (`mnemo_coord.supervise.tenure`) before the next, so that whoever comes after a kill of
this process knows what is left.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mnemo_coord import errors
from mnemo_coord.holdings.reservations import Reservations, listening_ports
from mnemo_coord.instances.services import Listen, ReadyKind, Restart, Service
from mnemo_coord.members.identity import start_time_and_state
from mnemo_coord.supervise import readiness, tenure, tree
from mnemo_coord.supervise.spawn import Output, spawn
from mnemo_coord.supervise.states import Happening, RestartRules, State, next_state, pause
from mnemo_coord.supervise.vigil import Vigil

if TYPE_CHECKING:
    import socket

__all__ = ["Plan", "Supervisor"]

_LOOK: Final = 0.05
"""Seconds between two looks at a service that is starting."""
_WRITERS_PATIENCE: Final = 5.0
"""Seconds for the log writers to write what is left."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How one service is run."""

    service: Service
    argv: tuple[str, ...]
    environ: Mapping[str, str]
    folder: Path
    port: int
    output: Output


@dataclass(slots=True)
class _Child:
    """One service, and what has become of it."""

    plan: Plan
    handed: Mapping[str, socket.socket]
    state: State = State.STOPPED
    text: str = ""
    process: subprocess.Popen[bytes] | None = None
    start_time: int = 0
    failures: int = 0
    since: float = 0.0
    """When it came into its state, by the monotonic clock."""
    retry_at: float = 0.0
    log_start: int = 0
    was_late: bool = False
    has_notified: bool = False
    notices: readiness.Notices | None = None
    reserved: Reservations = field(default_factory=Reservations)

    @property
    def name(self) -> str:
        return self.plan.service.name

    @property
    def is_coming(self) -> bool:
        """Whether it may be ready soon."""
        return self.state in {State.STARTING, State.BACKOFF} and not self.was_late

    def record(self) -> tenure.ServiceRecord:
        runs = self.process is not None and self.state.runs
        return tenure.ServiceRecord(
            state=self.state,
            pid=self.process.pid if self.process is not None and runs else None,
            start_time=self.start_time if runs else 0,
            port=self.plan.port,
            text=self.text,
        )


class Supervisor:
    """Runs the services until they are asked to end, or nothing is left that could go on. Use from the main thread."""

    def __init__(
        self,
        plans: Sequence[Plan],
        workspace: Path,
        current: tenure.Tenure,
        handed: Mapping[str, socket.socket],
        tell: Callable[[str, State, str], None],
        rules: RestartRules | None = None,
        look: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._children = [
            _Child(plan, {name: one for name, one in handed.items() if name == plan.service.name}) for plan in plans
        ]
        self._workspace, self._current, self._tell = workspace, current, tell
        self._rules = RestartRules() if rules is None else rules
        self._look = look
        self._writers: list[subprocess.Popen[bytes]] = []
        self._vigil = Vigil()

    def run(self, when_settled: Callable[[bool], None]) -> bool:
        """Runs them. ``when_settled`` is called once none is starting any more or one is late, with whether all are ready.

        Returns whether all ended as they were meant to.

        Raises:
            errors.State: something could not be ended.
        """
        with self._vigil:
            try:
                for child in self._children:
                    self._happens(child, Happening.START)
                self._loop(when_settled)
            finally:
                self._end_all()
        return not any(child.state is State.FATAL for child in self._children)

    def _loop(self, when_settled: Callable[[bool], None]) -> None:
        settled = False
        while not self._vigil.signals and not all(child.state.is_final for child in self._children):
            self._fetch()
            listening = listening_ports() if any(child.state is State.STARTING for child in self._children) else set()
            for child in self._children:
                self._advance(child, listening)
            if not settled and not any(child.is_coming for child in self._children):
                settled = True
                when_settled(all(child.state in {State.READY, State.EXITED} for child in self._children))
            self._wait()
        if not settled and not self._vigil.signals:
            when_settled(False)

    def _wait(self) -> None:
        """Until a signal comes, a child has ended, something is said, or it is time for something."""
        now = time.monotonic()
        times = [child.retry_at - now for child in self._children if child.state is State.BACKOFF]
        times += [_LOOK for child in self._children if child.state is State.STARTING]
        due = self._look()
        times += [] if due is None else [due]
        self._vigil.wait(max(0.0, min(times)) if times else None)

    def _fetch(self) -> None:
        """Takes leave of every child that has ended."""
        ended = self._vigil.fetch()
        for writer in [writer for writer in self._writers if writer.pid in ended]:
            writer.returncode = ended[writer.pid]
            self._writers.remove(writer)
        for child in self._children:
            if child.process is not None and child.process.pid in ended:
                child.process.returncode = ended[child.process.pid]

    def _advance(self, child: _Child, listening: set[int]) -> None:
        """What is to happen to one service now."""
        now = time.monotonic()
        if child.state in {State.STARTING, State.READY} and child.process and child.process.returncode is not None:
            self._has_ended(child, child.process.returncode)
        elif child.state is State.BACKOFF and now >= child.retry_at:
            self._happens(child, Happening.RETRY)
        elif child.state is State.STARTING:
            child.reserved.let_go(listening)
            if self._is_ready(child, listening):
                self._happens(child, Happening.ANSWERED)
            elif not child.was_late and now - child.since > child.plan.service.ready_within:
                child.was_late = True
                self._say(child, f"is not ready after {child.plan.service.ready_within} s; it goes on trying")

    def _is_ready(self, child: _Child, listening: set[int]) -> bool:
        service = child.plan.service
        if child.notices is not None:
            child.has_notified |= child.notices.has_ready()
        seen = readiness.Surroundings(child.plan.port, child.plan.output.log, child.log_start, child.has_notified)
        return readiness.is_ready(service.ready, seen, listening)

    def _has_ended(self, child: _Child, code: int) -> None:
        """Its first process has: what else there is of it is ended, so that nobody keeps its port."""
        service = child.plan.service
        tree.end(lambda: self._members(child.name), service.grace, between=self._fetch, hurry=lambda: self._vigil.signals > 0)
        restart = service.restart
        if code == 0 and restart is not Restart.ALWAYS:
            self._happens(child, Happening.DONE)
            return
        if child.state is State.READY and time.monotonic() - child.since >= self._rules.forgiven_after:
            child.failures = 0
        child.failures += 1
        how = f"exit code {code}" if code >= 0 else f"signal {-code}"
        wait = pause(child.failures, self._rules) if restart is not Restart.NEVER else None
        child.retry_at = time.monotonic() + (wait or 0.0)
        more = f"; started again in {wait:g} s" if wait is not None else f"; failed {child.failures} times"
        self._happens(child, Happening.FAILED, f"has ended with {how}{more}")
        if wait is None:
            self._happens(child, Happening.GIVE_UP, child.text)

    def _happens(self, child: _Child, happening: Happening, text: str = "") -> None:
        """Moves a service, writes it down, and does what belongs to its new state."""
        child.state, child.since, child.text = next_state(child.state, happening), time.monotonic(), text
        if child.state is State.STARTING:
            child.was_late = child.has_notified = False
            self._spawn(child)
        self._say(child, child.text)

    def _say(self, child: _Child, text: str) -> None:
        child.text = text
        self._current = replace(self._current, services={one.name: one.record() for one in self._children})
        with suppress(errors.State):  # a full disk is no reason to leave anybody without a supervisor
            tenure.write(self._workspace, self._current)
        self._tell(child.name, child.state, text)

    def _spawn(self, child: _Child) -> None:
        plan, service = child.plan, child.plan.service
        if service.listen is Listen.RESERVE and not child.handed:
            child.reserved.close()
            child.reserved = Reservations.of([plan.port])
        environ = {**plan.environ, tree.VARIABLE: tree.tag(self._current.start_id, child.name)}
        if service.ready.kind is ReadyKind.NOTIFY:
            child.notices = child.notices or readiness.Notices.open()
            environ["NOTIFY_SOCKET"] = child.notices.name
        with suppress(OSError):
            child.log_start = plan.output.log.stat().st_size
        try:
            child.process, writer = spawn(plan.argv, environ, plan.folder, plan.output, child.handed)
        except errors.Command as error:
            child.failures += 1
            child.state = next_state(next_state(State.STARTING, Happening.FAILED), Happening.GIVE_UP)
            child.text = error.message
            return
        child.start_time = start_time_and_state(child.process.pid)[0]
        self._writers.append(writer)

    def _members(self, service: str | None = None) -> list[tree.Process]:
        chosen = [(child.process, child.start_time) for child in self._children if service in {None, child.name}]
        leaders = {process.pid: started for process, started in chosen if process and process.returncode is None}
        writers = {writer.pid for writer in self._writers}
        launcher = os.getpid() if service is None else None
        found = tree.members(self._current.start_id, leaders, service, adopted_by=launcher)
        return [one for one in found if one.pid not in writers]

    def _end_all(self) -> None:
        """SIGTERM, grace, SIGKILL, until nothing of it is left; then the log writers have the rest."""
        for child in self._children:
            child.reserved.close()
            if child.state.runs or child.state is State.BACKOFF:
                self._happens(child, Happening.STOP, child.text)
        asked = self._vigil.signals
        grace = max((child.plan.service.grace for child in self._children), default=0)
        left = tree.end(self._members, grace, between=self._fetch, hurry=lambda: self._vigil.signals > asked)
        self._vigil.await_end(self._writers, _WRITERS_PATIENCE, self._fetch)
        for child in self._children:
            if child.notices:
                child.notices.close()
            if child.state is State.STOPPING and not left:
                self._happens(child, Happening.ENDED)
        if left:
            what = ", ".join(f"{one.pid} ({one.command})" for one in left)
            raise errors.State.at(self._workspace, f"could not end {what}", hint="end them by hand")
