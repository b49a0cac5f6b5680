"""Leader election: one of several instances leads, and another takes its place when it ends.

It is a claim of the kind ``leader`` that those who want to lead wait for. A candidate is woken by a death or a leaving in the
fleet, and looks again every quarter of a second all the same; the kernel frees the claim with the leader's process, so
there is nothing to expire and nobody to agree with.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from mnemo_coord import errors
from mnemo_coord.holdings.claims import Claim, ClaimKind, Claims

__all__ = ["Candidacy", "campaign"]

_log = logging.getLogger(__name__)

LOOK_AGAIN = 0.25
"""Seconds between two tries when nothing wakes a candidate."""
_AFTER_FAILURE = 1.0
"""Seconds that a candidate stands back after its callback raised, so that another may lead."""


def campaign(
    claims: Claims, name: str, instance_id: str, *, timeout: float | None, wake: threading.Event, ended: Callable[[], bool]
) -> Claim:
    """Waits until this instance leads; ``timeout`` in seconds, None for as long as it takes.

    Raises:
        errors.Conflict: another still leads after ``timeout`` seconds; ``holder`` says who.
        errors.LeaseLost: ``ended`` came true: this instance leaves.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        wake.clear()
        if ended():
            raise errors.LeaseLost(f"this instance leaves and no longer stands for {name!r}")
        try:
            return claims.take(ClaimKind.LEADER, name, instance_id)
        except errors.Conflict:
            left = LOOK_AGAIN if deadline is None else min(LOOK_AGAIN, deadline - time.monotonic())
            if left <= 0:
                raise
            wake.wait(left)


class Candidacy:
    """A standing wish to lead: calls back in a thread of its own each time that this instance is elected."""

    def __init__(self, elect: Callable[[threading.Event], Claim], lead: Callable[[Claim], None], name: str) -> None:
        self._elect = elect
        self._lead = lead
        self._name = name
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"mnemo-lead-{name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends it. A callback that is running is not interrupted: its claim says that it leads until it returns."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set() and not self._led():
            self._stop.wait(_AFTER_FAILURE)

    def _led(self) -> bool:
        """Waits, leads, and steps down. False when it failed and is to be tried again."""
        try:
            claim = self._elect(self._stop)
        except errors.LeaseLost:
            return True
        except Exception as error:
            _log.warning("Cannot stand for %r now: %s", self._name, error)
            return False
        with claim:
            try:
                self._lead(claim)
            except Exception:
                _log.exception("Leading %r failed; standing for it again", self._name)
                return False
        return True
