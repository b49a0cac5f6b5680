"""Speaking to an API in the rawest way: bytes over a socket, so that what no client would send can be sent."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import support


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Served(support.Serve):
    """``mnemosyne serve --with-api`` with its port and its token."""

    def __init__(self, state_dir: Path, port: int, *args: object, **options: Any) -> None:
        super().__init__(state_dir, "--with-api", "--api-addr", f"127.0.0.1:{port}", *args, **options)
        self.port = int(self.wait_for("listening on").rpartition(":")[2])
        self.token = (state_dir / "instances" / f"{self.instance_id}.token").read_text().strip()

    def connect(self, timeout: float = 15.0) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout)

    def raw(self, data: bytes, timeout: float = 15.0) -> Answer:
        """Sends bytes and reads one answer."""
        with self.connect(timeout) as connection:
            with suppress(BrokenPipeError, ConnectionResetError):  # it may have been refused before its end
                connection.sendall(data)
            return read_answer(connection)

    def ask(
        self,
        path: str,
        *,
        method: str = "GET",
        token: str | None = "",
        headers: dict[str, str] | None = None,
        body: Any = None,
        timeout: float = 15.0,
    ) -> Answer:
        """A request as a careful client sends it, with the token unless told otherwise."""
        given = {"Host": f"127.0.0.1:{self.port}", "Connection": "close"}
        if token is not None:
            given["Authorization"] = f"Bearer {token or self.token}"
        data = b""
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            given |= {"Content-Type": "application/json", "Content-Length": str(len(data))}
        given |= headers or {}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items())]
        return self.raw("\r\n".join([*lines, "", ""]).encode("latin-1") + data, timeout)

    def stream(self, query: str = "", **headers: str) -> Stream:
        return Stream(self, query, headers)


def read_answer(connection: socket.socket) -> Answer:
    data = b""
    with suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            data += piece
            head, end, body = data.partition(b"\r\n\r\n")
            length = _length(head) if end else None
            if length is not None and len(body) >= length:
                break
    if not data:
        return Answer(0, {}, b"")  # closed without a word
    head, _, body = data.partition(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
    return Answer(int(first.split()[1]), headers, body)


def _length(head: bytes) -> int | None:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return None


@dataclass(frozen=True)
class Frame:
    kind: str
    id: int | None
    data: Any
    at: float


class Stream:
    """An open event stream."""

    def __init__(self, served: Served, query: str, headers: dict[str, str]) -> None:
        self.socket = served.connect()
        lines = [
            f"GET /events{query} HTTP/1.1",
            f"Host: 127.0.0.1:{served.port}",
            f"Authorization: Bearer {served.token}",
            *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
        ]
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())
        self._file = self.socket.makefile("rb")
        self.status = int(self._file.readline().split()[1])
        self.headers = dict(self._header_lines())

    def _header_lines(self) -> Iterator[tuple[str, str]]:
        while (line := self._file.readline().strip()) != b"":
            name, _, value = line.decode().partition(": ")
            yield name.lower(), value

    def _lines(self) -> Iterator[str]:
        """The lines of a chunked body."""
        rest = b""
        while size := int(self._file.readline().strip() or b"0", 16):
            rest += self._file.read(size)
            self._file.readline()
            *whole, rest = rest.split(b"\n")
            yield from (line.decode() for line in whole)

    def frames(self) -> Iterator[Frame]:
        """What comes, one by one, until the stream ends."""
        kind, number, data = "", None, None
        for line in self._lines():
            name, _, value = line.partition(": ")
            if name == "event":
                kind = value
            elif name == "id":
                number = int(value)
            elif name == "data":
                data = json.loads(value)
            elif not line and kind:
                yield Frame(kind, number, data, time.monotonic())
                kind, number, data = "", None, None

    def until(self, kind: str) -> Frame:
        """The next one of a kind."""
        return next(frame for frame in self.frames() if frame.kind == kind)

    def close(self) -> None:
        self._file.close()
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
