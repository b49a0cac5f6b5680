"""Sending and receiving: what happens to a message between the two.

A message that `Queue.send` accepted survives the death of any process; with ``durable`` also a power cut. It is handed out at
least once: a receiver that dies or raises before it acknowledged gives it back, as its next delivery, until it has been
handed out so often that it goes to the dead letters. What is refused goes to the quarantine with its reason, and never
keeps the messages behind it waiting.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from mnemo_coord import errors
from mnemo_coord.disk.clock import Clock, Stamps, rfc3339
from mnemo_coord.disk.signing import Signer
from mnemo_coord.disk.state_dir import QUEUE, StateDir
from mnemo_coord.events import Broadcaster, EventKind
from mnemo_coord.messages.delivery import Delivery, Failure, Receipt
from mnemo_coord.messages.mailbox import DEAD, REFUSED, TMP, Address, Mailbox, boxes, delivery_of
from mnemo_coord.messages.message import LIMIT, Message, check_id, check_type, decode, encode

if TYPE_CHECKING:
    from mnemo_coord.settings import Settings

__all__ = ["Presence", "Queue"]

_log = logging.getLogger(__name__)

_OPEN_MAILBOXES: Final = 64
_GRACE_NS: Final = 2_000_000_000
"""How long an empty file may be one that somebody is still writing, in nanoseconds."""
_SCARCE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO})

Presence = Callable[[Address], bool]
"""Tells whether somebody alive receives at an address."""


def sends_until_recount(waiting: int, limit: int) -> int:
    """How many messages a sender puts into a mailbox before it counts again what waits there.

    Listing a full mailbox costs as much as a hundred messages, so the fuller the mailbox is not, the more rarely it is
    counted. Several senders may overshoot the limit by an eighth of what was left, each.
    """
    return max(0, limit - waiting) // 8


class Queue:
    """The mailboxes of one fleet, as one process uses them. Thread-safe."""

    def __init__(
        self, state: StateDir, signer: Signer, clock: Clock, settings: Settings, events: Broadcaster | None = None
    ) -> None:
        self._state = state
        self.signer = signer
        self._clock = clock
        self._settings = settings
        self._events = events
        self._stamps = Stamps(clock)
        self._random = (os.getpid(), os.urandom(4).hex())
        self._open: OrderedDict[str, Mailbox] = OrderedDict()
        self._open_in = -1
        self._uncounted: dict[str, int] = {}
        self._lock = threading.RLock()
        self._empty_since: dict[tuple[str, str], int] = {}

    # Sending

    def send(
        self,
        sender: str,
        address: Address,
        message_type: str,
        payload: Any,
        *,
        present: Presence,
        durable: bool | None = None,
        message_id: str | None = None,
    ) -> Receipt:
        """Puts one message into one mailbox.

        Raises:
            errors.Config: the message is not valid; nothing was written.
            errors.MailboxFull: too many messages wait there already.
            errors.State: it could not be written; it is not there.
        """
        message, stamp = self._compose(sender, address.text, message_type, payload, message_id)
        sealed = encode(message, self.signer)
        somebody = present(address)
        if address.is_id and not somebody:
            return Receipt(id=message.id, failed=(_nobody(address),))
        try:
            self._publish(address, sender, message.id, stamp, sealed, durable=durable)
        except FileNotFoundError:
            return Receipt(id=message.id, failed=(_nobody(address),))
        self._tell(EventKind.MESSAGE_SENT, sender, message, to=address.text)
        # RACE: a holder may have come or gone since the look; the message is in the mailbox, which is what counts.
        place = (address.text,)
        return Receipt(id=message.id, delivered=place) if somebody else Receipt(id=message.id, waiting=place)

    def broadcast(
        self, sender: str, recipients: Iterable[str], message_type: str, payload: Any, *, durable: bool | None = None
    ) -> Receipt:
        """Puts a copy of one message into the mailbox of each of the given ids; the receipt says who got it."""
        message, stamp = self._compose(sender, None, message_type, payload, None)
        sealed = encode(message, self.signer)
        delivered, failed = [], []
        for recipient in recipients:
            try:
                self._publish(Address(recipient), sender, message.id, stamp, sealed, durable=durable)
                delivered.append(recipient)
            except FileNotFoundError:
                failed.append(_nobody(Address(recipient)))
            except (errors.MailboxFull, errors.State) as error:
                failed.append(Failure(address=recipient, reason=error.message))
        self._tell(EventKind.MESSAGE_SENT, sender, message, to=None)
        return Receipt(id=message.id, delivered=tuple(delivered), failed=tuple(failed))

    def _compose(
        self, sender: str, to_agent: str | None, message_type: str, payload: Any, message_id: str | None
    ) -> tuple[Message, int]:
        stamp = self._stamps.next()
        message = Message(
            id=f"{stamp:016x}-{self._token()}" if message_id is None else check_id(message_id),
            from_agent=sender,
            to_agent=to_agent,
            message_type=check_type(message_type),
            timestamp=rfc3339(self._clock.wall_ns()),
            payload=payload,
        )
        return message, stamp

    def _token(self) -> str:
        """What makes a stamp unique: a random text of this process, which a forked child does not share."""
        if self._random[0] != os.getpid():
            self._random = (os.getpid(), os.urandom(4).hex())
        return self._random[1]

    def _publish(
        self, address: Address, sender: str, message_id: str, stamp: int, sealed: bytes, *, durable: bool | None
    ) -> None:
        prefix = f"{stamp:016x}-"
        file = f"{message_id if message_id.startswith(prefix) else prefix + message_id}.json"
        tmp_name = f"{sender}.{os.getpid()}.{stamp:016x}"
        synced = self._settings.durable if durable is None else durable
        for last_try in (False, True):
            try:
                mailbox = self._mailbox(address)
                self._refuse_full(address, mailbox)
                tmp_fd = self._state.folder(f"{QUEUE}/{TMP}")
                return mailbox.publish(file, sealed, tmp_name=tmp_name, tmp_fd=tmp_fd, durable=synced)
            except FileNotFoundError:
                # Somebody removed the mailbox, or the whole state directory: one that belongs there is made again.
                self._forget(address)
                if last_try or (self._state.is_current() and address.is_id):
                    raise
                self._reopen()
            except OSError as error:
                raise errors.State.at(self._state.path / QUEUE, (error.strerror or str(error)).lower()) from None
        return None

    def _reopen(self) -> None:
        if not self._state.is_current():
            self._state.reopen()

    def _refuse_full(self, address: Address, mailbox: Mailbox) -> None:
        left = self._uncounted.get(address.text, 0)
        if left:
            self._uncounted[address.text] = left - 1
            return
        waiting, limit = mailbox.depth(), self._settings.mailbox_limit
        if waiting >= limit:
            raise errors.MailboxFull(f"the mailbox of {address.text} holds {waiting} messages", address=address.text)
        self._uncounted[address.text] = sends_until_recount(waiting, limit)

    # Receiving

    def receive(self, addresses: Iterable[Address], claimer: str) -> Iterator[Delivery]:
        """What waits at these addresses now, claimed for ``claimer`` one by one as it is asked for."""
        for address in addresses:
            try:
                mailbox = self._mailbox(address)
                waiting = mailbox.waiting()
            except FileNotFoundError:
                self._forget(address)  # removed by hand; its owner makes it again at its next heartbeat
                continue
            except OSError as error:
                if error.errno not in _SCARCE:
                    raise errors.State.at(self._state.path / QUEUE, (error.strerror or str(error)).lower()) from None
                _log.warning("Cannot read messages now: %s", error)
                continue
            for file in waiting:
                delivery = self._take(address, mailbox, file, claimer)
                if delivery is not None:
                    yield delivery

    def peek(self, addresses: Iterable[Address]) -> Iterator[Message]:
        """What waits, without taking it. Files that are no messages of this fleet are passed over."""
        for address in addresses:
            with suppress(FileNotFoundError):
                mailbox = self._mailbox(address)
                for file in mailbox.waiting():
                    with suppress(FileNotFoundError, errors.State):
                        yield decode(mailbox.look(file, LIMIT), self.signer, file)

    def _take(self, address: Address, mailbox: Mailbox, file: str, claimer: str) -> Delivery | None:
        if self._in_grace(address, file) or not mailbox.claim(file, claimer):
            return None
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
        except OSError as error:
            if error.errno in _SCARCE:
                # Not the message's fault: it goes back as it was, and the next poll tries again.
                mailbox.give_back(file, claimer, as_file=file)
                _log.warning("Cannot read messages now: %s", error)
                return None
            self._refuse(address, mailbox, file, claimer, f"cannot be read: {error.strerror}")
            return None
        if self._empty_since:
            self._empty_since.pop((address.text, file), None)
        self._tell(EventKind.MESSAGE_RECEIVED, claimer, message, delivery=delivery_of(file))
        return Delivery(self, address, mailbox, file, claimer, message)

    def _in_grace(self, address: Address, file: str) -> bool:
        since = self._empty_since.get((address.text, file)) if self._empty_since else None
        return since is not None and self._clock.age_ns() - since < _GRACE_NS

    def _begin_grace(self, address: Address, file: str) -> bool:
        """An empty file may be somebody's who writes in place. True at the first sight of it."""
        key = (address.text, file)
        if key in self._empty_since:
            del self._empty_since[key]
            return False
        if len(self._empty_since) > _OPEN_MAILBOXES:
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
        if handled:
            if delivery.mailbox.acknowledge(delivery.file, delivery.claimer):
                self._tell(EventKind.MESSAGE_ACKNOWLEDGED, delivery.claimer, delivery.message)
            return
        self._return(delivery.mailbox, delivery.file, delivery.claimer)

    def _return(self, mailbox: Mailbox, file: str, claimer: str) -> None:
        if delivery_of(file) < self._settings.max_deliveries:
            mailbox.give_back(file, claimer)
            return
        reason = f"handed out {delivery_of(file)} times and never acknowledged"
        if mailbox.set_aside(file, DEAD, reason, claimer=claimer):
            _log.warning("A message for %s goes to the dead letters: %s", mailbox.address.text, reason)
            if self._events:
                self._events.publish(EventKind.MESSAGE_DEAD_LETTERED, claimer, file=file, reason=reason)

    # Mailboxes

    def make(self, address: Address) -> str:
        """Makes the mailbox of an address. Returns the path of the folder with its bell."""
        Mailbox.make(address, self._state.folder(QUEUE)).close()
        return str(self._state.path / QUEUE / address.folder / "bell")

    def is_whole(self, address: Address) -> bool:
        """Whether the mailbox of an address is there; a removed one is let go of."""
        try:
            if self._mailbox(address).is_whole():
                return True
        except FileNotFoundError:
            pass
        self._forget(address)
        return False

    def release_of(self, instance_id: str) -> None:
        """Takes back what an instance that is gone had: its claimed messages go to others, its own mailbox ends."""
        queue_fd = self._state.folder(QUEUE)
        for address in list(boxes(queue_fd)):
            if address.text == instance_id:
                mailbox = Mailbox.make(address, queue_fd)  # whole again, if a removal broke off half way
                lost = mailbox.dissolve("its receiver is gone")
                mailbox.close()
                if lost:
                    _log.warning("%d message(s) for %s go to the dead letters: it is gone", lost, instance_id)
            elif not address.is_id:
                self._give_back_all(address, instance_id)
        self._forget(Address(instance_id))

    def _give_back_all(self, address: Address, claimer: str) -> None:
        with suppress(FileNotFoundError):
            mailbox = self._mailbox(address)
            mine = [file for who, file in mailbox.claims() if who == claimer]
            for file in mine:
                self._return(mailbox, file, claimer)
            if mine:
                mailbox.ring()

    def depths(self) -> dict[str, int]:
        """How many messages wait at each address."""
        found = {}
        for address in boxes(self._state.folder(QUEUE)):
            with suppress(FileNotFoundError):
                found[address.text] = len(self._mailbox(address).waiting())
        return found

    def _mailbox(self, address: Address) -> Mailbox:
        """The open mailbox of an address; that of a name or role is made if need be, that of an id is not.

        Raises:
            FileNotFoundError: there is none.
        """
        with self._lock:
            queue_fd = self._state.folder(QUEUE)
            if queue_fd != self._open_in:  # the state directory has been opened anew
                self._open.clear()
                self._open_in = queue_fd
            mailbox = self._open.pop(address.text, None)
            if mailbox is None:
                make = self._state.writable and not address.is_id
                mailbox = (Mailbox.make if make else Mailbox.open)(address, queue_fd)
            self._open[address.text] = mailbox
            if len(self._open) > _OPEN_MAILBOXES:
                self._open.popitem(last=False)
            return mailbox

    def _forget(self, address: Address) -> None:
        with self._lock:
            self._open.pop(address.text, None)
            self._uncounted.pop(address.text, None)

    def close(self) -> None:
        """Lets go of every open mailbox."""
        with self._lock:
            self._open.clear()

    def _tell(self, kind: EventKind, instance_id: str, message: Message, **data: Any) -> None:
        if self._events is not None:
            self._events.publish(
                kind, instance_id, id=message.id, message_type=message.message_type, from_agent=message.from_agent, **data
            )


def _nobody(address: Address) -> Failure:
    return Failure(address=address.text, reason="no live instance has this id")


def _check_addressee(message: Message, address: Address, file: str) -> None:
    """A message is good in one mailbox only: copied into another it is somebody's replay."""
    if message.to_agent != address.text and (message.to_agent is not None or not address.is_id):
        raise errors.Untrusted.at(file, "is addressed to somebody else", hint="")
