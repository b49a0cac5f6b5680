"""The event stream: server-sent events, from wherever the reader left off.

First comes the state as a whole (``snapshot``), then each event with its id. Who comes back with ``Last-Event-ID`` gets what
it missed; where that is no longer kept, or was another process's, a ``gap`` says so. The format is that of the HTML standard,
section 9.2.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from mnemo_coord.api import answers
from mnemo_coord.display import json_line

if TYPE_CHECKING:
    from mnemo_coord.api.pulse import Pulse

__all__ = ["Stream", "last_event_id", "refresh_interval"]

_STREAMS: Final = 8
_PING: Final = 15.0
_SEND_TIMEOUT: Final = 10.0
_LONGEST: Final = 3600.0
"""Seconds: between two signs of life, until a reader that does not read is cut off, and until a stream ends by itself."""
_SETTLED: Final = 0.05
"""Seconds after a change until a fresh overview is sent: changes come in bursts."""
_AT_ONCE: Final = 50
"""Events in one piece."""
_ID: Final = re.compile(rb"[0-9]{1,15}", re.ASCII)
_REFRESH: Final = re.compile(rb"(?:^|&)refresh=([0-9]{1,4})(?:\.[0-9]{1,3})?(?:&|$)", re.ASCII)


def last_event_id(headers: list[tuple[bytes, bytes]]) -> int | None:
    """Where a reader left off; None for a new one, and for whatever is no id of ours."""
    given = [value.strip() for name, value in headers if name == b"last-event-id"]
    return int(given[0]) if len(given) == 1 and _ID.fullmatch(given[0]) else None


def refresh_interval(query: bytes) -> float | None:
    """How often a reader wants the overview anew, in seconds; None: only at the start."""
    found = _REFRESH.search(query)
    return max(1.0, float(found[1])) if found else None


@dataclass(slots=True)
class _Reader:
    """What is known of one reader."""

    sent: int
    """The last event that it was sent."""
    refresh: float | None
    changes: int = 0
    refreshed: float = 0.0
    pinged: float = 0.0


class Stream:
    """``GET /events``. An ASGI application."""

    def __init__(self, pulse: Pulse) -> None:
        self._pulse = pulse

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Streams until the reader goes, is too slow, or the server stops."""
        pulse = self._pulse
        if pulse.streams >= _STREAMS or pulse.closing:
            busy = answers.refused(HTTPStatus.SERVICE_UNAVAILABLE, "busy", f"{_STREAMS} streams are open, which is the limit")
            await busy(scope, receive, send)
            return
        if scope["method"] == "HEAD":
            await answers.json({})(scope, receive, send)
            return
        transport = scope["state"]["transport"]
        pulse.open.add(transport)
        waiter = asyncio.Event()
        gone = asyncio.ensure_future(_until_gone(receive, waiter))
        try:
            await self._serve(scope, send, waiter, gone)
        except TimeoutError:
            transport.abort()  # it does not read: what is buffered for it is dropped
            await asyncio.sleep(0)
        finally:
            pulse.open.discard(transport)
            pulse.forget(waiter)
            gone.cancel()

    async def _serve(self, scope: dict[str, Any], send: Any, waiter: asyncio.Event, gone: asyncio.Future[None]) -> None:
        headers = {**answers.CAREFUL, "Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        begun = time.monotonic()
        reader = _Reader(sent=0, refresh=refresh_interval(scope["query_string"]))
        await self._write(send, await self._first(reader, last_event_id(scope["headers"])))
        while not (self._pulse.closing or gone.done()) and time.monotonic() - begun < _LONGEST:
            text = await self._next(reader)
            if text:
                await self._write(send, text)
            else:
                await self._pulse.wait(waiter, self._patience(reader))
        await self._write(send, "", more=False)

    @staticmethod
    async def _write(send: Any, text: str, *, more: bool = True) -> None:
        async with asyncio.timeout(_SEND_TIMEOUT):
            await send({"type": "http.response.body", "body": text.encode(), "more_body": more})

    async def _first(self, reader: _Reader, resume: int | None) -> str:
        """What a reader gets before anything else: the state, and from where it goes on."""
        reader.changes = self._pulse.changes
        overview, text = await self._pulse.look()
        reader.refreshed = reader.pinged = time.monotonic()
        if resume is not None and resume <= self._pulse.events.last_id:
            reader.sent = resume
            return _frame("snapshot", text)
        reader.sent = overview.last_event_id
        lost = "" if resume is None else _frame("gap", json_line({"missed": None}))
        return lost + _frame("snapshot", text, overview.last_event_id)

    async def _next(self, reader: _Reader) -> str:
        """What there is to send now; nothing when there is nothing."""
        events = self._pulse.events.since(reader.sent)[:_AT_ONCE]
        now = time.monotonic()
        if events:
            missed = events[0].id - reader.sent - 1
            reader.sent, reader.pinged = events[-1].id, now
            told = "".join(_frame(event.kind, json_line(event), event.id) for event in events)
            return told if not missed else _frame("gap", json_line({"missed": missed})) + await self._overview() + told
        if self._wants_overview(reader, now):
            reader.changes, reader.refreshed, reader.pinged = self._pulse.changes, now, now
            return await self._overview()
        if now - reader.pinged >= _PING:
            reader.pinged = now
            return ": ping\n\n"
        return ""

    async def _overview(self) -> str:
        return _frame("snapshot", (await self._pulse.look())[1])

    def _wants_overview(self, reader: _Reader, now: float) -> bool:
        if reader.refresh is None:
            return False
        return now >= self._overview_due(reader, reader.refresh)

    def _patience(self, reader: _Reader) -> float:
        """How long nothing has to be sent unless something happens."""
        now = time.monotonic()
        left = [reader.pinged + _PING - now]
        if reader.refresh is not None:
            left.append(self._overview_due(reader, reader.refresh) - now)
        return max(0.001, min(left))

    def _overview_due(self, reader: _Reader, refresh: float) -> float:
        """When a reader is to be told the whole again: at its interval, or soon after a change, once for a burst of them."""
        due = reader.refreshed + refresh
        if reader.changes != self._pulse.changes:
            due = min(due, max(self._pulse.changed + _SETTLED, reader.refreshed + _SETTLED))
        return due


async def _until_gone(receive: Any, waiter: asyncio.Event) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    waiter.set()


def _frame(kind: str, data: str, event_id: int | None = None) -> str:
    """One event; ``data`` is one line."""
    numbered = "" if event_id is None else f"id: {event_id}\n"
    return f"event: {kind}\n{numbered}data: {data}\n\n"
