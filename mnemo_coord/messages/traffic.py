"""Traffic: how many messages an instance has received from whom, for who wants to see the fleet talk.

::

    reports/<id>.traffic    a sealed record; made empty at registration, rewritten in place with a heartbeat when needed

Each instance counts what it was handed, in memory, and writes the sums down with its heartbeat: that costs a message nothing.
The file is made at the start, because on a full disk there is no room for one. A reader may meet it half written; its
signature fails and it looks again. Nothing rests on it. By hand, it may be deleted: it comes back with the next message.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mnemo_coord import errors
from mnemo_coord.disk import files, records
from mnemo_coord.disk.signing import Purpose, Signer
from mnemo_coord.disk.state_dir import REPORTS, StateDir
from mnemo_coord.members.identity import is_id

if TYPE_CHECKING:
    from mnemo_coord.disk.clock import Clock

__all__ = ["Flow", "Tally", "flows", "make"]

_SENDERS: Final = 48
"""How many senders one instance tells apart; the one that has been silent longest is dropped."""
_TORN_READS: Final = 3
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
        self._changed = False

    def count(self, from_agent: str) -> None:
        """Counts one message."""
        with self._lock:
            before, _ = self._counts.pop(from_agent, (0, 0))
            self._counts[from_agent] = (before + 1, self._clock.age_ns())
            self._changed = True
            if len(self._counts) > _SENDERS:
                self._counts.popitem(last=False)

    def write(self, state: StateDir, signer: Signer, instance_id: str) -> None:
        """Writes the sums down where they changed. Not worth failing a heartbeat for."""
        with self._lock:
            if not self._changed:
                return
            self._changed = False
            received = [[sender, number, last] for sender, (number, last) in self._counts.items()]
        body = {"instance_id": instance_id, "boot_id": self._clock.boot_id, "received": received}
        with suppress(OSError, errors.State), files.opened(_open(state, instance_id)) as fd:
            files.rewrite(fd, records.seal(body, signer, Purpose.TRAFFIC))


def make(state: StateDir, instance_id: str) -> None:
    """Makes the file of an instance, empty.

    Raises:
        OSError: it cannot be made.
    """
    os.close(_open(state, instance_id))


def _open(state: StateDir, instance_id: str) -> int:
    name, folder = f"{instance_id}{_SUFFIX}", state.folder(REPORTS)
    try:
        return files.open_regular(name, os.O_RDWR, dir_fd=folder)
    except FileNotFoundError:
        return files.create(name, dir_fd=folder, flags=os.O_RDWR)


def flows(state: StateDir, signer: Signer, clock: Clock) -> list[Flow]:
    """Who has told whom how much, in the whole fleet. What is damaged or of another boot is passed over."""
    owners = (name.removesuffix(_SUFFIX) for name in state.listing(REPORTS) if name.endswith(_SUFFIX))
    return [flow for owner in owners if is_id(owner) for flow in _flows_to(owner, state, signer, clock)]


def _flows_to(instance_id: str, state: StateDir, signer: Signer, clock: Clock) -> list[Flow]:
    name = f"{instance_id}{_SUFFIX}"
    for _ in range(_TORN_READS):  # RACE: its owner rewrites it in place
        with suppress(errors.State, ValueError, KeyError, TypeError):
            try:
                data = files.read_bounded(name, _LIMIT, dir_fd=state.folder(REPORTS))
            except OSError:
                return []
            if not data:
                return []
            return _parsed(records.unseal(data, signer, Purpose.TRAFFIC, name), instance_id, clock)
    return []


def _parsed(body: Mapping[str, Any], instance_id: str, clock: Clock) -> list[Flow]:
    if body["instance_id"] != instance_id or body["boot_id"] != clock.boot_id:
        return []
    now = clock.age_ns()
    return [
        Flow(from_agent=str(sender), to_agent=instance_id, count=int(number), age=max(0.0, (now - last) / 1e9))
        for sender, number, last in body["received"]
    ]
