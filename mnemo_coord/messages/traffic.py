"""Traffic: how many messages an instance has received from whom, for who wants to see the fleet talk.

::

    instances/<id>.beat    behind the heartbeat: a sealed record of the sums, renewed with it when something arrived

Each instance counts what it was handed, in memory, and writes the sums down with its heartbeat: that costs a message nothing,
and the disk no file. Whoever shows a fleet reads the sums of all. Nothing rests on them.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mnemo_coord import errors
from mnemo_coord.disk import records
from mnemo_coord.disk.signing import Purpose, Signer
from mnemo_coord.disk.state_dir import INSTANCES, StateDir
from mnemo_coord.members import heartbeat
from mnemo_coord.members.identity import is_id

if TYPE_CHECKING:
    from mnemo_coord.disk.clock import Clock

__all__ = ["Flow", "Tally", "flows"]

_SENDERS: Final = 48
"""How many senders one instance tells apart; the one that has been silent longest is dropped. Names of 64 characters fit."""
_TORN_READS: Final = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Flow:
    """Messages from one sender to one instance."""

    from_agent: str
    """An instance id, or the name under which a program outside of the fleet speaks."""
    to_agent: str
    """The id of the instance that received them."""
    count: int
    """How many it was handed, since it started."""
    age: float
    """Seconds since the last of them."""


class Tally:
    """What one process has received. Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._counts: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self._lock = threading.Lock()
        self._changed = False

    def count(self, from_agent: str) -> None:
        """Counts one message."""
        with self._lock:
            before, _ = self._counts.pop(from_agent, (0, 0))
            self._counts[from_agent] = (before + 1, self._clock.age_ns())
            self._changed = True
            if len(self._counts) > _SENDERS:
                self._counts.popitem(last=False)

    def news(self, signer: Signer, instance_id: str) -> bytes | None:
        """The sums as a sealed record, where they changed since the last call."""
        with self._lock:
            if not self._changed:
                return None
            self._changed = False
            received = [[sender, number, last] for sender, (number, last) in self._counts.items()]
        body = {"instance_id": instance_id, "boot_id": self._clock.boot_id, "received": received}
        return records.seal(body, signer, Purpose.TRAFFIC)


def flows(state: StateDir, signer: Signer, clock: Clock) -> list[Flow]:
    """Who has told whom how much, in the whole fleet. What is damaged or of another boot is passed over."""
    owners = (name.removesuffix(".beat") for name in state.listing(INSTANCES) if name.endswith(".beat"))
    return [flow for owner in owners if is_id(owner) for flow in _flows_to(owner, state, signer, clock)]


def _flows_to(instance_id: str, state: StateDir, signer: Signer, clock: Clock) -> list[Flow]:
    for _ in range(_TORN_READS):  # RACE: its owner rewrites it in place
        sealed = heartbeat.addendum(state, instance_id)
        if not sealed:
            return []
        with suppress(errors.State, ValueError, KeyError, TypeError):
            return _parsed(records.unseal(sealed, signer, Purpose.TRAFFIC, instance_id), instance_id, clock)
    return []


def _parsed(body: Mapping[str, Any], instance_id: str, clock: Clock) -> list[Flow]:
    if body["instance_id"] != instance_id or body["boot_id"] != clock.boot_id:
        return []
    now = clock.age_ns()
    return [
        Flow(from_agent=str(sender), to_agent=instance_id, count=int(number), age=max(0.0, (now - last) / 1e9))
        for sender, number, last in body["received"]
    ]
