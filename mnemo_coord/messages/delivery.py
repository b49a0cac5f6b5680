"""What sender and receiver hold in their hands: the receipt of a message, and its delivery."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mnemo_coord import errors
from mnemo_coord.messages.address import Address
from mnemo_coord.messages.file_name import delivery_of
from mnemo_coord.messages.mailbox import Mailbox

if TYPE_CHECKING:
    from types import TracebackType

    from mnemo_coord.messages.message import Message

__all__ = ["Delivery", "Failure", "Receipt"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why an address did not get a message."""

    address: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """What became of a message when it was sent."""

    id: str
    delivered: tuple[str, ...] = ()
    """Addresses in whose mailbox it is, with somebody alive to receive it."""
    waiting: tuple[str, ...] = ()
    """Names and roles in whose mailbox it is, for their next holder."""
    failed: tuple[Failure, ...] = ()
    """Addresses that did not get it."""
    duplicate: bool = False
    """Whether it was there already, sent before under the same id: nothing was added."""


class Settling(Protocol):
    """Whoever handed a delivery out and takes the outcome."""

    def settle(self, delivery: Delivery, *, handled: bool) -> None:
        """Ends a delivery."""


class Delivery:
    """One message in the hands of its receiver, until it acknowledges it or gives it back.

    As a ``with`` block: leaving it normally acknowledges, raising gives it back and goes on raising. A receiver that dies
    with it gives it back too.
    """

    def __init__(self, queue: Settling, address: Address, mailbox: Mailbox, file: str, claimer: str, message: Message) -> None:
        self.message = message
        self.address = address.text
        """The address it came to: the receiver's id, its name or one of its roles."""
        self.mailbox = mailbox
        self.file = file
        self.claimer = claimer
        self._queue = queue
        self._settled = False

    @property
    def delivery(self) -> int:
        """1 at the first time that the message is handed out, 2 at the second."""
        return delivery_of(self.file)

    def acknowledge(self) -> None:
        """Says that it has been handled: it is removed. Idempotent."""
        self._settle(handled=True)

    def give_back(self) -> None:
        """Says that it has not been handled: it is delivered again, here or to another. Idempotent."""
        self._settle(handled=False)

    @errors.translated
    def _settle(self, *, handled: bool) -> None:
        if not self._settled:
            self._settled = True
            self._queue.settle(self, handled=handled)

    def __enter__(self) -> Message:
        return self.message

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._settle(handled=kind is None)
