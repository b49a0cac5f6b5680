"""A message has at most 1,024 bytes as stored, and what is no message is told apart by its reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import support
from unit.fake_clock import FakeClock

from mnemo_coord import Coordinator, errors
from mnemo_coord.disk import records
from mnemo_coord.disk.signing import Purpose, Signer
from mnemo_coord.disk.state_dir import StateDir
from mnemo_coord.messages.address import Address
from mnemo_coord.messages.mailboxes import Mailboxes
from mnemo_coord.messages.message import LIMIT, Message, check_id, check_type, decode, encode
from mnemo_coord.messages.sending import Options, Sender
from mnemo_coord.settings import Settings

KEY = Signer(b"k" * 32)
FIELDS: dict[str, Any] = {
    "id": "m-1",
    "from_agent": "a1b2c3d4",
    "to_agent": "planner",
    "message_type": "JoinRequest",
    "timestamp": "2026-01-01T00:00:00.000Z",
    "payload": {"branch": "main"},
}


def message(**changes: Any) -> Message:
    return Message(**{**FIELDS, **changes})


def of_size(size: int, filler: str = "x") -> Message:
    """A message that has exactly ``size`` bytes as stored."""
    room = size - len(encode(message(payload=""), KEY))
    width = len(filler.encode())
    return message(payload=filler * (room // width) + "x" * (room % width))


# Size


@pytest.mark.parametrize("filler", ["x", "é", "🙂"])
@pytest.mark.parametrize("size", [LIMIT - 1, LIMIT])
def test_up_to_the_limit_it_passes(size: int, filler: str) -> None:
    """Q1. Bytes count, not characters."""
    stored = encode(of_size(size, filler), KEY)
    assert len(stored) == size
    assert decode(stored, KEY, "x") == of_size(size, filler)


@pytest.mark.parametrize("filler", ["x", "é", "🙂"])
@pytest.mark.parametrize("size", [LIMIT + 1, LIMIT + 2, 100_000])
def test_above_the_limit_it_is_refused(size: int, filler: str) -> None:
    """Q1, I8."""
    with pytest.raises(errors.MessageTooLarge) as caught:
        encode(of_size(size, filler) if size < 1_100 else message(payload=filler * size), KEY)
    assert caught.value.limit == LIMIT == 1024
    assert caught.value.size == size or size > 1_100
    assert caught.value.exit_code == 2


def test_a_stored_one_above_the_limit_is_damaged() -> None:
    body = {**FIELDS, "payload": "x" * 2_000}
    with pytest.raises(errors.Damaged, match="is larger than 1024 bytes"):
        decode(records.seal(body, KEY, Purpose.MESSAGE), KEY, "x")


def test_nothing_is_written_for_a_message_that_is_too_large(state_dir: Path) -> None:
    """Q1, Q7. Not even a temporary file."""
    with Coordinator(state_dir) as me:
        me.send("waits", "JoinRequest", {})
        queue = state_dir / "coordination_queue"
        before = support.tree(queue)
        for payload in ("x" * 1_000, {"a": float("nan")}, {"a": {1, 2}}):
            for address in ("waits", "never-seen", "@never-seen", me.instance_id):
                with pytest.raises((errors.MessageTooLarge, errors.NotEncodable)):
                    me.send(address, "JoinRequest", payload)
        with pytest.raises(errors.MessageTooLarge):
            me.broadcast("JoinRequest", "x" * 1_000)
        assert support.tree(queue) == before


@pytest.mark.parametrize("size", [LIMIT, LIMIT + 1])
def test_the_limit_is_exact_on_disk(size: int, state: StateDir, clock: FakeClock) -> None:
    """Q1."""
    mailboxes = Mailboxes(state)
    sender = Sender(mailboxes, KEY, clock, Settings())
    ids = iter("mno")

    def send(payload: str) -> list[Path]:
        address = Address.parse("waits")
        options = Options(message_id=next(ids))
        sender.send("a1b2c3d4", address, "JoinRequest", payload, present=lambda address: True, options=options)
        return sorted(state.path.glob("coordination_queue/name-*/new/*.json"))

    mailboxes.make(Address.parse("waits"))
    (smallest,) = send("")
    room = size - smallest.stat().st_size
    before = support.tree(state.path)
    if size <= LIMIT:
        assert LIMIT in {path.stat().st_size for path in send("x" * room)}
    else:
        with pytest.raises(errors.MessageTooLarge):
            send("x" * room)
        assert support.tree(state.path) == before


# There and back


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"to_agent": None},
        {"payload": None},
        {"payload": [1, 2.5, True, {"ü": "\x1b[2J"}]},
        {"payload": 2**64 - 1},
        {"message_type": "Some Type"},
        {"id": "x" * 64},
    ],
    ids=str,
)
def test_it_comes_back_as_it_was_sent(changes: dict[str, Any]) -> None:
    stored = encode(message(**changes), KEY)
    assert decode(stored, KEY, "x") == message(**changes)
    assert list(json.loads(stored)) == [*FIELDS, "signature"]


def stored(**changes: Any) -> bytes:
    """A properly signed record that may be no message."""
    return records.seal({**FIELDS, **changes}, KEY, Purpose.MESSAGE)


def without(name: str) -> bytes:
    return records.seal({key: value for key, value in FIELDS.items() if key != name}, KEY, Purpose.MESSAGE)


GOOD = stored()
NO_MESSAGES: dict[str, tuple[bytes, type[errors.State]]] = {
    "of zero length": (b"", errors.Damaged),
    "cut short": (GOOD[:-20], errors.Damaged),
    "not UTF-8": (GOOD.replace(b"main", b"ma\xffn"), errors.Damaged),
    "with a byte order mark": (b"\xef\xbb\xbf" + GOOD, errors.Damaged),
    "with a tail of NUL": (GOOD + b"\0\0", errors.Damaged),
    "two documents": (GOOD + GOOD[:200], errors.Damaged),
    "no object": (b"[1,2]", errors.Damaged),
    "too large": (b" " * (LIMIT + 1), errors.Damaged),
    "unsigned": (json.dumps(FIELDS).encode(), errors.Untrusted),
    "without an id": (without("id"), errors.Damaged),
    "without a payload": (without("payload"), errors.Damaged),
    "with something more": (stored(extra=1), errors.Damaged),
    "with a number for its id": (stored(id=7), errors.Damaged),
    "from a list": (stored(from_agent=[]), errors.Damaged),
    "to a number": (stored(to_agent=7), errors.Damaged),
    "of no type": (stored(message_type=None), errors.Damaged),
    "at a number": (stored(timestamp=1.5), errors.Damaged),
}


@pytest.mark.parametrize("which", NO_MESSAGES)
def test_what_is_no_message_is_refused(which: str) -> None:
    """Q4, Q5, Q9."""
    data, kind = NO_MESSAGES[which]
    with pytest.raises(errors.State) as caught:
        decode(data, KEY, "place")
    assert type(caught.value) is kind
    assert caught.value.path == "place"
    assert len(str(caught.value).splitlines()) == 1


def test_every_reason_is_another() -> None:
    """Q5. Whoever reads the quarantine can tell them apart."""
    reasons = {}
    for which, (data, _) in NO_MESSAGES.items():
        with pytest.raises(errors.State) as caught:
            decode(data, KEY, "place")
        reasons[which] = caught.value.reason
    assert len(set(reasons.values())) == len(reasons), reasons


@pytest.mark.parametrize(
    "data",
    [
        records.seal(FIELDS, Signer(b"K" * 32), Purpose.MESSAGE),
        records.seal(FIELDS, KEY, Purpose.HEARTBEAT),
        records.seal(FIELDS, KEY, Purpose.RECORD),
        GOOD.replace(b"main", b"evil"),
        GOOD.replace(b'"to_agent":"planner"', b'"to_agent":"another"'),
        GOOD + b" ",
    ],
    ids=["another fleet's", "a heartbeat", "a registration", "another payload", "another address", "a byte more"],
)
def test_what_this_fleet_did_not_sign_is_untrusted(data: bytes) -> None:
    """I15, S5."""
    with pytest.raises(errors.Untrusted):
        decode(data, KEY, "x")


# Ids and types


@pytest.mark.parametrize("text", ["a", "x" * 64, "A-b_9", "0"])
def test_a_message_id(text: str) -> None:
    assert check_id(text) == text


BAD_IDS = ["", "../x", "a/b", "a\0", "x" * 300, "x" * 65, ".x", "x.tmp", "a\n", "a b", "ü", "٣", "\ud800", None, 7, b"x"]


@pytest.mark.parametrize("text", BAD_IDS, ids=lambda text: ascii(text)[:20])
def test_no_message_id(text: Any) -> None:
    """Q10."""
    with pytest.raises(errors.Config) as caught:
        check_id(text)
    assert caught.value.key == "id"
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("text", ["JoinRequest", "x", "x" * 64, "Grüße an Uwe", "a.b:c/d"])
def test_a_message_type(text: str) -> None:
    assert check_type(text) == text


@pytest.mark.parametrize("text", ["", " ", "x" * 65, "a\n", "a\x1b[2J", "a\u202eb", "\ud800", None, 7], ids=ascii)
def test_no_message_type(text: Any) -> None:
    """Q37."""
    with pytest.raises(errors.Config) as caught:
        check_type(text)
    assert caught.value.key == "message_type"
