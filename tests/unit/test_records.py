"""A sealed record comes back as it was sealed, and nothing else passes for one.

What JSON could not carry unchanged is refused with its place."""

from __future__ import annotations

import datetime as dt
import io
import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from mnemo_coord import errors
from mnemo_coord.disk import records
from mnemo_coord.disk.signing import Purpose, Signer

KEY = Signer(b"k" * 32)

BODIES: dict[str, dict[str, Any]] = {
    "empty": {},
    "order kept": {"z": 1, "a": 2, "m": 3},
    "nested": {"a": {"b": [{"c": [None, True, False]}]}, "empty": [{}, []]},
    "integers": {"least": -(2**63), "most": 2**64 - 1},
    "floats": {"a": 0.1, "b": 1e16, "c": 1e-7, "d": -0.0, "e": 1.7976931348623157e308, "f": 5e-324, "g": 3.0},
    "text": {"ü": 'é\u2028\x00\x1f"\\/', "emoji": "🙂", "": ""},
    "a signature inside": {"a": {"signature": "0" * 64}},
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("purpose", Purpose)
def test_a_sealed_record_comes_back(body: dict[str, Any], purpose: Purpose) -> None:
    sealed = records.seal({"first": 1, **body}, KEY, purpose)
    again = records.unseal(sealed, KEY, purpose, "x")
    assert again == {"first": 1, **body}
    assert list(again) == ["first", *body], "in the same order"
    assert len(sealed) == len(records.encode({"first": 1, **body})) - 1 + records.SEAL_LENGTH


def put_first(sealed: bytes) -> bytes:
    record = json.loads(sealed)
    return json.dumps({"signature": record.pop("signature"), **record}, separators=(",", ":")).encode()


def with_signature(value: str) -> Callable[[bytes], bytes]:
    """The record with another JSON value for its signature."""
    return lambda sealed: sealed[:-67] + value.encode() + b"}"


SEALED = records.seal({"a": 1, "b": "x"}, KEY, Purpose.RECORD)
DIGITS = SEALED[-66:-2].decode()

TAMPERED: dict[str, Callable[[bytes], bytes]] = {
    "another key": lambda _: records.seal({"a": 1, "b": "x"}, Signer(b"K" * 32), Purpose.RECORD),
    "another purpose": lambda _: records.seal({"a": 1, "b": "x"}, KEY, Purpose.HEARTBEAT),
    "a value changed": lambda sealed: sealed.replace(b'"a":1', b'"a":2'),
    "a space between members": lambda sealed: sealed.replace(b",", b", ", 1),
    "members swapped": lambda sealed: sealed.replace(b'{"a":1,"b":"x"', b'{"b":"x","a":1'),
    "a member added": lambda sealed: sealed.replace(b"{", b'{"c":1,', 1),
    "a member after": lambda sealed: sealed[:-1] + b',"c":1}',
    "a byte behind": lambda sealed: sealed + b" ",
    "a newline behind": lambda sealed: sealed + b"\n",
    "a NUL behind": lambda sealed: sealed + b"\0",
    "a byte in front": lambda sealed: b" " + sealed,
    "a byte order mark": lambda sealed: b"\xef\xbb\xbf" + sealed,
    "two of them": lambda sealed: sealed + sealed,
    "the last byte missing": lambda sealed: sealed[:-1],
    "half of it": lambda sealed: sealed[: len(sealed) // 2],
    "only the seal": lambda sealed: sealed[-records.SEAL_LENGTH :],
    "nothing": lambda _: b"",
    "another's signature": lambda sealed: sealed[:-66] + b"0" * 64 + b'"}',
    "signature empty": with_signature('""'),
    "signature null": with_signature("null"),
    "signature a number": with_signature("7"),
    "signature a list": with_signature(f'["{DIGITS}"]'),
    "signature of 63 digits": with_signature(f'"{DIGITS[:-1]}"'),
    "signature of 65 digits": with_signature(f'"{DIGITS}0"'),
    "signature with a space": with_signature(f'"{DIGITS} "'),
    "signature in upper case": with_signature(f'"{DIGITS[:-1]}A"'),
    "signature not ASCII": with_signature(f'"{"é" * 32}"'),
    "signature in other digits": with_signature(f'"{"٣" * 64}"'),
    "no signature": lambda _: b'{"a":1,"b":"x"}',
    "signature not last": put_first,
    "another name for it": lambda sealed: sealed.replace(b'"signature"', b'"Signature"'),
}


def test_the_untampered_one_passes() -> None:
    assert records.unseal(SEALED, KEY, Purpose.RECORD, "x") == {"a": 1, "b": "x"}
    assert with_signature(f'"{DIGITS}"')(SEALED) == SEALED, "the table's helper changes nothing but the signature"


@pytest.mark.parametrize("tamper", TAMPERED.values(), ids=TAMPERED)
def test_a_tampered_record_is_untrusted(tamper: Callable[[bytes], bytes]) -> None:
    """R7, R8. One and the same reason, whatever was tampered with."""
    with pytest.raises(errors.Untrusted) as caught:
        records.unseal(tamper(SEALED), KEY, Purpose.RECORD, "place")
    assert type(caught.value) is errors.Untrusted
    assert str(caught.value) == "place: is not signed with this fleet's key"


@pytest.mark.parametrize("position", range(len(SEALED)))
def test_no_byte_can_be_changed(position: int) -> None:
    changed = bytearray(SEALED)
    changed[position] ^= 1
    with pytest.raises(errors.Untrusted):
        records.unseal(bytes(changed), KEY, Purpose.RECORD, "x")


def test_what_is_signed_and_no_json_is_damaged() -> None:
    signed = b'{"a":1,'
    sealed = b'%b,"signature":"%b"}' % (signed, KEY.sign(Purpose.RECORD, signed).hex().encode())
    with pytest.raises(errors.Damaged, match="is not JSON"):
        records.unseal(sealed, KEY, Purpose.RECORD, "x")


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize(
    "form", [{}, {"indent": 2}, {"indent": "\t", "ensure_ascii": False}, {"separators": (" , ", " : ")}], ids=str
)
def test_a_parsed_record_is_sealed_again_with_the_same_bytes(body: dict[str, Any], form: dict[str, Any]) -> None:
    """Also after a stranger's JSON library laid it out anew."""
    sealed = records.seal({"first": 1, **body}, KEY, Purpose.RECORD)
    stream = io.StringIO()
    json.dump({"version": 1, "instances": {"a1b2c3d4": json.loads(sealed)}}, stream, **form)
    record = json.loads(stream.getvalue())["instances"]["a1b2c3d4"]
    assert records.reseal(record) == sealed
    assert records.reseal(records.parse(sealed, "x")) == sealed


@pytest.mark.parametrize(
    "record",
    [
        None,
        1,
        "x",
        [],
        {},
        {"a": 1},
        {"signature": "x", "a": 1},
        {"a": "\ud800", "signature": "x"},
        {"a": 2**64, "signature": ""},
    ],
    ids=repr,
)
def test_what_was_never_sealed_is_not_sealed_again(record: object) -> None:
    """R5, R8."""
    assert records.reseal(record) is None


NOT_OBJECTS = {
    b"": "is empty",
    b"  \n": "is empty",
    b"\0" * 4096: "is empty",
    b"\xef\xbb\xbf{}": "begins with a byte order mark",
    b'{"a":1}\0\0': "ends in NUL bytes",
    b'{"a":': "is not JSON",
    b'{"a":1}{"a":1}': "is not JSON",
    b'{"a":"\xff"}': "is not JSON",
    b'{"a":NaN}': "is not JSON",
    b"[" * 2000 + b"]" * 2000: "is not JSON",
    b"[]": "is JSON, but not an object",
    b"null": "is JSON, but not an object",
    b"5": "is JSON, but not an object",
    b'"x"': "is JSON, but not an object",
}


@pytest.mark.parametrize(("data", "reason"), NOT_OBJECTS.items(), ids=[repr(data[:20]) for data in NOT_OBJECTS])
def test_what_is_no_object_is_damaged_with_the_reason(data: bytes, reason: str) -> None:
    """R2, R5."""
    with pytest.raises(errors.Damaged) as caught:
        records.parse(data, "place")
    assert caught.value.reason.startswith(reason)
    assert caught.value.path == "place"


def nested(depth: int) -> Any:
    """A list in a list …: ``depth`` of them."""
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


def endless() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


UNFAITHFUL = {
    "NaN": (math.nan, ".a"),
    "Infinity": (math.inf, ".a"),
    "-Infinity": (-math.inf, ".a"),
    "2**64": (2**64, ".a"),
    "-2**63-1": (-(2**63) - 1, ".a"),
    "a set": ({1}, ".a"),
    "bytes": (b"x", ".a"),
    "a datetime": (dt.datetime(2026, 1, 1, tzinfo=dt.UTC), ".a"),
    "a complex number": (1j, ".a"),
    "an object": (object(), ".a"),
    "{1: 2}": ({1: 2}, ".a"),
    "{None: 2}": ({None: 2}, ".a"),
    "{True: 2}": ({True: 2}, ".a"),
    "half a surrogate pair": ("\ud800", ".a"),
    "half a surrogate pair in a key": ({"\udfff": 1}, ".a"),
    "inside a list": ([0, 1, math.nan], ".a[2]"),
    "inside a tuple": ((0, {1}), ".a[1]"),
    "inside an object": ({"b": {"c": b""}}, ".a.b.c"),
    "33 deep": (nested(32), ".a" + "[0]" * 31),
    "1,025 deep": (nested(1024), ".a" + "[0]" * 31),
    "endless": (endless(), ".a" + "[0]" * 31),
}


@pytest.mark.parametrize(("value", "place"), UNFAITHFUL.values(), ids=UNFAITHFUL)
def test_what_json_would_change_is_refused_and_its_place_named(value: object, place: str) -> None:
    """Q7."""
    with pytest.raises(errors.NotEncodable) as caught:
        records.encodable({"fine": 1, "a": value})
    # The deepest element that is looked at is one level below the last that is allowed.
    assert caught.value.key == f"payload{place}"
    assert str(caught.value).startswith(f"payload{place} ")
    str(caught.value).encode()


FAITHFUL = [None, True, 0, 2**64 - 1, -(2**63), 0.1, -0.0, 1e308, "", "🙂\x00", [], {}, {"": [{"a": None}]}, nested(31)]


@pytest.mark.parametrize("value", FAITHFUL, ids=lambda value: repr(value)[:20])
def test_what_json_carries_passes_and_comes_back_the_same(value: object) -> None:
    """Q7."""
    records.encodable(value)
    back = records.parse(records.encode({"payload": value}), "x")["payload"]
    assert repr(back) == repr(value)


@pytest.mark.parametrize("value", [math.nan, b"x", {1: 2}, "\ud800", nested(33)], ids=lambda value: repr(value)[:20])
def test_a_payload_that_is_itself_unfit_is_called_payload(value: object) -> None:
    with pytest.raises(errors.NotEncodable) as caught:
        records.encodable(value)
    assert caught.value.key.startswith("payload")
