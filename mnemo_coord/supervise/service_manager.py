"""The service manager that started us, systemd or one like it: it is told when we are ready, that we go on, and that we end.

The protocol is that of sd_notify(3): datagrams to the socket in ``NOTIFY_SOCKET``. Its variables are meant for one process:
our services do not get them, they are told of a socket of ours where they have something to say.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping
from typing import Final, Self

from mnemo_coord.supervise.states import State

__all__ = ["ServiceManager"]

_SOCKET, _INTERVAL, _FOR = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"
_LONGEST: Final = 512
"""Bytes of a status: systemctl shows one line."""


class ServiceManager:
    """Whoever started us, as far as it wants to be told anything: where it does not, all of this does nothing."""

    def __init__(self, address: str = "", interval: float | None = None) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._interval = interval
        self._states: dict[str, State] = {}
        self._is_ready = False
        self._next = 0.0

    @classmethod
    def taken_from(cls, environ: MutableMapping[str, str]) -> Self:
        """The one in this environment; its variables are taken out."""
        address, usec, pid = (environ.pop(name, "") for name in (_SOCKET, _INTERVAL, _FOR))
        asked = usec.isascii() and usec.isdecimal() and int(usec) > 0 and pid in {"", str(os.getpid())}
        # Half of what it allows, as sd_watchdog_enabled(3) advises.
        return cls(address, int(usec) / 2e6 if asked else None)

    def heard(self, service: str, state: State, text: str) -> None:
        """Passes on what has become of a service."""
        if state is State.STOPPING and State.STOPPING not in self._states.values():
            self._say("STOPPING=1")  # no service is ended alone
        self._states[service] = state
        self._say(f"STATUS={service}: {state}{': ' if text else ''}{text}")

    def look(self) -> float | None:
        """Says what is due, and returns after how many seconds to come again; None for never.

        Ready is said once: when every service that was heard of is ready, or has done its work.
        """
        if self._states and not self._is_ready and set(self._states.values()) <= {State.READY, State.EXITED}:
            self._is_ready = True
            self._say(f"READY=1\nSTATUS=ready: {', '.join(self._states)}")
        if self._interval is None:
            return None
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self._interval
            self._say("WATCHDOG=1")
        return self._next - now

    def _say(self, text: str) -> None:
        if not self._address:
            return
        fields = "\n".join("".join(char if char.isprintable() else "?" for char in line) for line in text.split("\n"))
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
                sender.connect(self._address)
                sender.send(fields.encode(errors="replace")[:_LONGEST])
        except (OSError, ValueError):
            pass  # it has gone, or is busy: that is no reason to leave the services alone
