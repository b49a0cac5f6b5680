"""Polling: one instance looks for members, messages and what is said, in a thread, at each poll and when the kernel rings.

Waking is what an idle process costs: of one that has slept for two seconds among a thousand others nothing is left in the
processor's caches, and fetching it takes three times as long as the look. So a poll that would find nothing wakes nobody: the
heartbeat, for which the process is awake, sees to that (`Polling.attend`). Whatever may take longer is for this thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from mnemo_coord import errors
from mnemo_coord.disk.bells import Bells
from mnemo_coord.disk.state_dir import BRANCHES, EDITS, INSTANCES, REPORTS
from mnemo_coord.disk.watch import Change, Watch
from mnemo_coord.events import Event
from mnemo_coord.loops import UNATTENDED, Loop
from mnemo_coord.members import reports
from mnemo_coord.members.lookout import Lookout

if TYPE_CHECKING:
    from mnemo_coord.edit_watch import EditWatch
    from mnemo_coord.fleet import Fleet
    from mnemo_coord.messages.receiver import Receiver

__all__ = ["Polling"]


class Polling:
    """What one instance looks for. `attend` is for the thread that beats, everything else for any."""

    def __init__(self, fleet: Fleet, instance_id: str, receiver: Receiver, watch: Watch, edits: EditWatch) -> None:
        self._fleet = fleet
        self._id = instance_id
        self._receiver = receiver
        self._watch = watch
        self._edits = edits
        self._hearing = reports.Hearing(fleet.state, fleet.signer, fleet.events)
        self._lookout = Lookout(fleet.registry, fleet.reaper, fleet.events, instance_id)
        self._loop = Loop("lookout", self._step)
        self._bells = Bells(fleet.state, watch, self._loop.wake)
        self._looks = threading.Lock()
        self._polled = float("-inf")
        self._looked = fleet.clock.age_ns()
        self._lenient_until = 0

    @property
    def healthy(self) -> bool:
        """Whether its thread does its work."""
        return self._loop.healthy

    def start(self) -> None:
        """Starts the thread."""
        self._loop.start()

    def stop(self) -> None:
        """Ends it."""
        self._loop.stop()

    def poll_now(self) -> None:
        """Has the next poll done at once."""
        self._polled = float("-inf")
        self._loop.wake()

    def on_event(self, callback: Callable[[Event], None]) -> Callable[[], None]:
        """See `mnemo_coord.Coordinator.on_event`."""
        unsubscribe = self._fleet.events.subscribe(callback)
        self.poll_now()
        return unsubscribe

    def tell(self, said: reports.AgentReport) -> None:
        """Tells those who are here what this instance has just said of itself."""
        self._hearing.tell(self._id, said)

    # At each heartbeat

    def attend(self) -> None:
        """Polls if a poll is due, and wakes the thread if there is anything to do. Never waits for it."""
        if not self._is_due() or not self._looks.acquire(blocking=False):
            return
        try:
            quiet = self._is_quiet()
            if quiet:
                self._polled = time.monotonic()
        except (errors.CoordinationError, OSError):
            quiet = False  # the thread meets it again, and says so
        finally:
            self._looks.release()
        if not quiet:
            self.poll_now()

    @property
    def _is_attended(self) -> bool:
        return self._fleet.settings.heartbeat_interval <= self._fleet.settings.poll_interval

    def _is_due(self) -> bool:
        """Whether the next heartbeat would be too late for the next poll."""
        left = self._polled + self._fleet.settings.poll_interval - time.monotonic()
        return self._is_attended and left < 0.99 * self._fleet.settings.heartbeat_interval

    def _is_quiet(self) -> bool:
        """Whether a poll would find nothing to do. Who wants to be told of others wants to be told what is not seen here."""
        return (
            not self._is_asked
            and not self._notice_sleep()
            and self._lookout.is_quiet()
            and self._watch.is_armed()
            and self._fleet.queue.is_still(self._receiver.addresses)
        )

    @property
    def _is_asked(self) -> bool:
        return self._fleet.events.has_subscribers or self._edits.active

    # In the thread

    def _step(self) -> float:
        with self._looks:
            return self._look()

    def _look(self) -> float:
        settings, fleet = self._fleet.settings, self._fleet
        self._notice_sleep()
        self._hearing.hear(self._bells.rung(REPORTS))
        fleet.branch_news.hear(self._bells.rung(BRANCHES))
        fleet.edit_news.hear(self._bells.rung(EDITS))
        longest = settings.poll_interval * (UNATTENDED if self._is_attended else 1)
        left = self._polled + longest - time.monotonic()
        poll = left <= 0
        again = self._lookout.look(self._bells.rung(INSTANCES), poll=poll, judge_stalled=self._looked >= self._lenient_until)
        if poll:
            self._polled = time.monotonic()
            self._watch.mend()
            self._heed()
            self._receiver.poll()
            # Whoever died with one of our messages in hand was no neighbour of ours, or never registered.
            fleet.queue.recover(self._receiver.addresses, self._id, fleet.lives)
            left = longest
        return left if again is None else min(again, left)

    def _notice_sleep(self) -> bool:
        """Notices, and returns, whether the machine was suspended since the last look.

        Then everybody's heartbeat is old, ours too: all of them get one period before any is called stalled.
        """
        settings, now = self._fleet.settings, self._fleet.clock.age_ns()
        slept = now - self._looked > 3e9 * max(settings.poll_interval, settings.heartbeat_interval)
        if slept:
            self._lenient_until = now + int(settings.stalled_after * 1e9)
        self._looked = now
        return slept

    def _heed(self) -> None:
        """Has the kernel wake us: at deaths if we are a scout, or somebody here is to be told; at what is said only then."""
        asked, fleet = self._fleet.events.has_subscribers, self._fleet
        self._bells.heed(INSTANCES, Change.CLOSED, wanted=self._lookout.is_scout or asked)
        for folder, hear_all, wanted in (
            (REPORTS, self._hearing.hear_all, asked),
            (BRANCHES, fleet.branch_news.hear_all, asked),
            (EDITS, fleet.edit_news.hear_all, asked or self._edits.active),
        ):
            self._bells.heed(folder, Change.TOUCHED, wanted=wanted)
            if wanted:
                with suppress(OSError, errors.State):  # what lies there instead is the doctor's to tell
                    hear_all()
