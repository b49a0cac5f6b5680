"""The API server: serves the socket that won the port scan, in a thread, until it is stopped.

It starts without any way of failing that the port could cause, because the socket listens already; whoever connects while it
starts simply waits.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from mnemo_coord import errors
from mnemo_coord.events import EventKind

if TYPE_CHECKING:
    from mnemo_coord.api.pulse import Pulse
    from mnemo_coord.coordinator import Coordinator
    from mnemo_coord.holdings.ports import Listener

__all__ = ["ApiServer"]

_log = logging.getLogger(__name__)

_THREADS: Final = 3
"""For what touches files: enough that a slow look does not hold up a message."""
_PARTING: Final = 0.5
_GRACE: Final = 2
"""Seconds, when stopping: for streams to end by themselves, and for requests to be answered."""


class ApiServer:
    """Serves the API of one registered coordinator."""

    def __init__(self, coordinator: Coordinator, listener: Listener) -> None:
        """Prepares the server.

        Raises:
            errors.Config: the extra ``api`` is not installed.
        """
        try:
            import uvicorn  # noqa: F401

            from mnemo_coord.api import app  # noqa: F401
        except ImportError as error:
            raise errors.Config(f"the API needs {error.name}", hint="pip install 'mnemo-coord[api]'", key="with_api") from None
        self._me = coordinator
        self._listener = listener
        self._server: Any = None
        self._pulse: Pulse | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mnemo-api", daemon=True)

    def start(self) -> None:
        """Starts serving, and tells so as an event."""
        self._thread.start()
        self._ready.wait(10)
        listener = self._listener
        self._me.events.publish(EventKind.PORT_TAKEN, self._me.instance_id, port=listener.port, url=listener.url)

    def _run(self) -> None:
        try:
            with ThreadPoolExecutor(_THREADS, "mnemo-api") as executor:
                asyncio.run(self._serve(executor))
        except Exception as error:
            _log.warning("The API server ended: %s", error)
        finally:
            self._ready.set()

    async def _serve(self, executor: ThreadPoolExecutor) -> None:
        import uvicorn

        from mnemo_coord.api.app import build
        from mnemo_coord.api.connections import Connection
        from mnemo_coord.api.pulse import Pulse

        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # what clients send wrongly is not worth a line
        self._loop = asyncio.get_running_loop()
        self._pulse = Pulse(self._me, executor)
        config = uvicorn.Config(
            build(self._me, self._pulse, executor),
            http=Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # by default uvicorn believes them from 127.0.0.1, which is everybody here
            h11_max_incomplete_event_size=16 * 1024,
            timeout_graceful_shutdown=_GRACE,
        )
        self._server = uvicorn.Server(config)
        self._ready.set()
        await self._server.serve(sockets=[self._listener.socket])

    def stop(self) -> None:
        """Ends it: no new connections at once, open ones within two seconds."""
        if self._loop is not None and self._server is not None:
            with suppress(RuntimeError):  # it has ended already
                asyncio.run_coroutine_threadsafe(self._part(), self._loop)
        self._thread.join(_GRACE + 1.5)
        self._listener.socket.close()

    async def _part(self) -> None:
        """Ends the streams first, then the server: uvicorn would wait for them, cut them off and complain."""
        if self._pulse is not None:
            self._pulse.close()
            await self._pulse.ended(_PARTING)
        self._server.should_exit = True
