"""Starting and stopping an instance as a whole: one tree of processes on a workspace, never two, and nothing left of it."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mnemo_coord import errors
from mnemo_coord.disk.clock import Clock, SystemClock
from mnemo_coord.instances.service_ports import ServicePorts
from mnemo_coord.instances.services import Service
from mnemo_coord.instances.templates import fill
from mnemo_coord.supervise import tenure, tree
from mnemo_coord.supervise.spawn import Output
from mnemo_coord.supervise.states import RestartRules, State
from mnemo_coord.supervise.supervisor import Plan, Supervisor
from mnemo_coord.supervise.tenure import Status, Tenure

__all__ = ["Launch", "entered", "launch", "plan", "stop"]

_LOCK_PATIENCE: Final = 5.0
"""Seconds that a second starter waits for the first."""
_LAUNCHER_PATIENCE: Final = 15.0
"""Seconds beyond the grace of its services, after which a launcher that does not end is killed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """What is to be started."""

    name: str
    workspace: Path
    plans: Sequence[Plan]
    detached: bool = False


def plan(
    service: Service, argv: Sequence[str], environ: Mapping[str, str], ports: Mapping[str, int], folder: Path, output: Output
) -> Plan:
    """How a service is run: ``$NAME`` in its words stands for a variable, and ``PORT`` is its own port."""
    variables = {**environ, "PORT": str(ports[service.name])}
    words = tuple(fill(word, variables, variables) for word in argv)
    return Plan(service=service, argv=words, environ=variables, folder=folder, port=ports[service.name], output=output)


@contextmanager
def entered(name: str, workspace: Path) -> Iterator[ExitStack]:
    """Holds the start lock of an instance that does not run; what a launcher that was killed has left is ended first.

    The lock is given up at the end of the block, or earlier by closing what is returned.

    Raises:
        errors.Conflict: it runs already, or somebody else is starting it.
        errors.State: the workspace cannot be used, or something could not be ended.
    """
    with ExitStack() as lock:
        lock.enter_context(tenure.starting(name, workspace, _LOCK_PATIENCE))
        before = tenure.look(workspace)
        if before.status in {Status.RUNNING, Status.STARTING} and before.pid:
            raise errors.Conflict(
                f"Instance {name!r} is already running (PID {before.pid})",
                hint=f"`mnemosyne stop {name}` ends it",
                holder=before.pid,
            )
        _end_survivors(workspace, before)
        tenure.clear(workspace)
        yield lock


def launch(
    what: Launch,
    tell: Callable[[str, State, str], None],
    settled: Callable[[bool], None],
    *,
    look: Callable[[], float | None] = lambda: None,
    clock: Clock | None = None,
    rules: RestartRules | None = None,
) -> bool:
    """Starts the services of an instance that was `entered` and supervises them until they end.

    ``settled`` is called once none is starting any more, or one is late. ``look`` is called after everything that happens, and
    says in how many seconds it wants to be called at the latest. Returns whether all ended as they were meant to.

    Raises:
        errors.Conflict: a port is taken.
        errors.State: the workspace cannot be used, or something could not be ended.
    """
    services, by_name = [plan.service for plan in what.plans], {plan.service.name: plan.port for plan in what.plans}
    with ServicePorts.keep(services, by_name) as ports:
        ports.refuse()
        ports.reserved.close()  # each is reserved again for its service, at once
        grace = max((service.grace for service in services), default=0)
        current = tenure.begin(what.workspace, clock or SystemClock(), detached=what.detached, grace=grace)
        well = Supervisor(what.plans, what.workspace, current, ports.handed, tell, rules, look).run(settled)
        tenure.clear(what.workspace)
        return well


def _end_survivors(workspace: Path, before: Tenure) -> None:
    left = tree.end(before.processes, before.grace)
    if left:
        who = ", ".join(f"{one.pid} ({one.command})" for one in left)
        raise errors.State.at(workspace, f"could not end {who}", hint="end them by hand")


def stop(
    name: str, workspace: Path, *, waiting: Callable[[Mapping[str, tenure.ServiceRecord]], None] = lambda _: None
) -> Tenure:
    """Ends an instance: its launcher, and whatever came of it. Returns what ran before; nothing of it runs afterwards.

    ``waiting`` is called again and again meanwhile with what is known of the services.

    Raises:
        errors.Conflict: somebody else is starting it all the time.
        errors.State: something could not be ended, or the record is damaged.
    """
    before = _begun(workspace)
    launcher = before.launcher
    if before.status in {Status.RUNNING, Status.STARTING} and launcher:
        deadline = time.monotonic() + before.grace + _LAUNCHER_PATIENCE
        tree.send(launcher.pid, launcher.start_time, signal.SIGTERM, signal.SIGCONT)
        while _same_runs(workspace, before):
            if time.monotonic() > deadline:
                tree.send(launcher.pid, launcher.start_time, signal.SIGKILL)
            waiting(tenure.look(workspace).services)
            time.sleep(0.02)  # another process: there is no waiting for it but looking
    if not before.start_id:
        return before
    with tenure.starting(name, workspace, _LOCK_PATIENCE):
        now = tenure.look(workspace)
        if now.start_id == before.start_id:
            _end_survivors(workspace, now)
            tenure.clear(workspace)
    return before


def _begun(workspace: Path) -> Tenure:
    """What is there to be stopped. A launcher that has the lock and has written nothing yet is given a moment to."""
    deadline = time.monotonic() + _LOCK_PATIENCE
    while True:
        found = tenure.look(workspace)
        if found.start_id or found.status is not Status.STARTING or time.monotonic() > deadline:
            return found
        time.sleep(0.02)


def _same_runs(workspace: Path, before: Tenure) -> bool:
    now = tenure.look(workspace)
    return now.start_id == before.start_id and now.status in {Status.RUNNING, Status.STARTING}
