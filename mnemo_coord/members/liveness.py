"""The verdict: what the evidence says of an instance.

Death is proved, never inferred from age. The kernel frees the lock of a process when it ends, however it ends; that, another
boot, or a process that is provably gone or another one, makes an instance *dead*. Everything short of proof leaves it alive:
an old heartbeat makes it *stalled*, a stopped process *paused*. `decide` is a pure function of the evidence; `examine`
gathers it. The order of the questions is that of docs/concepts/liveness.md.
"""

from __future__ import annotations

import errno
import os
import select
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from mnemo_coord.disk.clock import Clock, namespace
from mnemo_coord.disk.file_system import unreliable_file_system
from mnemo_coord.disk.locks import Descriptor
from mnemo_coord.disk.probes import LockState, Probe, probe
from mnemo_coord.disk.state_dir import INSTANCES, StateDir
from mnemo_coord.members.identity import ProcessIdentity, lock_name, machine, start_time_and_state

if TYPE_CHECKING:
    from mnemo_coord.members.heartbeat import Beat
    from mnemo_coord.members.registration import Registration

__all__ = ["Evidence", "KeptProcesses", "ProcessState", "Verdict", "await_end", "decide", "examine", "observe"]

_AWAITED: Final = 16
"""Processes whose end is waited for at a time, or that are kept in sight: each costs a descriptor."""


class Verdict(StrEnum):
    """What the evidence says of an instance."""

    ALIVE = "alive"
    STALLED = "stalled"
    """It lives, and its heartbeat is older than three intervals."""
    PAUSED = "paused"
    """It lives, and its process is stopped (SIGSTOP, a debugger)."""
    DEAD = "dead"
    """Proved: it may be reaped."""
    UNTRUSTED = "untrusted"
    """Its entry is not signed with this fleet's key: it is kept, shown and never obeyed."""
    FOREIGN = "foreign"
    """It registered on another machine: nothing here can prove anything about it."""

    @property
    def lives(self) -> bool:
        """Whether messages for it are accepted."""
        return self in _LIVING


# Naming a member costs Python 3.11 a function call, and a list of a thousand names ten of them for each.
_ALIVE, _STALLED, _PAUSED, _DEAD, _FOREIGN = Verdict.ALIVE, Verdict.STALLED, Verdict.PAUSED, Verdict.DEAD, Verdict.FOREIGN
_LIVING: Final = frozenset({_ALIVE, _STALLED, _PAUSED})


class ProcessState(StrEnum):
    """What became of the recorded process."""

    SAME = "same"
    """It runs."""
    STOPPED = "stopped"
    """It runs and is stopped."""
    EXITED = "exited"
    """It has ended: a zombie."""
    GONE = "gone"
    """No process has its number, or another one has."""
    UNKNOWN = "unknown"
    """Not to be seen from here: another PID namespace, or the system refuses to say."""


_SAME, _STOPPED, _FREE = ProcessState.SAME, ProcessState.STOPPED, LockState.FREE
_ENDED: Final = frozenset({ProcessState.EXITED, ProcessState.GONE})
_RUNNING: Final = frozenset({_SAME, _STOPPED})


class Evidence(NamedTuple):
    """Everything that a verdict rests on."""

    same_machine: bool
    same_boot: bool
    lock: LockState
    """Unknown where the process tells enough."""
    lock_replaced: bool
    """The lock file there is not the one that was registered."""
    process: ProcessState
    beat_age: float | None
    """Seconds since the last heartbeat of this boot; None where there is none."""


def decide(evidence: Evidence, stalled_after: float) -> Verdict:
    """The verdict on an instance whose registration is properly signed. ``stalled_after`` is in seconds."""
    if not evidence.same_machine:
        return _FOREIGN
    if not evidence.same_boot or evidence.process in _ENDED:
        return _DEAD
    if evidence.lock is _FREE and not evidence.lock_replaced and evidence.process not in _RUNNING:
        return _DEAD
    # A free lock whose very process still runs is a lock that its owner lost (closed behind its back); it takes it again.
    if evidence.process is _STOPPED:
        return _PAUSED
    if evidence.beat_age is None or evidence.beat_age > stalled_after:
        return _STALLED
    return _ALIVE


def examine(
    state: StateDir, registration: Registration, beat: Beat | None, clock: Clock, *, fresh: float | None = None
) -> Evidence:
    """Gathers the evidence on one instance.

    With ``fresh`` it is also looked whether the process is stopped, which is for display, unless the last heartbeat is younger
    than so many seconds: who is stopped does not beat, and looking costs a third of the whole.
    """
    own_boot = clock.boot_id
    process = registration.process
    same_boot = not own_boot or not process.boot_id or process.boot_id == own_boot
    same_machine = process.machine == machine()
    if not (same_machine and same_boot):
        return _evidence(_NOT_ASKED, registration, ProcessState.UNKNOWN, None, same_machine=same_machine, same_boot=same_boot)
    age = _age(beat, clock)
    became = observe(process, thorough=fresh is not None and (age is None or age >= fresh))
    # Of a process that is seen to run, or to have ended, the lock proves nothing more, and asking for it costs as much again.
    seen = _lock(state, registration) if became is ProcessState.UNKNOWN else _NOT_ASKED
    return _evidence(seen, registration, became, age, same_machine=same_machine, same_boot=same_boot)


_NOT_ASKED: Final = Probe(state=LockState.UNKNOWN)


def _lock(state: StateDir, registration: Registration) -> Probe:
    folder = state.folder(INSTANCES)
    seen = probe(lock_name(registration.instance_id), dir_fd=folder)
    if seen.state is _FREE and unreliable_file_system(folder):
        return Probe(state=LockState.UNKNOWN, identity=seen.identity)  # there a free lock proves nothing
    return seen


def _evidence(
    seen: Probe,
    registration: Registration,
    process: ProcessState,
    age: float | None,
    *,
    same_machine: bool,
    same_boot: bool,
) -> Evidence:
    return Evidence(
        same_machine=same_machine,
        same_boot=same_boot,
        lock=seen.state,
        lock_replaced=seen.identity is not None and seen.identity != registration.lock,
        process=process,
        beat_age=age,
    )


def _age(beat: Beat | None, clock: Clock) -> float | None:
    if beat is None or (clock.boot_id and beat.boot_id != clock.boot_id):
        return None
    # Another time namespace shifts the clock: an age below zero says nothing, and is shown as none at all.
    return max(0.0, (clock.age_ns() - beat.age_ns) / 1e9)


def observe(process: ProcessIdentity, *, thorough: bool = True) -> ProcessState:
    """What became of a process. Sends no signal, and never takes another process for the recorded one."""
    opened = _open(process)
    if isinstance(opened, ProcessState):
        return opened
    try:
        if _ended([opened], 0.0):
            return ProcessState.EXITED
        return _STOPPED if thorough and start_time_and_state(process.pid)[1] in {"T", "t"} else _SAME
    finally:
        os.close(opened)


def await_end(processes: Mapping[str, ProcessIdentity], timeout: float) -> dict[str, ProcessState]:
    """What became of some processes as soon as one of them has ended, or after ``timeout`` seconds.

    Where one has ended already, or cannot be seen from here, there is no waiting; nor where there are many.
    """
    if len(processes) > _AWAITED:
        return dict.fromkeys(processes, ProcessState.UNKNOWN)
    opened = {key: _open(process) for key, process in processes.items()}
    fds = [found for found in opened.values() if not isinstance(found, ProcessState)]
    try:
        ended = _ended(fds, timeout if len(fds) == len(opened) else 0.0)
    finally:
        for fd in fds:
            os.close(fd)
    states = dict.fromkeys(fds, ProcessState.SAME) | dict.fromkeys(ended, ProcessState.EXITED)
    return {key: found if isinstance(found, ProcessState) else states[found] for key, found in opened.items()}


class KeptProcesses:
    """Processes that are asked about again and again: their pidfds stay open, and one call answers.

    Used by one thread at a time.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[ProcessIdentity, Descriptor] = OrderedDict()
        self._together: tuple[Sequence[Registration], select.poll] | None = None

    def look(self, process: ProcessIdentity) -> ProcessState:
        """What became of a process: it runs (and may be stopped), has ended, or cannot be seen."""
        kept = self._kept.get(process)
        if kept is None or not kept.is_open:  # closed behind our back: its number may be somebody else's
            opened = _open(process)
            if isinstance(opened, ProcessState):
                return opened
            kept = self._keep(process, opened)
        if not _ended([kept.fd], 0.0):
            return _SAME
        self._together = None
        self._kept.pop(process).close()
        return ProcessState.EXITED

    def are_running(self, registrations: Sequence[Registration]) -> bool:
        """Whether the processes of all of these are kept, and run. False may also mean that `look` has to be asked for each.

        As long as it is the same list, this is one call, and a number that was closed behind our back and is another file's by
        now is not noticed: `look` notices.
        """
        if self._together is None or self._together[0] is not registrations:
            kept = [self._kept.get(registration.process) for registration in registrations]
            fds = [one.fd for one in kept if one is not None and one.is_open]
            if len(fds) < len(kept):
                return False
            self._together = registrations, _polling(fds)
        return not self._together[1].poll(0)

    def _keep(self, process: ProcessIdentity, fd: int) -> Descriptor:
        self._together = None
        self._kept[process] = kept = Descriptor(fd)
        if len(self._kept) > _AWAITED:
            self._kept.popitem(last=False)[1].close()
        return kept

    def close(self) -> None:
        """Closes all of them."""
        self._together = None
        while self._kept:
            self._kept.popitem()[1].close()


def _ended(pidfds: list[int], timeout: float) -> list[int]:
    """Those of them that are readable: a zombie still answers kill(pid, 0); its pidfd says that it has ended."""
    return [fd for fd, _ in _polling(pidfds).poll(timeout * 1000)] if pidfds else []


def _polling(pidfds: list[int]) -> select.poll:
    poll = select.poll()
    for fd in pidfds:
        poll.register(fd, select.POLLIN)
    return poll


def _open(process: ProcessIdentity) -> int | ProcessState:
    """A pidfd of the very process that was recorded, or what is known without one."""
    if not process.pid_namespace or process.pid_namespace != namespace("pid"):
        return ProcessState.UNKNOWN
    try:
        fd = _pidfd(process.pid)
    except ProcessLookupError:
        return ProcessState.GONE
    if fd is None:
        return ProcessState.UNKNOWN
    if not _is_another(fd, process):
        return fd
    os.close(fd)
    return ProcessState.GONE


def _pidfd(pid: int) -> int | None:
    """A pidfd, or None where there is no telling. ESRCH is raised: it is the one certain answer."""
    for _ in range(3):
        try:
            return os.pidfd_open(pid)
        except ProcessLookupError:
            raise
        except OSError as error:
            if error.errno != errno.EINVAL:  # a race with its exit (giampaolo/psutil#2715): ask again
                return None
        except AttributeError:
            return _portable(pid)
    return None


def _portable(pid: int) -> int | None:
    with suppress(ImportError):
        import psutil

        if not psutil.pid_exists(pid):
            raise ProcessLookupError
    return None


def _is_another(fd: int, process: ProcessIdentity) -> bool:
    if process.pidfd_inode:
        return os.fstat(fd).st_ino != process.pidfd_inode
    if not process.start_time or process.time_namespace != namespace("time"):
        return False
    found = start_time_and_state(process.pid)[0]
    return found not in {0, process.start_time}
