"""Reserved ports: held for a program that binds them itself, from before it starts until it is seen listening.

A port is reserved by a socket that is bound to it on every address and does not listen. Linux lets another socket bind the same
port where both set SO_REUSEADDR and neither listens, as nearly every server does for the sake of TIME_WAIT; it lets nobody
else: no program that picks a free port, no outgoing connection, no server without the option. It refuses the program, too,
where it does not set the option: such a service is ``listen: free``.

Rejected: probing the port and hoping (somebody takes it in between), and SO_REUSEPORT (the program would have to set it as
well, and few do).
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Self

from mnemo_coord import errors

__all__ = ["Reservations", "listening_ports"]

_LISTEN = "0A"
"""The state of a listening socket in /proc/net/tcp."""


def listening_ports() -> set[int]:
    """The TCP ports on which somebody listens, on any address of this machine. Cheaper than asking who."""
    found = set()
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path("/proc/self/net", table).read_text().splitlines()[1:]:
                _, local, _, state, *_ = line.split()
                if state == _LISTEN:
                    found.add(int(local.rpartition(":")[2], 16))
    return found if found or Path("/proc/self/net/tcp").exists() else _asked()


def _asked() -> set[int]:
    import psutil

    with suppress(psutil.Error, OSError):
        return {one.laddr.port for one in psutil.net_connections("tcp") if one.status == psutil.CONN_LISTEN and one.laddr}
    return set()


class Reservations:
    """Ports that are reserved. Let go of them, or end."""

    def __init__(self) -> None:
        self._sockets: dict[int, socket.socket] = {}
        self.taken: list[int] = []
        """Those that somebody has already."""

    @classmethod
    def of(cls, ports: Iterable[int]) -> Self:
        """Reserves what is free of these; the rest is in `taken`.

        Raises:
            errors.State: there are no more sockets.
        """
        made = cls()
        for port in ports:
            try:
                made._sockets[port] = _bound(port)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    made.taken.append(port)
                elif error.errno not in {errno.EACCES, errno.EPERM}:  # below 1024: who may not bind it cannot keep it either
                    made.close()
                    raise errors.State.at(f"port {port}", (error.strerror or str(error)).lower()) from None
        return made

    @property
    def held(self) -> set[int]:
        """Those that are reserved now."""
        return set(self._sockets)

    def let_go(self, listening: Collection[int]) -> None:
        """Gives up those on which somebody listens by now."""
        for port in self.held.intersection(listening):
            self._sockets.pop(port).close()

    def close(self) -> None:
        """Gives up all. Idempotent."""
        while self._sockets:
            self._sockets.popitem()[1].close()


def _bound(port: int) -> socket.socket:
    """A socket that is bound to a port on every address, of IPv6 and IPv4 where there is IPv6."""
    try:
        return _bind(socket.AF_INET6, port)
    except OSError as error:
        if error.errno not in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}:
            raise
    return _bind(socket.AF_INET, port)


def _bind(family: socket.AddressFamily, port: int) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        bound.bind(("", port))
    except OSError:
        bound.close()
        raise
    return bound
