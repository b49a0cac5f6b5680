"""Who may come in, decided on raw headers; sessions and codes; the throttle; what a body may hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from mnemo_coord import errors
from mnemo_coord.api.gate import Throttle, allowed_hosts, examine
from mnemo_coord.api.requests import Emission, Introduction, Outgoing
from mnemo_coord.api.sessions import CODE_LIFETIME, Sessions
from mnemo_coord.api.stream import last_event_id, refresh_interval
from mnemo_coord.disk.signing import Signer

HOSTS = allowed_hosts("127.0.0.1", 3000)
TOKEN = "ab" * 32
SIGNER = Signer(b"s" * 32)


def judged(*headers: tuple[bytes, bytes], hosts: frozenset[bytes] = HOSTS) -> int | None:
    refusal = examine(headers, hosts)
    return None if refusal is None else int(refusal.status)


@pytest.mark.parametrize("host", ["127.0.0.1:3000", "localhost:3000", "LOCALHOST:3000", "[::1]:3000", " 127.0.0.1:3000 "])
def test_its_own_names_are_accepted(host: str) -> None:
    """A2."""
    assert judged((b"host", host.encode())) is None


@pytest.mark.parametrize(
    "host",
    [
        "", "127.0.0.1", "localhost", "127.0.0.1:3001", "127.0.0.1.nip.io:3000", "localhost.evil.com:3000", "evil.com",
        "127.0.0.1:3000@evil.com", "localhost:3000/x?", "evil.com:3000", "0.0.0.0:3000", "127.0.0.2:3000", "[::]:3000",
        "127.0.0.1:03000", "127.1:3000", "2130706433:3000", "127.0.0.1:3000,127.0.0.1:3000", "localhost.:3000", "127.0.0.1:3000#",
    ],
)  # fmt: skip
def test_all_other_hosts_are_refused(host: str) -> None:
    """S10."""
    assert judged((b"host", host.encode())) == 403


def test_exactly_one_host() -> None:
    good = (b"host", b"127.0.0.1:3000")
    assert judged() == 403
    assert judged(good, good) == 403
    assert judged(good, (b"host", b"evil.com")) == 403


def test_port_80_and_other_loopback_addresses() -> None:
    assert judged((b"host", b"localhost"), hosts=allowed_hosts("127.0.0.1", 80)) is None
    assert judged((b"host", b"127.0.0.9:4000"), hosts=allowed_hosts("127.0.0.9", 4000)) is None
    assert judged((b"host", b"[::1]:4000"), hosts=allowed_hosts("::1", 4000)) is None


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (b"http://127.0.0.1:3000", None), (b"HTTP://127.0.0.1:3000", None), (b"http://localhost:3000", 403), (b"null", 403),
        (b"https://127.0.0.1:3000", 403), (b"http://127.0.0.1:3001", 403), (b"http://evil.com", 403), (b"", 403),
        (b"http://127.0.0.1:3000.evil.com", 403), (b"http://127.0.0.1:3000/", 403), (b"file://", 403),
    ],
)  # fmt: skip
def test_the_origin_has_to_be_this_very_one(origin: bytes, status: int | None) -> None:
    """A3, S11."""
    assert judged((b"host", b"127.0.0.1:3000"), (b"origin", origin)) == status


@pytest.mark.parametrize(
    ("site", "status"),
    [(b"same-origin", None), (b"none", None), (b"same-site", 403), (b"cross-site", 403), (b"", 403), (b"x", 403)],
)
def test_only_the_page_itself_and_a_person_may_ask(site: bytes, status: int | None) -> None:
    """A4."""
    assert judged((b"host", b"127.0.0.1:3000"), (b"sec-fetch-site", site)) == status


def test_one_good_origin_does_not_excuse_another() -> None:
    good, bad = (b"origin", b"http://127.0.0.1:3000"), (b"origin", b"http://evil.com")
    assert judged((b"host", b"127.0.0.1:3000"), good, bad) == 403


def test_no_two_lengths_and_no_other_protocol() -> None:
    """A9, A18."""
    host = (b"host", b"127.0.0.1:3000")
    assert judged(host, (b"content-length", b"3"), (b"transfer-encoding", b"chunked")) == 400
    assert judged(host, (b"upgrade", b"websocket")) == 400


# Sessions


@pytest.mark.parametrize(
    ("value", "admitted"),
    [
        (f"Bearer {TOKEN}", True), (f"bearer  {TOKEN} ", True), (f"Basic {TOKEN}", False), (TOKEN, False), ("Bearer", False),
        ("Bearer ", False), (f"Bearer {TOKEN[:-1]}", False), (f"Bearer {TOKEN}0", False), (f"Bearer {'cd' * 32}", False),
        ("Bearer \xe9", False), (f"Bearer {TOKEN.upper()}", False),
    ],
)  # fmt: skip
def test_the_token_lets_in(value: str, admitted: bool) -> None:
    assert Sessions(3000, TOKEN, SIGNER).admits([(b"authorization", value.encode("latin-1"))]) is admitted


def test_a_cookie_is_good_at_its_port_in_its_fleet_and_for_a_week() -> None:
    """S12: all servers on localhost share one jar of cookies."""
    now = [1000.0]
    mine = Sessions(3000, TOKEN, SIGNER, seconds=lambda: now[0])
    other = Sessions(3001, "cd" * 32, SIGNER, seconds=lambda: now[0])
    made = mine.new_cookie()
    name, _, value = made.partition(";")[0].partition("=")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= {part.strip() for part in made.split(";")}
    jar = f"theme=dark; {name}={value}; {other.new_cookie().partition(';')[0]}".encode()
    assert mine.admits([(b"cookie", jar)])
    assert other.admits([(b"cookie", jar)])
    assert not other.admits([(b"cookie", f"mnemosyne_3001={value}".encode())])
    assert not Sessions(3000, TOKEN, Signer(b"x" * 32)).admits([(b"cookie", jar)]), "another fleet took the port"
    assert Sessions(3000, "ef" * 32, SIGNER, seconds=lambda: now[0]).admits([(b"cookie", jar)]), "it was started again"
    number, until, mac = value.split(".")
    forged = [
        f"{number}.{int(until) + 1}.{mac}",
        f"{number}.{mac}",
        f"{number}..{mac}",
        f"{number}.-1.{mac}",
        f"{number}.{until}.{mac[:-1]}g",
    ]
    for spoiled in (
        "",
        ".",
        "..",
        f"{value}0",
        value[1:],
        value.upper(),
        f"{number}.{until}.",
        f"{number}.{until}.\xe9",
        *forged,
    ):
        assert not mine.admits([(b"cookie", f"{name}={spoiled}".encode("latin-1"))]), spoiled
    assert not mine.admits([(b"cookie", f"{name}x={value}".encode())])
    now[0] += 7 * 86400 + 1
    assert not mine.admits([(b"cookie", jar)])


def test_a_code_is_good_once_and_for_a_minute() -> None:
    now = [0.0]
    sessions = Sessions(3000, TOKEN, SIGNER, seconds=lambda: now[0])
    code = sessions.new_code()
    assert not sessions.use_code("0" * 32)
    assert sessions.use_code(code)
    assert not sessions.use_code(code)
    late = sessions.new_code()
    now[0] += CODE_LIFETIME
    assert not sessions.use_code(late)
    many = [sessions.new_code() for _ in range(200)]
    assert [sessions.use_code(code) for code in many] == [False] * 136 + [True] * 64, "they do not pile up"


def test_failures_are_counted_and_forgiven_with_time() -> None:
    """A22."""
    now = [0.0]
    throttle = Throttle(burst=3, rate=2, seconds=lambda: now[0])
    assert [throttle.exceeded() for _ in range(5)] == [False, False, False, True, True]
    now[0] += 1
    assert [throttle.exceeded() for _ in range(3)] == [False, False, True]


# What is asked for


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (b"7", 7), (b" 7 ", 7), (b"0", 0), (b"-1", None), (b"x", None), (b"", None), (b"1e3", None), ("٣".encode(), None),
        (b"9" * 15, 10**15 - 1), (b"9" * 16, None), (b"1_0", None),
    ],
)  # fmt: skip
def test_where_a_reader_left_off(value: bytes, wanted: int | None) -> None:
    """A15."""
    assert last_event_id([(b"last-event-id", value)]) == wanted
    assert last_event_id([(b"last-event-id", value)] * 2) is None


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        (b"", None), (b"refresh=2", 2.0), (b"a=b&refresh=10&c=d", 10.0), (b"refresh=0", 1.0), (b"refresh=", None), (b"refresh=-1", None),
        (b"refresh=1e9", None), (b"xrefresh=2", None), (b"refresh=99999", None), (b"refresh=2.5", 2.0),
    ],
)  # fmt: skip
def test_how_often_a_reader_wants_the_whole(query: bytes, wanted: float | None) -> None:
    assert refresh_interval(query) == wanted


GOOD = {"to": "planner", "type": "T"}


def test_a_message_with_everything() -> None:
    body = {**GOOD, "payload": [1], "from": "ci", "message_id": "m1", "reply_to": "m0", "ttl": 2, "durable": True}
    out = Outgoing.from_body(body)
    assert (out.to, out.type, out.payload, out.sender) == ("planner", "T", [1], "ci")
    assert out.options == {"message_id": "m1", "reply_to": "m0", "ttl": 2, "durable": True}
    everybody = Outgoing.from_body({"all": True, "type": "T"})
    assert (everybody.to, everybody.payload, everybody.sender, everybody.options) == (None, {}, None, {})


@pytest.mark.parametrize(
    "body",
    [
        {}, {"to": "a"}, {"type": "T"}, {**GOOD, "all": True}, {"all": False, "type": "T"}, {**GOOD, "x": 1}, {**GOOD, "to": 7},
        {**GOOD, "type": None}, {**GOOD, "ttl": "2"}, {**GOOD, "ttl": True}, {**GOOD, "durable": 1}, {**GOOD, "from": "a1b2c3d4"},
        {**GOOD, "from": "../x"}, {**GOOD, "from": "all"}, {"all": True, "type": "T", "reply_to": "m"}, {**GOOD, "all": 1},
    ],
    ids=str,
)  # fmt: skip
def test_odd_messages_are_refused(body: Mapping[str, Any]) -> None:
    with pytest.raises(errors.Config):
        Outgoing.from_body(body)


@pytest.mark.parametrize(
    "body",
    [
        {}, {"kind": "instance_died", "data": {"state": "idle"}}, {"kind": "agent_state"}, {"kind": "agent_state", "data": {}},
        {"kind": "agent_state", "data": []}, {"kind": "agent_state", "data": {"state": 1}}, {"kind": 1, "data": {"state": "idle"}},
        {"kind": "agent_state", "data": {"state": "idle", "x": 1}}, {"kind": "agent_state", "data": {"state": "idle"}, "id": 1},
    ],
    ids=str,
)  # fmt: skip
def test_nothing_but_its_own_state_is_said_from_outside(body: Mapping[str, Any]) -> None:
    with pytest.raises(errors.Config):
        Emission.from_body(body)


def test_at_the_door_one_thing_is_shown() -> None:
    assert Introduction.from_body({"code": "x"}).code == "x"
    assert Introduction.from_body({"token": "x"}).token == "x"
    for body in ({}, {"code": "x", "token": "y"}, {"code": 1}, {"key": "x"}):
        with pytest.raises(errors.Config):
            Introduction.from_body(body)
