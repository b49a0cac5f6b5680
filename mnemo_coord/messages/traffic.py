"""Traffic: how many messages an instance has received from whom, for who wants to see the fleet talk.

::

    reports/<id>.traffic    a sealed record, replaced whole by rename, at a heartbeat before which something arrived

Each instance counts what it was handed, in memory, and writes the sums down with its heartbeat: that costs a message nothing
and the disk a write every two seconds. Whoever shows a fleet reads the sums of all. Nothing rests on them. By hand, they may
be deleted.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mnemo_coord import errors
from mnemo_coord.disk import files, records
from mnemo_coord.disk.signing import Purpose, Signer
from mnemo_coord.disk.state_dir import REPORTS, StateDir
from mnemo_coord.members.identity import is_id

if TYPE_CHECKING:
    from mnemo_coord.disk.clock import Clock

__all__ = ["Flow", "Tally", "flows"]

_SENDERS: Final = 48
"""How many senders one instance tells apart; the one that has been silent longest is dropped."""
_LIMIT: Final = 8192
"""Bytes of a record: 48 names of 64 characters fit."""
_SUFFIX: Final = ".traffic"


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
        self._unwritten = False

    def count(self, from_agent: str) -> None:
        """Counts one message."""
        with self._lock:
            before, _ = self._counts.pop(from_agent, (0, 0))
            self._counts[from_agent] = (before + 1, self._clock.age_ns())
            self._unwritten = True
            if len(self._counts) > _SENDERS:
                self._counts.popitem(last=False)

    def write(self, state: StateDir, signer: Signer, instance_id: str) -> None:
        """Writes the sums down where they changed. Not worth failing a heartbeat for."""
        with self._lock:
            if not self._unwritten:
                return
            self._unwritten = False
            received = [[sender, number, last] for sender, (number, last) in self._counts.items()]
        body = {"instance_id": instance_id, "boot_id": self._clock.boot_id, "received": received}
        with suppress(OSError, errors.State):
            folder, name = state.folder(REPORTS), f"{instance_id}{_SUFFIX}"
            sealed = records.seal(body, signer, Purpose.TRAFFIC)
            tmp_name = f"{name}.{os.getpid()}.tmp"
            files.publish(name, sealed, dir_fd=folder, tmp_name=tmp_name, tmp_fd=folder, durable=False)


def flows(state: StateDir, signer: Signer, clock: Clock) -> list[Flow]:
    """Who has told whom how much, in the whole fleet. What is damaged or of another boot is passed over."""
    names = (name for name in state.listing(REPORTS) if name.endswith(_SUFFIX))
    owners = (name.removesuffix(_SUFFIX) for name in names)
    return [flow for owner in owners if is_id(owner) for flow in _flows_to(owner, state, signer, clock)]


def _flows_to(instance_id: str, state: StateDir, signer: Signer, clock: Clock) -> list[Flow]:
    name = f"{instance_id}{_SUFFIX}"
    with suppress(OSError, errors.State, ValueError, KeyError, TypeError):
        data = files.read_bounded(name, _LIMIT, dir_fd=state.folder(REPORTS))
        body = records.unseal(data, signer, Purpose.TRAFFIC, name)
        if body["instance_id"] == instance_id and body["boot_id"] == clock.boot_id:
            now = clock.age_ns()
            return [
                Flow(from_agent=str(sender), to_agent=instance_id, count=int(number), age=max(0.0, (now - last) / 1e9))
                for sender, number, last in body["received"]
            ]
    return []
