"""The states of a service, what moves it from one to the next, and how long it waits before it is started again.

All of it is pure: `TABLE` is the whole automaton (the states are Supervisor's), docs/concepts/supervision.md draws it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

__all__ = ["TABLE", "Happening", "RestartRules", "State", "next_state", "pause"]


class State(StrEnum):
    """Where a service is."""

    STOPPED = "stopped"
    STARTING = "starting"
    """Its process runs, and it is not seen to be ready yet."""
    READY = "ready"
    BACKOFF = "backoff"
    """It has ended by itself and will be started again after a pause."""
    STOPPING = "stopping"
    """It was asked to end, and something of it still runs."""
    EXITED = "exited"
    """It has ended by itself with exit code 0: it has done its work."""
    FATAL = "fatal"
    """It has ended too often, or cannot be started at all: a person has to look."""

    @property
    def runs(self) -> bool:
        """Whether there are processes of it."""
        return self in {State.STARTING, State.READY, State.STOPPING}

    @property
    def is_final(self) -> bool:
        """Whether nothing more happens to it by itself."""
        return self in {State.STOPPED, State.EXITED, State.FATAL}


class Happening(StrEnum):
    """What moves a service."""

    START = "start"
    """A person wants it."""
    ANSWERED = "answered"
    """It is seen to be ready."""
    DONE = "done"
    """Its process has ended with exit code 0."""
    FAILED = "failed"
    """Its process has ended otherwise."""
    RETRY = "retry"
    """The pause is over."""
    GIVE_UP = "give up"
    """It has failed too often."""
    STOP = "stop"
    """A person wants it no more."""
    ENDED = "ended"
    """Nothing of it runs any more."""


TABLE: Final[dict[tuple[State, Happening], State]] = {
    (State.STOPPED, Happening.START): State.STARTING,
    (State.STARTING, Happening.ANSWERED): State.READY,
    (State.STARTING, Happening.DONE): State.EXITED,
    (State.STARTING, Happening.FAILED): State.BACKOFF,
    (State.STARTING, Happening.STOP): State.STOPPING,
    (State.READY, Happening.DONE): State.EXITED,
    (State.READY, Happening.FAILED): State.BACKOFF,
    (State.READY, Happening.STOP): State.STOPPING,
    (State.BACKOFF, Happening.RETRY): State.STARTING,
    (State.BACKOFF, Happening.GIVE_UP): State.FATAL,
    (State.BACKOFF, Happening.STOP): State.STOPPED,
    (State.STOPPING, Happening.ENDED): State.STOPPED,
    (State.EXITED, Happening.START): State.STARTING,
    (State.EXITED, Happening.STOP): State.STOPPED,
    (State.FATAL, Happening.START): State.STARTING,
    (State.FATAL, Happening.STOP): State.STOPPED,
}
"""Every move there is. What is not in it does not happen."""


def next_state(state: State, happening: Happening) -> State:
    """The state after something has happened.

    Raises:
        KeyError: that does not happen in this state.
    """
    return TABLE[state, happening]


@dataclass(frozen=True, kw_only=True, slots=True)
class RestartRules:
    """When a service that has failed is started again."""

    first: float = 0.5
    """Seconds before the first restart; each further one waits twice as long."""
    longest: float = 30.0
    """Seconds that it waits at most."""
    limit: int = 5
    """How many restarts in a row; then it is fatal."""
    forgiven_after: float = 10.0
    """Seconds for which it has to be ready for its failures to be forgotten."""


def pause(failures: int, rules: RestartRules) -> float | None:
    """Seconds to wait after so many failures in a row, from 1; None to give up."""
    if failures > rules.limit:
        return None
    return min(rules.longest, rules.first * 2.0 ** (failures - 1))
