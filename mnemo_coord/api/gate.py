"""The gate: who may come in, decided on the raw bytes of a request before anything else looks at it.

A page of some website in the user's browser can reach every port of the loopback interface, under names of its own choosing
(DNS rebinding). So a request must be for exactly this host, from no other origin, and carry the token of this instance; one
without a token gets `/health`, and the door that lets a browser in (`sessions`). Nothing here trusts a parsed URL: what
frameworks make of an odd Host has led past such checks before (CVE-2026-48710).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from mnemo_coord.api import answers
from mnemo_coord.api.sessions import Sessions

__all__ = ["Gate", "Refusal", "Throttle", "allowed_hosts", "examine"]

URL_LIMIT: Final = 2048
"""Bytes of path and query together."""
HEADERS_LIMIT: Final = 16 * 1024
"""Bytes of all headers together."""
_OPEN: Final = {"/health", "/session"}
"""What needs no token: one says next to nothing, the other is where a token is shown."""
_SAME_SITE: Final = {b"same-origin", b"none"}

Headers = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not let in."""

    status: HTTPStatus
    code: str
    message: str
    hint: str = ""


def allowed_hosts(host: str, port: int) -> frozenset[bytes]:
    """The values of Host that mean a server that listens there."""
    names = {"127.0.0.1", "localhost", "[::1]", f"[{host}]" if ":" in host else host}
    return frozenset(f"{name}{end}".encode() for name in names for end in ([f":{port}", ""] if port == 80 else [f":{port}"]))


def examine(headers: Headers, hosts: frozenset[bytes]) -> Refusal | None:
    """Whether a request comes from where it may come from; None when it does. Names of headers are in lower case."""
    given: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        given.setdefault(name, []).append(value)
    host = [value.strip().lower() for value in given.get(b"host", [])]
    if len(host) != 1 or host[0] not in hosts:
        return Refusal(HTTPStatus.FORBIDDEN, "host", "this is not a host that is served here", "use http://127.0.0.1:PORT")
    if any(origin.strip().lower() != b"http://" + host[0] for origin in given.get(b"origin", [])):
        return Refusal(HTTPStatus.FORBIDDEN, "origin", "requests of other origins are refused")
    if any(site.strip().lower() not in _SAME_SITE for site in given.get(b"sec-fetch-site", [])):
        return Refusal(HTTPStatus.FORBIDDEN, "origin", "requests of other sites are refused")
    if b"transfer-encoding" in given and b"content-length" in given:
        return Refusal(HTTPStatus.BAD_REQUEST, "request", "a body has a length or is chunked, not both")
    if b"upgrade" in given:
        return Refusal(HTTPStatus.BAD_REQUEST, "request", "no other protocol is spoken here")
    return None


class Throttle:
    """Counts failures to authenticate: so many in a burst, then so many a second, and a refusal beyond."""

    def __init__(self, burst: float = 50.0, rate: float = 5.0, seconds: Callable[[], float] = time.monotonic) -> None:
        self._burst = burst
        self._rate = rate
        self._seconds = seconds
        self._left = burst
        self._at = seconds()

    def exceeded(self) -> bool:
        """Counts one failure. Whether there were too many."""
        now = self._seconds()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            return True
        self._left -= 1
        return False


class Gate:
    """The application behind its checks. An ASGI middleware."""

    def __init__(self, app: Any, sessions: Sessions, host: str, port: int) -> None:
        self._app = app
        self._sessions = sessions
        self._hosts = allowed_hosts(host, port)
        self._throttle = Throttle()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Lets a request in, or answers why not."""
        refusal = self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, send)
        elif _wants_a_page(scope):
            await answers.door(refusal.status, refusal.message)(scope, receive, send)
        else:
            await answers.refused(refusal.status, refusal.code, refusal.message, refusal.hint)(scope, receive, send)

    def _refusal(self, scope: dict[str, Any]) -> Refusal | None:
        if len(scope["raw_path"]) + len(scope["query_string"]) > URL_LIMIT:
            return Refusal(HTTPStatus.REQUEST_URI_TOO_LONG, "request", f"the URL has more than {URL_LIMIT} bytes")
        if sum(len(name) + len(value) + 4 for name, value in scope["headers"]) > HEADERS_LIMIT:
            too_much = f"the headers have more than {HEADERS_LIMIT} bytes"
            return Refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "request", too_much)
        refusal = examine(scope["headers"], self._hosts)
        if refusal is not None:
            return refusal
        if scope["path"] in _OPEN or self._sessions.admits(scope["headers"]):
            return None
        if self._throttle.exceeded():
            return Refusal(
                HTTPStatus.TOO_MANY_REQUESTS, "throttled", "too many requests without a valid token", "wait a second"
            )
        return Refusal(
            HTTPStatus.UNAUTHORIZED, "token", "this needs the token of this instance", "`mnemosyne dashboard` opens the page"
        )


def _wants_a_page(scope: dict[str, Any]) -> bool:
    """Whether a browser wants to show this: then the door is of more use than an object."""
    accept = b",".join(value for name, value in scope["headers"] if name == b"accept")
    return scope["method"] == "GET" and scope["path"] == "/" and b"text/html" in accept
