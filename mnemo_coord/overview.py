"""The overview: a whole fleet at one moment, as one value, for people who look at it.

It joins what the rooms say (who is here, what waits, who holds what, who talks to whom, what the doctor finds) and adds what
the processes take of the machine. Dashboards show it; nothing decides by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import mnemo_coord
from mnemo_coord import doctor, errors
from mnemo_coord.disk.clock import rfc3339
from mnemo_coord.events import EventKind
from mnemo_coord.findings import Finding, Severity
from mnemo_coord.members import history
from mnemo_coord.members.usage import Meter, Usage
from mnemo_coord.messages import traffic
from mnemo_coord.messages.fates import Fate

if TYPE_CHECKING:
    from mnemo_coord.events import Broadcaster
    from mnemo_coord.fleet import Fleet
    from mnemo_coord.holdings.assignments import Assignment
    from mnemo_coord.holdings.claims import Claims
    from mnemo_coord.holdings.occupancy import BranchConflict
    from mnemo_coord.members.history import Fact
    from mnemo_coord.members.instance import Instance
    from mnemo_coord.memory.memory import MemoryGlance
    from mnemo_coord.messages.fates import Depth
    from mnemo_coord.messages.traffic import Flow

__all__ = ["EXAMINED_EVERY", "HeldClaim", "Overview", "Viewer", "held_claims"]

EXAMINED_EVERY: Final = 5.0
"""Seconds between two looks of the doctor while somebody watches."""

_REMEMBERED: Final = 30
"""Facts of the past."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldClaim:
    """A claim that is held now."""

    kind: str
    """``singleton``, ``name`` or ``leader``."""
    claim: str
    """What is claimed."""
    instance_id: str
    """Who holds it."""
    pid: int
    epoch: int
    """Rises by one at each taking."""
    since: str
    """RFC 3339, UTC."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Overview:
    """A fleet at one moment."""

    at: str
    """RFC 3339, UTC."""
    version: str
    state_dir: str
    instance_id: str | None
    """The instance that looked; None where somebody looked from outside."""
    last_event_id: int
    """The newest event of the process that looked."""
    instances: tuple[Instance, ...]
    usage: dict[str, Usage]
    """By id; only those that could be measured."""
    mailboxes: tuple[Depth, ...]
    dead_lettered: int
    refused: int
    claims: tuple[HeldClaim, ...]
    branches: tuple[Assignment, ...]
    """Who works on which branch."""
    conflicts: tuple[BranchConflict, ...]
    """What is between those who work on one branch."""
    flows: tuple[Flow, ...]
    findings: tuple[Finding, ...]
    """What the doctor found when it last looked."""
    past: tuple[Fact, ...]
    """Who came, left and died lately, oldest first."""
    memory: MemoryGlance | None
    """What is in the shared database; None where there is none, or none that can be read."""


def held_claims(claims: Claims) -> tuple[HeldClaim, ...]:
    """Every claim that is held now."""
    return tuple(
        HeldClaim(
            kind=str(kind),
            claim=holder.claim,
            instance_id=holder.instance_id,
            pid=holder.pid,
            epoch=holder.epoch,
            since=holder.since,
        )
        for kind, holder in claims.held()
    )


class Viewer:
    """Looks at one fleet again and again; `look` in one thread at a time, `examine` perhaps in another."""

    def __init__(self, fleet: Fleet, instance_id: str | None = None) -> None:
        self._fleet = fleet
        self._instance_id = instance_id
        self._meter = Meter()
        self._findings: tuple[Finding, ...] = ()
        self._remembered: tuple[tuple[int, ...], tuple[Fact, ...]] | None = None

    @errors.translated
    def look(self) -> Overview:
        """The fleet now.

        Raises:
            errors.State: the state directory cannot be read.
        """
        fleet = self._fleet
        last_event_id = fleet.events.last_id  # before the rest: what happens meanwhile is told again, not lost
        instances = fleet.instances()
        aside, held = fleet.fates.aside(), fleet.branches.assignments()
        return Overview(
            at=rfc3339(fleet.clock.wall_ns()),
            version=mnemo_coord.__version__,
            state_dir=str(fleet.state.path),
            instance_id=self._instance_id,
            last_event_id=last_event_id,
            instances=tuple(instances),
            usage=self._usage(instances),
            mailboxes=tuple(fleet.fates.counts()),
            dead_lettered=aside[Fate.DEAD_LETTERED],
            refused=aside[Fate.REFUSED],
            claims=held_claims(fleet.claims),
            branches=tuple(held),
            conflicts=tuple(fleet.branches.conflicts(held)),
            flows=tuple(traffic.flows(fleet.state, fleet.signer, fleet.clock)),
            findings=self._findings,
            past=self._past(),
            memory=self._memory(),
        )

    def _usage(self, instances: list[Instance]) -> dict[str, Usage]:
        living = {instance.instance_id for instance in instances if instance.status.lives}
        entries = self._fleet.registry.read().items()
        return self._meter.measure(entry.registration for key, entry in entries if entry.registration and key in living)

    def _memory(self) -> MemoryGlance | None:
        """What is in the database. Most have none, and load nothing for it."""
        return self._fleet.memory.glance() if self._fleet.has_memory() else None

    def _past(self) -> tuple[Fact, ...]:
        version = history.version(self._fleet.state)
        if self._remembered is None or self._remembered[0] != version:
            self._remembered = (version, tuple(self._fleet.departed()[-_REMEMBERED:]))
        return self._remembered[1]

    @errors.translated
    def examine(self) -> bool:
        """Has the doctor look, which takes longer than all the rest: another finding, or one less, is published.

        Returns whether anything is different from the time before.

        Raises:
            errors.State: the state directory cannot be read.
        """
        before = self._findings
        report = doctor.examine(self._fleet.state.path, thorough=False, settings=self._fleet.settings)
        self._findings = report.findings
        if self._instance_id is not None:
            _tell(before, self._findings, self._fleet.events, self._instance_id)
        return self._findings != before


def _tell(before: tuple[Finding, ...], now: tuple[Finding, ...], events: Broadcaster, instance_id: str) -> None:
    """Publishes what is new, and what is no longer there."""
    known, seen = ({(finding.code, finding.subject) for finding in some} for some in (before, now))
    for kind, some, others in ((EventKind.FINDING_FOUND, now, known), (EventKind.FINDING_FIXED, before, seen)):
        for finding in some:
            if (finding.code, finding.subject) not in others and finding.severity is not Severity.NOTICE:
                about = {"code": finding.code, "severity": str(finding.severity), "subject": finding.subject}
                events.publish(kind, instance_id, **about, message=finding.message, hint=finding.hint)
