"""The API server: serves the socket that won the port scan, in a thread, until it is stopped.

It starts without any way of failing that the port could cause, because the socket listens already; whoever connects while it
starts simply waits.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

from mnemo_coord import errors

if TYPE_CHECKING:
    from mnemo_coord.coordinator import Coordinator
    from mnemo_coord.holdings.ports import Listener

__all__ = ["ApiServer"]

_log = logging.getLogger(__name__)

_GRACE = 2


class ApiServer:
    """Serves the API of one registered coordinator."""

    def __init__(self, coordinator: Coordinator, listener: Listener) -> None:
        """Prepares the server.

        Raises:
            errors.Config: the extra ``api`` is not installed.
        """
        try:
            import uvicorn

            from mnemo_coord.api.app import build
        except ImportError as error:
            raise errors.Config(f"the API needs {error.name}", hint="pip install 'mnemo-coord[api]'", key="with_api") from None
        self._listener = listener
        config = uvicorn.Config(
            build(coordinator),
            http="h11",
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # by default uvicorn believes them from 127.0.0.1, which is everybody here
            limit_concurrency=64,
            timeout_graceful_shutdown=_GRACE,
        )
        self._server: Any = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="mnemo-api", daemon=True)

    def start(self) -> None:
        """Starts serving."""
        self._thread.start()

    def _run(self) -> None:
        try:
            self._server.run(sockets=[self._listener.socket])
        except Exception as error:
            _log.warning("The API server ended: %s", error)

    def stop(self) -> None:
        """Ends it: no new connections at once, open ones within two seconds."""
        self._server.should_exit = True
        self._thread.join(_GRACE + 1.5)
        self._listener.socket.close()
