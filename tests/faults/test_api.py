"""The API under requests that nobody should send: each is refused, bounded or ended, and everybody else is served."""

from __future__ import annotations

import re
import select
import socket
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import support
from wire import Answer, Served, read_answer

OPEN = ["/health"]
CLOSED = [
    "/",
    "/instances",
    "/instances/x",
    "/mailboxes",
    "/claims",
    "/worktrees",
    "/doctor",
    "/overview",
    "/metrics",
    "/events",
    "/openapi.json",
    "/none",
]
POSTS = ["/messages", "/events/emit", "/session/codes"]


@pytest.fixture
def served(state_dir: Path, port_base: int) -> Iterator[Served]:
    with Served(state_dir, port_base) as served:
        yield served
        assert served.process.poll() is None, served.log
        assert served.ask("/health", token=None).json["status"] == "ok", "it is well after all that"
        assert served.stop() == 0
        assert "Traceback" not in served.log


# Who may come in


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "OPTIONS", "DELETE", "PUT", "PATCH", "TRACE"])
def test_other_hosts_origins_and_sites_on_every_method_and_path(method: str, served: Served) -> None:
    """A1, A3, A4, on every route."""
    evil = [
        {"Host": "evil.com"}, {"Host": f"127.0.0.1.nip.io:{served.port}"}, {"Host": f"localhost:{served.port + 1}"},
        {"Origin": "http://evil.com"}, {"Origin": "null"}, {"Origin": f"http://localhost:{served.port + 1}"},
        {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"},
    ]  # fmt: skip
    for path in [*OPEN, *CLOSED, *POSTS, "/session"]:
        for headers in evil:
            answer = served.ask(path, method=method, headers=headers)
            assert answer.status == 403, (path, headers, answer)
            assert "access-control-allow-origin" not in answer.headers


def test_two_hosts_and_none(served: Served) -> None:
    good = f"Host: 127.0.0.1:{served.port}\r\n".encode()
    assert served.raw(b"GET /health HTTP/1.1\r\n" + good + good + b"\r\n").status in {400, 403}
    assert served.raw(b"GET /health HTTP/1.1\r\n\r\n").status in {400, 403}
    assert served.raw(b"GET /health HTTP/1.0\r\n\r\n").status == 403
    assert served.raw(b"GET http://evil.com/health HTTP/1.1\r\n" + good + b"\r\n").status in {200, 400, 403, 404, 401}


@pytest.mark.parametrize("host", ["LOCALHOST", "localhost", "[::1]", "127.0.0.1"])
def test_its_own_names(host: str, served: Served) -> None:
    """A2."""
    here = f"{host}:{served.port}"
    assert served.ask("/health", token=None, headers={"Host": here}).status == 200
    assert (
        served.ask("/instances", headers={"Host": here, "Origin": f"http://{here}", "Sec-Fetch-Site": "same-origin"}).status
        == 200
    )


def test_no_wrong_other_and_misplaced_token(served: Served, state_dir: Path, port_base: int) -> None:
    """A7, S12."""
    with Served(state_dir, port_base) as other:
        for path in CLOSED:
            assert served.ask(path, token=None).status == 401, path
            assert served.ask(f"{path}?token={served.token}&access_token={served.token}", token=None).status in {401, 429}
        for token in ("x", served.token[:-1], served.token + "0", other.token, served.token.upper(), "\xe9" * 64):
            assert served.ask("/instances", token=token).status in {401, 429}, token
        assert other.ask("/instances").status == 200
        assert served.ask("/instances").status == 200
    for path in POSTS:
        assert served.ask(path, method="POST", token=None, body={}).status in {401, 429}


def test_a_wrong_token_is_refused_in_constant_time(served: Served) -> None:
    """A7. Not a proof: no difference that could be measured over a loopback."""
    times: dict[str, list[float]] = {"first": [], "last": []}
    for _ in range(60):
        for what, token in (("first", "0" * 64), ("last", served.token[:-1] + ("0" if served.token[-1] != "0" else "1"))):
            begun = time.perf_counter()
            served.ask("/instances", token=token)
            times[what].append(time.perf_counter() - begun)
    first, last = (statistics.median(times[what]) for what in ("first", "last"))
    assert 0.5 < first / last < 2


def test_failures_to_authenticate_are_throttled_and_the_right_token_is_not(served: Served) -> None:
    """A22."""
    statuses = [served.ask("/instances", token="0" * 64).status for _ in range(100)]
    assert statuses.count(401) < 90
    assert statuses.count(429) > 10
    assert set(statuses) == {401, 429}
    assert served.ask("/instances").status == 200
    assert served.ask("/instances", token="0" * 64).headers["retry-after"] == "1"


def test_health_tells_nothing_and_every_answer_is_careful(served: Served, state_dir: Path) -> None:
    """A23, S13."""
    health = served.ask("/health", token=None)
    assert health.json == {
        "status": "ok",
        "version": health.json["version"],
        "instance_id": served.instance_id,
        "subscribers": 0,
    }
    answers = [
        health,
        served.ask("/instances"),
        served.ask("/none"),
        served.ask("/instances", token=None),
        served.ask("/"),
        served.ask("/metrics"),
    ]
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "server" not in answer.headers
        assert served.token.encode() not in answer.body
    for answer in (health, served.ask("/instances", token=None), served.ask("/none")):
        assert str(state_dir).encode() not in answer.body


def test_a_browser_gets_in_by_a_code_once(served: Served) -> None:
    made = served.ask("/session/codes", method="POST")
    assert made.status == 200
    code = made.json["code"]
    assert made.json["url"] == f"http://127.0.0.1:{served.port}/#code={code}"
    answer = served.ask("/session", method="POST", token=None, body={"code": code})
    assert answer.status == 200
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=Strict"} <= {part.strip() for part in cookie.split(";")}
    inside = served.ask("/instances", token=None, headers={"Cookie": cookie.partition(";")[0]})
    assert inside.status == 200
    assert served.ask("/session", method="POST", token=None, body={"code": code}).status == 401
    assert served.ask("/session", method="POST", token=None, body={"token": served.token}).status == 200
    assert served.ask("/session", method="POST", token=None, body={"token": "0" * 64}).status == 401
    assert served.ask("/session", token=None).status == 405, "GET changes nothing"
    for evil in ({"Origin": "http://evil.com"}, {"Sec-Fetch-Site": "cross-site"}):
        assert served.ask("/messages", method="POST", token=None, headers={"Cookie": cookie, **evil}, body={}).status == 403
    statuses = [served.ask("/session", method="POST", token=None, body={"code": "0" * 32}).status for _ in range(80)]
    assert 429 in statuses


def test_who_has_no_session_gets_the_door(served: Served) -> None:
    browser = {"Accept": "text/html,*/*", "Sec-Fetch-Mode": "navigate"}
    for headers, status in (({}, 401), ({"Sec-Fetch-Site": "same-site"}, 403)):
        answer = served.ask("/", token=None, headers={**browser, **headers})
        assert answer.status == status
        assert answer.headers["content-type"].startswith("text/html")
        assert b"mnemosyne dashboard" in answer.body
        nonce = re.search(r"script-src 'nonce-([0-9a-f]+)'", answer.headers["content-security-policy"])
        assert nonce
        assert f'nonce="{nonce[1]}"'.encode() in answer.body
        assert b"{{" not in answer.body
    assert served.ask("/", token=None).headers["content-type"] == "application/json"


# What may be sent


def test_bodies_are_bounded_and_have_to_be_json(served: Served) -> None:
    """A9."""
    fits = b'{"to":"later","type":"T","payload":"' + b"x" * 100 + b'"}'
    assert served.ask("/messages", method="POST", body=fits).status == 200
    assert served.ask("/messages", method="POST", body=b" " * (16 * 1024 - len(fits)) + fits).status == 200, "16 KB exactly"
    over = served.ask("/messages", method="POST", body=b" " * (16 * 1024 + 1 - len(fits)) + fits)
    assert (over.status, over.headers["connection"]) == (413, "close")
    for odd in (
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"{}x",
        b"\xff",
        b'{"a":NaN}',
        b"\xef\xbb\xbf{}",
        b'{"a":' * 600 + b"1" + b"}" * 600,
    ):
        assert served.ask("/messages", method="POST", body=odd).status == 400, odd[:20]
    for kind in ("text/plain", "application/x-www-form-urlencoded", "", "application/jsonx", "multipart/form-data"):
        assert served.ask("/messages", method="POST", body=fits, headers={"Content-Type": kind}).status == 415, kind
    assert (
        served.ask("/messages", method="POST", body=fits, headers={"Content-Type": "Application/JSON; charset=utf-8"}).status
        == 200
    )


def test_lengths_that_lie(served: Served) -> None:
    """A9."""
    head = f"POST /messages HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nAuthorization: Bearer {served.token}\r\nContent-Type: application/json\r\n".encode()
    both = head + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    assert served.raw(both).status == 400
    assert served.raw(head + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}").status == 400
    assert served.raw(head + b"Content-Length: -1\r\n\r\n{}").status == 400
    assert served.raw(head + b"Content-Length: x\r\n\r\n{}").status == 400
    assert served.raw(head + b"Content-Length: 99999999999999999999\r\n\r\n{}").status in {400, 413, 0}
    assert served.raw(head + b"Transfer-Encoding: gzip\r\n\r\n").status in {400, 501}


def test_a_chunked_body_without_end(served: Served) -> None:
    """A9."""
    head = f"POST /messages HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nAuthorization: Bearer {served.token}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    with served.connect() as connection:
        connection.sendall(head.encode())
        try:
            deadline = time.monotonic() + 10  # the kernel takes some megabytes for a server that has hung up already
            while time.monotonic() < deadline:
                connection.sendall(b"400\r\n" + b" " * 0x400 + b"\r\n")
        except OSError:
            pass
        else:
            pytest.fail("it took everything for ten seconds")


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (415, "Content-Type: text/plain"),
        (403, "Origin: http://evil.example"),
        (413, "Content-Type: application/json"),
        (400, "Content-Type: application/json\r\nTransfer-Encoding: chunked"),
    ],
)
def test_who_is_refused_while_sending_still_gets_the_answer(status: int, line: str, served: Served) -> None:
    """A connection that is closed before all was read resets what the client has not read yet."""
    head = f"POST /messages HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nAuthorization: Bearer {served.token}\r\n{line}\r\n"
    begun = time.monotonic()
    with served.connect() as connection:
        connection.sendall(f"{head}Content-Length: 40000\r\n\r\n".encode() + (b" " * 20_000 if status == 413 else b""))
        select.select([connection], [], [], 10)
        for _ in range(2):
            connection.sendall(b" " * 9_000)
            time.sleep(0.01)  # the kernel's answer to the first arrives here
        answer = read_answer(connection)
        assert (answer.status, answer.headers["connection"]) == (status, "close")
        assert answer.body
        assert connection.recv(1) == b"", "and nothing follows"
    assert time.monotonic() - begun < 3
    with served.connect() as connection:  # who does not hang up is hung up on
        connection.sendall(f"{head}Content-Length: 40000\r\n\r\n".encode() + (b" " * 20_000 if status == 413 else b""))
        assert read_answer(connection).status == status
        support.wait_until(lambda: _refuses(connection), what="the other half is closed too")


def _refuses(connection: socket.socket) -> bool:
    try:
        connection.sendall(b" ")
    except OSError:
        return True
    return False


def test_long_urls_and_headers(served: Served) -> None:
    """S7."""
    assert served.ask("/instances?" + "x" * 2000).status == 200
    assert served.ask("/instances?" + "x" * 2048).status == 414
    assert served.ask("/instances", headers={"X": "y" * 14_000}).status == 200
    assert served.ask("/instances", headers={"X": "y" * 17_000}).status in {400, 431}


@pytest.mark.parametrize(
    "path",
    [
        "/../secret",
        "/%2e%2e/secret",
        "/instances/..%2f..%2fsecret",
        "//evil.com/",
        "/instances/",
        "/%00",
        "/instances/%ff",
        "/@evil.com",
    ],
)
def test_no_path_leads_to_a_file(path: str, served: Served, state_dir: Path) -> None:
    answer = served.ask(path)
    assert answer.status == 404, answer
    assert (state_dir / "secret").read_bytes().strip() not in answer.body


@pytest.mark.parametrize("method", ["OPTIONS", "DELETE", "PUT", "PATCH", "TRACE", "POST", "BREW"])
def test_other_methods(method: str, served: Served) -> None:
    """A18, S11."""
    answer = served.ask("/instances", method=method, headers={"Access-Control-Request-Method": "POST"})
    assert answer.status == 405
    assert answer.headers["allow"] == "GET, HEAD" or set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}
    assert set(answer.json) == {"error"}
    assert served.ask("/messages").status == 405


def test_no_other_protocol(served: Served) -> None:
    """A18."""
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": "x" * 24, "Sec-WebSocket-Version": "13"}
    assert served.ask("/events", headers=upgrade).status == 400
    assert served.raw(f"CONNECT evil.com:443 HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n\r\n".encode()).status in {
        400,
        401,
        403,
        404,
        405,
    }
    assert served.raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20).status in {400, 0}, "TLS"
    assert served.raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").status in {400, 403, 0}


# Who does not keep up


def test_half_sent_requests_are_ended_and_hold_up_nobody(served: Served) -> None:
    """A10."""
    begun = time.monotonic()
    half = f"GET /health HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nX: ".encode()
    waiting = [served.connect() for _ in range(50)]
    for number, connection in enumerate(waiting):
        connection.sendall(half if number % 2 else b"")
    asked = time.monotonic()
    assert served.ask("/health", token=None).status == 200
    assert time.monotonic() - asked < 1
    for connection in waiting:
        while time.monotonic() - begun < 9:  # a byte now and then buys no time
            try:
                waiting[1].sendall(b"y")
            except OSError:
                break
            time.sleep(0.5)
        answer = read_answer(connection)
        assert answer.status in {0, 400, 408}
        connection.close()
    assert time.monotonic() - begun < 15


def test_hundreds_of_connections_hold_up_nobody(served: Served) -> None:
    waiting = []
    for _ in range(300):
        waiting.append(served.connect())
        waiting[-1].sendall(b"GET / HTTP/1.1\r\n")
    begun = time.monotonic()
    assert served.ask("/instances").status == 200
    assert time.monotonic() - begun < 1
    process = psutil.Process(served.pid)
    support.wait_until(lambda: process.num_fds() < 150, what="the oldest gave way")
    for connection in waiting:
        connection.close()


def test_a_body_that_is_not_sent(served: Served) -> None:
    head = f"POST /messages HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nAuthorization: Bearer {served.token}\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{{"
    begun = time.monotonic()
    with served.connect(20) as connection:
        connection.sendall(head.encode())
        assert read_answer(connection).status in {0, 400, 408}
    assert 5 < time.monotonic() - begun < 15


def test_without_descriptors_it_goes_on_when_there_are_some(state_dir: Path, port_base: int) -> None:
    """A20."""
    with Served(state_dir, port_base) as served:
        process = psutil.Process(served.pid)
        before = process.rlimit(psutil.RLIMIT_NOFILE)
        process.rlimit(psutil.RLIMIT_NOFILE, (process.num_fds() + 4, before[1]))
        waiting = [socket.create_connection(("127.0.0.1", served.port), 5) for _ in range(40)]
        time.sleep(0.5)
        assert served.process.poll() is None
        for connection in waiting:
            connection.close()
        process.rlimit(psutil.RLIMIT_NOFILE, before)

        def answers() -> Answer | None:
            try:
                return (
                    served.ask("/instances", timeout=2) if served.ask("/health", token=None, timeout=2).status == 200 else None
                )
            except OSError:
                return None

        assert support.wait_until(answers).status == 200
        assert served.stop() == 0
        assert "Traceback" not in served.log


def test_a_client_that_vanishes(served: Served) -> None:
    """A13."""
    for _ in range(5):
        stream = served.stream()
        stream.until("snapshot")
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset
        stream.close()
    support.wait_until(lambda: served.ask("/health", token=None).json["subscribers"] == 0, timeout=20)
