"""A bell between processes: a datagram socket with an abstract name, on which anything that comes means *look again*.

Its name is nowhere on disk but where its owner writes it, and is gone with the owner. A ring that is lost costs nothing:
whoever waits for one also polls.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Self

__all__ = ["Bell", "ring"]


class Bell:
    """One that is waited for."""

    def __init__(self, name: str, listener: socket.socket) -> None:
        self.name = name
        """By which others ring it."""
        self._socket = listener

    @classmethod
    def open(cls) -> Self:
        """A fresh one, under a name that nobody can guess."""
        name = f"@mnemosyne-bell-{os.urandom(16).hex()}"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        listener.bind(_address(name))
        return cls(name, listener)

    def fileno(self) -> int:
        """Its descriptor, to wait for."""
        return self._socket.fileno()

    def hush(self) -> None:
        """Takes what has come."""
        with suppress(BlockingIOError):
            while True:
                self._socket.recv(16)

    def close(self) -> None:
        """Closes it."""
        self._socket.close()


def ring(name: str) -> None:
    """Rings one, if somebody waits for it."""
    if not name:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as caller, suppress(OSError, ValueError):
        caller.sendto(b"!", _address(name))


def _address(name: str) -> str:
    return f"\0{name.removeprefix('@')}"
