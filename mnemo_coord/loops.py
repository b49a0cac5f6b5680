"""A loop: a background thread that does one thing again and again, and goes on when it fails.

A heartbeat that raises must not end the heartbeats. A failure is logged once, then again only when it changes, and the loop
carries on at its interval.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

__all__ = ["UNATTENDED", "Loop"]

_log = logging.getLogger(__name__)

UNATTENDED: Final = 8
"""Intervals after which a loop looks for itself, where another thread wakes it when there is something to do: that one may be
held up, and waking is what an idle process costs."""
_LONGEST = 3600.0
"""Seconds. The system's clocks overflow at some number; nobody notices a step an hour."""


class Loop:
    """Calls ``step`` whenever woken and at the latest after the seconds that its last call returned."""

    def __init__(self, name: str, step: Callable[[], float]) -> None:
        self.name = name
        self._step = step
        # A lock as a binary semaphore: an event does the same in Python, and waking up from it costs half as much again.
        self._bell = threading.Lock()
        self._bell.acquire()
        self._stopping = False
        self._failure = ""
        self._thread = threading.Thread(target=self._run, name=f"mnemo-{name}", daemon=True)

    @property
    def healthy(self) -> bool:
        """Whether the last step succeeded and the thread runs."""
        return self._thread.is_alive() and not self._failure

    def start(self) -> None:
        """Starts the thread. The first step is done at once."""
        self.wake()
        self._thread.start()

    def wake(self) -> None:
        """Has the next step done now. Costs next to nothing; several wakes may be served by one step."""
        with suppress(RuntimeError):  # it has been woken already
            self._bell.release()

    def stop(self, timeout: float = 2.0) -> None:
        """Ends the loop and waits for the step that is being done."""
        self._stopping = True
        self.wake()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    def _run(self) -> None:
        delay = 0.0
        while not self._stopping:
            # RACE: taken before the step, so that a wake during the step is served by another one.
            self._bell.acquire(timeout=min(max(delay, 0.0), _LONGEST))
            if not self._stopping:
                delay = self._try(delay)

    def _try(self, delay: float) -> float:
        try:
            delay = self._step()
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"
            if failure != self._failure:
                _log.warning("The %s failed and will be tried again: %s", self.name, error or failure)
                _log.debug("in detail", exc_info=True)
            self._failure = failure
            return max(delay, 0.5)
        self._failure = ""
        return delay
