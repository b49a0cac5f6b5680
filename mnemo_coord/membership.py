"""Membership: one instance in one fleet, from its registration until it leaves.

It holds the lock that proves life, the name, the mailboxes and the claims; it beats, and at each beat makes sure that what it
holds is still its own; it looks out for the others; it hands out messages. The order in which things are made and given back
is that of the crash tables in docs/concepts/recovery.md.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress

from mnemo_coord import errors
from mnemo_coord.disk import files, locks, signing
from mnemo_coord.disk.clock import rfc3339
from mnemo_coord.disk.files import CrashPoint
from mnemo_coord.disk.state_dir import INSTANCES
from mnemo_coord.disk.watch import Change, Watch
from mnemo_coord.events import EventKind
from mnemo_coord.fleet import Fleet
from mnemo_coord.holdings.claims import Claim, ClaimKind
from mnemo_coord.loops import Loop
from mnemo_coord.members.heartbeat import BeatFile
from mnemo_coord.members.identity import ProcessIdentity, draw
from mnemo_coord.members.lookout import Lookout
from mnemo_coord.members.registry import Registration
from mnemo_coord.messages.delivery import Delivery
from mnemo_coord.messages.mailbox import Address
from mnemo_coord.messages.message import Message

__all__ = ["Membership"]

_log = logging.getLogger(__name__)

_GATHERING = 0.0005
"""Seconds that a receiver lets messages gather after it handled some.

While one waits unclaimed its sender does not ring (`Mailbox.publish`), and a ring costs the receiver four times what a
message does: so a busy mailbox is emptied in batches. An idle one is not slowed, because whoever waits is woken by the bell.
"""
_PARTING_PATIENCE = 2.0
"""Seconds that a leaving instance waits for the registry; what it cannot take out, others reap."""


class Membership:
    """What exists between `register` and `unregister`."""

    def __init__(self, fleet: Fleet, name: str | None, roles: tuple[str, ...], api: tuple[str, int] | None) -> None:
        self.fleet = fleet
        self.pid = os.getpid()
        self.instance_id, self._lock = draw(fleet.state)
        self._claims: list[Claim] = []
        self._beats = BeatFile(fleet.state, fleet.signer, fleet.clock, self.instance_id)
        self._watch = Watch()
        self._seen: tuple[int, ...] = ()
        self._rung: deque[str] = deque()
        self._callbacks: list[Callable[[Message], None]] = []
        self._waiters: set[threading.Event] = set()
        self._mutex = threading.RLock()
        self._addresses = [Address(text) for text in (self.instance_id, *filter(None, [name]), *(f"@{role}" for role in roles))]
        self._lookout = Lookout(fleet.registry, fleet.reaper, fleet.events, self.instance_id)
        self._beating = Loop("heartbeat", self._beat_step)
        self._looking = Loop("lookout", self._look_step)
        self._delivering: Loop | None = None
        self._polled = float("-inf")
        self._looked = fleet.clock.age_ns()
        self._lenient_until = 0
        self._busy = False
        self.registration = self._introduce(name, roles, api)
        try:
            if name is not None:
                self._claims.append(fleet.claims.take(ClaimKind.NAME, name, self.instance_id))
            self._join()
        except BaseException:
            self._abandon()
            raise

    # Registering

    def _introduce(self, name: str | None, roles: tuple[str, ...], api: tuple[str, int] | None) -> Registration:
        return Registration(
            instance_id=self.instance_id,
            name=name,
            roles=roles,
            registered_at=rfc3339(self.fleet.clock.wall_ns()),
            seq=1,
            api_host=api[0] if api else None,
            api_port=api[1] if api else None,
            branch=None,
            worktree_path=None,
            lock=self._lock.identity,
            process=ProcessIdentity.own(self.fleet.clock),
        )

    def _join(self) -> None:
        kind = locks.unreliable_file_system(self.fleet.state.fd)
        if kind:
            _log.warning(
                "The state directory %s is on %s, where locks prove nothing: the dead are cleared away only when their "
                "process is seen to be gone. Use a local disk.",
                self.fleet.state.path,
                kind,
            )
        # The order matters. The lock proves life, the mailboxes exist before anybody can know of us, the entry comes last.
        self._write_record()
        for address in self._addresses:
            self._watch.add(self.fleet.queue.make(address), Change.TOUCHED, self._on_bell)
        self._beats.beat(self.registration.seq)
        files.crash_point(CrashPoint.FIRST_BEAT_WRITTEN)
        self.fleet.registry.put(self.registration, EventKind.INSTANCE_REGISTERED)
        self._seen = self.fleet.registry.version()
        self._watch.add(str(self.fleet.state.path / INSTANCES), Change.CLOSED, self._on_closed)
        self._beats.announce()
        self._beating.start()
        self._looking.start()

    def _write_record(self) -> None:
        self._lock.write(self.fleet.registry.seal(self.registration))
        files.crash_point(CrashPoint.RECORD_WRITTEN)

    def _abandon(self) -> None:
        """A registration that failed leaves nothing behind."""
        steps = (self._stop_loops, self._watch.stop, self._release_claims)
        for step in (*steps, self._remove_record, self._release_messages, self._beats.remove):
            with suppress(errors.CoordinationError, OSError):
                step()
        self._lock.remove()

    # Staying

    @property
    def healthy(self) -> bool:
        """Whether the loops do their work."""
        return self._beating.healthy and self._looking.healthy

    def _beat_step(self) -> float:
        self.beat()
        return self.fleet.settings.heartbeat_interval

    def beat(self) -> None:
        """Makes sure that everything is still ours, then beats."""
        with self._mutex:
            self._mend()
            self._beats.beat(self.registration.seq)

    def _mend(self) -> None:
        state, registry = self.fleet.state, self.fleet.registry
        if not state.is_current():
            _log.warning("The state directory %s was replaced or emptied; moving back in", state.path)
            state.reopen()
            self._seen = ()
        if signing.refresh(self.fleet.signer, state):
            _log.warning("The fleet has a new key; signing with it from now on")
            self._write_record()
            self._seen = ()
        if not self._lock.is_held():
            self._lock.reacquire(state.folder(INSTANCES))
            _log.warning("The lock of this instance was lost and has been taken again")
            self.registration = self.registration.changed(lock=self._lock.identity)
            self._write_record()
            self._seen = ()
        self._mend_mailboxes()
        version = registry.version()
        if not version or version != self._seen:
            if not registry.holds(self.registration):
                self._reregister()
            self._seen = registry.version()

    def _mend_mailboxes(self) -> None:
        for address in self._addresses:
            if not self.fleet.queue.is_whole(address):
                self.fleet.queue.make(address)

    def _reregister(self) -> None:
        self.fleet.registry.put(self.registration)
        self._beats.announce()

    def _look_step(self) -> float:
        settings, clock = self.fleet.settings, self.fleet.clock
        now = clock.age_ns()
        # After a suspend everybody's heartbeat is old, ours too: give all of them one period before calling any stalled.
        if now - self._looked > 3e9 * max(settings.poll_interval, settings.heartbeat_interval):
            self._lenient_until = now + int(settings.stalled_after * 1e9)
        self._looked = now
        rung = [self._rung.popleft() for _ in range(len(self._rung))]
        left = self._polled + settings.poll_interval - time.monotonic()
        poll = left <= 0
        again = self._lookout.look(dict.fromkeys(rung), poll=poll, judge_stalled=now >= self._lenient_until)
        if poll:
            self._polled = time.monotonic()
            self._watch.mend()
            left = settings.poll_interval
        return left if again is None else min(again, left)

    def _on_closed(self, name: str) -> None:
        self._rung.append(name)
        self._looking.wake()

    # Receiving

    def _on_bell(self, _name: str) -> None:
        for waiter in tuple(self._waiters):
            waiter.set()
        if self._delivering is not None:
            self._delivering.wake()

    def receive(self, timeout: float) -> Iterator[Delivery]:
        """See `mnemo_coord.Coordinator.receive`."""
        deadline = time.monotonic() + timeout
        if self._busy and timeout > 0:
            time.sleep(_GATHERING)
        rung = threading.Event()
        self._waiters.add(rung)
        try:
            while True:
                rung.clear()
                first = True
                for delivery in self.fleet.queue.receive(self._addresses, self.instance_id):
                    first = False
                    self._busy = True
                    yield delivery
                left = deadline - time.monotonic()
                if not first or left <= 0:
                    return
                self._busy = False
                rung.wait(min(left, self.fleet.settings.poll_interval, 3600.0))
        finally:
            self._waiters.discard(rung)

    def on_message(self, callback: Callable[[Message], None]) -> Callable[[], None]:
        """See `mnemo_coord.Coordinator.on_message`."""
        self._callbacks.append(callback)
        if self._delivering is None:
            self._delivering = Loop("delivery", self._deliver_step)
            self._delivering.start()

        def stop() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return stop

    def _deliver_step(self) -> float:
        # Looks again after every message that was handled: senders rely on it when they do not ring (`Mailbox.publish`).
        # What a callback failed at comes again with the next ring or poll, not at once.
        handled = True
        while handled and self._callbacks:
            outcomes = [self._hand_over(item) for item in self.fleet.queue.receive(self._addresses, self.instance_id)]
            handled = any(outcomes)
            if handled:
                time.sleep(_GATHERING)
        return self.fleet.settings.poll_interval

    def _hand_over(self, delivery: Delivery) -> bool:
        try:
            with delivery as message:
                for callback in tuple(self._callbacks):
                    callback(message)
        except Exception:
            _log.exception("A callback failed at message %s; it will be delivered again", delivery.message.id)
            return False
        return True

    # Holding

    def claim(self, name: str, timeout: float) -> Claim:
        """See `mnemo_coord.Coordinator.claim`."""
        claim = self.fleet.claims.take(ClaimKind.SINGLETON, name, self.instance_id, timeout=timeout)
        self._claims = [held for held in self._claims if held.active] + [claim]
        return claim

    # Leaving

    def leave(self) -> None:
        """Gives everything back, in the order in which others may rely on it; the lock is let go last."""
        self._stop_loops()
        self._watch.stop()
        self.fleet.registry.lock_timeout = min(self.fleet.registry.lock_timeout, _PARTING_PATIENCE)
        steps = (self._release_claims, self._remove_record, self._release_messages, self._beats.remove)
        for step in steps:
            try:
                step()
            except (errors.CoordinationError, OSError) as error:
                _log.warning("Could not leave cleanly, the doctor will see to the rest: %s", error)
        self._lock.remove()
        self.fleet.close()

    def _stop_loops(self) -> None:
        for loop in (self._delivering, self._beating, self._looking):
            if loop is not None:
                loop.stop()

    def _release_claims(self) -> None:
        for claim in self._claims:
            claim.release()

    def _release_messages(self) -> None:
        self.fleet.queue.release_of(self.instance_id)
        files.crash_point(CrashPoint.LEAVE_MAILBOX_REMOVED)

    def _remove_record(self) -> None:
        self.fleet.registry.remove(self.registration, EventKind.INSTANCE_LEFT)
        files.crash_point(CrashPoint.LEAVE_RECORD_REMOVED)
