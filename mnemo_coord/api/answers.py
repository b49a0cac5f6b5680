"""Answers: the shapes in which the API replies. Every failure is the same object, every answer has the same careful headers."""

from __future__ import annotations

import html
import os
from functools import cache
from http import HTTPStatus
from importlib.resources import files
from typing import Any, Final

from starlette.responses import Response

from mnemo_coord import errors
from mnemo_coord.display import json_line
from mnemo_coord.events import EventKind

__all__ = ["CAREFUL", "dashboard", "door", "failed", "json", "refused"]

CAREFUL: Final = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
"""Headers of every answer: not kept, not sniffed, not framed, not read by other origins."""

_STATUS: Final = (
    (errors.MessageTooLarge, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    (errors.Config, HTTPStatus.BAD_REQUEST),
    (errors.NotFound, HTTPStatus.NOT_FOUND),
    (errors.Conflict, HTTPStatus.CONFLICT),
    (errors.TimedOut, HTTPStatus.SERVICE_UNAVAILABLE),
)
"""Which error becomes which status; the rest is ours to answer for, a 500."""


def json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON document."""
    return Response(json_line(value) + "\n", status, {**CAREFUL, **(headers or {})}, "application/json")


def refused(status: HTTPStatus, code: str, message: str, hint: str = "", headers: dict[str, str] | None = None) -> Response:
    """A failure, as the command line tells it with ``--json``. The connection ends with it."""
    more = {"WWW-Authenticate": 'Bearer realm="mnemosyne"'} if status is HTTPStatus.UNAUTHORIZED else {}
    more |= {"Retry-After": "1"} if status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE} else {}
    body = {"error": {"code": code, "message": message, "hint": hint}}
    return json(body, status, {"Connection": "close", **more, **(headers or {})})


def failed(error: errors.CoordinationError) -> Response:
    """The answer to an operation that raised."""
    status = next((found for kind, found in _STATUS if isinstance(error, kind)), HTTPStatus.INTERNAL_SERVER_ERROR)
    return refused(status, error.code, error.message, error.hint)


@cache
def _asset(name: str) -> str:
    return (files("mnemo_coord.api") / "page" / name).read_text(encoding="utf-8")


def dashboard() -> Response:
    """The web dashboard: one document with its style and script, and no other source of either."""
    parts = {"kinds": " ".join(EventKind), "css": _asset("dashboard.css"), "js": _asset("dashboard.js")}
    text = _asset("dashboard.html")
    for name, part in parts.items():
        text = text.replace(f"{{{{{name}}}}}", part)
    return _page(text, HTTPStatus.OK)


def door(status: HTTPStatus, reason: str) -> Response:
    """What somebody gets who has no session: how to get one."""
    page = _page(_asset("door.html").replace("{{reason}}", html.escape(reason)), status)
    page.headers["Connection"] = "close"
    return page


def _page(text: str, status: HTTPStatus) -> Response:
    nonce = os.urandom(16).hex()
    policy = (
        f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; img-src 'self' data:; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    )
    headers = {**CAREFUL, "Content-Security-Policy": policy}
    return Response(text.replace("{{nonce}}", nonce), status, headers, "text/html; charset=utf-8")
