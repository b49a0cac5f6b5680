"""The mailboxes that this process has open."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from mnemo_coord.disk.state_dir import QUEUE, StateDir
from mnemo_coord.messages.address import Address, boxes
from mnemo_coord.messages.mailbox import Mailbox

__all__ = ["Mailboxes"]

_OPEN: Final = 64
"""How many are kept open: each costs four descriptors."""


class Mailboxes:
    """The mailboxes of one fleet, as one process opens them. Thread-safe."""

    def __init__(self, state: StateDir) -> None:
        self.state = state
        self._open: OrderedDict[str, Mailbox] = OrderedDict()
        self._open_in = -1
        self._lock = threading.RLock()

    def open(self, address: Address) -> Mailbox:
        """The mailbox of an address; that of a name or role is made if need be, that of an id is not.

        Raises:
            FileNotFoundError: there is none.
        """
        with self._lock:
            queue_fd = self.state.folder(QUEUE)
            if queue_fd != self._open_in:  # the state directory has been opened anew
                self._open.clear()
                self._open_in = queue_fd
            mailbox = self._open.pop(address.text, None)
            if mailbox is None:
                make = self.state.writable and not address.is_id
                mailbox = (Mailbox.make if make else Mailbox.open)(address, queue_fd)
            self._open[address.text] = mailbox
            if len(self._open) > _OPEN:
                self._open.popitem(last=False)
            return mailbox

    def make(self, address: Address) -> str:
        """Makes the mailbox of an address. Returns the path of the folder with its bell."""
        Mailbox.make(address, self.state.folder(QUEUE)).close()
        return str(self.state.path / QUEUE / address.folder / "bell")

    def is_whole(self, address: Address) -> bool:
        """Whether the mailbox of an address is there; a removed one is let go of."""
        with suppress(OSError):
            if self.open(address).is_whole():
                return True
        self.forget(address)
        return False

    def all(self) -> Iterator[Mailbox]:
        """Every mailbox there is, opened where it is not."""
        for address in boxes(self.state.folder(QUEUE)):
            with suppress(FileNotFoundError):
                yield self.open(address)

    def forget(self, address: Address) -> None:
        """Lets go of one that has been removed."""
        with self._lock:
            self._open.pop(address.text, None)

    def close(self) -> None:
        """Lets go of every open mailbox."""
        with self._lock:
            self._open.clear()
