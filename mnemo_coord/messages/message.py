"""A message: a sealed JSON document of at most 1,024 bytes, from one instance to one address.

::

    {"id":…,"from_agent":…,"to_agent":…,"message_type":…,"timestamp":…,"payload":…,"signature":…}

These members, sealed as `disk.records` says; ``to_agent`` is null in a broadcast. An answer also has ``reply_to``, the id of
the message that it answers; a message that is worth something for a time only has ``expires_ns`` and ``boot_id``: it expires
when CLOCK_BOOTTIME of that boot has passed so many nanoseconds. No clock that jumps is asked, and no other boot can tell how
much time has passed, so there it has expired. A file with any other member is not a message. The payload is data from another
program: it is never executed, and shown only with its control characters escaped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from mnemo_coord import errors
from mnemo_coord.disk import records
from mnemo_coord.disk.clock import Clock
from mnemo_coord.disk.signing import Purpose, Signer
from mnemo_coord.messages.shared import Linked

__all__ = ["LIMIT", "NO_PAYLOAD", "Message", "check_id", "check_ttl", "check_type", "decode", "encode"]

LIMIT: Final = 1024
"""Bytes of a message as stored, signature included. Checked before anything is written and again when it is read."""

JOIN_REQUEST: Final = "JoinRequest"
JOIN_APPROVAL: Final = "JoinApproval"
JOIN_DENIAL: Final = "JoinDenial"
CONFLICT_NOTIFICATION: Final = "ConflictNotification"
ISOLATION_REQUEST: Final = "IsolationRequest"
HEARTBEAT: Final = "Heartbeat"

NO_PAYLOAD: Final[dict[str, Any]] = {}
"""What a message says that is sent without a payload. Never changed: it is encoded and nothing else."""

_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_TYPE_LIMIT: Final = 64
_CENTURY: Final = 3.2e9
_MEMBERS: Final[dict[str, Any]] = {
    "id": str,
    "from_agent": str,
    "to_agent": (str, type(None)),
    "message_type": str,
    "timestamp": str,
    "payload": object,
}
_OPTIONAL: Final[dict[str, type]] = {"reply_to": str, "expires_ns": int, "boot_id": str}
_ORDER: Final = ("id", "from_agent", "to_agent", "message_type", "timestamp", *_OPTIONAL, "payload")


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
    reply_to: str | None = None
    """The id of the message that this one answers."""
    expires_ns: int | None = None
    """When it stops being worth anything: nanoseconds of CLOCK_BOOTTIME in the boot ``boot_id``. None: never."""
    boot_id: str | None = None
    """The boot that ``expires_ns`` counts from."""

    def has_expired(self, clock: Clock) -> bool:
        """Whether its time is over. In another boot it is: nobody can tell how long ago it was sent."""
        if self.expires_ns is None:
            return False
        return self.boot_id != clock.boot_id or clock.age_ns() >= self.expires_ns


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


def check_ttl(ttl: float | None) -> float | None:
    """Returns the seconds after which a message expires if they are valid; None: it never does.

    Raises:
        errors.Config: they are not a finite number above zero, or more than a century.
    """
    if ttl is None:
        return None
    if isinstance(ttl, bool) or not isinstance(ttl, (int, float)) or not 0 < ttl <= _CENTURY:
        raise errors.Config(f"{ttl!r} is not a time to live", hint="seconds, above 0", key="ttl")
    return ttl


def encode(message: Message, signer: Signer) -> bytes:
    """The bytes to store.

    Raises:
        errors.MessageTooLarge: they would be more than `LIMIT`.
        errors.NotEncodable: the payload is not what JSON can carry.
    """
    records.encodable(message.payload)
    values = {name: getattr(message, name) for name in _ORDER}
    body = {name: value for name, value in values.items() if value is not None or name not in _OPTIONAL}
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
        errors.Untrusted: not signed by this fleet, or a file with other names and no broadcast.
    """
    if len(data) > LIMIT:
        raise errors.Damaged.at(where, f"is larger than {LIMIT} bytes")
    try:
        body = records.unseal(bytes(data), signer, Purpose.MESSAGE, where)
    except errors.Untrusted:
        records.parse(bytes(data), where)  # tells a damaged file from one that somebody else signed
        raise
    _check_members(body, where)
    if isinstance(data, Linked) and body["to_agent"] is not None:
        raise errors.Untrusted.at(where, "has a second hard link", hint="")
    return Message(**body)


def _check_members(body: Mapping[str, Any], where: str) -> None:
    odd = (_MEMBERS.keys() - body.keys()) | (body.keys() - _MEMBERS.keys() - _OPTIONAL.keys())
    if odd:
        raise errors.Damaged.at(where, f"has missing or unknown members: {', '.join(sorted(odd))}")
    for name, kind in _MEMBERS.items():
        if not isinstance(body[name], kind):
            raise errors.Damaged.at(where, f"has a {name} of the wrong type")
    if len(body) > len(_MEMBERS):
        _check_optional(body, where)


def _check_optional(body: Mapping[str, Any], where: str) -> None:
    for name in body.keys() & _OPTIONAL.keys():
        if type(body[name]) is not _OPTIONAL[name]:
            raise errors.Damaged.at(where, f"has a {name} of the wrong type")
    if ("expires_ns" in body) != ("boot_id" in body):
        raise errors.Damaged.at(where, "has one of expires_ns and boot_id without the other")
