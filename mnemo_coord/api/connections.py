"""Connections: a client that sends half a request, or dozens that do, keeps nobody else waiting.

uvicorn has no time limit for a request that is being sent, and each byte restarts its keep-alive timer; this is its protocol
with a deadline for each request, and with a limit of connections at which the one that has been idle longest gives way.

And uvicorn hangs up on a client that is still sending. The kernel then answers what arrives with a reset, which makes the
client lose the very answer that explains why. So the connection is closed in two steps (RFC 9112, 9.6; "lingering close" in
nginx): first the half that speaks, then, when the client has read and hung up or a second is over, the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
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


_LINGER: Final = 1.0
"""Seconds in which a client that was refused while it was sending can hang up by itself."""
_LINGER_LIMIT: Final = 1024 * 1024
"""Bytes that are thrown away for it meanwhile."""


class _Transport:
    """A transport whose `close` asks first whether to part in two steps."""

    def __init__(self, transport: asyncio.Transport, parts: Callable[[], bool]) -> None:
        self._transport = transport
        self._parts = parts
        self._parting = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Whether nothing can be written to it any more."""
        return self._parting or self._transport.is_closing()

    def close(self) -> None:
        """Hangs up, at once or in two steps."""
        if not self.is_closing() and self._parts():
            self._parting = True
            self._transport.write_eof()
        elif not self._parting:
            self._transport.close()


class Connection(H11Protocol):
    """One connection with its deadline."""

    deadline = DEADLINE

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._timer: asyncio.TimerHandle | None = None
        self._parting: asyncio.TimerHandle | None = None
        self._ignored = 0
        self.since = 0.0
        """Since when nothing has been answered on it, by the loop's clock."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Takes a connection, and ends the longest idle one where there are too many."""
        super().connection_made(_Transport(transport, self._parts))  # type: ignore[arg-type]
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
        if self._parting is not None:
            self._ignored += len(data)
            if self._ignored > _LINGER_LIMIT:
                self.transport.abort()
            return
        super().data_received(data)
        self._review()

    def _parts(self) -> bool:
        """Whether to wait until the client has hung up. It has to be read meanwhile, or it would not learn of the answer."""
        if self.conn.their_state not in {h11.SEND_BODY, h11.ERROR}:
            return False
        self._disarm()
        self._parting = self.loop.call_later(_LINGER, self.transport.abort)
        self.flow.resume_reading()
        return True

    def shutdown(self) -> None:
        """Ends the connection when the server stops."""
        if self._parting is not None:
            self.transport.abort()
        else:
            super().shutdown()

    def _review(self) -> None:
        if not self._is_sending or self._parting is not None:
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
        """Ends its timers."""
        self._disarm()
        if self._parting is not None:
            self._parting.cancel()
        super().connection_lost(exc)
