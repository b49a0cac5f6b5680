"""The pulse of the API: wakes every event stream when something happens, and looks at the fleet once for all of them.

Streams keep no queue of their own. Each remembers the id of the last event that it sent and reads on in the broadcaster's
buffer, so that a reader who does not read costs nothing, and who falls behind the buffer is told how much it missed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import Executor
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from mnemo_coord import errors
from mnemo_coord.display import json_line
from mnemo_coord.events import Event, EventKind
from mnemo_coord.overview import EXAMINED_EVERY, Overview, Viewer

if TYPE_CHECKING:
    from mnemo_coord.coordinator import Coordinator

__all__ = ["Pulse"]

_log = logging.getLogger(__name__)

_FRESH: Final = 0.1
"""Seconds for which a look at the fleet serves everybody who asks."""
_TRAFFIC: Final = frozenset(kind for kind in EventKind if kind.startswith("message_"))
"""Events that do not change who is there: after all others the streams that want it get a fresh overview."""


class Pulse:
    """Lives in the event loop of the server. Only `Pulse.beat` may be called from another thread."""

    def __init__(self, coordinator: Coordinator, executor: Executor) -> None:
        self.events = coordinator.events
        self.closing = False
        self.open: set[asyncio.Transport] = set()
        """The connections of the open event streams."""
        self.changes = 0
        """Rises with every event after which the overview is another one."""
        self.changed = 0.0
        """When it last did, on the monotonic clock."""
        self._viewer = Viewer(coordinator.fleet, coordinator.instance_id)
        self._executor = executor
        self._loop = asyncio.get_running_loop()
        self._waiters: set[asyncio.Event] = set()
        self._scheduled = False
        self._looking = asyncio.Lock()
        self._examining: asyncio.Task[None] | None = None
        self._examined = float("-inf")
        self._seen: tuple[int, float, Overview, str] | None = None
        self._unsubscribe = coordinator.on_event(self.beat)

    def beat(self, event: Event) -> None:
        """Something happened. Called in the thread that published it."""
        if event.kind not in _TRAFFIC:
            self.changes += 1
            self.changed = time.monotonic()
        # RACE: a thread that reads this just before it is cleared schedules nothing, and the call that clears it wakes all
        # the same.
        if not self._scheduled:
            self._scheduled = True
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._scheduled = False
        for waiter in self._waiters:
            waiter.set()

    async def wait(self, waiter: asyncio.Event, seconds: float) -> None:
        """Waits until something happens, or so many seconds have passed."""
        self._waiters.add(waiter)
        try:
            async with asyncio.timeout(seconds):
                await waiter.wait()
        except TimeoutError:
            pass
        finally:
            waiter.clear()

    def forget(self, waiter: asyncio.Event) -> None:
        """Ends what `wait` began."""
        self._waiters.discard(waiter)

    async def look(self) -> tuple[Overview, str]:
        """The fleet now, as a value and as JSON; looked at once for all who ask within a moment."""
        asked = time.monotonic()
        if self.streams and asked - self._examined >= EXAMINED_EVERY and (self._examining is None or self._examining.done()):
            self._examining = self._loop.create_task(self._examine())
        async with self._looking:
            if self._seen is None or self._seen[0] != self.changes or asked - self._seen[1] > _FRESH:
                before, begun = self.changes, time.monotonic()
                self._seen = (before, begun, *await self._loop.run_in_executor(self._executor, self._look))
            return self._seen[2:]

    async def _examine(self) -> None:
        """Has the doctor look, while somebody watches, and nobody wait for it."""
        try:
            if await self._loop.run_in_executor(self._executor, self._viewer.examine):
                self.changes += 1
                self.changed = time.monotonic()
                self._wake()
        except errors.CoordinationError as error:
            _log.debug("The doctor cannot look: %s", error)
        finally:
            self._examined = time.monotonic()

    def _look(self) -> tuple[Overview, str]:
        overview = self._viewer.look()
        return overview, json_line(overview)

    @property
    def streams(self) -> int:
        """How many event streams are open."""
        return len(self.open)

    def close(self) -> None:
        """Ends all streams."""
        self.closing = True
        self._unsubscribe()
        self._wake()

    async def ended(self, seconds: float) -> None:
        """Waits so many seconds for the streams to end, and cuts off those whose readers do not read."""
        deadline = self._loop.time() + seconds
        while self.open and self._loop.time() < deadline:  # noqa: ASYNC110  # they end one by one, within milliseconds
            await asyncio.sleep(0.02)
        for transport in tuple(self.open):
            transport.abort()
