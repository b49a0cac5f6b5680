"""Requests: the bodies that the API takes, read within limits and checked member by member before anything is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from starlette.requests import ClientDisconnect, Request

from mnemo_coord import errors
from mnemo_coord.api.gate import Refusal
from mnemo_coord.disk import records
from mnemo_coord.members.identity import check_name

__all__ = [
    "BODY_LIMIT",
    "MEMORY_LIMIT",
    "Emission",
    "Introduction",
    "QUERY_LIMIT",
    "Outgoing",
    "memory_options",
    "read",
    "recall_options",
]

BODY_LIMIT: Final = 16 * 1024
MEMORY_LIMIT: Final = 512 * 1024
"""Bytes; a content of 64 KiB may be six times as long in JSON."""


async def read(request: Request, limit: int = BODY_LIMIT) -> dict[str, Any] | Refusal:
    """The JSON object in the body of a request, or why there is none. At most one byte more than allowed is looked at."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        return Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "request", "the body has to be application/json")
    data = b""
    try:
        async for piece in request.stream():
            data += piece
            if len(data) > limit:
                what = f"the body has more than {limit} bytes"
                return Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "request", what)
        return records.parse(data, "the body")
    except ClientDisconnect:
        return Refusal(HTTPStatus.BAD_REQUEST, "request", "the body did not come to its end")
    except errors.Damaged as error:
        return Refusal(HTTPStatus.BAD_REQUEST, "request", error.message)


def _members(body: Mapping[str, Any], known: Mapping[str, tuple[type, ...]]) -> None:
    """Refuses members that are unknown or of the wrong type; ``True`` is no number.

    Raises:
        errors.Config: naming the member.
    """
    for name, value in body.items():
        if name not in known:
            raise errors.Config(f"unknown member {name!r}", hint=f"known are {', '.join(known)}", key=name)
        if known[name] and type(value) not in known[name]:
            raise errors.Config(f"{name} is of the wrong type", key=name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outgoing:
    """``POST /messages``: a message to be sent."""

    to: str | None
    """The address; None for everybody."""
    type: str
    payload: Any
    sender: str | None
    """The name under which a program outside of the fleet speaks; None: the instance that is asked."""
    options: dict[str, Any]

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Outgoing:
        """Checks the members.

        Raises:
            errors.Config: something is missing, unknown or of the wrong type.
        """
        _members(body, _OUTGOING)
        if "type" not in body:
            raise errors.Config("type is missing", key="type")
        if ("to" in body) == (body.get("all") is True):
            raise errors.Config("give either to, an address, or all: true", key="to")
        named = ("message_id", "reply_to", "ttl", "durable") if "to" in body else ("message_id", "ttl", "durable")
        if "reply_to" in body and "to" not in body:
            raise errors.Config("an answer goes to one address", key="reply_to")
        return cls(
            to=body.get("to"),
            type=body["type"],
            payload=body.get("payload", {}),
            sender=check_name(body["from"], "from") if "from" in body else None,
            options={name: body[name] for name in named if name in body},
        )


_OUTGOING: Final[dict[str, tuple[type, ...]]] = {
    "to": (str,),
    "all": (bool,),
    "type": (str,),
    "payload": (),
    "from": (str,),
    "message_id": (str,),
    "reply_to": (str,),
    "ttl": (int, float),
    "durable": (bool,),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Emission:
    """``POST /events/emit``: what a program says of itself."""

    who: str | None
    """Id or name of the instance that it speaks for; None: the one that is asked."""
    state: str
    text: str

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Emission:
        """Checks the members.

        Raises:
            errors.Config: something is missing, unknown or of the wrong type.
        """
        _members(body, {"kind": (str,), "instance_id": (str,), "data": (dict,)})
        if body.get("kind") != "agent_state":
            hint = "all other kinds are facts that an instance publishes when it has seen them"
            raise errors.Config("kind has to be agent_state", hint=hint, key="kind")
        data = body.get("data", {})
        _members(data, {"state": (str,), "text": (str,)})
        if "state" not in data:
            raise errors.Config("data.state is missing", key="data.state")
        return cls(who=body.get("instance_id"), state=data["state"], text=data.get("text", ""))


@dataclass(frozen=True, kw_only=True, slots=True)
class Introduction:
    """``POST /session``: what a browser shows at the door."""

    code: str | None
    token: str | None

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Introduction:
        """Checks the members.

        Raises:
            errors.Config: it is not exactly one of the two.
        """
        _members(body, {"code": (str,), "token": (str,)})
        if len(body) != 1:
            raise errors.Config("give either code or token", key="code")
        return cls(code=body.get("code"), token=body.get("token"))


QUERY_LIMIT: Final = 512
"""Characters; a URL has no room for more."""


def recall_options(parameters: list[tuple[str, str]]) -> dict[str, Any]:
    """``GET /memories``: what is to be recalled, from the parameters of the URL.

    Raises:
        errors.Config: one is unknown, there twice, or no number where one is needed.
    """
    found: dict[str, Any] = {}
    for name, text in parameters:
        if name in found or name not in {"query", "namespace", "limit"}:
            raise errors.Config(f"unknown parameter {name!r}, or given twice", key=name)
        found[name] = _whole(name, text) if name == "limit" else text
    if len(found.get("query", "")) > QUERY_LIMIT:
        raise errors.Config(f"query is longer than {QUERY_LIMIT} characters", key="query")
    return found


def _whole(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 4):
        raise errors.Config(f"{name} is a whole number", key=name)
    return int(text)


def memory_options(body: Mapping[str, Any]) -> dict[str, Any]:
    """``POST /memories``: what is to be stored.

    Raises:
        errors.Config: a member is missing, unknown or of the wrong type.
    """
    texts = ("content", "namespace", "context", "memory_id")
    _members(body, {**dict.fromkeys(texts, (str,)), "importance": (int, float), "tags": (list,)})
    if "content" not in body:
        raise errors.Config("content is missing", key="content")
    importance = body.get("importance")  # to JSON, 4.0 is a whole number
    whole = {"importance": int(importance)} if isinstance(importance, float) and importance.is_integer() else {}
    return {**body, **whole}
