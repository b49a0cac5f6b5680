"""Connections: a client that sends half a request, or dozens that do, keeps nobody else waiting.

uvicorn has no time limit for a request that is being sent, and each byte restarts its keep-alive timer; this is its protocol
with a deadline for each request, and with a limit of connections at which the one that has been idle longest gives way.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["LIMIT", "Connection"]

LIMIT: Final = 64
"""Connections at a time."""
_UNSENT: Final = 16 * 1024
"""Bytes that are kept for a client that does not read, beyond what the kernel keeps."""
DEADLINE: Final = 10.0
"""Seconds in which a request has to be there, from its first byte to its last."""


class Connection(H11Protocol):
    """One connection with its deadline."""

    deadline = DEADLINE

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._timer: asyncio.TimerHandle | None = None
        self.since = 0.0
        """Since when nothing has been answered on it, by the loop's clock."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Takes a connection, and ends the longest idle one where there are too many."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=_UNSENT)
        self.app_state = {**self.app_state, "transport": transport}
        self.since = self.loop.time()
        self._review()
        if len(self.connections) > LIMIT:
            idle = [other for other in self.connections if isinstance(other, Connection) and other.is_idle]
            min(idle, key=lambda other: other.since, default=self).transport.abort()

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered on it."""
        return self.cycle is None or self.cycle.response_complete or self._is_sending

    @property
    def _is_sending(self) -> bool:
        """Whether the client has yet to send the rest of a request, or its first."""
        return self.conn.their_state in {h11.IDLE, h11.SEND_BODY}

    def data_received(self, data: bytes) -> None:
        """Takes some bytes; the deadline runs until the request is complete."""
        super().data_received(data)
        self._review()

    def _review(self) -> None:
        if not self._is_sending:
            self._disarm()
        elif self._timer is None:
            self._timer = self.loop.call_later(self.deadline, self.transport.abort)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def on_response_complete(self) -> None:
        """Begins to wait for the next request, for which uvicorn's own timer is good until its first byte."""
        self._disarm()
        self.since = self.loop.time()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends its timer."""
        self._disarm()
        super().connection_lost(exc)
