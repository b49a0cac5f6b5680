"""Receiving: what happens to a message from its mailbox to its end.

It is handed out at least once: a receiver that dies or raises before it acknowledged gives it back, as its next delivery,
until it has been handed out so often that it goes to the dead letters. One whose time is over goes there unseen. What is
refused goes to the quarantine with its reason, and never keeps the messages behind it waiting. One that was acknowledged
before is dropped: whoever sent it was not sure, or its receiver died between the two steps of acknowledging.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from mnemo_coord import errors
from mnemo_coord.disk.clock import Clock, rfc3339
from mnemo_coord.disk.signing import Signer
from mnemo_coord.disk.state_dir import QUEUE
from mnemo_coord.events import Broadcaster, EventKind
from mnemo_coord.messages.address import Address, boxes
from mnemo_coord.messages.delivery import Delivery
from mnemo_coord.messages.file_name import delivery_of
from mnemo_coord.messages.mailbox import Mailbox
from mnemo_coord.messages.mailboxes import Mailboxes
from mnemo_coord.messages.message import LIMIT, Message, decode
from mnemo_coord.messages.set_aside import DEAD, REFUSED
from mnemo_coord.messages.traffic import Tally

if TYPE_CHECKING:
    from mnemo_coord.settings import Settings

__all__ = ["Queue"]

_log = logging.getLogger(__name__)

_GRACE_NS: Final = 2_000_000_000
"""How long an empty file may be one that somebody is still writing, in nanoseconds."""
_GRACES: Final = 64
_AHEAD_NS: Final = 60_000_000_000
"""How far another clock may be ahead before it is worth a word, in nanoseconds."""
_EXPIRED: Final = "expired: its time was over before it was handled"


class Queue:
    """Receives in one fleet, as one process does. Thread-safe."""

    def __init__(
        self, mailboxes: Mailboxes, signer: Signer, clock: Clock, settings: Settings, events: Broadcaster | None = None
    ) -> None:
        self.mailboxes = mailboxes
        self.signer = signer
        self.tally = Tally(clock)
        self._state = mailboxes.state
        self._clock = clock
        self._settings = settings
        self._events = events
        self._empty_since: dict[tuple[str, str], int] = {}
        self._held: set[tuple[str, str]] = set()
        """Address and file name of what this process has claimed and not settled."""
        self._in_hand: set[tuple[str, str]] = set()
        """Address and id of what it has handed out and not settled."""

    def receive(self, addresses: Iterable[Address], claimer: str) -> Iterator[Delivery]:
        """What waits at these addresses now, claimed for ``claimer`` one by one as it is asked for."""
        for address in addresses:
            try:
                mailbox = self.mailboxes.open(address)
                waiting = mailbox.waiting()
            except FileNotFoundError:
                self.mailboxes.forget(address)  # removed by hand; its owner makes it again at its next heartbeat
                continue
            except OSError as error:
                _log.warning("Cannot take messages now: %s", error)
                continue
            for file in waiting:
                delivery = self._take(address, mailbox, file, claimer)
                if delivery is not None:
                    yield delivery

    def has_waiting(self, addresses: Iterable[Address]) -> bool:
        """Whether anything waits at these addresses. Costs next to nothing."""
        return any(self._has_waiting(address) for address in addresses)

    def _has_waiting(self, address: Address) -> bool:
        with suppress(OSError):
            return bool(self.mailboxes.open(address).waiting())
        return False

    def is_still(self, addresses: Iterable[Address]) -> bool:
        """Whether nothing waits at these addresses and nobody has anything of theirs in hand. Costs next to nothing.

        Raises:
            OSError: it cannot be told.
        """
        return all(self.mailboxes.open(address).is_still() for address in addresses)

    def answers(self, address: Address, claimer: str, message_id: str, passed_over: set[str]) -> Iterator[Delivery]:
        """What waits at an address and answers one message; all else stays where it is, and is not looked at twice."""
        with suppress(FileNotFoundError):
            mailbox = self.mailboxes.open(address)
            for file in mailbox.waiting():
                if file in passed_over:
                    continue
                passed_over.add(file)
                with suppress(OSError, errors.State):
                    if decode(mailbox.look(file, LIMIT), self.signer, file).reply_to != message_id:
                        continue
                    delivery = self._take(address, mailbox, file, claimer)
                    if delivery is not None:
                        yield delivery

    def peek(self, addresses: Iterable[Address]) -> Iterator[Message]:
        """What waits, without taking it. Files that are no messages of this fleet are passed over."""
        for address in addresses:
            with suppress(FileNotFoundError):
                mailbox = self.mailboxes.open(address)
                for file in mailbox.waiting():
                    with suppress(FileNotFoundError, errors.State):
                        yield decode(mailbox.look(file, LIMIT), self.signer, file)

    def _take(self, address: Address, mailbox: Mailbox, file: str, claimer: str) -> Delivery | None:
        held = (address.text, file)
        # A name that is used again while its first message is being handled waits, too.
        if held in self._held or self._in_grace(address, file):
            return None
        self._held.add(held)
        delivery = None
        try:
            if mailbox.claim(file, claimer):
                delivery = self._open(address, mailbox, file, claimer)
        except OSError as error:
            # Not the message's fault. Where it could not be given back either, the next poll does it (`recover`).
            _log.warning("Cannot take messages now: %s", error)
        finally:
            if delivery is None:
                self._held.discard(held)
        return delivery

    def _open(self, address: Address, mailbox: Mailbox, file: str, claimer: str) -> Delivery | None:
        """The delivery of a claimed message; one that is not to be handed out is seen to.

        Raises:
            OSError: it cannot be read now.
        """
        try:
            data = mailbox.read(file, claimer, LIMIT)
            if not data and self._begin_grace(address, file):
                mailbox.give_back(file, claimer, as_file=file)
                return None
            message = decode(data, self.signer, file)
            _check_addressee(message, address, file)
        except errors.State as error:
            self._refuse(address, mailbox, file, claimer, error.reason)
            return None
        except PermissionError as error:
            self._refuse(address, mailbox, file, claimer, f"cannot be read: {error.strerror}")
            return None
        except OSError:
            mailbox.give_back(file, claimer, as_file=file)
            raise
        if self._empty_since:
            self._empty_since.pop((address.text, file), None)
        if not self._is_wanted(message, address, mailbox, file, claimer):
            return None
        self._in_hand.add((address.text, message.id))
        self.tally.count(message.from_agent)
        self._tell(EventKind.MESSAGE_RECEIVED, claimer, message, delivery=delivery_of(file))
        return Delivery(self, address, mailbox, file, claimer, message)

    def _is_wanted(self, message: Message, address: Address, mailbox: Mailbox, file: str, claimer: str) -> bool:
        """Whether a message is to be handed out; one that is not is seen to."""
        try:
            handled = mailbox.was_acknowledged(message.id)
        except OSError:
            mailbox.give_back(file, claimer, as_file=file)
            raise
        if handled:
            _log.info("Dropped a second copy of message %s for %s", message.id, address.text)
            mailbox.discard(file, claimer)
        elif (address.text, message.id) in self._in_hand:
            mailbox.give_back(file, claimer, as_file=file)  # a second copy: once the first is settled, we know what to do
        elif message.has_expired(self._clock):
            self._bury(mailbox, file, claimer, _EXPIRED)
        else:
            self._remark(message)
            return True
        return False

    def _remark(self, message: Message) -> None:
        # Texts of one form compare as their times do.
        if message.timestamp > rfc3339(self._clock.wall_ns() + _AHEAD_NS):
            _log.warning("Message %s is dated %s, in the future", message.id, message.timestamp)

    def _in_grace(self, address: Address, file: str) -> bool:
        since = self._empty_since.get((address.text, file)) if self._empty_since else None
        return since is not None and self._clock.age_ns() - since < _GRACE_NS

    def _begin_grace(self, address: Address, file: str) -> bool:
        """An empty file may be somebody's who writes in place. True at the first sight of it."""
        key = (address.text, file)
        if key in self._empty_since:
            del self._empty_since[key]
            return False
        if len(self._empty_since) > _GRACES:
            self._empty_since.clear()
        self._empty_since[key] = self._clock.age_ns()
        return True

    def _refuse(self, address: Address, mailbox: Mailbox, file: str, claimer: str, reason: str) -> None:
        mailbox.set_aside(file, REFUSED, reason, claimer=claimer)
        _log.warning("Refused a message for %s: %s %s", address.text, file, reason)
        if self._events:
            self._events.publish(EventKind.MESSAGE_QUARANTINED, claimer, file=file, reason=reason)

    def settle(self, delivery: Delivery, *, handled: bool) -> None:
        """Ends a delivery: removes the message, or gives it back for another one."""
        mailbox, message = delivery.mailbox, delivery.message
        try:
            if not handled:
                self._in_hand.discard((delivery.address, message.id))  # before another may take it
                self._return(mailbox, delivery.file, delivery.claimer)
            elif mailbox.acknowledge(delivery.file, delivery.claimer, message.id):
                self._tell(EventKind.MESSAGE_ACKNOWLEDGED, delivery.claimer, message)
        finally:
            self._in_hand.discard((delivery.address, message.id))
            self._held.discard((delivery.address, delivery.file))

    def _return(self, mailbox: Mailbox, file: str, claimer: str) -> None:
        if delivery_of(file) < self._settings.max_deliveries:
            mailbox.give_back(file, claimer)
        else:
            self._bury(mailbox, file, claimer, f"handed out {delivery_of(file)} times and never acknowledged")

    def _bury(self, mailbox: Mailbox, file: str, claimer: str, reason: str) -> None:
        if mailbox.set_aside(file, DEAD, reason, claimer=claimer):
            _log.warning("A message for %s goes to the dead letters: %s", mailbox.address.text, reason)
            if self._events:
                self._events.publish(EventKind.MESSAGE_DEAD_LETTERED, claimer, file=file, reason=reason)

    # What others left

    def release_of(self, instance_id: str) -> None:
        """Takes back what an instance that is gone had: its claimed messages go to others, its own mailbox ends."""
        queue_fd = self._state.folder(QUEUE)
        for address in list(boxes(queue_fd)):
            if address.text == instance_id:
                mailbox = Mailbox.make(address, queue_fd)  # whole again, if a removal broke off half way
                self._drop_acknowledged(mailbox, instance_id)
                lost = mailbox.dissolve("its receiver is gone")
                mailbox.close()
                if lost:
                    _log.warning("%d message(s) for %s go to the dead letters: it is gone", lost, instance_id)
            elif not address.is_id:
                self._give_back_all(address, instance_id)
        self.mailboxes.forget(Address(instance_id))

    def _give_back_all(self, address: Address, claimer: str) -> None:
        with suppress(FileNotFoundError):
            mailbox = self.mailboxes.open(address)
            self._drop_acknowledged(mailbox, claimer)
            mine = [file for who, file in mailbox.claims() if who == claimer]
            for file in mine:
                self._return(mailbox, file, claimer)
            if mine:
                mailbox.ring()

    def _drop_acknowledged(self, mailbox: Mailbox, claimer: str, only: str | None = None) -> None:
        """Removes what a receiver had handled to the end, but not removed: between the two steps it died, or could not."""
        for who, file in mailbox.claims():
            if who == claimer and only in {None, file}:
                with suppress(OSError, errors.State):
                    if mailbox.was_acknowledged(decode(mailbox.read(file, who, LIMIT), self.signer, file).id):
                        mailbox.discard(file, who)

    def recover(self, addresses: Iterable[Address], claimer: str, lives: Callable[[str], bool]) -> None:
        """Gives back what receivers at these addresses had taken who are gone, and what ``claimer`` itself could not give back.

        This is the poll underneath the reaper.
        """
        for address in addresses:
            with suppress(FileNotFoundError):
                mailbox = self.mailboxes.open(address)
                mailbox.settle_marks()
                claims = list(mailbox.claims())
                for who, file in claims:
                    if who == claimer and (address.text, file) not in self._held:
                        self._drop_acknowledged(mailbox, claimer, file)
                        mailbox.give_back(file, claimer, as_file=file)
                        mailbox.ring()
                claimers = {who for who, _ in claims} - {claimer}
                for gone in sorted(who for who in claimers if not lives(who)):
                    self._give_back_all(address, gone)

    def sweep(self, mailbox: Mailbox) -> int:
        """Moves what has expired, in a mailbox that nobody receives from, to the dead letters. Returns how many."""
        return sum(mailbox.set_aside(file, DEAD, _EXPIRED) for file in self.expired(mailbox))

    def expired(self, mailbox: Mailbox) -> list[str]:
        """The files of a mailbox whose time is over."""
        found = []
        for file in mailbox.waiting():
            with suppress(OSError, errors.State):
                if decode(mailbox.look(file, LIMIT), self.signer, file).has_expired(self._clock):
                    found.append(file)
        return found

    def _tell(self, kind: EventKind, instance_id: str, message: Message, **data: Any) -> None:
        if self._events is not None:
            about = {"id": message.id, "message_type": message.message_type, "from_agent": message.from_agent}
            self._events.publish(kind, instance_id, **about, to=message.to_agent, **data)


def _check_addressee(message: Message, address: Address, file: str) -> None:
    """A message is good in one mailbox only: copied into another it is somebody's replay."""
    if message.to_agent != address.text and (message.to_agent is not None or not address.is_id):
        raise errors.Untrusted.at(file, "is addressed to somebody else", hint="")
