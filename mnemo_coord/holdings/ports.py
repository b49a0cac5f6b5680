"""Ports: the scan that binds and listens once, and hands the socket on.

Nothing probes a port in order to bind it later: between the two somebody else may take it. The socket that won the scan is
the one that the API server is given. A port that is recorded for an instance is believed only if whoever answers there proves
that it is that instance: it returns a MAC over a number that it was given just then.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mnemo_coord import errors
from mnemo_coord.disk.signing import Purpose, Signer
from mnemo_coord.findings import Finding, Severity
from mnemo_coord.members.instance import api_url
from mnemo_coord.settings import API_PORTS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mnemo_coord.members.registration import Registration

__all__ = [
    "NONCE_HEADER",
    "PROOF_HEADER",
    "Listener",
    "answers",
    "candidates",
    "check",
    "listen",
    "owner_of",
    "parse_address",
    "proof",
    "scan",
]

_log = logging.getLogger(__name__)

NONCE_HEADER: Final = "X-Mnemosyne-Nonce"
PROOF_HEADER: Final = "X-Mnemosyne-Proof"
_BACKLOG: Final = 128


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket and where it listens."""

    socket: socket.socket
    host: str
    port: int

    @property
    def url(self) -> str:
        """The address for people and programs."""
        return api_url(self.host, self.port)


def parse_address(text: str) -> tuple[str, int]:
    """Splits ``HOST:PORT``. The host is an address of this machine's loopback interface.

    Raises:
        errors.Config: it is not of that form, or could be reached from elsewhere.
    """
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not (port.isascii() and port.isdecimal() and len(port) <= 5) or int(port) > 65535:
        raise errors.Config(f"{text!r} is not HOST:PORT", hint="such as 127.0.0.1:3000", key="api_addr")
    import ipaddress

    host = "127.0.0.1" if host == "localhost" else host
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise errors.Config(f"{host!r} is not an IP address", hint="such as 127.0.0.1:3000", key="api_addr") from None
    if not loopback:
        raise errors.Config(
            f"{host} can be reached from other machines",
            hint="the API listens on the loopback interface only: 127.0.0.1 or [::1]",
            key="api_addr",
        )
    return host, int(port)


def candidates(port: int) -> range:
    """The ports to try, in order: the one asked for and the ten above it. Port 0 lets the kernel choose one."""
    return range(port, port + 1) if port == 0 else range(port, min(port + API_PORTS, 65536))


def scan(host: str, port: int) -> Listener | None:
    """Binds and listens on the first free candidate; None when all are in use.

    Raises:
        errors.State: the address cannot be used at all.
    """
    for candidate in candidates(port):
        found = listen(host, candidate)
        if found is not None:
            return found
        if candidate == port:
            _log.info("Port %d in use, trying alternative ports...", port)
    return None


def listen(host: str, port: int) -> Listener | None:
    """Binds and listens; None when somebody has the port, or it is not for us.

    Raises:
        errors.State: the address cannot be used at all.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise errors.State.at(api_url(host, port), (error.strerror or str(error)).lower()) from None
    try:
        # Lets a restart bind while old connections are in TIME_WAIT. It does not let two listen: the second listen fails.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        if error.errno in {errno.EADDRINUSE, errno.EACCES}:
            return None
        raise errors.State.at(api_url(host, port), (error.strerror or str(error)).lower()) from None
    return Listener(listening, host, listening.getsockname()[1])


def proof(signer: Signer, nonce: str, instance_id: str, pid: int, port: int) -> str:
    """What an instance answers to a nonce, so that nobody who binds its port later can pass for it."""
    return signer.sign(Purpose.HEALTH, f"{nonce}:{instance_id}:{pid}:{port}".encode()).hex()


def answers(registration: Registration, signer: Signer, timeout: float = 1.0) -> bool:
    """Whether this very instance answers at its recorded port."""
    if registration.api_port is None or registration.api_host is None:
        return False
    # Imported here: only the doctor asks, and it costs everybody else a tenth of their time.
    from http.client import HTTPConnection, HTTPException

    nonce = os.urandom(16).hex()
    expected = proof(signer, nonce, registration.instance_id, registration.process.pid, registration.api_port)
    connection = HTTPConnection(registration.api_host, registration.api_port, timeout=timeout)
    with closing(connection), suppress(OSError, HTTPException, ValueError):
        connection.request("GET", "/health", headers={NONCE_HEADER: nonce})
        with connection.getresponse() as response:
            return response.getheader(PROOF_HEADER, "") == expected
    return False


def owner_of(port: int) -> str:
    """The process that listens on a TCP port here, for people; empty where it cannot be seen."""
    import psutil

    with suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and getattr(connection.laddr, "port", None) == port
            if listens and connection.pid:
                return f"process {connection.pid} ({psutil.Process(connection.pid).name()})"
    return ""


def check(registered: Iterable[tuple[Registration, bool]], signer: Signer) -> list[Finding]:
    """Recorded ports at which the instance does not answer. ``registered`` pairs each one with whether it lives."""
    return [
        _unanswered(registration, lives=lives)
        for registration, lives in registered
        if registration.api_port is not None and not (lives and answers(registration, signer))
    ]


def _unanswered(registration: Registration, *, lives: bool) -> Finding:
    port = registration.api_port or 0
    other = owner_of(port)
    served = f"; {other} listens there" if other else "; nobody listens there"
    if not lives:
        return Finding(
            code="port-stale",
            severity=Severity.WARNING,
            subject=f"port {port}",
            message=f"is recorded for {registration.instance_id}, which is dead" + (served if other else ""),
            hint="`mnemosyne doctor --fix` removes the record; whoever listens there is left alone",
        )
    return Finding(
        code="port-unproven",
        severity=Severity.WARNING,
        subject=f"port {port}",
        message=f"{registration.instance_id} does not prove that it answers there" + served,
        hint="the instance may be stopped or busy; if another program has the port, restart the instance",
    )
