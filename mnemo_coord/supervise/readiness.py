"""Whether a service is ready: its port takes connections, it answers over HTTP, it has printed a line, or it says so itself."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Container
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from mnemo_coord.holdings.reservations import listening_ports
from mnemo_coord.instances.services import Ready, ReadyKind

__all__ = ["Notices", "Surroundings", "is_ready"]

_PATIENCE: Final = 0.5
"""Seconds for an answer over HTTP."""
_LOG_LIMIT: Final = 1024 * 1024
"""Bytes of the log in which the line is looked for: from where it was at the start."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What there is to see of a service that is starting."""

    port: int
    log: Path
    log_start: int
    """Bytes that the log had when it was started."""
    has_notified: bool


def is_ready(ready: Ready, seen: Surroundings, listening: Container[int] | None = None) -> bool:
    """Whether it is, now. Waits for an answer over HTTP for half a second at most."""
    match ready.kind:
        case ReadyKind.PORT:
            return seen.port in (listening_ports() if listening is None else listening)
        case ReadyKind.HTTP:
            return _answers(seen.port, ready.value)
        case ReadyKind.LOG:
            return re.search(ready.value, _printed(seen)) is not None
        case ReadyKind.NOTIFY:
            return seen.has_notified
        case ReadyKind.NONE:
            return True


def _answers(port: int, path: str) -> bool:
    from http.client import HTTPConnection, HTTPException

    connection = HTTPConnection("127.0.0.1", port, timeout=_PATIENCE)
    try:
        connection.request("GET", path)
        return connection.getresponse().status < 400
    except (OSError, HTTPException, ValueError):
        return False
    finally:
        connection.close()


def _printed(seen: Surroundings) -> str:
    with suppress(OSError), seen.log.open("rb") as stream:
        stream.seek(seen.log_start if seen.log.stat().st_size >= seen.log_start else 0)
        lines = stream.read(_LOG_LIMIT).decode(errors="replace").splitlines()
        return "\n".join(line.partition(" | ")[2] for line in lines)
    return ""


class Notices:
    """The socket on which a service says that it is ready: the protocol of sd_notify(3).

    Its name is abstract, so that it is nowhere on disk, however long the path of the workspace is, and gone with us.
    """

    def __init__(self, name: str, listener: socket.socket) -> None:
        self.name = name
        """What ``NOTIFY_SOCKET`` is set to."""
        self._socket = listener

    @classmethod
    def open(cls) -> Self:
        """A fresh one, on a name that nobody can guess."""
        name = f"mnemosyne-{os.urandom(16).hex()}"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        listener.bind(f"\0{name}")
        return cls(f"@{name}", listener)

    def fileno(self) -> int:
        """Its descriptor, to wait for."""
        return self._socket.fileno()

    def has_ready(self) -> bool:
        """Reads what has come, and whether one of it says ``READY=1``."""
        found = False
        with suppress(BlockingIOError):
            while True:
                found |= b"READY=1" in self._socket.recv(4096).splitlines()
        return found

    def close(self) -> None:
        """Closes it."""
        self._socket.close()
