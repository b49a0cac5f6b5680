"""The reaper: clears away what a dead instance left, once, and nothing of a live one.

What is done can be repeated from any point at which the reaper itself dies: messages it had claimed go back, its claims are
recorded as free, its entry leaves the registry, its heartbeat and lock file are removed. Two locks guard it: ``reaper``, so
that one process does the work, and the dead one's own lock, shared, so that nothing can come to life under that id meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from mnemo_coord import errors
from mnemo_coord.disk import files, locks, probes
from mnemo_coord.disk.files import CrashPoint
from mnemo_coord.disk.state_dir import INSTANCES, StateDir
from mnemo_coord.events import EventKind
from mnemo_coord.findings import Finding, Severity
from mnemo_coord.members import heartbeat, token
from mnemo_coord.members.identity import is_id, lock_name
from mnemo_coord.members.liveness import KeptProcesses, ProcessState, Verdict, decide, examine

if TYPE_CHECKING:
    from mnemo_coord.disk.clock import Clock
    from mnemo_coord.members.registration import Registration
    from mnemo_coord.members.registry import Registry

__all__ = ["Reaper", "Release", "check"]

Release = Callable[[str], None]
"""Takes back what the instance with this id held in one room. Idempotent; called while nobody can take its lock."""


class Reaper:
    """Reaps in one fleet. The rooms that an instance can hold something in are given as ``releases``."""

    def __init__(self, registry: Registry, clock: Clock, releases: Sequence[Release], stalled_after: float) -> None:
        self._registry = registry
        self._state: StateDir = registry.state
        self._clock = clock
        self._releases = releases
        self._stalled_after = stalled_after
        self._probes = probes.KeptProbes()
        self._processes = KeptProcesses()

    def verdict(self, registration: Registration, *, thorough: bool = False) -> Verdict:
        """The verdict on one registration, now."""
        beat = heartbeat.read(self._state, self._registry.signer, registration.instance_id)
        evidence = examine(self._state, registration, beat, self._clock, fresh=0.0 if thorough else None)
        return decide(evidence, self._stalled_after)

    def receives(self, registration: Registration, *, once: bool = False) -> bool:
        """Whether a message for it is worth writing: its lock is held, or all the evidence together says that it lives.

        The lock alone settles nearly every case, at a tenth of the cost of the verdict, and every message asks. Should a
        forked child hold the lock of a dead parent, the message goes to the dead letters when that is noticed.
        """
        return self.holds(registration, once=once) or self.verdict(registration).lives

    def holds(self, registration: Registration, *, once: bool = False) -> bool:
        """Whether its lock is held. False may also mean that it cannot be told. ``once``: it is not asked again soon."""
        ask = self._probes.peek if once else self._probes.is_held
        return ask(lock_name(registration.instance_id), registration.lock, dir_fd=self._state.folder(INSTANCES))

    def is_safe(self, registration: Registration) -> bool:
        """Whether a verdict on it would not be *dead*: its process runs, or its lock is held and its process not to be seen.

        At a fiftieth of the cost of the verdict.
        """
        became = self._processes.look(registration.process)
        return became is ProcessState.SAME or (became is ProcessState.UNKNOWN and self.holds(registration))

    def are_safe(self, registrations: Sequence[Registration]) -> bool:
        """Whether all of them are safe. One call tells it of a list that is asked about again and again."""
        return self._processes.are_running(registrations) or all(map(self.is_safe, registrations))

    def close(self) -> None:
        """Closes what it keeps open."""
        self._probes.close()
        self._processes.close()

    def reap(self, registrations: Iterable[Registration], timeout: float) -> list[Registration]:
        """Reaps those of them that are dead, and returns them.

        ``timeout`` is how many seconds another process may be at it before this one leaves it to that one.
        """
        candidates = list(registrations)
        if not candidates:
            return []
        try:
            with locks.hold(self._state, "reaper", timeout):
                files.crash_point(CrashPoint.REAP_LOCKED)
                return [registration for registration in candidates if self._reap(registration)]
        except errors.TimedOut:
            return []

    def _reap(self, registration: Registration) -> bool:
        if not self.is_registered(registration) or self.verdict(registration) is not Verdict.DEAD:
            return False
        # Not to be had where a forked child still holds it: the id is dead all the same, and is not drawn again while
        # the file exists, so the file stays until the child has ended too.
        fd = probes.share(lock_name(registration.instance_id), dir_fd=self._state.folder(INSTANCES))
        try:
            self._release(registration.instance_id)
            self._registry.remove(registration, EventKind.INSTANCE_DIED)
            files.crash_point(CrashPoint.REAP_RECORD_REMOVED)
            self._remove_files(registration.instance_id, with_lock=fd is not None)
        finally:
            if fd is not None:
                os.close(fd)
        return True

    def _release(self, instance_id: str) -> None:
        for release in self._releases:
            release(instance_id)
        files.crash_point(CrashPoint.REAP_MESSAGES_RETURNED)

    def _remove_files(self, instance_id: str, *, with_lock: bool) -> None:
        folder = self._state.folder(INSTANCES)
        files.remove(heartbeat.beat_name(instance_id), dir_fd=folder)
        files.remove(token.token_name(instance_id), dir_fd=folder)
        files.remove(f"{instance_id}{heartbeat.TRAFFIC_SUFFIX}", dir_fd=folder)
        if with_lock:
            files.remove(lock_name(instance_id), dir_fd=folder)

    def is_registered(self, registration: Registration) -> bool:
        """Whether this very registration is in the registry now."""
        entry = self._registry.read().get(registration.instance_id)
        return entry is not None and entry.registration == registration

    def leftovers(self) -> list[str]:
        """Ids whose lock file is there and free although nobody is registered under them."""
        registered = self._registry.read()
        names = (name.removesuffix(".lock") for name in self._state.listing(INSTANCES) if name.endswith(".lock"))
        return [name for name in names if is_id(name) and name not in registered and self._is_free(name)]

    def may_return(self, instance_id: str) -> bool:
        """Whether an id whose lock is free is registered, or has lost its lock and its entry and still runs.

        Then its lock file holds its record, and it will come back.
        """
        if instance_id in self._registry.read():
            return True
        original = self._registry.original(instance_id)
        return original is not None and self.verdict(original) is not Verdict.DEAD

    def holds_lock(self, instance_id: str) -> bool:
        """Whether the lock of an id is held, whoever is registered."""
        seen = probes.probe(lock_name(instance_id), dir_fd=self._state.folder(INSTANCES))
        return seen.state is probes.LockState.HELD

    def _is_free(self, instance_id: str) -> bool:
        seen = probes.probe(lock_name(instance_id), dir_fd=self._state.folder(INSTANCES))
        return seen.state is probes.LockState.FREE

    def clear(self, instance_id: str, timeout: float = 0.0) -> bool:
        """Removes what an id without a registration left: a start that died half way, a `receive` that was killed.

        ``timeout`` is how many seconds another process may be at it before this one leaves it to that one.
        """
        try:
            with locks.hold(self._state, "reaper", timeout):
                return self._clear(instance_id)
        except errors.TimedOut:
            return False

    def _clear(self, instance_id: str) -> bool:
        fd = probes.share(lock_name(instance_id), dir_fd=self._state.folder(INSTANCES))
        if fd is None:
            return False
        with files.opened(fd):
            # RACE: it may have registered between the look and the lock; then its lock would be held, not ours. But a
            # registration that died in between is the reaper's.
            if self.may_return(instance_id):
                return False
            self._release(instance_id)
            self._remove_files(instance_id, with_lock=True)
        return True


def check(reaper: Reaper, registry: Registry, *, fix: bool = False) -> list[Finding]:
    """Dead, stalled and untrusted entries, and what starts that failed left behind."""
    found = []
    for instance_id, entry in sorted(registry.read().items()):
        if entry.registration is None:
            found.append(_untrusted(instance_id))
        else:
            found.extend(_judged(reaper, entry.registration, fix=fix))
    return found + [_leftover(reaper, instance_id, fix=fix) for instance_id in reaper.leftovers()]


def _untrusted(instance_id: str) -> Finding:
    return Finding(
        code="entry-untrusted",
        severity=Severity.WARNING,
        subject=instance_id,
        message="its entry is not signed with this fleet's key; it is kept and not obeyed",
        hint="if it is yours, start it again with the same secret; else remove the entry from process_registry.json",
    )


def _judged(reaper: Reaper, registration: Registration, *, fix: bool) -> list[Finding]:
    verdict = reaper.verdict(registration, thorough=True)
    pid = registration.process.pid
    if verdict is Verdict.DEAD:
        finding = Finding(
            code="instance-dead",
            severity=Severity.ERROR,
            subject=registration.instance_id,
            message=f"its process {pid} has ended without leaving",
            hint="`mnemosyne doctor --fix` frees what it held",
        )
        # RACE: a live peer may have been faster; then the registry says so.
        mended = fix and (bool(reaper.reap([registration], timeout=10.0)) or not reaper.is_registered(registration))
        return [finding.mended() if mended else finding]
    if verdict in _REMARKS:
        severity, code, message, hint = _REMARKS[verdict]
        subject = registration.instance_id
        return [Finding(code=code, severity=severity, subject=subject, message=message.format(pid=pid), hint=hint)]
    return []


_REMARKS = {
    Verdict.STALLED: (
        Severity.WARNING,
        "instance-stalled",
        "process {pid} lives and has not beaten for three intervals",
        "look at what it does; it keeps what it holds",
    ),
    Verdict.PAUSED: (
        Severity.NOTICE,
        "instance-paused",
        "process {pid} is stopped",
        "`kill -CONT` wakes it; it keeps what it holds",
    ),
    Verdict.FOREIGN: (
        Severity.NOTICE,
        "instance-foreign",
        "it registered on another machine",
        "only that machine can tell whether it lives",
    ),
}


def _leftover(reaper: Reaper, instance_id: str, *, fix: bool) -> Finding:
    finding = Finding(
        code="leftover-lock",
        severity=Severity.WARNING,
        subject=f"{INSTANCES}/{lock_name(instance_id)}",
        message="belongs to a start that did not finish",
        hint="`mnemosyne doctor --fix` removes it",
    )
    return finding.mended() if fix and reaper.clear(instance_id, timeout=10.0) else finding
