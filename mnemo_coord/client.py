"""The client: another program's view of one instance's API, for the terminal dashboard and for commands.

Before a token is sent anywhere, whoever answers at the port proves that it is the instance that registered it: a program that
took the port of a dead instance learns nothing.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from mnemo_coord import errors
from mnemo_coord.fleet import Fleet
from mnemo_coord.holdings import ports
from mnemo_coord.members import token
from mnemo_coord.members.instance import api_url

if TYPE_CHECKING:
    from mnemo_coord.members.registration import Registration

__all__ = ["TOKEN_VARIABLE", "Api", "ApiSource", "DirectorySource", "Frame", "api_of"]

TOKEN_VARIABLE: Final = "MNEMOSYNE_API_TOKEN"
"""A token for an instance whose state directory cannot be read from here. No flag: others see a process's arguments."""
_PATIENCE: Final = 5.0
_SILENCE: Final = 40.0
"""Seconds: for an answer, and without a sign of life from an event stream, which sends one every 15 s."""
_LOOK_EVERY: Final = 1.0
_STEP: Final = 0.1
"""Seconds between two overviews, and two looks for events, of who reads the state directory."""
_LINE_LIMIT: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Frame:
    """One thing that a source says."""

    kind: str
    """``snapshot`` (the data is an overview), ``event``, or ``gap`` (events were missed)."""
    data: dict[str, Any] = field(default_factory=dict)
    """The parsed JSON object, as the other side sent it."""


class Api:
    """The API of one instance."""

    def __init__(self, url: str, bearer: str) -> None:
        """Prepares it; nothing is sent yet.

        Raises:
            errors.Config: the URL is not ``http://HOST:PORT``.
        """
        self.url = url.rstrip("/")
        self._host, self._port = _host_and_port(url)
        self._headers = {"Authorization": f"Bearer {bearer}"}
        self._streaming: socket.socket | None = None

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """What the API answers, parsed.

        Raises:
            errors.State: it cannot be reached, or refuses.
        """
        connection = HTTPConnection(self._host, self._port, timeout=_PATIENCE)
        try:
            data = None if body is None else json.dumps(body).encode()
            more = {} if data is None else {"Content-Type": "application/json"}
            connection.request(method, path, data, {**self._headers, **more})
            return self._checked(connection.getresponse())
        except (OSError, HTTPException, ValueError) as error:
            raise self._unreachable(error) from None
        finally:
            connection.close()

    def _checked(self, response: HTTPResponse) -> Any:
        answer = json.loads(response.read(_LINE_LIMIT))
        if response.status < 400:
            return answer
        problem = answer.get("error", {}) if isinstance(answer, dict) else {}
        raise errors.State.at(self.url, problem.get("message", f"answers {response.status}"), hint=problem.get("hint", ""))

    def _unreachable(self, error: Exception) -> errors.State:
        if isinstance(error, errors.State):
            return error
        cause = (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()
        return errors.State.at(self.url, cause, hint="`mnemosyne list` shows where instances answer")

    def stream(self, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """The server-sent events at a path, as kind and data, until it ends or `stop` is called.

        Raises:
            errors.State: it cannot be reached, refuses, or has been silent for too long.
        """
        connection = HTTPConnection(self._host, self._port, timeout=_SILENCE)
        try:
            connection.request("GET", path, headers={**self._headers, "Accept": "text/event-stream"})
            self._streaming = connection.sock
            response = connection.getresponse()
            if response.status != 200:
                self._checked(response)
            yield from _parsed(response)
        except (OSError, HTTPException, ValueError) as error:
            raise self._unreachable(error) from None
        finally:
            self._streaming = None
            connection.close()

    def stop(self) -> None:
        """Ends a stream, from another thread."""
        streaming = self._streaming
        if streaming is not None:
            with suppress(OSError):
                streaming.shutdown(socket.SHUT_RDWR)


def _host_and_port(url: str) -> tuple[str, int]:
    try:
        parts = urlsplit(url)
        if parts.scheme == "http" and parts.hostname and parts.port and parts.path in {"", "/"}:
            return parts.hostname, parts.port
    except ValueError:
        pass
    raise errors.Config(f"{url!r} is not the URL of an API", hint="such as http://127.0.0.1:3000", key="api")


def _parsed(response: HTTPResponse) -> Iterator[tuple[str, dict[str, Any]]]:
    """Reads the format of server-sent events as far as our own server uses it: one line of data each."""
    kind, data = "message", ""
    while line := response.readline(_LINE_LIMIT):
        name, _, value = line.decode().rstrip("\r\n").partition(": ")
        if name == "event":
            kind = value
        elif name == "data":
            data = value
        elif not name and data:
            yield kind, json.loads(data)
            kind, data = "message", ""


def api_of(fleet: Fleet, registration: Registration) -> Api:
    """The API of an instance, after it has proved that it is the one.

    Raises:
        errors.NotFound: it has none, or does not answer there.
    """
    bearer = token.read(fleet.state, registration.instance_id)
    if bearer is None or registration.api_port is None or registration.api_host is None:
        raise errors.NotFound(f"{registration.instance_id} serves no API", hint="`mnemosyne serve --with-api` does")
    url = api_url(registration.api_host, registration.api_port)
    if not ports.answers(registration, fleet.signer):
        what = f"{registration.instance_id} does not answer at {url}"
        raise errors.NotFound(what, hint="it may be stopped or busy; `mnemosyne doctor` tells more")
    return Api(url, bearer)


class ApiSource:
    """A view of a fleet through the API of one instance."""

    def __init__(self, url: str, state_dir: str | None = None) -> None:
        _host_and_port(url)
        self.title = url.rstrip("/")
        self._state_dir = state_dir
        self._api: Api | None = None
        self._closed = threading.Event()

    def follow(self) -> Iterator[Frame]:
        """Yields frames until closed; called again it connects again.

        Raises:
            errors.CoordinationError: it cannot be reached, refuses, or ended.
        """
        if self._closed.is_set():
            return
        self._api = self._find()
        for kind, data in self._api.stream("/events?refresh=2"):
            if self._closed.is_set():  # RACE: closed before there was a stream to be stopped
                return
            yield Frame(kind if kind in {"snapshot", "gap"} else "event", data)
        if not self._closed.is_set():
            raise errors.State.at(self.title, "the server ended the stream", hint="")

    def _find(self) -> Api:
        host, port = _host_and_port(self.title)
        given = os.environ.get(TOKEN_VARIABLE)
        if given:
            return Api(self.title, given)
        with Fleet.open(self._state_dir, create=False) as fleet:
            entries = [entry.registration for entry in fleet.registry.read().values() if entry.registration]
            for registration in entries:
                here = registration.api_port == port and (host in {registration.api_host, "localhost"})
                if here and fleet.lives(registration.instance_id):
                    return api_of(fleet, registration)
        hint = f"`mnemosyne list` shows who is where; --dir names another state directory, {TOKEN_VARIABLE} gives a token"
        raise errors.NotFound(f"no instance of this fleet has its API at {self.title}", hint=hint)

    def close(self) -> None:
        """Makes `follow` end soon."""
        self._closed.set()
        if self._api is not None:
            self._api.stop()


class DirectorySource:
    """A view of a fleet through its state directory, where no API is at hand."""

    def __init__(self, state_dir: str | None = None) -> None:
        from mnemo_coord.disk.state_dir import locate

        self.title = str(locate(state_dir))
        self._state_dir = state_dir
        self._closed = threading.Event()

    def follow(self) -> Iterator[Frame]:
        """Yields frames until closed.

        Raises:
            errors.CoordinationError: there is no fleet, or it cannot be read.
        """
        from mnemo_coord.onlooker import Onlooker

        with Fleet.open(self._state_dir, create=False) as fleet:
            onlooker = Onlooker(fleet)
            looked = float("-inf")
            while not self._closed.is_set():
                if time.monotonic() - looked >= _LOOK_EVERY:
                    looked = time.monotonic()
                    yield Frame("snapshot", _as_parsed(onlooker.look()))
                for event in onlooker.news():
                    yield Frame("event", _as_parsed(event))
                self._closed.wait(_STEP)

    def close(self) -> None:
        """Makes `follow` end soon."""
        self._closed.set()


def _as_parsed(value: Any) -> dict[str, Any]:
    from mnemo_coord.display import json_line

    parsed: dict[str, Any] = json.loads(json_line(value))
    return parsed
