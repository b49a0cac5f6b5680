"""The receiver of one instance: what waits at its addresses, pulled, pushed, or awaited as the answer to a request."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from mnemo_coord import errors
from mnemo_coord.events import Event, EventKind
from mnemo_coord.loops import UNATTENDED, Loop
from mnemo_coord.messages.address import Address
from mnemo_coord.messages.delivery import Delivery
from mnemo_coord.messages.message import Message
from mnemo_coord.messages.requests import Request, Requests

if TYPE_CHECKING:
    from mnemo_coord.events import Broadcaster
    from mnemo_coord.messages.queue import Queue

__all__ = ["Receiver"]

_log = logging.getLogger(__name__)

_GATHERING: Final = 0.0005
"""Seconds that a receiver lets messages gather after it handled some.

While one waits unclaimed its sender does not ring (`Mailbox.publish`), and a ring costs the receiver four times what a
message does: so a busy mailbox is emptied in batches. An idle one is not slowed, because whoever waits is woken by the bell.
"""
_LONGEST: Final = 3600.0


class Receiver:
    """Receives for one instance. Thread-safe. ``poll_interval`` is in seconds."""

    def __init__(
        self, queue: Queue, addresses: list[Address], instance_id: str, events: Broadcaster, poll_interval: float
    ) -> None:
        self.addresses = addresses
        """Its id first, then its name and roles."""
        self._queue = queue
        self._id = instance_id
        self._events = events
        self._poll_interval = poll_interval
        self._requests = Requests()
        self._callbacks: list[Callable[[Message], None]] = []
        self._waiters: set[threading.Event] = set()
        self._delivering: Loop | None = None
        self._busy = False

    def on_bell(self, _name: str) -> None:
        """To be called when a bell of one of the addresses rang."""
        for waiter in tuple(self._waiters):
            waiter.set()
        if self._delivering is not None:
            self._delivering.wake()

    def poll(self) -> None:
        """To be called at each poll: has handed over what waits without a bell having rung."""
        if self._delivering is not None and self._queue.has_waiting(self.addresses):
            self._delivering.wake()

    @contextmanager
    def woken(self) -> Iterator[threading.Event]:
        """An event that is set when a bell rings, and when somebody has left or died."""
        wake = threading.Event()

        def heed(event: Event) -> None:
            if event.kind in {EventKind.INSTANCE_DIED, EventKind.INSTANCE_LEFT}:
                wake.set()

        unsubscribe = self._events.subscribe(heed)
        self._waiters.add(wake)
        try:
            yield wake
        finally:
            self._waiters.discard(wake)
            unsubscribe()

    # Pulled

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
                for delivery in self._queue.receive(self.addresses, self._id):
                    if self._requests.take(delivery):
                        continue
                    first = False
                    self._busy = True
                    yield delivery
                left = deadline - time.monotonic()
                if not first or left <= 0:
                    return
                self._busy = False
                rung.wait(min(left, self._poll_interval, _LONGEST))
        finally:
            self._waiters.discard(rung)

    # Pushed

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
            outcomes = [self._hand_over(item) for item in self._queue.receive(self.addresses, self._id)]
            handled = any(outcomes)
            if handled:
                time.sleep(_GATHERING)
        return UNATTENDED * self._poll_interval

    def _hand_over(self, delivery: Delivery) -> bool:
        if self._requests.take(delivery):
            return True
        try:
            with delivery as message:
                for callback in tuple(self._callbacks):
                    callback(message)
        except Exception:
            _log.exception("A callback failed at message %s; it will be delivered again", delivery.message.id)
            return False
        return True

    def stop(self) -> None:
        """Ends the pushing."""
        if self._delivering is not None:
            self._delivering.stop()

    # Awaited

    def request(
        self,
        send: Callable[[Callable[[str], None]], object],
        address: Address,
        lives: Callable[[str], bool],
        timeout: float,
        until: Callable[[], bool] | None = None,
    ) -> Message:
        """Sends a request and waits ``timeout`` seconds for its answer.

        ``send`` is given the function that is to be told the request's id before anybody can see it. ``until`` says that the
        answer is no longer needed; it is asked at every wake-up, and at the poll.

        Raises:
            errors.TimedOut: no answer came in time.
            errors.UnknownAddress: the addressed instance is gone and has not answered.
        """
        deadline = time.monotonic() + timeout
        with self.woken() as wake, self._requests.waiting(wake) as request:
            send(request.compose)
            while True:
                wake.clear()
                # The order matters: what an instance that is gone has answered is there by then.
                gone = address.is_id and not lives(address.text)
                self._look_for(request)
                if request.answer is not None:
                    return request.answer
                left = deadline - time.monotonic()
                if gone:
                    what = f"{address.text} ended before it answered"
                    raise errors.UnknownAddress(what, address=address.text, id=request.id)
                if left <= 0 or (until is not None and until()):
                    what = f"no answer from {address.text} within {timeout:g} s"
                    raise errors.TimedOut(
                        what, hint="it may still come: `receive` hands it out", timeout=timeout, id=request.id
                    )
                wake.wait(min(left, self._poll_interval, _LONGEST))

    def _look_for(self, request: Request) -> None:
        for delivery in self._queue.answers(self.addresses[0], self._id, request.id, request.passed_over):
            self._requests.take(delivery)
