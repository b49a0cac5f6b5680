"""The lookout: notices who comes, goes, dies and stalls, and tells it as events.

It is woken by the kernel with the name of a file in ``instances/``: a heartbeat that closes announces somebody, a lock file
that closes is an owner that ended. It then looks at that one instance only. Underneath, every poll looks at the registry's
version and at the `WATCHED` next living neighbours in the order of ids, as on a ring (the idea is that of SWIM's failure
detector): all of a small fleet, a constant number in a large one, so that a thousand instances cost a thousand times one and
not a million. Every instance has several who watch it, and what one of them reaps the others learn from the registry.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from mnemo_coord.disk import probes
from mnemo_coord.disk.state_dir import INSTANCES
from mnemo_coord.events import Broadcaster, EventKind
from mnemo_coord.members import history
from mnemo_coord.members.identity import is_id, lock_name
from mnemo_coord.members.liveness import ProcessState, Verdict, await_end

if TYPE_CHECKING:
    from mnemo_coord.members.reaper import Reaper
    from mnemo_coord.members.registration import Registration
    from mnemo_coord.members.registry import Entries, Registry

__all__ = ["WATCHED", "Lookout", "neighbours", "retry_delay"]

_log = logging.getLogger(__name__)

WATCHED: Final = 8
SCOUTS: Final = 16
PATIENCE: Final = 8
"""Polls that an instance may be missing, and its process run, before it is taken for gone."""
CLEARING: Final = 16
"""Polls between two looks for what nobody is registered for any more."""
_RETRIES: Final = 9
_STEP: Final = 0.02
"""Seconds that the end of a process is waited for at a time: who else rings meanwhile waits as long."""
_SUSPENSE: Final = 0.5
"""Seconds for which it is waited for in all. A process that lost its lock and runs on is no longer suspected then."""


def neighbours(ids: Iterable[str], own: str, count: int) -> list[str]:
    """The ``count`` ids that follow ``own`` on the ring of all ids, without ``own``."""
    others = sorted(set(ids) - {own})
    start = next((index for index, other in enumerate(others) if other > own), 0)
    return (others[start:] + others[:start])[:count]


def retry_delay(attempt: int) -> float | None:
    """Seconds until an instance whose lock file closed is looked at again; None when the poll may have it.

    The kernel tells of the close a moment before it frees the lock, and a dying process is seen as running until it is
    a zombie. Where its end can be waited for (`await_end`), it is, and these are not needed.
    """
    return 0.001 * 2**attempt if attempt < _RETRIES else None


@dataclass(slots=True)
class _Suspicion:
    """That an instance, whose lock file closed, has ended."""

    since: float = field(default_factory=time.monotonic)
    attempt: int = 0
    """How often it has been looked at."""


class Lookout:
    """What one process knows of its fleet, brought up to date by `look`. Used by one thread."""

    def __init__(self, registry: Registry, reaper: Reaper, events: Broadcaster, own_id: str) -> None:
        self._registry = registry
        self._reaper = reaper
        self._events = events
        self._own_id = own_id
        self._known: dict[str, Registration] = {}
        self._dead: dict[str, Registration] = {}
        self._stalled: set[str] = set()
        self._suspects: dict[str, _Suspicion] = {}
        self._version: tuple[int, ...] | None = None
        self._polls = 0
        self._near: list[Registration] | None = None
        self._rank = 0
        self._narrow = False
        self._missing: dict[str, int] = {}

    def look(self, rung: Iterable[str], *, poll: bool, judge_stalled: bool = True) -> float | None:
        """Looks at what changed. ``rung`` are names of files in ``instances/`` that closed.

        Returns the seconds after which it wants to look again although nothing rings; None to wait for the poll.
        """
        for name in rung:
            self._heed(name)
        new = [key for key, suspicion in self._suspects.items() if not suspicion.attempt]
        for instance_id in new:
            self._inspect(instance_id)
        awaited = self._await_ends(new)
        if poll:
            self._poll(judge_stalled=judge_stalled)
        delays = [0.0 if key in awaited else retry_delay(suspicion.attempt) for key, suspicion in self._suspects.items()]
        return min((delay for delay in delays if delay is not None), default=None)

    def is_quiet(self) -> bool:
        """Whether a poll would find nothing to do, as long as nobody wants to be told of anything. Counts as that poll then."""
        if not self._version or self._version != self._registry.version():
            return False
        if self._missing or self._dead or self._suspects or self._is_clearing(self._polls + 1):
            return False
        quiet = self._reaper.are_safe(self._neighbours())
        self._polls += quiet
        return quiet

    def _await_ends(self, new: list[str]) -> set[str]:
        """Waits a moment for the processes of the suspects, and looks again at those that are due. Returns the rest.

        A process needs some ten milliseconds to end after its lock file closed, and the more look meanwhile, the longer: they
        take the processor that it needs. So nobody looks before the kernel says that it has ended.
        """
        processes = {key: self._known[key].process for key in self._suspects if key in self._known}
        became = await_end(processes, _STEP if len(processes) == len(self._suspects) else 0.0) if self._suspects else {}
        awaited = set()
        for instance_id, suspicion in tuple(self._suspects.items()):
            state = became.get(instance_id, ProcessState.UNKNOWN)
            if state is ProcessState.SAME and time.monotonic() - suspicion.since < _SUSPENSE:
                awaited.add(instance_id)
            elif state is not ProcessState.UNKNOWN or instance_id not in new:
                suspicion.attempt = suspicion.attempt if state is not ProcessState.SAME else _RETRIES  # this look is the last
                self._inspect(instance_id)
        return awaited

    def _heed(self, name: str) -> None:
        instance_id, _, kind = name.partition(".")
        if not is_id(instance_id) or instance_id == self._own_id:
            return
        if instance_id not in self._known:
            self._welcome(instance_id)
        if kind == "lock":
            self._suspects[instance_id] = _Suspicion()

    def _welcome(self, instance_id: str) -> None:
        registration = self._registry.original(instance_id)
        if registration is not None and self._reaper.verdict(registration).lives:
            self._arrived(registration)

    def _arrived(self, registration: Registration) -> None:
        self._known[registration.instance_id] = registration
        self._near = None
        self._publish(EventKind.INSTANCE_REGISTERED, registration)

    def _inspect(self, instance_id: str) -> None:
        registration = self._known.get(instance_id)
        if registration is None:
            if self._clear(instance_id):
                self._suspects.pop(instance_id, None)
            else:
                self._suspect_again(instance_id)
        elif self._reaper.verdict(registration) is Verdict.DEAD:
            self._died(registration)
        elif self._has_left(instance_id):
            self._gone(registration)
        else:
            self._suspect_again(instance_id)

    def _clear(self, instance_id: str) -> bool:
        """A lock file without a registration closed: a leaving, a `receive` or a start that died. Whether it is over.

        What it had is freed here, or by whoever has the reaper's lock this instant; what both miss, `_clear_leftovers` finds.
        """
        seen = probes.probe(lock_name(instance_id), dir_fd=self._registry.state.folder(INSTANCES))
        if seen.state is probes.LockState.MISSING:
            return True
        if seen.state is not probes.LockState.FREE or self._reaper.may_return(instance_id):
            return False
        self._reaper.clear(instance_id)
        return True

    def _suspect_again(self, instance_id: str) -> None:
        suspicion = self._suspects[instance_id]
        suspicion.attempt += 1
        if retry_delay(suspicion.attempt) is None:
            del self._suspects[instance_id]

    def _has_left(self, instance_id: str) -> bool:
        """Whether it is out of the registry and holds nothing: it left, or was reaped. If not to the end, this is the end."""
        absent = bool(self._registry.absent([instance_id]))
        return absent and self._clear(instance_id) and not self._may_come_back(instance_id)

    def _may_come_back(self, instance_id: str) -> bool:
        """Whether its files are gone, nothing says that it left, and its process runs: then it moves back in by itself.

        The state directory was removed under a live fleet. A process that goes on after its instance left, whose leaving
        is noted nowhere any more, looks the same: after some polls it is taken for gone.
        """
        registration = self._known.get(instance_id)
        if registration is None or self._how_it_went(instance_id) or not self._reaper.verdict(registration).lives:
            self._missing.pop(instance_id, None)
            return False
        self._missing.setdefault(instance_id, self._polls)
        return self._polls - self._missing[instance_id] < PATIENCE

    def _how_it_went(self, instance_id: str) -> EventKind | None:
        return history.how_it_went(self._registry.state, self._registry.signer, instance_id)

    def _died(self, registration: Registration) -> None:
        # RACE: it left, and its process ended, between the look at the registry and the look at the process.
        if self._has_left(registration.instance_id):
            self._gone(registration)
            return
        self._forget(registration)
        if registration.instance_id not in self._dead:
            self._dead[registration.instance_id] = registration
            self._publish(EventKind.INSTANCE_DIED, registration)
        # Whoever has the reaper's lock this instant does it for all.
        self._reaper.reap([registration], timeout=0.0)

    def _gone(self, registration: Registration) -> None:
        """It is no longer there: it left, or somebody else reaped it."""
        known = registration.instance_id in self._known
        self._forget(registration)
        if not known:
            return
        self._publish(self._how_it_went(registration.instance_id) or EventKind.INSTANCE_LEFT, registration)

    def _forget(self, registration: Registration) -> None:
        self._known.pop(registration.instance_id, None)
        self._near = None
        self._suspects.pop(registration.instance_id, None)
        self._missing.pop(registration.instance_id, None)
        self._stalled.discard(registration.instance_id)

    def _publish(self, kind: EventKind, registration: Registration) -> None:
        self._events.publish(kind, registration.instance_id, name=registration.name, pid=registration.process.pid)

    def _poll(self, *, judge_stalled: bool) -> None:
        version = self._registry.version()
        if version != self._version or not version or self._missing or (self._narrow and self._events.has_subscribers):
            self._compare()
            self._version = version
        self._reap_announced()
        self._clear_leftovers()
        asked = self._events.has_subscribers
        for registration in self._neighbours():
            # Whether they make progress is of interest to those who are told. That they have not ended is seen more cheaply.
            if asked or not self._reaper.is_safe(registration):
                self._judge(registration, judge_stalled=judge_stalled)

    @property
    def is_scout(self) -> bool:
        """Whether it is one of the few that are to be woken by every death: those with the lowest ids.

        A wake-up is cheap, and a thousand of them are not: on two cores they keep each other, and whoever reaps, waiting.
        """
        return self._rank < SCOUTS

    def _neighbours(self) -> list[Registration]:
        if self._near is None:
            self._near = [self._known[key] for key in neighbours(self._known, self._own_id, WATCHED)]
        return self._near

    def _reap_announced(self) -> None:
        """Whoever was to reap them may have died at it, or been busy with another."""
        if self._dead:
            reaped = self._registry.absent(self._dead)
            self._dead = {key: registration for key, registration in self._dead.items() if key not in reaped}
            self._reaper.reap(self._dead.values(), timeout=0.0)

    def _clear_leftovers(self) -> None:
        """What starts and reapers that died left before anybody watched. One does it for all, now and then: it lists."""
        self._polls += 1
        if self._is_clearing(self._polls):
            for instance_id in self._reaper.leftovers():
                self._reaper.clear(instance_id)

    def _is_clearing(self, poll: int) -> bool:
        return poll % CLEARING == 1 and self._rank == 0

    def _seen_now(self) -> Entries:
        """Who is registered: everybody, for a scout and where somebody wants to be told; else who comes next on the ring."""
        around = self._registry.around(self._own_id, WATCHED, SCOUTS)
        if around is not None:
            self._rank = around[0]
            self._narrow = not self.is_scout and not self._events.has_subscribers
            if self._narrow:
                return around[1]
        return self._registry.read()

    def _compare(self) -> None:
        entries = self._seen_now()
        present = {key: entry.registration for key, entry in entries.items() if entry.registration and key != self._own_id}
        missing = [known for known in self._known if known not in present]
        absent = self._registry.absent(missing) if self._narrow and missing else set(missing)
        for instance_id in missing:
            if instance_id not in absent:
                self._forget(self._known[instance_id])  # it is there, and no neighbour of ours any more
            elif self._has_left(instance_id):
                self._gone(self._known[instance_id])
        for instance_id, registration in present.items():
            if instance_id in self._known:
                self._known[instance_id], self._near = registration, None
            elif instance_id not in self._dead:
                self._meet(registration)

    def _meet(self, registration: Registration) -> None:
        """A registration that is new to us, and may be of somebody who died before we came."""
        verdict = self._reaper.verdict(registration)
        if verdict is Verdict.DEAD:
            self._died(registration)
        elif verdict.lives:
            self._arrived(registration)

    def _judge(self, registration: Registration, *, judge_stalled: bool) -> None:
        verdict = self._reaper.verdict(registration)
        if verdict is Verdict.DEAD:
            self._died(registration)
        elif verdict is Verdict.STALLED and judge_stalled and registration.instance_id not in self._stalled:
            self._stalled.add(registration.instance_id)
            self._publish(EventKind.INSTANCE_STALLED, registration)
        elif verdict is Verdict.ALIVE and registration.instance_id in self._stalled:
            self._stalled.discard(registration.instance_id)
            self._publish(EventKind.INSTANCE_RECOVERED, registration)
