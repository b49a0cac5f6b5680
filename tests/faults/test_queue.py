"""Messages under bad files, bad input, full disks, scarce descriptors and kills: refused, kept, or delivered, never lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import support

from mnemo_coord import Coordinator, Fleet, Message, Settings, errors
from mnemo_coord.disk import records
from mnemo_coord.disk.clock import SystemClock
from mnemo_coord.disk.signing import Purpose, Signer
from mnemo_coord.members.reaper import Reaper
from mnemo_coord.messages import receiver
from mnemo_coord.messages.address import Address

FAST = Settings(heartbeat_interval=0.2, poll_interval=0.1)
SENDER = "tester"


def queue_folder(state_dir: Path, address: str) -> Path:
    return state_dir / "coordination_queue" / Address(address).folder


def waiting(state_dir: Path, address: str) -> list[str]:
    return sorted(os.listdir(queue_folder(state_dir, address) / "new"))


def taken(me: Coordinator) -> list[Any]:
    """Everything that waits now, acknowledged."""
    found = []
    for delivery in me.receive():
        with delivery as message:
            found.append(message.payload)
    return found


def refused(state_dir: Path) -> dict[str, str]:
    """What is in the quarantine, with the reasons."""
    folder = state_dir / "coordination_queue" / "quarantine"
    names = [name for name in os.listdir(folder) if not name.endswith(".reason")] if folder.exists() else []
    return {name: (folder / f"{name}.reason").read_text().strip() for name in names}


# What the sender gives


def padded(size: int) -> dict[str, str]:
    return {"p": "x" * size}


def test_the_limit_is_1024_bytes_as_stored(state_dir: Path) -> None:
    """Q1."""
    with Fleet.open(state_dir) as fleet:
        fleet.send("inbox", "T", padded(100), sender=SENDER)
        (first,) = waiting(state_dir, "inbox")
        rest = 1024 - (queue_folder(state_dir, "inbox") / "new" / first).stat().st_size
        fleet.send("inbox", "T", padded(100 + rest), sender=SENDER)
        assert (queue_folder(state_dir, "inbox") / "new" / waiting(state_dir, "inbox")[1]).stat().st_size == 1024
        before = support.tree(state_dir)
        with pytest.raises(errors.MessageTooLarge) as caught:
            fleet.send("inbox", "T", padded(101 + rest), sender=SENDER)
        assert (caught.value.size, caught.value.limit) == (1025, 1024)
        assert support.tree(state_dir) == before, "refused before any file exists"


UNFAITHFUL = {
    "NaN": (float("nan"), "payload.deep[1]"),
    "infinity": (float("-inf"), "payload.deep[1]"),
    "2**64": (2**64, "payload.deep[1]"),
    "below -2**63": (-(2**63) - 1, "payload.deep[1]"),
    "set": ({1}, "payload.deep[1]"),
    "bytes": (b"x", "payload.deep[1]"),
    "date": (datetime.now(UTC), "payload.deep[1]"),
    "number as key": ({1: 2}, "payload.deep[1]"),
    "half a surrogate pair": ("\udfff", "payload.deep[1]"),
    "half a pair as key": ({"\ud800": 1}, "payload.deep[1]"),
    "object": (object(), "payload.deep[1]"),
}


@pytest.mark.parametrize(("value", "place"), UNFAITHFUL.values(), ids=UNFAITHFUL)
def test_what_json_cannot_carry_is_refused_by_name(value: Any, place: str, state_dir: Path) -> None:
    """Q7."""
    with Fleet.open(state_dir) as fleet, pytest.raises(errors.NotEncodable) as caught:
        fleet.send("inbox", "T", {"deep": [0, value]}, sender=SENDER)
    assert caught.value.key == place


ODD_IDS = ["../x", "a/b", "", "a\0b", "y" * 300, ".x", "x.tmp", "a\n", "ü", "a b"]


@pytest.mark.parametrize("odd", ODD_IDS)
def test_odd_ids_and_addresses_never_become_paths(odd: str, state_dir: Path, tmp_path: Path) -> None:
    """Q10."""
    with Fleet.open(state_dir) as fleet:
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(errors.Config):
            fleet.send("inbox", "T", {}, sender=SENDER, message_id=odd)
        with pytest.raises(errors.Config):
            fleet.send(odd, "T", {}, sender=SENDER)
        with pytest.raises(errors.Config):
            fleet.send(f"@{odd}", "T", {}, sender=SENDER)
        assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("odd", ["", " ", "a\nb", "x" * 65, "\x1b[2J", None, 7])
def test_odd_message_types_are_refused(odd: Any, state_dir: Path) -> None:
    with Fleet.open(state_dir) as fleet, pytest.raises(errors.Config):
        fleet.send("inbox", odd, {}, sender=SENDER)


def test_nobody_of_that_id(state_dir: Path) -> None:
    """Q17. An unknown id, and one that has just died."""
    with support.Serve(state_dir) as victim, Coordinator(state_dir, settings=FAST) as me:
        for _ in range(3):
            me.send(victim.instance_id, "T")
        victim.kill()
        for address in ("0123abcd", victim.instance_id):
            with pytest.raises(errors.UnknownAddress):
                me.send(address, "T")


def test_nobody_is_there_while_a_dead_instance_is_reaped(state_dir: Path) -> None:
    """Q17. The reaper holds its lock then, and must not be taken for its owner."""
    with support.Serve(state_dir) as victim, Fleet.open(state_dir, settings=FAST) as fleet:
        (registration,) = [entry.registration for entry in fleet.registry.read().values()]
        victim.kill()

        def send_meanwhile(instance_id: str) -> None:
            assert fleet.send(instance_id, "T", sender=SENDER).failed
            assert not fleet.queue.mailboxes.open(Address(instance_id)).waiting()
            sent.append(instance_id)

        sent: list[str] = []
        reaper = Reaper(fleet.registry, fleet.clock, (send_meanwhile, fleet.queue.release_of), 1.0)
        assert reaper.reap([registration], 5.0) == [registration]
        assert sent == [victim.instance_id]


def test_a_name_waits_for_its_next_holder(state_dir: Path) -> None:
    """Q17."""
    with Fleet.open(state_dir) as fleet:
        assert fleet.send("later", "T", 1, sender=SENDER).waiting == ("later",)
        assert fleet.send("@helper", "T", 2, sender=SENDER).waiting == ("@helper",)
        with Coordinator(state_dir, name="later", roles=["helper"], settings=FAST) as me:
            assert fleet.send("later", "T", 3, sender=SENDER).delivered == ("later",)
            assert sorted(taken(me)) == [1, 2, 3]


def test_a_full_mailbox_is_the_senders_error(state_dir: Path) -> None:
    with Fleet.open(state_dir, settings=Settings(mailbox_limit=5)) as fleet:
        for _ in range(5):
            fleet.send("inbox", "T", {}, sender=SENDER)
        with pytest.raises(errors.MailboxFull):
            fleet.send("inbox", "T", {}, sender=SENDER)
        assert len(waiting(state_dir, "inbox")) == 5


def test_a_broadcast_names_who_got_it(state_dir: Path) -> None:
    """I7."""
    one, two, me = (Coordinator(state_dir, settings=FAST) for _ in range(3))
    with one, two, me:
        receipt = me.broadcast("News", {"n": 1})
        assert set(receipt.delivered) == {one.instance_id, two.instance_id}
        assert taken(one) == taken(two) == [{"n": 1}]
        assert taken(me) == []


def test_order_is_kept_when_the_clock_goes_back(state_dir: Path) -> None:
    """I6."""

    class Falling(SystemClock):
        now = time.time_ns()

        def wall_ns(self) -> int:
            self.now -= 3_600_000_000_000
            return self.now

    with Fleet.open(state_dir, clock=Falling()) as fleet, Coordinator(state_dir, name="inbox", settings=FAST) as me:
        for number in range(50):
            fleet.send("inbox", "T", number, sender=SENDER)
        assert taken(me) == list(range(50))


# What lies in the mailbox


def sealed(state_dir: Path, key: Signer | None = None, **changes: Any) -> bytes:
    """A message as somebody with the fleet's key could write it."""
    members = {
        "id": "given-1",
        "from_agent": "stranger",
        "to_agent": "inbox",
        "message_type": "T",
        "timestamp": "2026-01-01T00:00:00.000Z",
        "payload": {"n": 7},
    }
    members |= changes
    members = {name: value for name, value in members.items() if value is not ...}
    with Fleet.open(state_dir) as fleet:
        return records.seal(members, key or fleet.signer, Purpose.MESSAGE)


BAD_FILES: dict[str, tuple[Any, str]] = {
    "empty, after a while": (lambda whole: b"", "is empty"),
    "cut off": (lambda whole: whole[:-30], "is not JSON"),
    "not UTF-8": (lambda whole: whole.replace(b"stranger", b"str\xff\xfeer"), "is not JSON"),
    "byte order mark": (lambda whole: b"\xef\xbb\xbf" + whole, "byte order mark"),
    "NUL tail": (lambda whole: whole + b"\0" * 16, "NUL"),
    "two documents": (lambda whole: whole + whole, "is not JSON"),
    "a list": (lambda whole: b"[1]", "not an object"),
    "changed": (lambda whole: whole.replace(b'"n":7', b'"n":8'), "not signed"),
    "unsigned": (lambda whole: whole[: -records.SEAL_LENGTH] + b"}", "not signed"),
    "1,025 bytes": (lambda whole: whole + b" " * (1025 - len(whole)), "larger than 1024"),
    "huge": (lambda whole: whole + b" " * 10_000_000, "larger than 1024"),
    "deep": (lambda whole: b"[" * 512 + b"]" * 512, "not an object"),
}


@pytest.mark.parametrize(("change", "reason"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_set_aside_with_its_reason(change: Any, reason: str, state_dir: Path) -> None:
    """Q4, Q5, I9. What lies behind it is delivered."""
    with Coordinator(state_dir, name="inbox", settings=FAST) as me:
        folder = queue_folder(state_dir, "inbox") / "new"
        (folder / "0000.json").write_bytes(change(sealed(state_dir)))
        me.send("inbox", "T", "good")
        found: list[Any] = []
        support.wait_until(lambda: found.extend(taken(me)) or refused(state_dir), 10)
        assert found == ["good"]
        assert reason in next(iter(refused(state_dir).values()))
        assert list(refused(state_dir)) == [f"{Address('inbox').folder}.0000.json"]


MEMBERS: dict[str, tuple[dict[str, Any], str]] = {
    "missing member": ({"timestamp": ...}, "timestamp"),
    "unknown member": ({"extra": 1}, "extra"),
    "id a number": ({"id": 1}, "id"),
    "type null": ({"message_type": None}, "message_type"),
    "sender a list": ({"from_agent": []}, "from_agent"),
    "for somebody else": ({"to_agent": "other"}, "somebody else"),
    "a broadcast in a shared mailbox": ({"to_agent": None}, "somebody else"),
}


@pytest.mark.parametrize(("changes", "reason"), MEMBERS.values(), ids=MEMBERS)
def test_members_that_do_not_fit_are_refused(changes: dict[str, Any], reason: str, state_dir: Path) -> None:
    """Q9, S6. Each is properly signed."""
    with Coordinator(state_dir, name="inbox", settings=FAST) as me:
        (queue_folder(state_dir, "inbox") / "new" / "msg-1.json").write_bytes(sealed(state_dir, **changes))
        assert taken(me) == []
        assert reason in next(iter(refused(state_dir).values()))


def test_another_programs_message_is_served_by_the_poll(state_dir: Path) -> None:
    """I10, Q16. Signed, oddly named, dated in the future, and nobody rang."""
    with Coordinator(state_dir, name="inbox", settings=FAST) as me:
        got: list[Any] = []
        me.on_message(lambda message: got.append((message.id, message.payload)))
        whole = sealed(state_dir, timestamp="2099-12-31T23:59:59.000Z")
        (queue_folder(state_dir, "inbox") / "new" / "msg-001.json").write_bytes(whole)
        support.wait_until(lambda: got == [("given-1", {"n": 7})], 5)


def test_a_message_is_good_in_one_mailbox_only(state_dir: Path) -> None:
    """S6. Copied into another it is a replay."""
    with (
        Coordinator(state_dir, name="inbox", settings=FAST) as me,
        Coordinator(state_dir, name="other", settings=FAST) as other,
    ):
        me.send("inbox", "T", 1)
        (name,) = waiting(state_dir, "inbox")
        shutil.copy(queue_folder(state_dir, "inbox") / "new" / name, queue_folder(state_dir, "other") / "new" / name)
        assert taken(me) == [1]
        assert taken(other) == []
        assert "somebody else" in next(iter(refused(state_dir).values()))


def test_odd_names_are_left_alone(state_dir: Path) -> None:
    with Coordinator(state_dir, name="inbox", settings=FAST) as me:
        folder = queue_folder(state_dir, "inbox") / "new"
        odd = [".hidden.json", "x.tmp", "a b.json", "é.json", "README"]
        for name in odd:
            (folder / name).write_bytes(b"x")
        me.send("inbox", "T", 1)
        assert taken(me) == [1]
        assert waiting(state_dir, "inbox") == sorted(odd)


@pytest.mark.parametrize("kind", ["symlink", "hard link", "FIFO", "socket", "folder", "device"])
def test_planted_files_are_set_aside_unread(kind: str, state_dir: Path, tmp_path: Path) -> None:
    """Q23."""
    target = tmp_path / "precious"
    with Coordinator(state_dir, name="inbox", settings=FAST) as me:
        target.write_bytes(sealed(state_dir))
        before = (target.read_bytes(), target.stat().st_mode, target.stat().st_mtime_ns)
        path = queue_folder(state_dir, "inbox") / "new" / "0.json"
        if kind == "symlink":
            path.symlink_to(target)
        elif kind == "hard link":
            os.link(target, path)
        elif kind == "FIFO":
            os.mkfifo(path)
        elif kind == "socket":
            os.chdir(path.parent)
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(path.name)
        elif kind == "folder":
            path.mkdir()
        else:
            os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))
        me.send("inbox", "T", "good")
        start = time.monotonic()
        assert taken(me) == ["good"]
        assert time.monotonic() - start < 1
        assert (target.read_bytes(), target.stat().st_mode, target.stat().st_mtime_ns) == before
        assert len(refused(state_dir)) == 1


def test_a_terabyte_that_is_one_hole_costs_nothing(state_dir: Path) -> None:
    """I8, I11."""
    with Coordinator(state_dir, name="inbox", settings=FAST) as me:
        path = queue_folder(state_dir, "inbox") / "new" / "0.json"
        path.touch(0o600)
        os.truncate(path, 2**40)
        me.send("inbox", "T", "good")
        start = time.monotonic()
        assert taken(me) == ["good"]
        assert time.monotonic() - start < 1


# Receivers that fail


def test_a_handler_that_raises_gets_it_again_and_at_last_it_is_a_dead_letter(state_dir: Path) -> None:
    """Q28, Q20."""
    with Coordinator(state_dir, name="inbox", settings=FAST) as me:
        attempts: list[Any] = []
        handled: list[Any] = []

        def handle(message: Any) -> None:
            if message.payload == "bad":
                attempts.append(message.id)
                raise ValueError("no")
            handled.append(message.payload)

        me.on_message(handle)
        me.send("inbox", "T", "bad")
        me.send("inbox", "T", "good")
        support.wait_until(lambda: handled == ["good"])
        dead = state_dir / "coordination_queue" / "dead_letter"
        support.wait_until(lambda: dead.exists() and len(list(dead.glob("*.json"))) == 1, 10)
        assert len(attempts) == 5
        (reason,) = dead.glob("*.reason")
        assert "5 times" in reason.read_text()
        me.send("inbox", "T", "after")
        support.wait_until(lambda: handled == ["good", "after"])


def test_raising_in_the_block_gives_it_back(state_dir: Path) -> None:
    with Coordinator(state_dir, name="inbox", settings=FAST) as me:
        me.send("inbox", "T", 1)
        (first,) = list(me.receive())
        with pytest.raises(KeyError), first:
            raise KeyError
        (second,) = list(me.receive())
        assert (first.delivery, second.delivery) == (1, 2)
        second.acknowledge()
        assert list(me.receive()) == []


def test_a_killed_receivers_message_goes_to_the_other(state_dir: Path, tmp_path: Path) -> None:
    """Q20."""
    code = """
    import sys, time
    from mnemo_coord import Coordinator
    with Coordinator(sys.argv[1], roles=["worker"]) as me:
        for delivery in me.receive(timeout=30):
            print("claimed", delivery.message.id, flush=True)
            time.sleep(60)
    """
    with Fleet.open(state_dir) as fleet, support.python(code, tmp_path, state_dir) as first:
        sent = fleet.send("@worker", "T", {}, sender=SENDER)
        first.wait_for(f"claimed {sent.id}")
        with Coordinator(state_dir, roles=["worker"], settings=FAST) as me:
            assert list(me.receive()) == []
            first.kill()
            start = time.monotonic()
            (delivery,) = list(me.receive(timeout=10))
            assert time.monotonic() - start < 3
            assert (delivery.message.id, delivery.delivery) == (sent.id, 2)
            delivery.acknowledge()


def test_five_receivers_handle_each_message_once(state_dir: Path, tmp_path: Path) -> None:
    """Q21."""
    code = """
    import sys
    from mnemo_coord import Coordinator
    with Coordinator(sys.argv[1], roles=["worker"]) as me:
        print("ready", flush=True)
        while True:
            got = 0
            for delivery in me.receive(timeout=3):
                got += 1
                with delivery as message:
                    print("did", message.payload, delivery.delivery, flush=True)
            if not got:
                break
    """
    children = [support.python(code, tmp_path / "p", state_dir) for _ in range(5)]
    try:
        for child in children:
            child.wait_for("ready")
        with Fleet.open(state_dir) as fleet:
            for number in range(500):
                fleet.send("@worker", "T", number, sender=SENDER)
        assert [child.wait(60) for child in children] == [0] * 5
        did = [line.split()[1:] for child in children for line in child.printed.splitlines() if line.startswith("did")]
        assert sorted(int(number) for number, _ in did) == list(range(500))
        assert {delivery for _, delivery in did} == {"1"}
        assert sum("did" in child.printed for child in children) >= 2, "the work was shared"
    finally:
        for child in children:
            child.__exit__()


def test_what_waits_for_an_id_goes_to_the_dead_letters_with_it(state_dir: Path) -> None:
    for end in ("leave", "die"):
        with support.Serve(state_dir, "--poll-interval", "30") as peer, Coordinator(state_dir, settings=FAST) as me:
            peer.send_signal(signal.SIGSTOP)
            sent = me.send(peer.instance_id, "T", end)
            if end == "die":
                peer.kill()
            else:
                peer.send_signal(signal.SIGTERM)
                peer.send_signal(signal.SIGCONT)
                peer.wait()
            dead = state_dir / "coordination_queue" / "dead_letter"
            if end == "die" or dead.exists():
                support.wait_until(lambda dead=dead, sent=sent: list(dead.glob(f"*{sent.id}.json")))
            assert not queue_folder(state_dir, peer.instance_id).exists() or support.wait_until(
                lambda peer=peer: not queue_folder(state_dir, peer.instance_id).exists()
            )


# Surroundings that fail


@pytest.mark.parametrize("who", ["lookout", "delivery"])
def test_a_message_that_no_bell_tells_of_is_found_by_a_poll(who: str, state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """I9. The lookout looks for it at each poll; where that is held up, the delivery does, more rarely."""
    monkeypatch.setattr(receiver, "UNATTENDED", 1e6 if who == "lookout" else 2)
    got: list[Message] = []
    with Coordinator(state_dir, name="one", settings=Settings(heartbeat_interval=3600, poll_interval=0.2)) as me:
        if who == "delivery":
            me._member._polling.stop()
        me.on_message(got.append)
        me.send("one", "T", 1)
        support.wait_until(lambda: got)
        time.sleep(0.1)  # it looks once more after each message
        me._member._watch.drop(str(queue_folder(state_dir, "one") / "bell"))
        me.send("one", "T", 2)
        support.wait_until(lambda: len(got) == 2, 5)


def traced(fault: str, calls: str = "") -> list[str]:
    called = calls or fault.split(":", maxsplit=1)[0]
    return support.strace("-o", "/dev/null", "-e", f"trace={called}", "-e", f"inject={fault}")


@pytest.mark.parametrize("call", ["openat", "write", "renameat", "utimensat"])
def test_a_sender_killed_at_any_call_leaves_all_or_nothing(call: str, state_dir: Path) -> None:
    """Q19."""
    with Fleet.open(state_dir) as fleet:
        fleet.send("inbox", "T", 0, sender=SENDER)
    folder = state_dir / "coordination_queue"
    paths = [folder, folder / "tmp", folder / Address("inbox").folder / "new", folder / Address("inbox").folder / "bell"]
    # A write has no path to filter by: its file is new. The process writes little else.
    only = [] if call == "write" else [word for path in paths for word in ("-P", str(path))]
    for number in range(1, 60):
        before = set(waiting(state_dir, "inbox"))
        prefix = [*traced(f"{call}:signal=SIGKILL:when={number}"), *only]
        done = support.run("--dir", state_dir, "send", "--to", "inbox", "T", '{"whole":true}', prefix=prefix)
        for name in set(waiting(state_dir, "inbox")) - before:
            stored = (queue_folder(state_dir, "inbox") / "new" / name).read_bytes()
            assert json.loads(stored)["payload"] == {"whole": True}
        if done.returncode == 0:
            assert number > 1, "the injection hit"
            return
    pytest.fail("it never survived")


def test_a_short_write_is_never_published(state_dir: Path) -> None:
    """Q32. The kernel says that it wrote three bytes, and wrote none."""
    with Fleet.open(state_dir) as fleet:
        fleet.send("inbox", "T", 0, sender=SENDER)
    tmp = state_dir / "coordination_queue" / "tmp"
    code = f"import sys; from mnemo_coord import Fleet; Fleet.open({str(state_dir)!r}).send('inbox','T',1,sender='x')"
    for number in (1, 2):
        argv = [*traced(f"write:retval=3:when={number}"), "-P", str(tmp), sys.executable, "-c", code]
        subprocess.run(argv, check=False, capture_output=True, timeout=30)
    with Coordinator(state_dir, name="inbox", settings=FAST) as me:
        assert set(taken(me)) <= {0, 1}


@pytest.mark.parametrize("fault", ["write:error=ENOSPC:when=1", "renameat:error=EIO", "fsync:error=EIO"])
def test_a_send_that_fails_says_so_and_leaves_nothing(fault: str, state_dir: Path) -> None:
    """Q29, Q38. The first write of the process is the message's."""
    with Fleet.open(state_dir) as fleet:
        fleet.send("inbox", "T", 0, sender=SENDER)
    before = waiting(state_dir, "inbox")
    done = support.run("--dir", state_dir, "send", "--durable", "--to", "inbox", "T", prefix=traced(fault))
    assert done.returncode == 6, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert waiting(state_dir, "inbox") == before
    assert list((state_dir / "coordination_queue" / "tmp").iterdir()) == []


def in_namespace(script: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["unshare", "-Urm", "sh", "-ec", script], capture_output=True, text=True, check=False, timeout=timeout
    )


def test_a_full_disk_refuses_sending_and_still_hands_out(tmp_path: Path) -> None:
    """Q29."""
    mount = tmp_path / "small"
    mount.mkdir()
    cli = f"{support.MNEMOSYNE} --dir {mount}/fleet"
    done = in_namespace(
        f"""
        mount -t tmpfs -o size=160k none {mount}
        {cli} send --to inbox First >/dev/null
        dd if=/dev/zero of={mount}/filler bs=4k 2>/dev/null || true
        {cli} send --to inbox Second && exit 90 || test $? = 6
        {cli} list
        {cli} receive --as inbox --json
        """
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert '"message_type":"First"' in done.stdout
    assert "no space left" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_read_only_file_system_can_be_looked_at(tmp_path: Path) -> None:
    """C11."""
    mount = tmp_path / "frozen"
    mount.mkdir()
    cli = f"{support.MNEMOSYNE} --dir {mount}/fleet"
    done = in_namespace(
        f"""
        mount -t tmpfs none {mount}
        {cli} send --to inbox First >/dev/null
        mount -o remount,ro {mount}
        {cli} list
        {cli} receive --as inbox --peek --json
        {cli} doctor
        {cli} send --to inbox Second && exit 90 || test $? = 6
        """
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert '"message_type":"First"' in done.stdout
    assert "read-only" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("limit", ["instances", "watches"])
def test_without_inotify_the_poll_delivers(limit: str, state_dir: Path) -> None:
    """Q26."""
    script = f"""
        echo 0 > /proc/sys/user/max_inotify_{limit}
        {support.MNEMOSYNE} --dir {state_dir} serve --name inbox --poll-interval 0.2 2>{state_dir.parent}/log &
        until grep -q 'is in the fleet' {state_dir.parent}/log; do sleep 0.05; done
        {support.MNEMOSYNE} --dir {state_dir} send --to inbox Polled
        for i in $(seq 100); do grep -q 'Message Polled' {state_dir.parent}/log && break; sleep 0.05; done
        kill %1; wait
    """
    done = subprocess.run(["unshare", "-Ur", "bash", "-c", script], capture_output=True, text=True, check=False, timeout=60)
    log = (state_dir.parent / "log").read_text()
    assert "Message Polled" in log, done.stderr
    assert log.count("polling instead") == 1, log


def test_scarce_descriptors_cost_no_message(state_dir: Path, tmp_path: Path) -> None:
    """Q30."""
    code = """
    import os, resource, sys
    from mnemo_coord import Coordinator
    with Coordinator(sys.argv[1], name="inbox") as me:
        for number in range(20):
            me.send("inbox", "T", number)
        me.receive().close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))
        fillers = []
        try:
            while True:
                fillers.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            pass
        got = [delivery.message.payload for delivery in me.receive()]
        for filler in fillers:
            os.close(filler)
        after = []
        for delivery in me.receive(timeout=5):
            with delivery as message:
                after.append(message.payload)
        print("got", got, "after", after, flush=True)
    """
    with support.python(code, tmp_path, state_dir) as child:
        assert child.wait() == 0, child.log
        assert f"got [] after {list(range(20))}" in child.printed
    assert refused(state_dir) == {}


def test_unreadable_files_do_not_keep_the_rest(tmp_path: Path) -> None:
    """Q24, as an ordinary user: root may read everything."""
    if os.geteuid() != 0:
        pytest.skip("needs root to become another user")
    home = Path("/tmp") / f"mnemo-{os.getpid()}-{threading.get_native_id()}"
    home.mkdir()
    try:
        os.chown(home, 65534, 65534)
        code = f"""
import os
from pathlib import Path
from mnemo_coord import Coordinator, Settings
with Coordinator({str(home)!r} + "/fleet", name="inbox") as me:
    me.send("inbox", "T", 1)
    me.send("inbox", "T", 2)
    new = Path({str(home)!r}, "fleet", "coordination_queue", "{Address("inbox").folder}", "new")
    sorted(new.iterdir())[0].chmod(0)
    print([delivery.message.payload for delivery in me.receive()])
"""
        argv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c", code]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60, cwd="/")
        assert done.stdout.strip() == "[2]", done.stderr
        assert "cannot be read" in next(iter(refused(home / "fleet").values()))
    finally:
        shutil.rmtree(home)


def test_a_sender_outruns_its_receiver_and_nothing_is_lost(state_dir: Path) -> None:
    """A burst rings once; whoever was rung finds all of it."""
    with Coordinator(state_dir, name="inbox", settings=Settings(poll_interval=30)) as me:
        got: list[int] = []
        me.on_message(lambda message: got.append(message.payload))
        with Fleet.open(state_dir) as fleet:
            for number in range(3000):
                fleet.send("inbox", "T", number, sender=SENDER)
        support.wait_until(lambda: len(got) == 3000, 10, "all of them, without the poll")
        assert got == list(range(3000))


def test_control_characters_of_a_payload_never_reach_the_terminal(state_dir: Path) -> None:
    """Q37."""
    nasty = "\x1b]52;c;ZXZpbA==\x07\r\u202etxt\u200b\x9b2J\x7f"
    with Fleet.open(state_dir) as fleet, support.Serve(state_dir, "-v", "--name", "shown") as served:
        fleet.send("shown", "T", {"n": nasty}, sender=SENDER)
        served.wait_for("Message T")
        served.wait_for("with payload")
        fleet.send("inbox", "T", {"n": nasty}, sender=SENDER)
        for as_json in ([], ["--json"]):
            shown = support.run("--dir", state_dir, "receive", "--as", "inbox", "--peek", *as_json).stdout
            assert not set(nasty) & set(shown) - set("tx52;c;ZXZpbA==]2J")
        assert not set(nasty) & set(served.log) - set("tx52;c;ZXZpbA==]2J\n")
