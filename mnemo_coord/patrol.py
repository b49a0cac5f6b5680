"""The patrol: how one instance looks out for the others, and for what waits for it, as long as it is there.

The kernel wakes it where something rings. Underneath, at every poll, it looks by itself, because no event is trusted to come.
Nearly every poll finds what the one before it found, and in a fleet of a thousand these are what the fleet costs. So a poll
begins with a *glance*: a look that only reads, done by the thread that beats, which is awake anyway. Where that finds
anything that is not as it was, the loops that have something to do are woken and poll in full, in their own threads: there
callbacks may hang and locks be waited for, and the heart beats on. Should nobody glance, the loops poll by themselves, later.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

from mnemo_coord import errors
from mnemo_coord.disk.bells import Bells
from mnemo_coord.disk.state_dir import BRANCHES, EDITS, INSTANCES, REPORTS
from mnemo_coord.disk.watch import Change, Watch
from mnemo_coord.loops import UNATTENDED, Loop
from mnemo_coord.members import reports
from mnemo_coord.members.lookout import Lookout

if TYPE_CHECKING:
    from collections.abc import Callable

    from mnemo_coord.fleet import Fleet
    from mnemo_coord.messages.receiver import Receiver

__all__ = ["Patrol"]


class Patrol:
    """That of one instance. ``edits_wanted`` tells whether it wants to hear what others change."""

    def __init__(
        self, fleet: Fleet, instance_id: str, receiver: Receiver, watch: Watch, edits_wanted: Callable[[], bool]
    ) -> None:
        self.hearing = reports.Hearing(fleet.state, fleet.signer, fleet.events)
        self._fleet = fleet
        self._id = instance_id
        self._receiver = receiver
        self._watch = watch
        self._edits_wanted = edits_wanted
        self._lookout = Lookout(fleet.registry, fleet.reaper, fleet.events, instance_id)
        self._looking = Loop("lookout", self._look_step)
        self._bells = Bells(fleet.state, watch, self._looking.wake)
        self._polled = float("-inf")
        self._awake = fleet.clock.age_ns()
        self._lenient_until = 0

    @property
    def healthy(self) -> bool:
        """Whether the loop does its work."""
        return self._looking.healthy

    def start(self) -> None:
        """Begins it."""
        self._looking.start()

    def stop(self) -> None:
        """Ends it."""
        self._looking.stop()

    def poll_now(self) -> None:
        """Has the next poll done at once: what is to be looked at has changed."""
        self._polled = float("-inf")
        self._looking.wake()

    def glance(self) -> None:
        """One poll, as far as looking goes. Waits for nothing; called by the thread that beats, at every poll interval."""
        self._mind_suspend()
        self._receiver.glance()
        if self._nothing_new():
            self._polled = time.monotonic()
        else:
            self.poll_now()

    def _mind_suspend(self) -> None:
        """After a suspend everybody's heartbeat is old, ours too: all have one period before any is called stalled."""
        settings, now = self._fleet.settings, self._fleet.clock.age_ns()
        if now - self._awake > 3e9 * max(settings.poll_interval, settings.heartbeat_interval):
            self._lenient_until = now + int(settings.stalled_after * 1e9)
        self._awake = now

    def _nothing_new(self) -> bool:
        """Whether a poll in full would find nothing to do. Who is listened to here is told by polls, not by glances."""
        asked = self._fleet.events.has_subscribers
        heard = self._bells.heeds(REPORTS) or self._bells.heeds(BRANCHES) or self._bells.heeds(EDITS)
        if asked or heard or self._edits_wanted() or self._bells.heeds(INSTANCES) != self._lookout.is_scout:
            return False
        try:
            quiet = self._watch.is_settled and self._lookout.is_quiet()
        except (OSError, errors.CoordinationError):
            return False  # whatever it was, the poll meets it, too
        return quiet and not self._fleet.queue.is_anything_claimed(self._receiver.addresses)

    def _look_step(self) -> float:
        self._mind_suspend()
        self.hearing.hear(self._bells.rung(REPORTS))
        self._fleet.branch_news.hear(self._bells.rung(BRANCHES))
        self._fleet.edit_news.hear(self._bells.rung(EDITS))
        longest = UNATTENDED * self._fleet.settings.poll_interval
        left = self._polled + longest - time.monotonic()
        poll = left <= 0
        lenient = self._fleet.clock.age_ns() < self._lenient_until
        again = self._lookout.look(self._bells.rung(INSTANCES), poll=poll, judge_stalled=not lenient)
        if poll:
            self._polled = time.monotonic()
            self._watch.mend()
            self._heed()
            # Whoever died with one of our messages in hand was no neighbour of ours, or never registered.
            self._fleet.queue.recover(self._receiver.addresses, self._id, self._fleet.lives)
            left = longest
        return left if again is None else min(again, left)

    def _heed(self) -> None:
        """Has the kernel wake us: at deaths if we are a scout, or somebody here is to be told; at what is said only then."""
        asked = self._fleet.events.has_subscribers
        self._bells.heed(INSTANCES, Change.CLOSED, wanted=self._lookout.is_scout or asked)
        for folder, hear_all, wanted in (
            (REPORTS, self.hearing.hear_all, asked),
            (BRANCHES, self._fleet.branch_news.hear_all, asked),
            (EDITS, self._fleet.edit_news.hear_all, asked or self._edits_wanted()),
        ):
            self._bells.heed(folder, Change.TOUCHED, wanted=wanted)
            if wanted:
                with suppress(OSError, errors.State):  # what lies there instead is the doctor's to tell
                    hear_all()
