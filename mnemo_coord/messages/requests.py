"""Requests that wait for their answer: a message whose ``reply_to`` names one of them is not handed out, it ends the wait."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from mnemo_coord.messages.delivery import Delivery

if TYPE_CHECKING:
    from mnemo_coord.messages.message import Message

__all__ = ["Request", "Requests"]


class Request:
    """One request of this process, until it is answered."""

    def __init__(self, wake: threading.Event) -> None:
        self.id = ""
        self.wake = wake
        """Set when it is answered, and whenever it is worth looking again."""
        self.answer: Message | None = None
        self.passed_over: set[str] = set()
        """Files in the mailbox that are not the answer: they are not read again."""

    def compose(self, message_id: str) -> None:
        """Learns its id, before anybody can answer it."""
        self.id = message_id


class Requests:
    """The requests of one process. Thread-safe."""

    def __init__(self) -> None:
        self._waiting: list[Request] = []
        self._mutex = threading.Lock()

    @contextmanager
    def waiting(self, wake: threading.Event) -> Iterator[Request]:
        """A request for the time of a block. An answer that comes later is a message like any other."""
        request = Request(wake)
        with self._mutex:
            self._waiting.append(request)
        try:
            yield request
        finally:
            with self._mutex:
                self._waiting.remove(request)

    def take(self, delivery: Delivery) -> bool:
        """Acknowledges a delivery if it is an answer that is waited for, and hands it to whoever waits."""
        reply_to = delivery.message.reply_to
        if reply_to is None:
            return False
        with self._mutex:
            request = next((waiting for waiting in self._waiting if waiting.id == reply_to), None)
        if request is None:
            return False
        with suppress(OSError):  # the answer counts all the same
            delivery.acknowledge()
        request.answer = request.answer or delivery.message
        request.wake.set()
        return True
