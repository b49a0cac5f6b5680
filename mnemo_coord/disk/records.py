"""Sealed records: JSON objects whose last member is a signature over all the bytes before it.

::

    {"instance_id":"a1b2c3d4",…,"signature":"<64 lower-case hex digits>"}
    └──────── signed, byte for byte ───┘└──────── the seal, 80 bytes ──┘

The signature is checked on the bytes as they lie there, before they are parsed (`signing` says what the key and the MAC
are). Inside ``process_registry.json`` the records stand as members of an object; JSON keeps the order of members, so
encoding one of them again gives back the very bytes that were signed, and what is verified is what is used.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final

import orjson

from mnemo_coord import errors
from mnemo_coord.disk.signing import Purpose, Signer

__all__ = [
    "MAX_DEPTH",
    "SEAL_LENGTH",
    "encodable",
    "encode",
    "encode_text",
    "parse",
    "reseal",
    "seal",
    "unseal",
    "verified",
]

MAX_DEPTH: Final = 32
"""How deep a record may nest. A kilobyte of brackets would reach 512."""

_SEAL: Final = re.compile(rb',"signature":"([0-9a-f]{64})"\}')
SEAL_LENGTH: Final = len(',"signature":"') + 64 + len('"}')


def encode(value: Any) -> bytes:
    """Compact JSON, members in their order."""
    return orjson.dumps(value)


def encode_text(text: str) -> str:
    """One JSON string."""
    return orjson.dumps(text).decode()


def parse(data: bytes, where: str) -> dict[str, Any]:
    """One JSON object.

    Raises:
        errors.Damaged: with the reason, for anything else.
    """
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise errors.Damaged.at(where, _why(data, error)) from None
    if not isinstance(value, dict):
        raise errors.Damaged.at(where, "is JSON, but not an object")
    return value


def _why(data: bytes, error: orjson.JSONDecodeError) -> str:
    if not data.strip(b"\0 \t\r\n"):
        return "is empty"
    if data.startswith(b"\xef\xbb\xbf"):
        return "begins with a byte order mark"
    if data.endswith(b"\0"):
        return "ends in NUL bytes"
    return f"is not JSON: {error.msg}"


def seal(body: dict[str, Any], signer: Signer, purpose: Purpose) -> bytes:
    """Encodes ``body`` and appends the signature as its last member."""
    signed = encode(body)[:-1]
    return b'%b,"signature":"%b"}' % (signed, signer.sign(purpose, signed).hex().encode())


def verified(data: bytes, signer: Signer, purpose: Purpose) -> bool:
    """Whether these are the bytes of a record that this fleet sealed for this purpose."""
    tail = _SEAL.fullmatch(data, max(0, len(data) - SEAL_LENGTH))
    return tail is not None and signer.verify(purpose, data[: tail.start()], bytes.fromhex(tail[1].decode()))


def unseal(data: bytes, signer: Signer, purpose: Purpose, where: str) -> dict[str, Any]:
    """Verifies the bytes of a sealed record, then parses them. The signature is not in the result.

    Raises:
        errors.Untrusted: not signed, or signed by somebody else, or changed since.
        errors.Damaged: properly signed and still no JSON object.
    """
    if not verified(data, signer, purpose):
        raise errors.Untrusted.at(where, "is not signed with this fleet's key", hint="")
    value = parse(data, where)
    del value["signature"]
    return value


def reseal(record: object) -> bytes | None:
    """The bytes that a parsed record had, or None where it cannot have been a sealed record."""
    if not isinstance(record, dict) or next(reversed(record), None) != "signature":
        return None
    try:
        return encode(record)
    except (TypeError, orjson.JSONEncodeError):
        return None


def encodable(value: object) -> None:
    """Checks that JSON carries ``value`` to its reader unchanged. orjson alone would let some of it pass, altered.

    Raises:
        errors.NotEncodable: naming the place, such as ``payload.a[2]``.
    """
    _encodable(value, "payload", 1)


def _encodable(value: object, place: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise errors.NotEncodable(f"{place} nests deeper than {MAX_DEPTH}", key=place)
    if isinstance(value, dict):
        for key, inner in value.items():
            if type(key) is not str:
                raise errors.NotEncodable(f"{place} has the key {key!r}, which is not a string", key=place)
            _encodable_text(key, place)
            _encodable(inner, f"{place}.{key}", depth + 1)
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            _encodable(inner, f"{place}[{index}]", depth + 1)
    elif isinstance(value, str):
        _encodable_text(value, place)
    else:
        _encodable_scalar(value, place)


def _encodable_text(text: str, place: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise errors.NotEncodable(f"{place} holds half of a surrogate pair", key=place) from None


def _encodable_scalar(value: object, place: str) -> None:
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, int) and -(2**63) <= value < 2**64:
        return
    if isinstance(value, float) and math.isfinite(value):
        return
    what = "a number that JSON cannot carry" if isinstance(value, (int, float)) else f"a {type(value).__name__}"
    raise errors.NotEncodable(f"{place} is {what}", key=place)
