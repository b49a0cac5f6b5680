"""Who runs an instance: what a start writes into its workspace, and what can be said of it later, whatever became of it.

::

    <workspace>/.instance.lock    kernel lock, held while somebody starts or stops the instance; never removed
    <workspace>/.instance.pid     process number of the launcher and when it started: for people and scripts
    <workspace>/.instance.json    {"version":1,"start_id":…,"launcher":{…},…,"services":{"web":{"state":…}}}

Nobody is signalled because of a number in a file. The launcher is compared with its whole recorded identity; its services
are found by the number that was drawn for the start (`mnemo_coord.supervise.tree`), which is written down before the first of
them is started. So whatever is killed, and when, the next command can tell what is left.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from mnemo_coord import errors
from mnemo_coord.disk import files, locks, probes
from mnemo_coord.disk.clock import Clock, SystemClock, rfc3339
from mnemo_coord.members.identity import ProcessIdentity
from mnemo_coord.members.liveness import ProcessState, observe
from mnemo_coord.supervise import tree
from mnemo_coord.supervise.states import State

__all__ = ["ServiceRecord", "Status", "Tenure", "begin", "clear", "look", "starting", "write"]

_LOCK: Final = ".instance.lock"
_PID: Final = ".instance.pid"
_RECORD: Final = ".instance.json"
_LIMIT: Final = 256 * 1024
"""Bytes."""


class Status(StrEnum):
    """What can be said of an instance."""

    RUNNING = "running"
    STARTING = "starting"
    """Its launcher runs, and not all of its services are ready; or somebody holds the start lock."""
    STOPPED = "stopped"
    ORPHANED = "orphaned"
    """Its launcher is gone, and something that it started still runs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceRecord:
    """What is known of a service."""

    state: State
    pid: int | None = None
    """That of its first process, the leader of its session."""
    start_time: int = 0
    """Clock ticks after boot at which that started."""
    port: int | None = None
    text: str = ""
    """Why it is not what it should be."""

    @property
    def is_coming(self) -> bool:
        """Whether it may be ready soon; what is late has a text."""
        return self.state is State.BACKOFF or (self.state is State.STARTING and not self.text)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tenure:
    """One start of an instance, and what became of it."""

    status: Status
    start_id: str = ""
    launcher: ProcessIdentity | None = None
    since: str = ""
    detached: bool = False
    grace: int = 10
    """Seconds between SIGTERM and SIGKILL."""
    services: Mapping[str, ServiceRecord] = field(default_factory=dict)

    @property
    def pid(self) -> int | None:
        """The launcher's, while it runs; of what is orphaned the first process that still does."""
        if self.status in {Status.RUNNING, Status.STARTING} and self.launcher:
            return self.launcher.pid
        return next((one.pid for one in self.processes()), None) if self.status is Status.ORPHANED else None

    def processes(self) -> list[tree.Process]:
        """All processes that came of this start and still run, the launcher and the calling process not among them."""
        if not self.start_id:
            return []
        leaders = {one.pid: one.start_time for one in self.services.values() if one.pid is not None}
        launcher = self.launcher.pid if self.launcher else None
        return [one for one in tree.members(self.start_id, leaders) if one.pid != launcher]


def look(workspace: Path) -> Tenure:
    """What can be said of the instance in a workspace. Changes nothing, signals nobody.

    Raises:
        errors.State: the record cannot be read, is damaged, or is not ours.
    """
    try:
        folder = files.open_dir(str(workspace))
    except FileNotFoundError:
        return Tenure(status=Status.STOPPED)
    except errors.Untrusted as error:
        raise errors.Untrusted.at(workspace, error.reason) from None
    except OSError as error:
        raise errors.State.at(workspace, (error.strerror or str(error)).lower()) from None
    with files.opened(folder):
        lock = probes.probe(_LOCK, dir_fd=folder).state
        found = _read(folder, workspace)
    if found is None:
        return Tenure(status=Status.STARTING if lock is probes.LockState.HELD else Status.STOPPED)
    return found


def _read(folder: int, workspace: Path) -> Tenure | None:
    try:
        body = json.loads(files.read_bounded(_RECORD, _LIMIT, dir_fd=folder))
        if body["version"] != 1:
            raise ValueError("not version 1")
        launcher = ProcessIdentity(**body["launcher"])
        services = {
            name: ServiceRecord(**{**one, "state": State(one["state"])}) for name, one in dict(body["services"]).items()
        }
        known = Tenure(
            status=Status.RUNNING,
            start_id=str(body["start_id"]),
            launcher=launcher,
            since=str(body["since"]),
            detached=bool(body["detached"]),
            grace=int(body["grace"]),
            services=services,
        )
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise errors.Damaged.at(workspace / _RECORD, f"is damaged ({error!r})", hint="move it away") from None
    return _judged(known, launcher)


def _judged(known: Tenure, launcher: ProcessIdentity) -> Tenure:
    if launcher.boot_id != SystemClock().boot_id:
        return replace(known, status=Status.STOPPED)
    if observe(launcher) in {ProcessState.SAME, ProcessState.STOPPED, ProcessState.UNKNOWN}:
        ready = all(one.state in {State.READY, State.EXITED} for one in known.services.values())
        return replace(known, status=Status.RUNNING if ready else Status.STARTING)
    return replace(known, status=Status.ORPHANED if known.processes() else Status.STOPPED)


@contextmanager
def starting(name: str, workspace: Path, timeout: float) -> Iterator[None]:
    """Holds the start lock of a workspace for a block: nobody else starts or stops the instance meanwhile.

    Raises:
        errors.Conflict: somebody else has held it for ``timeout`` seconds.
        errors.State: it cannot be made, or is not ours.
    """
    try:
        folder = files.open_dir(str(workspace))
        with files.opened(folder):
            held = locks.Descriptor(locks.open_lock_file(_LOCK, folder))
    except errors.Untrusted as error:
        raise errors.Untrusted.at(workspace / _LOCK, error.reason) from None
    except OSError as error:
        raise errors.State.at(workspace / _LOCK, (error.strerror or str(error)).lower()) from None
    try:
        if not locks.take_descriptor(held.fd, timeout):
            pid = locks.holder_pid(held.fd)
            raise errors.Conflict(
                f"Instance {name!r} startup in progress by another process",
                hint="Wait a few seconds or check if another terminal is starting this instance.",
                holder=pid,
            )
        yield
    finally:
        held.close()


def begin(workspace: Path, clock: Clock, *, detached: bool, grace: int) -> Tenure:
    """Writes down that this process launches the instance now, before anything of it is started."""
    since = rfc3339(clock.wall_ns())
    fresh = Tenure(
        status=Status.STARTING,
        start_id=os.urandom(8).hex(),
        launcher=ProcessIdentity.own(clock),
        since=since,
        detached=detached,
        grace=grace,
    )
    write(workspace, fresh)
    _put(workspace, _PID, f"{os.getpid()} {since}\n".encode())
    return fresh


def write(workspace: Path, tenure: Tenure) -> None:
    """Writes the record anew, whole or not at all.

    Raises:
        errors.State: it cannot be written.
    """
    services = {
        name: {"state": one.state, "pid": one.pid, "start_time": one.start_time, "port": one.port, "text": one.text}
        for name, one in tenure.services.items()
    }
    body: dict[str, Any] = {
        "version": 1,
        "start_id": tenure.start_id,
        "launcher": tenure.launcher.to_body() if tenure.launcher else None,
        "since": tenure.since,
        "detached": tenure.detached,
        "grace": tenure.grace,
        "services": services,
    }
    _put(workspace, _RECORD, json.dumps(body).encode() + b"\n")


def _put(workspace: Path, name: str, data: bytes) -> None:
    try:
        folder = files.open_dir(str(workspace))
        with files.opened(folder):
            files.replace(name, data, dir_fd=folder, writer=str(os.getpid()))
    except OSError as error:
        raise errors.State.at(workspace / name, (error.strerror or str(error)).lower()) from None


def clear(workspace: Path) -> None:
    """Removes the record and the PID file, once nothing of the start runs any more."""
    with suppress(FileNotFoundError):
        folder = files.open_dir(str(workspace))
        with files.opened(folder):
            for name in (_PID, _RECORD):
                files.remove(name, dir_fd=folder)
