"""The shell scripts exchange messages with the library, in both directions, and keep its rules when something is wrong."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import support
from unit.kernel import forbidden

from mnemo_coord import Coordinator, Fleet, Settings
from mnemo_coord.disk import records
from mnemo_coord.disk.signing import Purpose
from mnemo_coord.messages.address import Address

EXAMPLE = support.REPOSITORY / "examples" / "posix-shell"
FAST = Settings(heartbeat_interval=0.2, poll_interval=0.2)
SECRET = "a secret of the environment: £"


@pytest.fixture(autouse=True)
def _what_the_scripts_need() -> None:
    for program in ("dash", "openssl", "flock"):
        if shutil.which(program) is None:
            forbidden(f"{program} is not installed")


@pytest.fixture
def fleet(state_dir: Path) -> Iterator[Fleet]:
    with Fleet.open(state_dir) as opened:
        yield opened


def command(script: str, state_dir: Path, *args: object) -> list[str]:
    return ["dash", str(EXAMPLE / script), "--dir", str(state_dir), *map(str, args)]


def run(argv: list[str], **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv, env={**os.environ, **env}, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )


def send(state_dir: Path, *args: object, **env: str) -> subprocess.CompletedProcess[str]:
    return run(command("send.sh", state_dir, *args), **env)


def receive(state_dir: Path, *args: object, **env: str) -> subprocess.CompletedProcess[str]:
    return run(command("receive.sh", state_dir, *args), **env)


def printed(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.split("\n") if line]


def box(state_dir: Path, name: str) -> Path:
    kind = "role" if name.startswith("@") else "name"
    return state_dir / "coordination_queue" / f"{kind}-{name.removeprefix('@').encode().hex()}"


def waiting(state_dir: Path, name: str) -> list[Path]:
    return sorted((box(state_dir, name) / "new").iterdir())


def put(fleet: Fleet, name: str, file: str, payload: Any = None, **changed: Any) -> Path:
    """A message as another program with the key might write it, straight into a mailbox."""
    body = {"id": "by-hand", "from_agent": "other", "to_agent": name, "message_type": "T"}
    body |= {"timestamp": "2026-01-01T00:00:00Z", "payload": payload} | changed
    path = box(fleet.state.path, name) / "new" / file
    path.write_bytes(records.seal(body, fleet.signer, Purpose.MESSAGE))
    path.chmod(0o600)
    return path


def locks_left(state_dir: Path) -> list[str]:
    return [path.name for path in (state_dir / "instances").iterdir()]


# Sending


def test_by_name_by_id_and_by_role(state_dir: Path) -> None:
    with Coordinator(state_dir, name="worker", roles=["review"], settings=FAST) as me:
        for address in ("worker", me.instance_id, "@review"):
            sent = send(state_dir, address, "Greeting", '{"to":"' + address + '"}', MNEMOSYNE_INSTANCE="outside")
            assert sent.returncode == 0, sent.stderr
            (delivery,) = list(me.receive(timeout=5))
            with delivery as message:
                assert delivery.address == address
                assert message.to_agent == address
                assert (message.id, message.from_agent, message.message_type) == (sent.stdout.strip(), "outside", "Greeting")
                assert message.payload == {"to": address}
        assert not list((state_dir / "coordination_queue").glob("quarantine/*"))
        assert os.listdir(state_dir / "coordination_queue" / "tmp") == []


def test_a_mailbox_is_made_for_a_name_and_not_for_an_id(state_dir: Path, fleet: Fleet) -> None:
    assert send(state_dir, "somebody", "T").returncode == 0
    assert support.run("--dir", state_dir, "doctor", "--json").json["findings"] == []
    before = support.tree(state_dir)
    refused = send(state_dir, "0badcafe", "T")
    assert (refused.returncode, refused.stdout) == (3, "")
    assert refused.stderr == "send.sh: 0badcafe: no live instance has this id\n"
    assert support.tree(state_dir) == before


def test_one_that_was_killed_is_gone_although_its_mailbox_is_there(state_dir: Path) -> None:
    with support.Serve(state_dir) as victim:
        assert send(state_dir, victim.instance_id, "T").returncode == 0
        victim.wait_for(" T ")
        victim.kill()
    assert (state_dir / "coordination_queue" / victim.instance_id).exists()
    assert send(state_dir, victim.instance_id, "T").returncode == 3


GOOD = [
    r'{ "quote" : "\"", "back" : "\\", "both" : "\\\"" , "slash": "\/", "tab":"\t", "nul":"\u0000" }',
    '"déjà vu, 漢字, 😀, \u2028"',
    r'"\ud83d\ude00 \u00e9 % %s \\0101 $HOME `id` \\"',
    "[ ]",
    "[1,-0,2.50,1e5,-1.5E-3,18446744073709551615,-9223372036854775808]",
    ' [true,\n false ,\tnull,{"a":{},"b":[[]]}] ',
    '"s:n[]{V}k"',
    "-7",
    "[" * 32 + "]" * 32,
]


@pytest.mark.parametrize("payload", GOOD)
def test_a_payload_arrives_as_it_is(payload: str, state_dir: Path, fleet: Fleet) -> None:
    with Coordinator(state_dir, name="worker", settings=FAST) as me:
        sent = send(state_dir, "worker", r"a \ and a “quote” \n", payload)
        assert sent.returncode == 0, sent.stderr
        (delivery,) = list(me.receive(timeout=5))
        with delivery as message:
            assert message.payload == json.loads(payload)
            assert message.message_type == r"a \ and a “quote” \n"
    send(state_dir, "other", "T", payload)
    assert [message["payload"] for message in printed(receive(state_dir, "other"))] == [json.loads(payload)]


BAD = [
    "",
    "{",
    "[1,]",
    "[1 2]",
    "{1:2}",
    '{"a"}',
    '{"a":1,}',
    "01",
    "1.",
    "+1",
    "nul",
    "truefalse",
    "'a'",
    '"',
    '"\n"',
    '"a" "b"',
]
BAD += [
    r'"\x"',
    r'"\u12"',
    r'"\ud800"',
    r'"\udc00\ud800"',
    "1e999",
    "18446744073709551616",
    "[" * 33 + "]" * 33,
    "[" * 32 + "1" + "]" * 32,
]
TYPES = ["", "  ", "a\nb", "\x1b[0m", "\x7f", "\x85", "x" * 65]
USAGE: list[tuple[object, ...]] = [
    *(("worker", "T", payload) for payload in BAD),
    *(("worker", kind, "{}") for kind in TYPES),
    *((address, "T") for address in ("", "@", "a b", "../x", "tmp", "@Config", "@0badcafe", "x" * 65, "wörker")),
    ("worker",),
    ("worker", "T", "1", "2"),
    ("--all", "T"),
]


def test_what_is_not_acceptable_is_refused_before_anything_is_written(state_dir: Path, fleet: Fleet) -> None:
    before = support.tree(state_dir)
    for args in USAGE:
        done = send(state_dir, *args)
        assert (done.returncode, done.stdout) == (2, ""), args
        assert done.stderr.startswith(("send.sh: ", "usage: ")), args
    broken = [os.fsencode(word) for word in command("send.sh", state_dir, "worker", "T")] + [b'"\xff\xc3"']
    assert subprocess.run(broken, capture_output=True, timeout=60, check=False).returncode == 2
    assert send(state_dir, "worker", "T", MNEMOSYNE_INSTANCE="no name").returncode == 2
    assert support.tree(state_dir) == before


def test_the_limit_is_kept_to_the_byte(state_dir: Path, fleet: Fleet) -> None:
    send(state_dir, "worker", "Größe", '""')
    left = 1024 - waiting(state_dir, "worker")[0].stat().st_size
    full = "é" * (left // 2) + "x" * (left % 2)
    assert send(state_dir, "worker", "Größe", json.dumps(full, ensure_ascii=False)).returncode == 0
    assert waiting(state_dir, "worker")[1].stat().st_size == 1024
    before = support.tree(state_dir)
    refused = send(state_dir, "worker", "Größe", json.dumps(full + "x", ensure_ascii=False))
    assert (refused.returncode, refused.stderr) == (2, "send.sh: the message has 1025 bytes, 1024 are allowed\n")
    assert support.tree(state_dir) == before
    with Coordinator(state_dir, name="worker", settings=FAST) as me:
        deliveries = list(me.receive(timeout=5))
        assert [delivery.message.payload for delivery in deliveries] == ["", full]
        for delivery in deliveries:
            delivery.give_back()
    assert [message["payload"] for message in printed(receive(state_dir, "worker"))] == ["", full]


def test_messages_of_one_sender_keep_their_order(state_dir: Path, fleet: Fleet) -> None:
    ids = [send(state_dir, "worker", "T", number).stdout.strip() for number in range(5)]
    assert ids == sorted(ids)
    assert [message["id"] for message in printed(receive(state_dir, "worker"))] == ids


def test_a_waiting_receiver_is_woken_by_the_bell(state_dir: Path) -> None:
    """By itself it would look again only when its time is over."""
    with Coordinator(state_dir, name="worker", settings=Settings(poll_interval=60)) as me:
        later = threading.Timer(0.3, send, [state_dir, "worker", "T"])
        start = time.monotonic()
        later.start()
        assert len([delivery.acknowledge() for delivery in me.receive(timeout=20)]) == 1
        assert time.monotonic() - start < 15
        later.join()


# Receiving


def test_what_the_library_sends_is_printed_and_acknowledged(state_dir: Path, fleet: Fleet) -> None:
    payload = {"text": 'déjà vu 😀 \\ " \n \u0000 %s \\0101 ', "deep": [[[{}]]], "number": -1.5e300}
    with Coordinator(state_dir, name="sender", settings=FAST) as me:
        sent = [me.send(address, "Tÿpe", payload).id for address in ("worker", "@work")]
        for address, message_id in zip(("worker", "@work"), sent, strict=True):
            (message,) = printed(receive(state_dir, address))
            about = {"id": message_id, "from_agent": me.instance_id, "to_agent": address, "message_type": "Tÿpe"}
            assert message == about | {"timestamp": message["timestamp"], "payload": payload}
            assert list(box(state_dir, address).rglob("*.json")) == []
            assert receive(state_dir, address).returncode == 5
    assert locks_left(state_dir) == []
    assert support.run("--dir", state_dir, "doctor", "--json").json["findings"] == []


def test_it_waits_for_as_long_as_it_is_told(state_dir: Path, fleet: Fleet) -> None:
    done = receive(state_dir, "--timeout", "0.5", "worker")
    assert (done.returncode, done.stdout, done.stderr) == (5, "", "receive.sh: nothing waits for worker\n")
    with support.Child(command("receive.sh", state_dir, "--timeout=30", "worker"), state_dir.parent / "out") as child:
        support.wait_until(lambda: locks_left(state_dir))
        fleet.send("worker", "T", "at last", sender="cli")
        assert child.wait() == 0, child.log
        assert json.loads(child.printed)["payload"] == "at last"


@pytest.mark.parametrize(
    "args", [(), ("0badcafe",), ("a b",), ("--timeout", "soon", "a"), ("--timeout", "-1", "a"), ("a", "b")]
)
def test_receive_refuses_what_it_cannot_do(args: tuple[str, ...], state_dir: Path, fleet: Fleet) -> None:
    before = support.tree(state_dir)
    assert receive(state_dir, *args).returncode == 2
    assert support.tree(state_dir) == before


def test_names_that_other_programs_choose(state_dir: Path, fleet: Fleet) -> None:
    fleet.mailboxes.make(Address("worker"))
    for number, file in enumerate(("-rf.json", "0.json.json", "1.b~4.json", "_x.json")):
        put(fleet, "worker", file, number, id=f"by-hand-{number}")
    left = [put(fleet, "worker", file) for file in (".hidden.json", "no-json", "a b.json", "x~1~2.json", "x~0.json", "é.json")]
    assert [message["payload"] for message in printed(receive(state_dir, "worker"))] == [0, 1, 2, 3]
    assert waiting(state_dir, "worker") == sorted(left)
    assert receive(state_dir, "worker").returncode == 5


def spoil(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"payload":1', b'"payload":2'))


def link(path: Path) -> None:
    path.rename(path.parents[4] / "elsewhere")
    path.symlink_to(path.parents[4] / "elsewhere")


def hard_link(path: Path) -> None:
    os.link(path, path.parents[4] / "elsewhere")


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir(mode=0o700)


UNSIGNED = "is not signed with this fleet's key"
ODD = "is not a regular file of ours"
WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "tampered": (spoil, UNSIGNED),
    "link": (link, "is a symbolic link"),
    "hard link": (hard_link, ODD),
    "fifo": (fifo, ODD),
    "folder": (folder, ODD),
    "hole": (lambda path: os.truncate(path, 2**40), "is larger than 1024 bytes"),
    "short": (lambda path: os.truncate(path, 1), UNSIGNED),
    "empty": (lambda path: path.write_bytes(b""), UNSIGNED),
    "zeros": (lambda path: path.write_bytes(b"\0" * 1024), UNSIGNED),
    "no digits": (lambda path: path.write_bytes(path.read_bytes()[:-66] + b'"}'), UNSIGNED),
    "newline": (lambda path: path.write_bytes(path.read_bytes() + b"\n"), UNSIGNED),
    "a zero in the seal": (lambda path: path.write_bytes(path.read_bytes()[:-3] + b'\0"}'), UNSIGNED),
    "one more zero": (lambda path: path.write_bytes(path.read_bytes()[:-2] + b'\0"}'), UNSIGNED),
}


@pytest.mark.parametrize("damage", WRONG)
def test_what_does_not_verify_is_set_aside_and_the_next_message_arrives(damage: str, state_dir: Path, fleet: Fleet) -> None:
    fleet.send("worker", "T", 1, sender="cli")
    fleet.send("worker", "T", "next", sender="cli")
    first = waiting(state_dir, "worker")[0]
    spoil_it, reason = WRONG[damage]
    spoil_it(first)
    done = receive(state_dir, "worker")
    assert [message["payload"] for message in printed(done)] == ["next"], done.stderr
    kept = state_dir / "coordination_queue" / "quarantine" / f"{box(state_dir, 'worker').name}.{first.name}"
    assert os.path.lexists(kept)
    assert Path(f"{kept}.reason").read_text() == f"{reason}\n"
    assert done.stderr == f"receive.sh: {first.name} {reason}\n"
    elsewhere = state_dir.parent / "elsewhere"
    assert not elsewhere.exists() or elsewhere.stat().st_size > 200, "what a link leads to is not touched"


def test_signed_is_not_enough(state_dir: Path, fleet: Fleet) -> None:
    """With the fleet's own key: another's mail, an extra member, other members, a number in the place of a text."""
    fleet.mailboxes.make(Address("worker"))
    fleet.mailboxes.make(Address("w"))
    put(fleet, "worker", "0.json", to_agent="w")
    put(fleet, "worker", "1.json", to_agent=None)
    put(fleet, "worker", "2.json", more=1)
    put(fleet, "worker", "3.json", timestamp=7)
    put(fleet, "worker", "4.json", message_type='","to_agent":"worker","message_type":"', to_agent="w")
    put(fleet, "worker", "5.json", "good", message_type='","to_agent":"w","message_type":"')
    (box(state_dir, "worker") / "new" / "6.json").write_bytes(records.seal({"x": 1}, fleet.signer, Purpose.MESSAGE))
    other = records.seal(json.loads(put(fleet, "w", "x.json").read_bytes()), fleet.signer, Purpose.HISTORY)
    (box(state_dir, "worker") / "new" / "7.json").write_bytes(other)
    assert [message["payload"] for message in printed(receive(state_dir, "worker"))] == ["good"]
    reasons = {path.name[-13]: path.read_text().strip() for path in state_dir.rglob("*.reason")}
    stranger, shape = "is addressed to somebody else", "is not compact JSON with the members of a message"
    assert reasons == {"0": stranger, "1": stranger, "2": shape, "3": shape, "4": stranger, "6": shape, "7": UNSIGNED}


def test_what_was_set_aside_before_is_kept(state_dir: Path, fleet: Fleet) -> None:
    long = "x" * 64
    fleet.mailboxes.make(Address(long))
    for _ in range(3):
        spoil(put(fleet, long, "f" * 160 + ".json", 1))
        receive(state_dir, long)
    kept = f"{box(state_dir, long).name[:60]}.{('f' * 160 + '.json')[-160:]}"
    found = {path.name for path in (state_dir / "coordination_queue" / "quarantine").iterdir()}
    assert found == {f"{kept}{number}{end}" for number in ("", ".2", ".3") for end in ("", ".reason")}


def test_two_receivers_get_each_message_once(state_dir: Path, fleet: Fleet) -> None:
    for number in range(20):
        fleet.send("@work", "T", number, sender="cli")
    argv = command("receive.sh", state_dir, "@work")
    with support.Child(argv, state_dir.parent / "out") as one, support.Child(argv, state_dir.parent / "out") as two:
        codes = {one.wait(), two.wait()}
        got = [json.loads(line)["payload"] for line in (one.printed + two.printed).splitlines()]
    assert codes <= {0, 5}
    assert sorted(got) == list(range(20)), one.log + two.log
    assert list(box(state_dir, "@work").rglob("*.json")) == []
    assert not list(state_dir.rglob("*.reason"))


def test_what_was_handled_or_has_expired_is_not_printed(state_dir: Path, fleet: Fleet) -> None:
    """The id of each message is noted before it is removed, by either side, and both look there first."""
    fleet.send("box", "T", 1, sender="cli", message_id="job-1")
    assert [message["id"] for message in printed(receive(state_dir, "box"))] == ["job-1"]
    assert fleet.send("box", "T", 1, sender="cli", message_id="job-1").duplicate
    put(fleet, "box", "again.json", id="job-1")
    late = fleet.send("box", "T", 2, sender="cli", ttl=0.001).id
    kept = fleet.send("box", "T", 3, sender="cli", ttl=1000, reply_to="job-1").id
    received = receive(state_dir, "box")
    assert [(message["id"], message["reply_to"]) for message in printed(received)] == [(kept, "job-1")], received.stderr
    assert [known.fate for known in fleet.fates.of_message(late)] == ["dead-lettered"]
    assert waiting(state_dir, "box") == []


# Dying


@contextlib.contextmanager
def nobody_reads() -> Iterator[int]:
    """The writing end of a full pipe: who writes to it is held up."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)
    os.set_blocking(writing, True)
    try:
        yield writing
    finally:
        os.close(reading)
        os.close(writing)


def is_held(lock: Path) -> bool:
    return subprocess.run(["flock", "-s", "-n", str(lock), "true"], check=False, timeout=10).returncode != 0


def test_killed_with_a_message_in_hand_it_is_handed_on(state_dir: Path, fleet: Fleet) -> None:
    sent = fleet.send("worker", "T", "precious", sender="cli").id
    claimed = box(state_dir, "worker") / "claimed"
    with nobody_reads() as full:
        victim = subprocess.Popen(command("receive.sh", state_dir, "worker"), stdout=full)
        support.wait_until(lambda: os.listdir(claimed))
        lock = next((state_dir / "instances").iterdir())
        assert is_held(lock)
        assert support.run("--dir", state_dir, "doctor", "--fix").returncode == 0
        assert os.listdir(claimed) == [f"{lock.stem}.{sent}.json"], "it lives: the doctor leaves it alone"
        victim.kill()
        victim.wait()
    support.wait_until(lambda: not is_held(lock))  # a program that it had started may outlive it for a moment
    assert support.run("--dir", state_dir, "doctor").returncode == 1
    assert support.run("--dir", state_dir, "doctor", "--fix").returncode == 0
    assert locks_left(state_dir) == []
    with Coordinator(state_dir, name="worker", settings=FAST) as me:
        (delivery,) = list(me.receive(timeout=5))
        with delivery as message:
            assert (message.id, message.payload, delivery.delivery) == (sent, "precious", 2)


def slow_openssl(place: Path, claimed: Path) -> Path:
    """A folder with an openssl that waits for a file ``go`` while a message is claimed."""
    place.mkdir()
    text = f"""#!/bin/sh
    for file in {claimed}/*.json; do
      while [ -e "$file" ] && [ ! -e {place}/go ]; do sleep 0.02; done
    done
    exec {shutil.which("openssl")} "$@"
    """
    (place / "openssl").write_text(text)
    (place / "openssl").chmod(0o755)
    return place


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize(("file", "left"), [("a.json", "new/a~2.json"), ("a~4.json", "new/a~5.json"), ("a~5.json", None)])
def test_interrupted_it_gives_back_what_it_holds(
    number: signal.Signals, file: str, left: str | None, state_dir: Path, tmp_path: Path, fleet: Fleet
) -> None:
    fleet.mailboxes.make(Address("worker"))
    put(fleet, "worker", file)
    put(fleet, "worker", "untouched.json")
    place = slow_openssl(tmp_path / "slow", box(state_dir, "worker") / "claimed")
    env = {"PATH": f"{place}:{os.environ['PATH']}"}
    with support.Child(command("receive.sh", state_dir, "worker"), tmp_path / "out", env=env) as child:
        support.wait_until(lambda: os.listdir(box(state_dir, "worker") / "claimed"))
        child.send_signal(number)
        (place / "go").touch()
        assert child.wait() == (130 if number == signal.SIGINT else 143), child.log
        assert child.printed == ""
    found = {str(path.relative_to(box(state_dir, "worker"))) for path in box(state_dir, "worker").rglob("*.json")}
    assert found == {"new/untouched.json", *([left] if left else [])}
    dead = sorted(path.name for path in state_dir.glob("coordination_queue/dead_letter/*"))
    kept = f"{box(state_dir, 'worker').name}.a~5.json"
    assert dead == ([] if left else [kept, f"{kept}.reason"])
    assert locks_left(state_dir) == []


def test_when_nobody_reads_any_more_the_message_goes_back(state_dir: Path, fleet: Fleet) -> None:
    fleet.send("worker", "T", sender="cli")
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command("receive.sh", state_dir, "worker"), stdout=writing, check=False, timeout=60)
    os.close(writing)
    assert done.returncode == 1
    assert [path.name.partition("~")[2] for path in waiting(state_dir, "worker")] == ["2.json"]
    assert locks_left(state_dir) == []


def test_what_it_starts_does_not_hold_its_lock(state_dir: Path, fleet: Fleet) -> None:
    """Else it would live on in a child: a lock belongs to every process that has inherited it."""

    def open_in_sleep() -> list[str]:
        with contextlib.suppress(psutil.Error, OSError):
            for started in psutil.Process(child.pid).children():
                if started.name() == "sleep":
                    return [os.readlink(path) for path in Path(f"/proc/{started.pid}/fd").iterdir()]
        return []

    with support.Child(command("receive.sh", state_dir, "--timeout", 60, "worker"), state_dir.parent / "out") as child:
        inherited = support.wait_until(open_in_sleep)
        (lock,) = (state_dir / "instances").iterdir()
        assert is_held(lock)
        assert str(lock) not in inherited
        child.stop()
    assert locks_left(state_dir) == []


# The key


def key_material(secret: bytes) -> list[bytes]:
    """The secret and the keys derived from it, as they are, in hex, and as escapes for printf."""
    extracted = hmac.digest(b"mnemosyne/v1", secret, "sha256")
    keys = [secret, extracted, hmac.digest(extracted, b"message\x01", "sha256")]
    pads = [bytes(byte ^ mask for byte in key) for key in keys for mask in (0x36, 0x5C)]
    escapes = ["".join(f"\\0{byte:03o}" for byte in key[:8]).encode() for key in (*keys, *pads)]
    return [form for key in keys for form in (key, key.hex().encode())] + escapes


def test_the_material_is_what_the_fleet_signs_with(fleet: Fleet) -> None:
    signed = hmac.digest(
        bytes.fromhex(key_material(fleet.signer.secret)[5].decode()), f"message:{fleet.signer.key_id}:x".encode(), "sha256"
    )
    assert signed == fleet.signer.sign(Purpose.MESSAGE, b"x")
    assert hashlib.sha256(fleet.signer.secret).hexdigest()[:8] == fleet.signer.key_id


class Samples(threading.Thread):
    """Reads the command lines of all processes, again and again."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[bytes] = set()
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.is_set():
            for entry in filter(str.isdecimal, os.listdir("/proc")):
                with contextlib.suppress(OSError):
                    self.seen.add(Path(f"/proc/{entry}/cmdline").read_bytes())


@pytest.mark.parametrize("secret", ["", SECRET])
def test_no_command_line_shows_the_key(secret: str, state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNEMOSYNE_SHARED_SECRET", secret)
    with Fleet.open(state_dir) as fleet:
        material = key_material(fleet.signer.secret)
    samples = Samples()
    samples.start()
    try:
        for _ in range(3):
            assert send(state_dir, "worker", "T").returncode == 0
            assert receive(state_dir, "worker").returncode == 0
    finally:
        samples.ended.set()
        samples.join()
    assert any(b"send.sh" in line for line in samples.seen)
    assert any(line.startswith(b"openssl\0dgst") for line in samples.seen), "sampled too rarely"
    assert [line for line in samples.seen if any(form in line for form in material)] == []


@pytest.mark.parametrize("secret", ["", SECRET])
@pytest.mark.parametrize("script", ["send.sh", "receive.sh"])
def test_no_program_is_given_the_key(
    script: str, secret: str, state_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every argument and variable of every program that is started, not a sample. The variables of the caller try to help."""
    monkeypatch.setenv("MNEMOSYNE_SHARED_SECRET", secret)
    with Fleet.open(state_dir) as fleet:
        fleet.send("worker", "T", sender="cli")
        material = key_material(fleet.signer.secret)
    trace = tmp_path / "trace"
    strace = support.strace("-v", "-s", "65536", "-xx", "-o", str(trace), "-e", "trace=execve")
    exported = dict.fromkeys(("given", "secret", "subkey", "padded", "left", "rest", "octets"), "caller's")
    done = run([*strace, *command(script, state_dir, "worker", *(["T"] if script == "send.sh" else []))], **exported)
    assert done.returncode == 0, done.stderr
    calls = [bytes.fromhex("0a".join(line.split('"')[1::2]).replace("\\x", "")) for line in trace.read_text().splitlines()]
    assert sum(b"dgst\n-sha256\n" in call for call in calls) == 7
    assert [call for call in calls[1:] if any(form in call for form in material)] == []


def test_the_key_may_come_from_the_environment(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNEMOSYNE_SHARED_SECRET", SECRET)
    with Coordinator(state_dir, name="worker", settings=FAST) as me:
        assert send(state_dir, "worker", "T", '"in"').returncode == 0
        (delivery,) = list(me.receive(timeout=5))
        with delivery as message:
            assert message.payload == "in"
        me.send("other", "T", "out")
        wrong = receive(state_dir, "other", MNEMOSYNE_SHARED_SECRET="another secret, as long")
        assert (wrong.returncode, wrong.stdout) == (5, "")
        me.send("other", "T", "out")
        assert [message["payload"] for message in printed(receive(state_dir, "other"))] == ["out"]
    assert not (state_dir / "secret").exists()
    assert send(state_dir, "worker", "T", MNEMOSYNE_SHARED_SECRET="short").returncode == 2


# A state directory that cannot be used


def test_no_fleet_no_key_and_what_others_could_reach(state_dir: Path) -> None:
    assert send(state_dir, "worker", "T").returncode == 6
    state_dir.mkdir(mode=0o700)
    assert send(state_dir, "worker", "T").returncode == 6
    assert os.listdir(state_dir) == []
    with Fleet.open(state_dir):
        pass
    key = state_dir / "secret"
    text = key.read_text()
    for damage in (
        lambda: key.chmod(0o640),
        lambda: key.write_text(text[:-2]),
        lambda: key.write_text(text.upper().replace("0", "A")),
        lambda: key.write_text(text + text),
        lambda: state_dir.chmod(0o750),
    ):
        damage()
        before = support.tree(state_dir)
        for done in (send(state_dir, "worker", "T"), receive(state_dir, "worker")):
            assert (done.returncode, done.stdout) == (6, "")
            assert text.strip() not in done.stderr
        assert support.tree(state_dir) == before
        key.write_text(text)
        key.chmod(0o600)
        state_dir.chmod(0o700)
    assert send(state_dir, "worker", "T").returncode == 0
    link = state_dir.parent / "link"
    link.symlink_to(state_dir)
    assert send(link, "worker", "T").returncode == 6
    assert send(Path(f"{link}/"), "worker", "T").returncode == 6


def test_it_is_found_from_below_and_by_the_variable(state_dir: Path, fleet: Fleet) -> None:
    below = state_dir.parent / "a" / "b"
    below.mkdir(parents=True)
    argv = ["dash", str(EXAMPLE / "send.sh"), "worker", "T"]
    assert subprocess.run(argv, cwd=below, capture_output=True, check=False, timeout=60).returncode == 0
    assert run(argv, MNEMOSYNE_DIR=str(state_dir)).returncode == 0
    assert len(waiting(state_dir, "worker")) == 2


def test_the_commands_of_the_readme(state_dir: Path, fleet: Fleet) -> None:
    commands = (EXAMPLE / "README.md").read_text().partition("```sh\n")[2].partition("```")[0].splitlines()
    assert len(commands) == 2
    outputs = [
        subprocess.run(
            ["dash", "-c", line], cwd=EXAMPLE, env={**os.environ, "MNEMOSYNE_DIR": str(state_dir)}, capture_output=True, text=True,
            check=True, timeout=60,
        ).stdout
        for line in commands
    ]  # fmt: skip
    assert json.loads(outputs[1])["id"] == outputs[0].strip()
    assert json.loads(outputs[1])["payload"] == {"branch": "main"}
