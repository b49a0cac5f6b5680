"""The fate of each message: where it is now, and what becomes of it. For people and programs that look; changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from mnemo_coord import errors
from mnemo_coord.messages import set_aside
from mnemo_coord.messages.file_name import delivery_of, stamp_of
from mnemo_coord.messages.message import LIMIT, Message, decode

if TYPE_CHECKING:
    from mnemo_coord.disk.clock import Clock
    from mnemo_coord.disk.signing import Signer
    from mnemo_coord.messages.mailbox import Mailbox
    from mnemo_coord.messages.mailboxes import Mailboxes
    from mnemo_coord.messages.set_aside import SetAside

__all__ = ["Depth", "Fate", "Fates", "Known"]


class Fate(StrEnum):
    """What became of a message."""

    QUEUED = "queued"
    """It waits."""
    CLAIMED = "claimed"
    """A receiver has it."""
    ACKNOWLEDGED = "acknowledged"
    """It was handled. Remembered for some thousands of messages."""
    EXPIRED = "expired"
    """It waits, and its time is over: nobody will be handed it."""
    DEAD_LETTERED = "dead-lettered"
    """It could not be delivered."""
    REFUSED = "refused"
    """It is no message of this fleet, or is damaged."""


_SET_ASIDE: Final = {set_aside.DEAD: Fate.DEAD_LETTERED, set_aside.REFUSED: Fate.REFUSED}


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """What is known of one message."""

    id: str | None
    """None where it cannot be read."""
    fate: Fate
    address: str | None
    """In whose mailbox it is or was; None where that is not known."""
    file: str
    """Its file name; what `mnemosyne queue requeue` and ``drop`` are told, if it was set aside."""
    delivery: int
    """1 at the first time that it is handed out."""
    age: float | None
    """Seconds since it was sent or set aside, by the wall clock; None where its name does not say."""
    claimed_by: str | None
    reason: str
    """Why it was set aside."""
    message: Message | None
    """What it says, if it is a message of this fleet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Depth:
    """One mailbox in numbers."""

    address: str
    waiting: int
    claimed: int
    expired: int | None
    """How many of those that wait will not be handed out any more; None where that was not looked at."""
    oldest: float | None
    """Seconds that the oldest has been waiting, by the wall clock."""


class Fates:
    """Looks at every message of a fleet."""

    def __init__(self, mailboxes: Mailboxes, signer: Signer, clock: Clock) -> None:
        self._mailboxes = mailboxes
        self._state = mailboxes.state
        self._signer = signer
        self._clock = clock

    def depths(self) -> list[Depth]:
        """Every mailbox, in the order of the folders."""
        return [self._depth(mailbox) for mailbox in self._all()]

    def _depth(self, mailbox: Mailbox) -> Depth:
        waiting = list(self._waiting(mailbox))
        ages = [known.age for known in waiting if known.age is not None]
        return Depth(
            address=mailbox.address.text,
            waiting=len(waiting),
            claimed=len(list(mailbox.claims())),
            expired=sum(known.fate is Fate.EXPIRED for known in waiting),
            oldest=max(ages, default=None),
        )

    def counts(self) -> list[Depth]:
        """Every mailbox by the names of its files alone: cheap enough to be done all the time."""
        return [self._count(mailbox) for mailbox in self._all()]

    def _count(self, mailbox: Mailbox) -> Depth:
        with suppress(FileNotFoundError):
            waiting = mailbox.waiting()
            return Depth(
                address=mailbox.address.text,
                waiting=len(waiting),
                claimed=sum(1 for _ in mailbox.claims()),
                expired=None,
                oldest=max((age for age in map(self._age, waiting) if age is not None), default=None),
            )
        return Depth(address=mailbox.address.text, waiting=0, claimed=0, expired=None, oldest=None)

    def _age(self, file: str) -> float | None:
        """For people: two clocks may differ, and nobody waits less than no time."""
        stamp = stamp_of(file)
        return None if stamp is None else max(0.0, (self._clock.wall_ns() - stamp) / 1e9)

    def aside(self) -> dict[Fate, int]:
        """How many messages were set aside, by their fate."""
        return {fate: set_aside.count(self._state, where) for where, fate in _SET_ASIDE.items()}

    def of_address(self, address: str) -> list[Known]:
        """Every message at one address: those that wait in their order, then those that are claimed."""
        return [known for box in self._all() if box.address.text == address for known in self._in(box)]

    def set_aside(self) -> list[Known]:
        """Every message that was set aside."""
        found = set_aside.entries(self._state, self._signer, self._clock.wall_ns())
        return [self._of_entry(entry) for entry in found]

    def of_message(self, message_id: str) -> list[Known]:
        """Every copy of one message: by its id, or by its file name where it was set aside."""
        found = [known for known in self.set_aside() if message_id in {known.id, known.file}]
        for mailbox in self._all():
            found += [known for known in self._in(mailbox) if known.id == message_id]
            if mailbox.was_acknowledged(message_id):
                found.append(self._known(mailbox, Fate.ACKNOWLEDGED, "", message_id=message_id))
        return found

    def _all(self) -> Iterator[Mailbox]:
        with suppress(FileNotFoundError):  # nobody has ever sent anything
            yield from self._mailboxes.all()

    def _in(self, mailbox: Mailbox) -> Iterator[Known]:
        yield from self._waiting(mailbox)
        for claimer, file in mailbox.claims():
            message = None
            with suppress(OSError, errors.State):
                message = decode(mailbox.read(file, claimer, LIMIT), self._signer, file)
            yield self._known(mailbox, Fate.CLAIMED, file, message=message, claimed_by=claimer)

    def _waiting(self, mailbox: Mailbox) -> Iterator[Known]:
        for file in mailbox.waiting():
            message = None
            with suppress(FileNotFoundError):
                with suppress(OSError, errors.State):
                    message = decode(mailbox.look(file, LIMIT), self._signer, file)
                expired = message is not None and message.has_expired(self._clock)
                yield self._known(mailbox, Fate.EXPIRED if expired else Fate.QUEUED, file, message=message)

    def _known(
        self,
        mailbox: Mailbox,
        fate: Fate,
        file: str,
        *,
        message: Message | None = None,
        message_id: str | None = None,
        claimed_by: str | None = None,
    ) -> Known:
        return Known(
            id=message.id if message else message_id,
            fate=fate,
            address=mailbox.address.text,
            file=file,
            delivery=delivery_of(file),
            age=self._age(file),
            claimed_by=claimed_by,
            reason="",
            message=message,
        )

    @staticmethod
    def _of_entry(entry: SetAside) -> Known:
        return Known(
            id=entry.message.id if entry.message else None,
            fate=_SET_ASIDE[entry.where],
            address=entry.message.to_agent if entry.message else None,
            file=entry.file,
            delivery=delivery_of(entry.file),
            age=entry.age,
            claimed_by=None,
            reason=entry.reason,
            message=entry.message,
        )
