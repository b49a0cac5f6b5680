"""The ports of services, kept for the program that is about to serve them: it listens already, or nobody else can."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from mnemo_coord import errors
from mnemo_coord.holdings import ports as _ports
from mnemo_coord.holdings.reservations import Reservations
from mnemo_coord.instances.services import Listen, Service

if TYPE_CHECKING:
    import socket
    from types import TracebackType

__all__ = ["ServicePorts"]

_HOST: Final = "127.0.0.1"
"""Where a socket listens that is handed over: nobody on another machine reaches what is being developed."""


@dataclass(frozen=True, slots=True)
class ServicePorts:
    """What is kept. Leave its ``with`` block to give up what is still kept then."""

    handed: dict[str, socket.socket]
    """By the names of their services: sockets that listen, for who takes them by the protocol of LISTEN_FDS."""
    reserved: Reservations
    taken: dict[str, int]
    """The ports that somebody else has."""

    @classmethod
    def keep(cls, services: Iterable[Service], ports: Mapping[str, int], *, fds: bool = False) -> Self:
        """Keeps the port of each service in the way that it wants; ``fds`` hands over all of them.

        Raises:
            errors.State: there are no more sockets.
        """
        wanted = {one.name: Listen.FDS if fds else one.listen for one in services}
        handed, taken = {}, {}
        for name in (name for name, way in wanted.items() if way is Listen.FDS):
            listener = _ports.listen(_HOST, ports[name])
            if listener is None:
                taken[name] = ports[name]
            else:
                handed[name] = listener.socket
        reserving = {ports[name]: name for name, way in wanted.items() if way is Listen.RESERVE}
        reserved = Reservations.of(reserving)
        return cls(handed, reserved, taken | {reserving[port]: port for port in reserved.taken})

    def busy(self) -> dict[str, str]:
        """For people: for each service whose port is taken who has it. Nobody is ever killed for a port."""
        return {name: _busy(name, port) for name, port in self.taken.items()}

    def refuse(self) -> None:
        """Makes sure that none is taken.

        Raises:
            errors.Conflict: one is.
        """
        for name, what in self.busy().items():
            raise errors.Conflict(what, hint="stop that, or use another slot", holder=None, service=name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.reserved.close()
        for one in self.handed.values():
            with suppress(OSError):
                one.close()


def _busy(name: str, port: int) -> str:
    return f"{name}'s port {port} is used by {_ports.owner_of(port) or 'another process'}"
