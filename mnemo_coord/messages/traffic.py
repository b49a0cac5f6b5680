"""Traffic: how many messages an instance has received from whom, for who wants to see the fleet talk.

::

    instances/<id>.traffic    a sealed record; made empty at registration, rewritten in place with a heartbeat when something
    came

Each instance counts what it was handed, in memory, and writes the sums down with its heartbeat: that costs a message nothing.
The file is made at the start, because on a full disk there is no room for one, and stays open, because closing it would wake
everybody who watches the folder. A reader may meet it half written; its signature fails and it looks again. Nothing rests on
it. By hand, it may be deleted: it comes back with the next message.
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
from mnemo_coord.disk import files, locks, records
from mnemo_coord.disk.signing import Purpose, Signer
from mnemo_coord.disk.state_dir import INSTANCES, StateDir
from mnemo_coord.members.heartbeat import TRAFFIC_SUFFIX
from mnemo_coord.members.identity import is_id

if TYPE_CHECKING:
    from mnemo_coord.disk.clock import Clock

__all__ = ["Flow", "Tally", "TrafficFile", "flows"]

_SENDERS: Final = 48
"""How many senders one instance tells apart; the one that has been silent longest is dropped."""
_TORN_READS: Final = 3
_LIMIT: Final = 8192
"""Bytes of a record: 48 names of 64 characters fit."""


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


class TrafficFile:
    """The file of one instance, kept open."""

    def __init__(self, state: StateDir, instance_id: str) -> None:
        self._state = state
        self._name = f"{instance_id}{TRAFFIC_SUFFIX}"
        self._file = locks.Descriptor(-1)

    def make(self) -> None:
        """Makes it, empty.

        Raises:
            OSError: it cannot be made.
        """
        folder = self._state.folder(INSTANCES)
        self._file.close()
        files.remove(self._name, dir_fd=folder)  # only ever ours: the id is
        self._file = locks.Descriptor(files.create(self._name, dir_fd=folder, flags=os.O_RDWR))

    def write(self, sums: bytes) -> None:
        """Replaces its content. Not worth failing a heartbeat for."""
        with suppress(OSError, errors.State):
            if not self._is_there():
                self.make()
            files.rewrite(self._file.fd, sums)

    def _is_there(self) -> bool:
        try:
            at_name = os.stat(self._name, dir_fd=self._state.folder(INSTANCES), follow_symlinks=False)
        except OSError:
            return False
        return self._file.is_open and files.identity(self._file.fd) == (at_name.st_dev, at_name.st_ino)

    def remove(self) -> None:
        """Ends it."""
        with suppress(OSError):
            files.remove(self._name, dir_fd=self._state.folder(INSTANCES))
        self._file.close()


def flows(state: StateDir, signer: Signer, clock: Clock) -> list[Flow]:
    """Who has told whom how much, in the whole fleet. What is damaged or of another boot is passed over."""
    owners = (name.removesuffix(TRAFFIC_SUFFIX) for name in state.listing(INSTANCES) if name.endswith(TRAFFIC_SUFFIX))
    return [flow for owner in owners if is_id(owner) for flow in _flows_to(owner, state, signer, clock)]


def _flows_to(instance_id: str, state: StateDir, signer: Signer, clock: Clock) -> list[Flow]:
    name = f"{instance_id}{TRAFFIC_SUFFIX}"
    for _ in range(_TORN_READS):  # RACE: its owner rewrites it in place
        with suppress(errors.State, ValueError, KeyError, TypeError):
            try:
                data = files.read_bounded(name, _LIMIT, dir_fd=state.folder(INSTANCES))
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
