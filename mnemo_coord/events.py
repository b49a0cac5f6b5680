"""Events: facts in the past tense, published inside one process.

An event belongs to the process that saw it. What one process learns of the fleet (a registration, a death) it publishes
itself; nothing here crosses to another process, that is what messages are for. The buffer keeps the newest ``capacity``
events, so that a reader that comes back can resume after the last id it saw, and is told when it missed some.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from typing import Any

__all__ = ["Broadcaster", "Event", "EventKind"]

_log = logging.getLogger(__name__)


class EventKind(StrEnum):
    """What can have happened."""

    INSTANCE_REGISTERED = "instance_registered"
    INSTANCE_STALLED = "instance_stalled"
    INSTANCE_RECOVERED = "instance_recovered"
    INSTANCE_DIED = "instance_died"
    INSTANCE_LEFT = "instance_left"
    MESSAGE_SENT = "message_sent"
    MESSAGE_RECEIVED = "message_received"
    MESSAGE_ACKNOWLEDGED = "message_acknowledged"
    MESSAGE_DEAD_LETTERED = "message_dead_lettered"
    MESSAGE_QUARANTINED = "message_quarantined"
    PORT_TAKEN = "port_taken"
    WORKTREE_ADDED = "worktree_added"
    WORKTREE_REMOVED = "worktree_removed"
    BRANCH_JOINED = "branch_joined"
    BRANCH_RELEASED = "branch_released"
    EDITS_COLLIDED = "edits_collided"
    FINDING_FOUND = "finding_found"
    FINDING_FIXED = "finding_fixed"
    AGENT_STATE = "agent_state"
    MEMORY_STORED = "memory_stored"
    MEMORY_RECALLED = "memory_recalled"
    MEMORY_WAITED = "memory_waited"


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One fact."""

    id: int
    """Rises by one for each event of this process, from 1."""
    kind: EventKind
    at: str
    """When it was published: RFC 3339, UTC."""
    instance_id: str
    """The instance it is about."""
    data: dict[str, Any] = field(default_factory=dict)
    """Details, as JSON values."""


class Broadcaster:
    """The events of one process: the newest ``capacity`` kept, each handed to every subscriber in order.

    Thread-safe. A subscriber is called in the thread that publishes and should return at once; one that raises is logged
    and keeps its subscription.
    """

    def __init__(self, capacity: int, now: Callable[[], str]) -> None:
        self._lock = threading.RLock()
        self._handing_over = threading.RLock()
        self._kept: deque[Event] = deque(maxlen=capacity)
        self._subscribers: list[Callable[[Event], None]] = []
        self._now = now
        self._last_id = 0

    def publish(self, kind: EventKind, instance_id: str, **data: Any) -> Event:
        """Publishes one event and returns it."""
        with self._handing_over:  # held until all have it: two threads that publish must not overtake each other
            with self._lock:
                self._last_id += 1
                event = Event(id=self._last_id, kind=kind, at=self._now(), instance_id=instance_id, data=data)
                self._kept.append(event)
                subscribers = tuple(self._subscribers)
            for subscriber in subscribers:
                try:
                    subscriber(event)
                except Exception:
                    _log.exception("A subscriber failed at event %s", event.kind)
        return event

    def subscribe(self, subscriber: Callable[[Event], None]) -> Callable[[], None]:
        """Calls ``subscriber`` for every later event. Returns the function that ends the subscription."""
        with self._lock:
            self._subscribers.append(subscriber)

        def unsubscribe() -> None:
            with self._lock:
                if subscriber in self._subscribers:
                    self._subscribers.remove(subscriber)

        return unsubscribe

    @property
    def last_id(self) -> int:
        """The id of the newest event; 0 before the first."""
        return self._last_id

    @property
    def has_subscribers(self) -> bool:
        """Whether anybody is called."""
        return bool(self._subscribers)

    def since(self, last_id: int = 0) -> tuple[Event, ...]:
        """The kept events after ``last_id``, oldest first."""
        with self._lock:
            missing = min(self._last_id - last_id, len(self._kept))  # ids have no gaps
            return tuple(islice(self._kept, len(self._kept) - missing, None)) if missing > 0 else ()
