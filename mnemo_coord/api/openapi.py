"""The description of the API in OpenAPI 3.1; the shapes are read off the values that are sent, so that none can drift apart."""

from __future__ import annotations

import dataclasses
import types
import typing
from enum import StrEnum
from functools import cache
from typing import Any, Final

import mnemo_coord
from mnemo_coord.api.requests import QUERY_LIMIT
from mnemo_coord.doctor import Status
from mnemo_coord.findings import Finding
from mnemo_coord.holdings.assignments import Assignment
from mnemo_coord.holdings.branch_view import BranchState
from mnemo_coord.holdings.occupancy import BranchConflict
from mnemo_coord.holdings.risks import Risk
from mnemo_coord.holdings.worktrees import Worktree
from mnemo_coord.members.history import Fact
from mnemo_coord.members.identity import ProcessIdentity
from mnemo_coord.members.instance import Instance
from mnemo_coord.members.reports import TEXT_LIMIT, AgentReport, AgentState
from mnemo_coord.members.usage import Usage
from mnemo_coord.memory.memory import CONTENT_LIMIT, CONTEXT_LIMIT, RESULTS_LIMIT, TAG_LIMIT, TAGS_LIMIT, Memory, MemoryGlance
from mnemo_coord.messages.delivery import Receipt
from mnemo_coord.messages.fates import Depth
from mnemo_coord.messages.traffic import Flow
from mnemo_coord.overview import HeldClaim, Overview

__all__ = ["document", "shape"]

_NAMES: Final[dict[str, Any]] = {
    kind.__name__: kind
    for kind in (
        Assignment,
        BranchConflict,
        Depth,
        Risk,
        Worktree,
        Fact,
        Finding,
        Flow,
        HeldClaim,
        Instance,
        MemoryGlance,
        ProcessIdentity,
        Usage,
        AgentReport,
    )
}
"""Types that the modules name for type checkers only."""
_PLAIN: Final[dict[Any, dict[str, Any]]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    Any: {},
}
_NAME: Final = {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"}
_ADDRESS: Final = {"type": "string", "pattern": "^@?[A-Za-z0-9_-]{1,64}$"}


def shape(kind: Any, defined: dict[str, Any]) -> dict[str, Any]:
    """The JSON Schema of a type; what has a name is put into ``defined`` and referred to."""
    if kind in _PLAIN:
        return dict(_PLAIN[kind])
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in {typing.Union, types.UnionType}:
        return {"anyOf": [shape(one, defined) for one in inner]}
    if origin in {list, tuple}:
        return {"type": "array", "items": shape(inner[0], defined)}
    if origin is dict:
        return {"type": "object", "additionalProperties": shape(inner[1], defined)}
    if kind.__name__ not in defined:
        defined[kind.__name__] = {}  # a place for types that hold themselves
        defined[kind.__name__] = _named(kind, defined)
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


def _named(kind: Any, defined: dict[str, Any]) -> dict[str, Any]:
    if issubclass(kind, StrEnum):
        return {"type": "string", "enum": [str(one) for one in kind]}
    hints = typing.get_type_hints(kind, localns=_NAMES)
    return {
        "type": "object",
        "properties": {field.name: shape(hints[field.name], defined) for field in dataclasses.fields(kind)},
        "required": [field.name for field in dataclasses.fields(kind)],
        "additionalProperties": False,
    }


@cache
def document() -> dict[str, Any]:
    """The whole description."""
    defined: dict[str, Any] = {"Error": _ERROR, "Health": _HEALTH, "Outgoing": _OUTGOING, "Emission": _EMISSION}
    defined["NewMemory"] = _NEW_MEMORY
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mnemo_coord",
            "version": mnemo_coord.__version__,
            "description": "One instance's view of its fleet. Loopback only; all but /health needs the instance's token.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}],
        "paths": _paths(defined),
        "components": {"schemas": defined, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }


def _paths(defined: dict[str, Any]) -> dict[str, Any]:
    who = {"name": "who", "in": "path", "required": True, "schema": {"type": "string"}, "description": "Id or name."}
    report = _object({"status": shape(Status, defined), "findings": shape(tuple[Finding, ...], defined)})
    boxes = {
        "mailboxes": shape(tuple[Depth, ...], defined),
        "dead_lettered": {"type": "integer"},
        "refused": {"type": "integer"},
    }
    code = {"code": {"type": "string"}, "url": {"type": "string"}, "expires_in": {"type": "number"}}
    shown = {"oneOf": [_object({"code": {"type": "string"}}), _object({"token": {"type": "string"}})]}
    instance = shape(Instance, defined)
    many = shape(tuple[Instance, ...], defined)
    return {
        "/health": {"get": _get("Whether it is well.", {"$ref": "#/components/schemas/Health"}, security=[])},
        "/instances": {"get": _get("Everybody who is registered.", many)},
        "/instances/{who}": {"get": _get("One instance.", instance, parameters=[who], refusals=("404",))},
        "/messages": {"post": _post("Send a message.", "Outgoing", shape(Receipt, defined), ("400", "404", "409", "413"))},
        "/mailboxes": {"get": _get("Every mailbox, and how much was set aside.", _object(boxes))},
        "/claims": {"get": _get("Who holds what.", shape(tuple[HeldClaim, ...], defined))},
        "/branches": {"get": _get("Who works on which branch.", shape(tuple[BranchState, ...], defined))},
        "/worktrees": {"get": _get("The git worktrees of instances.", shape(tuple[Worktree, ...], defined))},
        "/memories": {
            "get": _get("What is known.", shape(tuple[Memory, ...], defined), parameters=_RECALL, refusals=("400", "414")),
            "post": _post("Store a memory.", "NewMemory", shape(Memory, defined), ("400", "409", "413")),
        },
        "/doctor": {"get": _get("What the doctor finds. Changes nothing.", report)},
        "/overview": {"get": _get("All of it at once.", shape(Overview, defined))},
        "/metrics": {"get": _get("The same in numbers, for Prometheus.", None, media="text/plain")},
        "/events": {"get": _events()},
        "/events/emit": {"post": _post("Say what an agent is doing.", "Emission", shape(AgentReport, defined), ("400", "404"))},
        "/session": {"post": _post("Let a browser in.", shown, _object({"instance_id": {"type": "string"}}), ("400",), [])},
        "/session/codes": {"post": _get("A code that lets a browser in, once.", _object(code))},
        "/openapi.json": {"get": _get("This description.", {"type": "object"})},
        "/": {"get": _get("The web dashboard.", None, media="text/html")},
    }


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _get(summary: str, schema: Any, *, media: str = "application/json", refusals: tuple[str, ...] = (), **more: Any) -> Any:
    content = {media: {"schema": schema if schema is not None else {"type": "string"}}}
    answers = {"200": {"description": "Done.", "content": content}, **_refusals(("401", "403", "429", "503", *refusals))}
    return {"summary": summary, "responses": dict(sorted(answers.items())), **more}


def _post(summary: str, body: Any, schema: Any, refusals: tuple[str, ...], security: list[Any] | None = None) -> Any:
    taken = {"$ref": f"#/components/schemas/{body}"} if isinstance(body, str) else body
    more: dict[str, Any] = {} if security is None else {"security": security}
    found = _get(summary, schema, refusals=(*refusals, "413", "415"), **more)
    return {**found, "requestBody": {"required": True, "content": {"application/json": {"schema": taken}}}}


def _refusals(statuses: tuple[str, ...]) -> dict[str, Any]:
    schema = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {status: {"description": _MEANINGS[status], "content": schema} for status in statuses}


def _events() -> Any:
    refresh = {
        "name": "refresh",
        "in": "query",
        "schema": {"type": "integer", "minimum": 1, "maximum": 9999},
        "description": "Seconds after which a fresh snapshot is sent again and again.",
    }
    resume = {
        "name": "Last-Event-ID",
        "in": "header",
        "schema": {"type": "integer", "minimum": 0},
        "description": "The last event that the reader has.",
    }
    return _get(
        "A stream of server-sent events: `snapshot`, `gap`, and each kind of event. Does not end by itself.",
        None,
        media="text/event-stream",
        parameters=[refresh, resume],
    )


_MEANINGS: Final = {
    "400": "The request is not valid.",
    "401": "No token, or not this instance's.",
    "403": "Another host, or on behalf of another site.",
    "404": "There is none.",
    "409": "Held by another, full, or another message has this id.",
    "413": "Too large.",
    "414": "The URL is too long.",
    "415": "Not JSON.",
    "429": "Too many failures to authenticate.",
    "503": "Busy: try again.",
}
_ERROR: Final = _object({"error": _object({name: {"type": "string"} for name in ("code", "message", "hint")})})
_HEALTH: Final = _object(
    {
        "status": {"enum": ["ok", "unhealthy"]},
        "version": {"type": "string"},
        "instance_id": {"type": "string", "pattern": "^[0-9a-f]{8}$"},
        "subscribers": {"type": "integer", "minimum": 0},
    }
)
_OF_A_MESSAGE: Final = {
    "type": {"type": "string", "pattern": "^[A-Za-z][A-Za-z0-9]{0,63}$", "description": "1 to 64 printable characters."},
    "payload": {"description": "Any JSON value; the message has at most 1,024 bytes."},
    "from": {**_NAME, "description": "The name of a program that is no instance; default: this instance."},
    "message_id": _NAME,
    "ttl": {"type": "number", "exclusiveMinimum": 0, "maximum": 3.2e9, "description": "Seconds."},
    "durable": {"type": "boolean"},
}
_TO_ONE: Final = {"to": {**_ADDRESS, "description": "An instance id, a name, or @ROLE."}, "reply_to": _NAME}
_TO_ALL: Final = {"all": {"const": True, "description": "To every live instance but the sender."}}
_OUTGOING: Final = {
    "oneOf": [
        {**_object({**addressed, **_OF_A_MESSAGE}), "required": [next(iter(addressed)), "type"]}
        for addressed in (_TO_ONE, _TO_ALL)
    ]
}
_EMISSION: Final = {
    "type": "object",
    "properties": {
        "kind": {"const": "agent_state"},
        "instance_id": {"type": "string", "description": "Id or name of the instance that is spoken for; default: this one."},
        "data": {
            "type": "object",
            "properties": {
                "state": {"type": "string", "enum": [str(state) for state in AgentState]},
                "text": {"type": "string", "maxLength": TEXT_LIMIT},
            },
            "required": ["state"],
            "additionalProperties": False,
        },
    },
    "required": ["kind", "data"],
    "additionalProperties": False,
}
_NAMESPACE: Final = {
    "type": "string",
    "pattern": r"^(global|project:[A-Za-z0-9_.-]{1,64}|session:[A-Za-z0-9_.-]{1,64}:[A-Za-z0-9_.-]{1,64})$",
}
_IMPORTANCE: Final = {"type": "integer", "minimum": 1, "maximum": 10}
_UNSEEN: Final = (
    r"\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb" "\U000e0000-\U000e007f"
)
_SOMETHING: Final = r"[^\s\x1c-\x1f\x85]"
"""More than white space: Python counts some characters as such that JavaScript's regular expressions do not."""
_TAG: Final = {
    "type": "string",
    "pattern": rf"^[^\s{_UNSEEN}]([^{_UNSEEN}]*[^\s{_UNSEEN}])?$",
    "minLength": 1,
    "maxLength": TAG_LIMIT,
}


def _parameter(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema, "description": description}


_RECALL: Final = [
    _parameter(
        "query",
        {"type": "string", "pattern": _SOMETHING, "maxLength": QUERY_LIMIT},
        "Any words; without it the newest are answered.",
    ),
    _parameter("namespace", _NAMESPACE, "Only in this one."),
    _parameter("limit", {"type": "integer", "minimum": 1, "maximum": RESULTS_LIMIT}, "How many at most; 20 without it."),
]
_NEW_MEMORY: Final = {
    "type": "object",
    "properties": {
        "content": {"type": "string", "pattern": _SOMETHING, "description": f"At most {CONTENT_LIMIT} bytes."},
        "namespace": {**_NAMESPACE, "description": "Without it `global`."},
        "importance": {**_IMPORTANCE, "description": "Without it 5."},
        "tags": {"type": "array", "items": _TAG, "maxItems": TAGS_LIMIT},
        "context": {"type": "string", "description": f"At most {CONTEXT_LIMIT} bytes."},
        "memory_id": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"},
    },
    "required": ["content"],
    "additionalProperties": False,
}
