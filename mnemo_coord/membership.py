"""Membership: one instance in one fleet, from its registration until it leaves.

It holds the lock that proves life, the name, the mailboxes and the claims; it beats, and at each beat makes sure that what it
holds is still its own; it looks out for the others; it hands out messages. The order in which things are made and given back
is that of the crash tables in docs/concepts/recovery.md.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mnemo_coord import errors
from mnemo_coord.branch_work import BranchWork
from mnemo_coord.disk import files, signing
from mnemo_coord.disk.clock import rfc3339
from mnemo_coord.disk.file_system import unreliable_file_system
from mnemo_coord.disk.files import CrashPoint
from mnemo_coord.disk.state_dir import INSTANCES
from mnemo_coord.disk.watch import Change, Watch
from mnemo_coord.edit_watch import EditWatch
from mnemo_coord.events import Event, EventKind
from mnemo_coord.fleet import Fleet
from mnemo_coord.holdings import edits
from mnemo_coord.holdings.claims import Claim, ClaimKind
from mnemo_coord.holdings.election import Candidacy, campaign
from mnemo_coord.loops import Loop
from mnemo_coord.members import reports, token
from mnemo_coord.members.heartbeat import BeatFile
from mnemo_coord.members.identity import ProcessIdentity, draw
from mnemo_coord.members.registration import Registration
from mnemo_coord.messages.address import Address
from mnemo_coord.messages.delivery import Receipt
from mnemo_coord.messages.message import Message
from mnemo_coord.messages.receiver import Receiver
from mnemo_coord.messages.traffic import TrafficFile
from mnemo_coord.polling import Polling

if TYPE_CHECKING:
    from mnemo_coord.holdings.worktrees import Worktree

__all__ = ["Membership"]

_log = logging.getLogger(__name__)

Until = Callable[[], bool] | None
"""Says that an answer is no longer needed."""

_PARTING_PATIENCE = 2.0
"""Seconds that a leaving instance waits for a registry that nobody changes meanwhile; what it cannot take out, others reap."""


class Membership:
    """What exists between `register` and `unregister`."""

    def __init__(self, fleet: Fleet, name: str | None, roles: tuple[str, ...], api: tuple[str, int] | None) -> None:
        self.fleet = fleet
        self.pid = os.getpid()
        self.instance_id, self._lock = draw(fleet.state)
        self._claims: list[Claim] = []
        self._beats = BeatFile(fleet.state, fleet.signer, fleet.clock, self.instance_id)
        self._traffic = TrafficFile(fleet.state, self.instance_id)
        self._watch = Watch()
        self._seen: tuple[int, ...] = ()
        self.token = token.draw() if api else None
        self._left = False
        self._mutex = threading.RLock()
        addresses = [Address(text) for text in (self.instance_id, *filter(None, [name]), *(f"@{role}" for role in roles))]
        self.receiver = Receiver(fleet.queue, addresses, self.instance_id, fleet.events, fleet.settings.poll_interval)
        self.branches = BranchWork(fleet, self.instance_id, roles, self._ask)
        self._edits = EditWatch(fleet, self.instance_id)
        self._beating = Loop("heartbeat", self._beat_step)
        self._polling = Polling(fleet, self.instance_id, self.receiver, self._watch, self._edits)
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
        kind = unreliable_file_system(self.fleet.state.fd)
        if kind:
            _log.warning(
                "The state directory %s is on %s, where locks prove nothing: the dead are cleared away only when their "
                "process is seen to be gone. Use a local disk.",
                self.fleet.state.path,
                kind,
            )
        # The order matters. The lock proves life, the mailboxes exist before anybody can know of us, the entry comes last.
        self._write_record()
        for address in self.receiver.addresses:
            self._watch.add(self.fleet.mailboxes.make(address), Change.TOUCHED, self.receiver.on_bell)
        self._ensure_token()
        self._traffic.make()
        self._beats.beat(self.registration.seq)
        files.crash_point(CrashPoint.FIRST_BEAT_WRITTEN)
        self.fleet.registry.put(self.registration, EventKind.INSTANCE_REGISTERED)
        self._seen = self.fleet.registry.version()
        self._beats.announce()
        self._beating.start()
        self._polling.start()

    def _ensure_token(self) -> None:
        if self.token is not None:
            token.ensure(self.fleet.state, self.instance_id, self.token)

    def _write_record(self) -> None:
        self._lock.write(self.fleet.registry.seal(self.registration))
        files.crash_point(CrashPoint.RECORD_WRITTEN)

    def _abandon(self) -> None:
        """A registration that failed leaves nothing behind."""
        steps = (self._stop_loops, self._watch.stop, self._release_claims, self._release_branches)
        for step in (*steps, self._remove_record, self._release_messages, self._remove_files):
            with suppress(errors.CoordinationError, OSError):
                step()
        self._lock.remove()

    # Staying

    @property
    def healthy(self) -> bool:
        """Whether the loops do their work."""
        return self._beating.healthy and self._polling.healthy

    def _beat_step(self) -> float:
        try:
            self.beat()
        finally:
            self._polling.attend()
        return self.fleet.settings.heartbeat_interval

    def beat(self) -> None:
        """Makes sure that everything is still ours, then beats."""
        with self._mutex:
            self._mend()
            self._beats.beat(self.registration.seq)
            received = self.fleet.queue.tally.news(self.fleet.signer, self.instance_id)
            if received is not None:
                self._traffic.write(received)

    def _mend(self) -> None:
        state, registry = self.fleet.state, self.fleet.registry
        if not state.is_current():
            _log.warning("The state directory %s was replaced or emptied; moving back in", state.path)
            state.reopen()
            self._lock.move(state.folder(INSTANCES))
            self._seen = ()
        if signing.refresh(self.fleet.signer, state):
            _log.warning("The fleet has a new key; signing with it from now on")
            self._write_record()
            self._seen = ()
        if not self._lock.is_held():
            self._lock.reacquire()
            _log.warning("The lock of this instance was lost and has been taken again")
            self.registration = self.registration.changed(lock=self._lock.identity)
            self._write_record()
            self._seen = ()
        self._mend_claims()
        self._mend_mailboxes()
        self._ensure_token()
        version = registry.version()
        if not version or version != self._seen:
            if not registry.holds(self.registration):
                self._reregister()
            self._seen = registry.version()

    def _mend_claims(self) -> None:
        for claim in tuple(self._claims):
            if claim.yield_if_lost():
                _log.warning("The claim %r was lost: its lock file was removed, or closed behind our back", claim.name)
                self._claims.remove(claim)
                if claim.kind is ClaimKind.NAME:
                    self._take_name_again(claim.name)

    def _take_name_again(self, name: str) -> None:
        try:
            self._claims.append(self.fleet.claims.take(ClaimKind.NAME, name, self.instance_id))
        except errors.Conflict as error:
            _log.warning("Going on without the name %r: %s", name, error)
            self.receiver.addresses = [address for address in self.receiver.addresses if address.text != name]
            self.registration = self.registration.changed(name=None)
            self._write_record()
            self._seen = ()

    def _mend_mailboxes(self) -> None:
        for address in self.receiver.addresses:
            if not self.fleet.mailboxes.is_whole(address):
                self.fleet.mailboxes.make(address)

    def _reregister(self) -> None:
        self.fleet.registry.put(self.registration)
        self._beats.announce()

    def on_event(self, callback: Callable[[Event], None]) -> Callable[[], None]:
        """See `mnemo_coord.Coordinator.on_event`."""
        return self._polling.on_event(callback)

    def watch_edits(self, path: str | os.PathLike[str] | None) -> Callable[[], None]:
        """See `mnemo_coord.Coordinator.watch_edits`."""
        end = self._edits.watch(path or self.registration.worktree_path or os.getcwd())
        self._polling.poll_now()
        return end

    def report(self, state: str, text: str) -> reports.AgentReport:
        """See `mnemo_coord.Coordinator.report`."""
        said = reports.write(self.fleet.state, self.fleet.signer, self.fleet.clock, self.instance_id, state, text)
        self._polling.tell(said)
        return said

    # Sending

    def send(self, address: str, message_type: str, payload: Any, **options: Any) -> Receipt:
        """See `mnemo_coord.Coordinator.send`."""
        receipt = self.fleet.send(address, message_type, payload, sender=self.instance_id, **options)
        if receipt.failed:
            raise errors.UnknownAddress(f"{address}: {receipt.failed[0].reason}", address=address, receipt=receipt)
        return receipt

    def request(self, address: str, message_type: str, payload: Any, timeout: float) -> Message:
        """See `mnemo_coord.Coordinator.request`."""
        return self._ask(address, message_type, payload, timeout)

    def _ask(self, address: str, message_type: str, payload: Any, timeout: float, until: Until = None) -> Message:
        def send(composed: Callable[[str], None]) -> None:
            self.send(address, message_type, payload, ttl=timeout, composed=composed)

        return self.receiver.request(send, Address(address), self.fleet.lives, timeout, until)

    # Holding

    def claim(self, name: str, timeout: float) -> Claim:
        """See `mnemo_coord.Coordinator.claim`."""
        claim = self.fleet.claims.take(ClaimKind.SINGLETON, name, self.instance_id, timeout=timeout)
        return self._keep(claim)

    def _keep(self, claim: Claim) -> Claim:
        self._claims = [held for held in self._claims if held.active] + [claim]
        return claim

    def lead(self, name: str, timeout: float | None, stop: threading.Event | None = None) -> Claim:
        """See `mnemo_coord.Coordinator.lead`."""

        def ended() -> bool:
            return self._left or (stop is not None and stop.is_set())

        with self.receiver.woken() as wake:
            claims = self.fleet.claims
            return self._keep(campaign(claims, name, self.instance_id, timeout=timeout, wake=wake, ended=ended))

    def on_lead(self, name: str, callback: Callable[[Claim], None]) -> Callable[[], None]:
        """See `mnemo_coord.Coordinator.on_lead`."""
        return Candidacy(lambda stop: self.lead(name, None, stop), callback, name).stop

    def open_worktree(self, branch: str | None, base: str) -> Worktree:
        """See `mnemo_coord.Coordinator.open_worktree`."""
        worktree = self.fleet.worktrees.add(self.registration, branch=branch, base=base)
        with self._mutex:
            self.registration = self.registration.changed(worktree_path=worktree.path, branch=worktree.branch)
            self._write_record()
            self._reregister()
        about = {"path": worktree.path, "branch": worktree.branch}
        self.fleet.events.publish(EventKind.WORKTREE_ADDED, self.instance_id, **about)
        return worktree

    def _close_worktree(self) -> None:
        path = self.registration.worktree_path
        if path is None:
            return
        try:
            self.fleet.worktrees.remove(self.instance_id, leaving=True)
        except errors.Conflict as error:
            _log.warning("%s", error)
            self.fleet.worktrees.disown(self.instance_id)
            return
        self.fleet.events.publish(EventKind.WORKTREE_REMOVED, self.instance_id, path=path, branch=self.registration.branch)

    # Leaving

    def leave(self) -> None:
        """Gives everything back, in the order in which others may rely on it; the lock is let go last."""
        self._left = True
        self._stop_loops()
        steps = (self._release_claims, self._release_branches, self._remove_record, self._release_messages, self._remove_files)
        for step in (self._watch.stop, self._close_worktree, *steps):
            try:
                step()
            except (errors.CoordinationError, OSError) as error:
                _log.warning("Could not leave cleanly, the doctor will see to the rest: %s", error)
        self._lock.remove()
        self.fleet.close()

    def _stop_loops(self) -> None:
        for part in (self._edits, self.receiver, self._beating, self._polling):
            part.stop()

    def _release_claims(self) -> None:
        for claim in self._claims:
            claim.release()

    def _release_branches(self) -> None:
        self.fleet.release_branches(self.instance_id)

    def _release_messages(self) -> None:
        self.fleet.queue.release_of(self.instance_id)
        files.crash_point(CrashPoint.LEAVE_MAILBOX_REMOVED)

    def _remove_files(self) -> None:
        self._beats.remove()
        self._traffic.remove()
        token.remove(self.fleet.state, self.instance_id)
        reports.remove(self.fleet.state, self.instance_id)
        edits.remove(self.fleet.state, self.instance_id)

    def _remove_record(self) -> None:
        self.fleet.registry.take_leave(self.registration, _PARTING_PATIENCE)
        files.crash_point(CrashPoint.LEAVE_RECORD_REMOVED)
