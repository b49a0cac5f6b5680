"""An address is on this machine only, eleven ports are tried in order, and the one that was won is listened on already."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from mnemo_coord import errors
from mnemo_coord.disk.signing import Signer
from mnemo_coord.holdings import ports
from mnemo_coord.holdings.ports import Listener, candidates, parse_address, proof, scan


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("127.0.0.1:3000", ("127.0.0.1", 3000)),
        ("127.9.9.9:1", ("127.9.9.9", 1)),
        ("localhost:0", ("127.0.0.1", 0)),
        ("[::1]:65535", ("::1", 65535)),
    ],
)
def test_an_address_of_this_machine(text: str, parsed: tuple[str, int]) -> None:
    """P8."""
    assert parse_address(text) == parsed


REACHABLE = [
    "0.0.0.0:3000",
    "[::]:3000",
    "10.0.0.1:3000",
    "192.168.1.1:3000",
    "169.254.169.254:80",
    "[fe80::1]:1",
    "8.8.8.8:53",
]


@pytest.mark.parametrize("text", REACHABLE)
def test_an_address_that_others_can_reach_is_refused(text: str) -> None:
    """P8, S9."""
    with pytest.raises(errors.Config, match="can be reached from other machines") as caught:
        parse_address(text)
    assert "127.0.0.1" in caught.value.hint
    assert caught.value.exit_code == 2


NO_ADDRESSES = {
    "nothing": "",
    "a colon": ":",
    "no host": ":3000",
    "no port": "127.0.0.1",
    "an empty port": "127.0.0.1:",
    "a port alone": "3000",
    "a word": "127.0.0.1:http",
    "negative": "127.0.0.1:-1",
    "signed": "127.0.0.1:+1",
    "with a space": "127.0.0.1: 1",
    "with an underscore": "127.0.0.1:1_0",
    "too high": "127.0.0.1:65536",
    "other digits": "127.0.0.1:\u0663",
    "superscript": "127.0.0.1:\u00b2",
    "a newline": "127.0.0.1:80\n",
    "endless": "127.0.0.1:" + "9" * 5_000,
    "a host name": "example.org:80",
    "a name like one of ours": "127.0.0.1.nip.io:80",
    "a URL": "http://127.0.0.1:80",
    "a user": "x@127.0.0.1:80",
    "in other digits": "\u0661\u0662\u0667.0.0.1:80",
}


@pytest.mark.parametrize("which", NO_ADDRESSES)
def test_no_address(which: str) -> None:
    """I27."""
    with pytest.raises(errors.Config) as caught:
        parse_address(NO_ADDRESSES[which])
    assert caught.value.key == "api_addr"
    assert caught.value.hint


@pytest.mark.parametrize(
    ("port", "tried"),
    [
        (3000, range(3000, 3011)),
        (1, range(1, 12)),
        (0, range(1)),
        (65525, range(65525, 65536)),
        (65526, range(65526, 65536)),
        (65530, range(65530, 65536)),
        (65535, range(65535, 65536)),
    ],
)
def test_eleven_are_tried_as_far_as_there_are(port: int, tried: range) -> None:
    assert list(candidates(port)) == list(tried)


# Scanning


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as closing:
        yield closing


def occupy(stack: ExitStack, port: int, *, reuse: bool = False) -> None:
    holder = stack.enter_context(socket.socket())
    if reuse:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", port))
    holder.listen()


def won(stack: ExitStack, port: int) -> Listener | None:
    listener = scan("127.0.0.1", port)
    if listener is not None:
        stack.enter_context(listener.socket)
    return listener


@pytest.mark.parametrize("busy", [[], [0], [0, 1, 2], [0, 2], [1], list(range(10))], ids=str)
@pytest.mark.parametrize("reuse", [False, True])
def test_the_first_free_one_is_won(
    busy: list[int], reuse: bool, stack: ExitStack, port_base: int, caplog: pytest.LogCaptureFixture
) -> None:
    """P1."""
    caplog.set_level("INFO")
    for offset in busy:
        occupy(stack, port_base + offset, reuse=reuse)
    listener = won(stack, port_base)
    assert listener is not None
    expected = next(port_base + offset for offset in range(11) if offset not in busy)
    assert (listener.host, listener.port) == ("127.0.0.1", expected)
    assert listener.url == f"http://127.0.0.1:{expected}"
    said = [record.getMessage() for record in caplog.records]
    assert said == ([f"Port {port_base} in use, trying alternative ports..."] if 0 in busy else []), "once"


def test_when_all_are_busy_there_is_none(stack: ExitStack, port_base: int, caplog: pytest.LogCaptureFixture) -> None:
    """P2."""
    caplog.set_level("INFO")
    for offset in range(11):
        occupy(stack, port_base + offset)
    assert scan("127.0.0.1", port_base) is None
    assert [record.getMessage() for record in caplog.records] == [f"Port {port_base} in use, trying alternative ports..."]


def test_twenty_at_once_win_eleven_different_ones(stack: ExitStack, port_base: int) -> None:
    """P3, I19."""
    found: list[Listener | None] = []
    start = threading.Barrier(20)

    def run() -> None:
        start.wait()
        found.append(scan("127.0.0.1", port_base))

    threads = [threading.Thread(target=run) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [listener for listener in found if listener is not None]
    for listener in winners:
        stack.enter_context(listener.socket)
    assert sorted(listener.port for listener in winners) == list(range(port_base, port_base + 11))
    assert len(found) == 20


def test_what_was_won_is_listened_on(stack: ExitStack, port_base: int) -> None:
    listener = won(stack, port_base)
    assert listener is not None
    assert not listener.socket.get_inheritable()
    with socket.create_connection(("127.0.0.1", port_base), 5):
        connection, _ = listener.socket.accept()
        connection.close()


def test_a_port_of_connections_that_just_ended_can_be_taken(stack: ExitStack, port_base: int) -> None:
    """P9. TIME_WAIT is no obstacle to a restart."""
    listener = won(stack, port_base)
    assert listener is not None
    with socket.create_connection(("127.0.0.1", port_base), 5) as client:
        connection, _ = listener.socket.accept()
        connection.close()  # the side that closes first waits
        client.recv(1)
    listener.socket.close()
    again = won(stack, port_base)
    assert again is not None
    assert again.port == port_base


def test_port_0_is_the_kernels_choice(stack: ExitStack) -> None:
    one, two = won(stack, 0), won(stack, 0)
    assert one is not None
    assert two is not None
    assert 0 < one.port != two.port > 0


def test_an_address_that_this_machine_does_not_have_is_an_error(port_base: int) -> None:
    """P8. Not one more port that is in use."""
    with pytest.raises(errors.State, match=r"203\.0\.113\.7"):
        scan("203.0.113.7", port_base)


def test_ipv6_has_brackets(stack: ExitStack, port_base: int) -> None:
    if not socket.has_ipv6:
        pytest.skip("this Python has no IPv6")
    try:
        listener = scan("::1", port_base)
    except errors.State as error:
        pytest.skip(f"this machine has no IPv6: {error}")
    assert listener is not None
    stack.enter_context(listener.socket)
    assert listener.url == f"http://[::1]:{listener.port}"


# The proof of who answers


def test_a_proof_is_for_one_nonce_instance_process_and_port(signer: Signer) -> None:
    """P6, T8."""
    base = ("nonce", "a1b2c3d4", 7, 3000)
    others = [("other", *base[1:]), ("nonce", "ffffffff", 7, 3000), ("nonce", "a1b2c3d4", 8, 3000), (*base[:3], 3001)]
    proofs = {proof(signer, *values) for values in [base, *others]} | {proof(Signer(b"K" * 32), *base)}
    assert len(proofs) == 6
    assert proof(signer, *base) == proof(signer, *base)
    assert all(len(one) == 64 for one in proofs)


def test_who_listens_can_be_named(stack: ExitStack, port_base: int) -> None:
    """P6."""
    occupy(stack, port_base)
    assert ports.owner_of(port_base).startswith(f"process {os.getpid()} (")
    assert ports.owner_of(port_base + 1) == ""
