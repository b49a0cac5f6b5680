"""Sending: what happens to a message until it is in a mailbox.

A message that was accepted survives the death of any process; with ``durable`` also a power cut. One that is sent again
under the same id is recognised: it is in its mailbox, in somebody's hands, or has been acknowledged, and stays one message.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from mnemo_coord import errors
from mnemo_coord.disk import locks, records
from mnemo_coord.disk.clock import Clock, Stamps, rfc3339
from mnemo_coord.disk.signing import Signer
from mnemo_coord.disk.state_dir import QUEUE
from mnemo_coord.events import Broadcaster, EventKind
from mnemo_coord.messages.address import Address
from mnemo_coord.messages.delivery import Failure, Receipt
from mnemo_coord.messages.file_name import file_of
from mnemo_coord.messages.links import Links
from mnemo_coord.messages.mailbox import TMP
from mnemo_coord.messages.mailboxes import Mailboxes
from mnemo_coord.messages.message import LIMIT, Message, check_id, check_ttl, check_type, decode, encode
from mnemo_coord.messages.shared import written_once

if TYPE_CHECKING:
    from mnemo_coord.messages.mailbox import Mailbox
    from mnemo_coord.settings import Settings

__all__ = ["Options", "Presence", "Sender", "sends_until_recount"]

Presence = Callable[[Address], bool]
"""Tells whether somebody alive receives at an address."""


_TOGETHER: Final = 100
"""Mailboxes that a broadcast fills before it rings their bells: each costs a descriptor until then, or three."""
_WORTH_LINKING: Final = 2
"""Recipients from which on a message is written once for all of them."""


def sends_until_recount(waiting: int, limit: int) -> int:
    """How many messages a sender puts into a mailbox before it counts again what waits there.

    Listing a full mailbox costs as much as a hundred messages, so the fuller the mailbox is not, the more rarely it is
    counted. Several senders may overshoot the limit by an eighth of what was left, each.
    """
    return max(0, limit - waiting) // 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What a sender may ask for besides the message itself."""

    durable: bool | None = None
    """Whether it survives a power cut; None: as the settings say."""
    message_id: str | None = None
    """Its id, for who wants to be able to send it again; None: a new one."""
    reply_to: str | None = None
    """The id of the message that it answers."""
    ttl: float | None = None
    """Seconds after which it is worth nothing any more; None: it never expires."""
    composed: Callable[[str], None] | None = None
    """Told its id before anybody can see it."""


class Sender:
    """Sends in one fleet, as one process does. Thread-safe."""

    def __init__(
        self, mailboxes: Mailboxes, signer: Signer, clock: Clock, settings: Settings, events: Broadcaster | None = None
    ) -> None:
        self._mailboxes = mailboxes
        self._state = mailboxes.state
        self._signer = signer
        self._clock = clock
        self._settings = settings
        self._events = events
        self._stamps = Stamps(clock)
        self._random = (os.getpid(), os.urandom(4).hex())
        self._uncounted: dict[str, int] = {}

    def send(
        self,
        sender: str,
        address: Address,
        message_type: str,
        payload: Any,
        *,
        present: Presence,
        options: Options = Options(),  # frozen
    ) -> Receipt:
        """Puts one message into one mailbox.

        Raises:
            errors.Config: the message is not valid; nothing was written.
            errors.Conflict: another message has its id.
            errors.MailboxFull: too many messages wait there already.
            errors.Unknown: whether it will survive a power cut is not known; it is there.
            errors.State: it could not be written; it is not there.
        """
        message, stamp = self._compose(sender, address.text, message_type, payload, options)
        sealed = encode(message, self._signer)
        somebody = present(address)
        if address.is_id and not somebody:
            return Receipt(id=message.id, failed=(_nobody(address),))
        try:
            duplicate = self._put(address, message, stamp, sealed, options) is None
        except FileNotFoundError:
            return Receipt(id=message.id, failed=(_nobody(address),))
        if not duplicate:
            self._tell(sender, message, to=address.text)
        # RACE: a holder may have come or gone since the look; the message is in the mailbox, which is what counts.
        delivered, waiting = ((address.text,), ()) if somebody else ((), (address.text,))
        return Receipt(id=message.id, delivered=delivered, waiting=waiting, duplicate=duplicate)

    def broadcast(
        self,
        sender: str,
        recipients: Iterable[str],
        message_type: str,
        payload: Any,
        *,
        options: Options = Options(),
    ) -> Receipt:
        """Puts a copy of one message into the mailbox of each of the given ids; the receipt says who got it.

        Sent again under the same id, it fills the gaps.
        """
        message, stamp = self._compose(sender, None, message_type, payload, options)
        sealed = encode(message, self._signer)
        addresses = [Address(recipient) for recipient in recipients]
        delivered: list[str] = []
        failed: list[Failure] = []
        with self._once(message, stamp, sealed, options, len(addresses)) as source:
            for batch in _batches(addresses, _TOGETHER):
                filled = []
                with self._links(source, message, stamp) as links:
                    for address in batch:
                        try:
                            if not self._linked(address, links, options):
                                filled.append(self._put(address, message, stamp, sealed, options, ring=False, source=source))
                            delivered.append(address.text)
                        except FileNotFoundError:
                            failed.append(_nobody(address))
                        except (errors.Conflict, errors.State) as error:
                            failed.append(Failure(address=address.text, reason=error.message))
                for mailbox in filter(None, filled):
                    mailbox.ring()
        self._tell(sender, message, to=None)
        return Receipt(id=message.id, delivered=tuple(delivered), failed=tuple(failed))

    def _once(
        self, message: Message, stamp: int, sealed: bytes, options: Options, recipients: int
    ) -> AbstractContextManager[str]:
        """One file for all recipients, as long as they are served."""
        if recipients < _WORTH_LINKING:
            return nullcontext("")
        tmp_fd = self._state.folder(f"{QUEUE}/{TMP}")
        tmp_name = _tmp_name(message, stamp)
        return written_once(sealed, tmp_name, tmp_fd=tmp_fd, durable=self._is_durable(options.durable))

    def _links(self, source: str, message: Message, stamp: int) -> Links:
        file, folder = file_of(stamp, message.id), self._state.folder
        return Links(source, file, tmp_fd=folder(f"{QUEUE}/{TMP}"), queue_fd=folder(QUEUE))

    def _linked(self, address: Address, links: Links, options: Options) -> bool:
        """Whether a link was all there is to it. An id that may have been sent before, and a sync, want the mailbox opened."""
        if options.message_id is not None or self._is_durable(options.durable):
            return False
        with suppress(OSError, errors.Untrusted):  # whatever it was, it is met again by who opens the mailbox
            links.add(address.folder, partial(self._refuse_full, address))
            return True
        return False

    def _is_durable(self, asked: bool | None) -> bool:
        return self._settings.durable if asked is None else asked

    def put(self, message: Message) -> None:
        """Puts a message that was composed before into its mailbox once more, behind what waits there.

        Raises:
            errors.UnknownAddress: it is for an instance that is gone.
            errors.CoordinationError: as `send` does.
        """
        address = Address.parse(message.to_agent or "")
        sealed = encode(message, self._signer)
        try:
            self._publish(address, message, self._stamps.next(), sealed, durable=None)
        except FileNotFoundError:
            raise errors.UnknownAddress(f"{address.text}: {_nobody(address).reason}", address=address.text) from None

    def _compose(
        self, sender: str, to_agent: str | None, message_type: str, payload: Any, options: Options
    ) -> tuple[Message, int]:
        stamp = self._stamps.next()
        ttl = check_ttl(options.ttl)
        message = Message(
            id=f"{stamp:016x}-{self._token()}" if options.message_id is None else check_id(options.message_id),
            from_agent=sender,
            to_agent=to_agent,
            message_type=check_type(message_type),
            timestamp=rfc3339(self._clock.wall_ns()),
            payload=payload,
            reply_to=None if options.reply_to is None else check_id(options.reply_to),
            expires_ns=None if ttl is None else self._clock.age_ns() + int(ttl * 1e9),
            boot_id=None if ttl is None else self._clock.boot_id,
        )
        if options.composed:
            options.composed(message.id)
        return message, stamp

    def _token(self) -> str:
        """What makes a stamp unique: a random text of this process, which a forked child does not share."""
        if self._random[0] != os.getpid():
            self._random = (os.getpid(), os.urandom(4).hex())
        return self._random[1]

    def _put(
        self,
        address: Address,
        message: Message,
        stamp: int,
        sealed: bytes,
        options: Options,
        *,
        ring: bool = True,
        source: str = "",
    ) -> Mailbox | None:
        """Publishes a message and returns its mailbox; None when it was there already."""
        if options.message_id is None:  # a new id: no other message can have it
            return self._publish(address, message, stamp, sealed, durable=options.durable, ring=ring, source=source)
        # RACE: two that send the same message at the same moment: one of them looks when the other has published.
        with locks.hold(self._state, "sending", self._settings.lock_timeout):
            if self._copy_of(address, message):
                return None
            return self._publish(address, message, stamp, sealed, durable=options.durable, ring=ring, source=source)

    def _copy_of(self, address: Address, message: Message) -> bool:
        try:
            data = self._mailboxes.open(address).copy_of(message.id, LIMIT)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._failed(error) from None
        if data:
            there = decode(data, self._signer, message.id)
            if (there.message_type, there.payload) != (message.message_type, _as_stored(message.payload)):
                raise errors.Conflict(f"another message has the id {message.id!r}", hint="draw a new one for each message")
        return data is not None

    def _publish(
        self,
        address: Address,
        message: Message,
        stamp: int,
        sealed: bytes,
        *,
        durable: bool | None,
        ring: bool = True,
        source: str = "",
    ) -> Mailbox:
        file, tmp_name, synced = file_of(stamp, message.id), _tmp_name(message, stamp), self._is_durable(durable)
        last_try = False
        while True:
            try:
                mailbox = self._mailboxes.open(address)
                self._refuse_full(address, mailbox.new)
                tmp_fd = self._state.folder(f"{QUEUE}/{TMP}")
                mailbox.publish(file, sealed, tmp_name=tmp_name, tmp_fd=tmp_fd, durable=synced, ring=ring, source=source)
            except FileNotFoundError:
                # Somebody removed the mailbox, or the whole state directory: one that belongs there is made again.
                self._mailboxes.forget(address)
                if last_try or (self._state.is_current() and address.is_id):
                    raise
                self._reopen()
                last_try = True
            except errors.Unknown as error:
                raise errors.Unknown(error.message, id=message.id) from None
            except OSError as error:
                raise self._failed(error) from None
            else:
                return mailbox

    def _failed(self, error: OSError) -> errors.State:
        return errors.State.at(self._state.path / QUEUE, (error.strerror or str(error)).lower())

    def _reopen(self) -> None:
        if not self._state.is_current():
            self._state.reopen()

    def _refuse_full(self, address: Address, new: int) -> None:
        left = self._uncounted.get(address.text, 0)
        if left:
            self._uncounted[address.text] = left - 1
            return
        waiting, limit = len(os.listdir(new)), self._settings.mailbox_limit  # whatever lies there counts
        if waiting >= limit:
            raise errors.MailboxFull(f"the mailbox of {address.text} holds {waiting} messages", address=address.text)
        self._uncounted[address.text] = sends_until_recount(waiting, limit)

    def _tell(self, sender: str, message: Message, *, to: str | None) -> None:
        if self._events is not None:
            self._events.publish(
                EventKind.MESSAGE_SENT,
                sender,
                id=message.id,
                message_type=message.message_type,
                from_agent=message.from_agent,
                to=to,
            )


def _batches(addresses: list[Address], size: int) -> Iterator[list[Address]]:
    return (addresses[start : start + size] for start in range(0, len(addresses), size))


def _tmp_name(message: Message, stamp: int) -> str:
    return f"{message.from_agent}.{os.getpid()}.{stamp:016x}"


def _nobody(address: Address) -> Failure:
    return Failure(address=address.text, reason="no live instance has this id")


def _as_stored(payload: Any) -> Any:
    """A payload as it comes back: a tuple is a list by then."""
    return records.parse(records.encode({"payload": payload}), "payload")["payload"]
