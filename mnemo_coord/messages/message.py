"""A message: a sealed JSON document of at most 1,024 bytes, from one instance to one address.

::

    {"id":…,"from_agent":…,"to_agent":…,"message_type":…,"timestamp":…,"payload":…,"signature":…}

Exactly these members, in this order, sealed as `disk.records` says; ``to_agent`` is null in a broadcast. A file that breaks
any of it is not a message. The payload is data from another program: it is never executed, and shown only with its control
characters escaped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from mnemo_coord import errors
from mnemo_coord.disk import records
from mnemo_coord.disk.signing import Purpose, Signer

__all__ = ["LIMIT", "Message", "check_id", "check_type", "decode", "encode"]

LIMIT: Final = 1024
"""Bytes of a message as stored, signature included. Checked before anything is written and again when it is read."""

JOIN_REQUEST: Final = "JoinRequest"
JOIN_APPROVAL: Final = "JoinApproval"
JOIN_DENIAL: Final = "JoinDenial"
CONFLICT_NOTIFICATION: Final = "ConflictNotification"
ISOLATION_REQUEST: Final = "IsolationRequest"
HEARTBEAT: Final = "Heartbeat"

_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_TYPE_LIMIT: Final = 64
_MEMBERS: Final[dict[str, Any]] = {
    "id": str,
    "from_agent": str,
    "to_agent": (str, type(None)),
    "message_type": str,
    "timestamp": str,
    "payload": object,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One message, as sent and as received."""

    id: str
    """Unique in the fleet. The same id always has the same content."""
    from_agent: str
    """The id of the instance that sent it, or the name under which a program outside of the fleet did."""
    to_agent: str | None
    """The address; None in a broadcast."""
    message_type: str
    """What kind of message it is; an open set."""
    timestamp: str
    """When it was sent, by its sender's wall clock: RFC 3339, UTC. Not used to order or expire anything."""
    payload: Any
    """Whatever JSON value the sender gave."""


def check_id(message_id: str) -> str:
    """Returns a message id if it is a valid one.

    Raises:
        errors.Config: it is not 1 to 64 ASCII letters, digits, ``_`` or ``-``.
    """
    if not isinstance(message_id, str) or _ID.fullmatch(message_id) is None:
        raise errors.Config(f"{message_id!r} is not a message id", hint="1 to 64 ASCII letters, digits, _ or -", key="id")
    return message_id


def check_type(message_type: str) -> str:
    """Returns a message type if it is a valid one.

    Raises:
        errors.Config: it is empty, longer than 64 characters, or not printable.
    """
    fits = isinstance(message_type, str) and 0 < len(message_type) <= _TYPE_LIMIT and message_type.isprintable()
    if not fits or not message_type.strip():
        raise errors.Config(
            f"{message_type!r} is not a message type", hint=f"1 to {_TYPE_LIMIT} printable characters", key="message_type"
        )
    return message_type


def encode(message: Message, signer: Signer) -> bytes:
    """The bytes to store.

    Raises:
        errors.MessageTooLarge: they would be more than `LIMIT`.
        errors.NotEncodable: the payload is not what JSON can carry.
    """
    records.encodable(message.payload)
    body = {name: getattr(message, name) for name in _MEMBERS}
    try:
        sealed = records.seal(body, signer, Purpose.MESSAGE)
    except TypeError as error:
        raise errors.NotEncodable(f"payload: {error}", key="payload") from None
    if len(sealed) > LIMIT:
        raise errors.MessageTooLarge(f"the message has {len(sealed)} bytes, {LIMIT} are allowed", size=len(sealed), limit=LIMIT)
    return sealed


def decode(data: bytes, signer: Signer, where: str) -> Message:
    """A message from its stored bytes.

    Raises:
        errors.Damaged: too large, empty, not JSON, or not the members of a message; the reason says which.
        errors.Untrusted: not signed by this fleet.
    """
    if len(data) > LIMIT:
        raise errors.Damaged.at(where, f"is larger than {LIMIT} bytes")
    try:
        body = records.unseal(data, signer, Purpose.MESSAGE, where)
    except errors.Untrusted:
        records.parse(data, where)  # tells a damaged file from one that somebody else signed
        raise
    _check_members(body, where)
    return Message(**body)


def _check_members(body: Mapping[str, Any], where: str) -> None:
    if body.keys() != _MEMBERS.keys():
        odd = sorted(body.keys() ^ _MEMBERS.keys())
        raise errors.Damaged.at(where, f"has missing or unknown members: {', '.join(odd)}")
    for name, kind in _MEMBERS.items():
        if not isinstance(body[name], kind):
            raise errors.Damaged.at(where, f"has a {name} of the wrong type")
