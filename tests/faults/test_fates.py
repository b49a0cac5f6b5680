"""A message has a fate, and anybody can see which: queued, claimed, acknowledged, expired, dead-lettered, refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import support
from unit.fake_clock import FakeClock
from unit.kernel import unshare

from mnemo_coord import Coordinator, Fleet, Settings, errors
from mnemo_coord.disk.clock import SystemClock
from mnemo_coord.messages import acknowledged
from mnemo_coord.messages.address import Address
from mnemo_coord.messages.message import Message

FAST = Settings(heartbeat_interval=0.2, poll_interval=0.2)
SENDER = "tester"


@pytest.fixture
def fleet(state_dir: Path) -> Iterator[Fleet]:
    with Fleet.open(state_dir, settings=FAST) as opened:
        yield opened


def fates(fleet: Fleet, message_id: str) -> list[str]:
    return [known.fate for known in fleet.fates.of_message(message_id)]


def take(fleet: Fleet, address: str, claimer: str = "aaaaaaaa") -> list[Message]:
    """Handles everything that waits."""
    taken = []
    for delivery in fleet.queue.receive([Address.parse(address)], claimer):
        with delivery as message:
            taken.append(message)
    return taken


def test_each_fate_is_seen(fleet: Fleet, state_dir: Path) -> None:
    sent = fleet.send("inbox", "Work", {"n": 1}, sender=SENDER).id
    assert fates(fleet, sent) == ["queued"]
    (delivery,) = fleet.queue.receive([Address("inbox")], "aaaaaaaa")
    assert fates(fleet, sent) == ["claimed"]
    delivery.acknowledge()
    assert fates(fleet, sent) == ["acknowledged"]

    poison = fleet.send("inbox", "Poison", 1, sender=SENDER).id
    for number in range(1, FAST.max_deliveries + 1):
        (delivery,) = fleet.queue.receive([Address("inbox")], "aaaaaaaa")
        assert delivery.delivery == number
        delivery.give_back()
    assert fates(fleet, poison) == ["dead-lettered"]
    assert "5 times" in fleet.fates.of_message(poison)[0].reason

    (state_dir / "coordination_queue" / Address("inbox").folder / "new" / "x.json").write_bytes(b"{")
    assert take(fleet, "inbox") == []
    (refused,) = [known for known in fleet.fates.set_aside() if known.fate == "refused"]
    assert "not JSON" in refused.reason
    assert refused.message is None


# A time to live


def test_what_has_expired_is_not_handed_out(state_dir: Path) -> None:
    """Q15."""
    clock = FakeClock()
    with Fleet.open(state_dir, settings=FAST, clock=clock) as fleet:
        short = fleet.send("inbox", "Short", 1, sender=SENDER, ttl=10).id
        long = fleet.send("inbox", "Long", 1, sender=SENDER, ttl=100).id
        clock.advance(0, wall=3600.0 * 24 * 3650)
        assert fates(fleet, short) == ["queued"], "the wall clock expires nothing"
        clock.advance(0, wall=-2 * 3600.0 * 24 * 3650)
        clock.advance(9.9)
        assert fates(fleet, short) == ["queued"]
        clock.advance(0.2)
        assert fates(fleet, short) == ["expired"]
        assert [depth.expired for depth in fleet.fates.depths()] == [1]
        assert [message.id for message in take(fleet, "inbox")] == [long]
        assert fates(fleet, short) == ["dead-lettered"]
        assert "expired" in fleet.fates.of_message(short)[0].reason


def test_another_boot_ends_it(state_dir: Path) -> None:
    before, after = FakeClock("one"), FakeClock("another")
    with Fleet.open(state_dir, clock=before) as fleet:
        sent = fleet.send("inbox", "Short", 1, sender=SENDER, ttl=1e6).id
        kept = fleet.send("inbox", "Long", 1, sender=SENDER).id
    with Fleet.open(state_dir, clock=after) as fleet:
        assert [message.id for message in take(fleet, "inbox")] == [kept]
        assert fates(fleet, sent) == ["dead-lettered"]


def test_hours_of_sleep_count(state_dir: Path) -> None:
    """The clock that expires messages goes on through suspend."""
    with Fleet.open(state_dir) as fleet:
        sent = fleet.send("inbox", "Short", 1, sender=SENDER, ttl=3600)
        assert fates(fleet, sent.id) == ["queued"]
    asleep = unshare("-UrT", "--boottime", "7200", "--fork")
    shown = support.run("--dir", state_dir, "queue", "show", sent.id, "--json", prefix=asleep).json
    assert [known["fate"] for known in shown] == ["expired"]


def test_the_doctor_sees_to_what_nobody_receives(state_dir: Path) -> None:
    assert support.run("--dir", state_dir, "send", "--to", "inbox", "Short", "--ttl", "0.05").returncode == 0
    support.wait_until(lambda: support.run("--dir", state_dir, "queue", "--json").json["mailboxes"][0]["expired"])
    found = support.run("--dir", state_dir, "doctor", "--json")
    assert [finding["code"] for finding in found.json["findings"]] == ["messages-expired"]
    assert support.run("--dir", state_dir, "doctor", "--fix").returncode == 0
    assert support.run("--dir", state_dir, "queue", "--json").json["dead_lettered"] == 1


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf"), True, "1", 1e300])
def test_odd_times_to_live_are_refused(ttl: Any, fleet: Fleet) -> None:
    with pytest.raises(errors.Config, match="time to live"):
        fleet.send("inbox", "T", 1, sender=SENDER, ttl=ttl)


# The same message again


def test_the_same_id_is_one_message(fleet: Fleet) -> None:
    """Q11, I5: before it is taken, while it is handled, after it was acknowledged."""

    def again() -> bool:
        return fleet.send("inbox", "Pay", {"amount": 5}, sender=SENDER, message_id="payment-7").duplicate

    assert not again()
    assert again()
    (delivery,) = fleet.queue.receive([Address("inbox")], "aaaaaaaa")
    assert again()
    delivery.give_back()
    assert again(), "as its second delivery"
    assert [message.id for message in take(fleet, "inbox")] == ["payment-7"]
    assert again()
    assert take(fleet, "inbox") == []
    assert not fleet.send("inbox", "Pay", 1, sender=SENDER, message_id="7").duplicate, "an id that ends as the other does"


def test_another_message_with_the_same_id_is_refused(fleet: Fleet) -> None:
    fleet.send("inbox", "Pay", {"amount": 5}, sender=SENDER, message_id="payment-7")
    with pytest.raises(errors.Conflict, match="payment-7"):
        fleet.send("inbox", "Pay", {"amount": 6}, sender=SENDER, message_id="payment-7")
    assert not fleet.send("other", "Pay", {"amount": 6}, sender=SENDER, message_id="payment-7").duplicate


def test_a_message_sent_by_many_at_once_is_one(state_dir: Path, tmp_path: Path) -> None:
    code = """
        import sys
        from mnemo_coord import Fleet
        with Fleet.open(sys.argv[1]) as fleet:
            for number in range(20):
                fleet.send("inbox", "Work", number, sender="tester", message_id=f"job-{number}")
    """
    senders = [support.python(code, tmp_path / "senders", state_dir) for _ in range(4)]
    assert [sender.wait() for sender in senders] == [0] * 4
    with Fleet.open(state_dir) as fleet:
        assert Counter(message.id for message in take(fleet, "inbox")) == Counter(f"job-{n}" for n in range(20))


def test_a_copy_put_back_by_hand_is_dropped(fleet: Fleet, state_dir: Path) -> None:
    """S6: what was handled once is not handled again, however its file comes back."""
    fleet.send("inbox", "Work", 1, sender=SENDER)
    new = state_dir / "coordination_queue" / Address("inbox").folder / "new"
    (file,) = new.iterdir()
    copy = file.read_bytes()
    assert len(take(fleet, "inbox")) == 1
    for name in (file.name, "other.json"):
        (new / name).write_bytes(copy)
        assert take(fleet, "inbox") == []
        assert list(new.iterdir()) == []


def test_two_copies_at_once_are_handled_once(fleet: Fleet, state_dir: Path) -> None:
    fleet.send("inbox", "Work", 1, sender=SENDER)
    new = state_dir / "coordination_queue" / Address("inbox").folder / "new"
    (file,) = new.iterdir()
    (new / f"z{file.name}").write_bytes(file.read_bytes())
    first, *more = fleet.queue.receive([Address("inbox")], "aaaaaaaa")
    assert more == []
    first.acknowledge()
    assert take(fleet, "inbox") == []


def test_the_window_of_acknowledged_ids_is_bounded(fleet: Fleet, state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acknowledged, "WINDOW", 2_000)
    ids = [fleet.send("inbox", "Work", n, sender=SENDER).id for n in range(300)]
    assert len(take(fleet, "inbox")) == 300
    box = state_dir / "coordination_queue" / Address("inbox").folder
    assert not (box / acknowledged.NAME).exists() or (box / acknowledged.NAME).stat().st_size <= 2_100
    assert (box / acknowledged.OLDER).stat().st_size <= 2_100
    with Fleet.open(state_dir) as fresh:
        mailbox = fresh.mailboxes.open(Address("inbox"))
        remembered = [message_id for message_id in ids if mailbox.was_acknowledged(message_id)]
        assert remembered == ids[-len(remembered) :]
        assert 60 <= len(remembered) <= 160


def test_what_was_noted_is_seen_while_the_log_is_turned_over(state_dir: Path, tmp_path: Path) -> None:
    """I5. Several receivers note and turn over; whoever looks right after a note finds it."""
    code = """
        import os, sys
        from mnemo_coord.messages import acknowledged
        acknowledged.WINDOW = 200_000  # large beside what others write while one of us does not get to run
        folder = os.open(sys.argv[1], os.O_RDONLY)
        writer, reader = acknowledged.Acknowledged(folder), acknowledged.Acknowledged(folder)
        missed = 0
        for number in range(30_000):
            writer.add(f"{sys.argv[2]}-{number}")
            missed += f"{sys.argv[2]}-{number}" not in reader
        print("missed", missed, len(os.listdir("/proc/self/fd")), flush=True)
    """
    state_dir.mkdir()
    receivers = [support.python(code, tmp_path / "out", state_dir, name) for name in "abc"]
    assert [receiver.wait() for receiver in receivers] == [0, 0, 0], receivers[0].log
    for receiver in receivers:
        _, missed, descriptors = receiver.printed.split()
        assert int(missed) == 0
        assert int(descriptors) < 16, "none leaks"


def test_a_torn_line_of_the_log_spoils_no_other(fleet: Fleet, state_dir: Path) -> None:
    (box, sent) = (state_dir / "coordination_queue" / Address("inbox").folder, fleet.send("inbox", "W", 1, sender=SENDER).id)
    (box / acknowledged.NAME).write_bytes(b"\n0000torn")
    assert len(take(fleet, "inbox")) == 1
    with Fleet.open(state_dir) as fresh:
        assert fresh.mailboxes.open(Address("inbox")).was_acknowledged(sent)


def test_a_broadcast_again_fills_the_gaps(state_dir: Path) -> None:
    """I7."""
    with Coordinator(state_dir, settings=FAST) as me, Coordinator(state_dir, settings=FAST) as early:
        first = me.broadcast("News", 1, message_id="news-1")
        assert first.delivered == (early.instance_id,)
        with Coordinator(state_dir, settings=FAST) as late:
            assert set(me.broadcast("News", 1, message_id="news-1").delivered) == {early.instance_id, late.instance_id}
            for one in (early, late):
                assert [delivery.message.id for delivery in one.receive(timeout=5)] == ["news-1"]


@pytest.mark.parametrize("taken", [False, True], ids=["waiting", "taken meanwhile"])
def test_a_folder_that_cannot_be_synced(taken: bool, fleet: Fleet, monkeypatch: pytest.MonkeyPatch, state_dir: Path) -> None:
    """I3, Q38: it is not there; or its outcome is unknown, and sending it again under its id is safe."""
    address, real = Address("inbox"), os.fsync
    fleet.send("inbox", "First", 0, sender=SENDER)
    assert len(take(fleet, "inbox")) == 1

    def failing(fd: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            if taken:
                assert len(take(fleet, "inbox")) == 1
            raise OSError(5, "Input/output error")
        real(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(errors.State) as caught:
            fleet.send("inbox", "Work", 1, sender=SENDER, durable=True)
    assert isinstance(caught.value, errors.Unknown) is taken
    assert [file for file in os.listdir(state_dir / "coordination_queue" / address.folder / "new") if file] == []
    if taken:
        assert fleet.send("inbox", "Work", 1, sender=SENDER, message_id=caught.value.id).duplicate


# Order


def test_a_folder_read_while_it_is_written_shows_no_later_message_without_the_earlier(state_dir: Path, tmp_path: Path) -> None:
    """I6. Plain listing fails this on ext4 in one of ten looks at a folder that grows."""
    code = """
        import sys
        from mnemo_coord import Fleet, Settings
        with Fleet.open(sys.argv[1], settings=Settings(mailbox_limit=100_000)) as fleet:
            for number in range(4_000):
                fleet.send("inbox", "Work", number, sender="tester")
    """
    with Fleet.open(state_dir) as fleet, support.python(code, tmp_path / "sender", state_dir) as sender:
        mailbox = fleet.mailboxes.open(Address("inbox"))
        longest: list[str] = []
        looks = 0
        while sender.process.poll() is None:
            seen = mailbox.waiting()
            assert longest == seen[: len(longest)], "something older turned up behind"
            longest, looks = seen, looks + 1
        assert sender.wait() == 0
        assert len(mailbox.waiting()) == 4_000
        assert looks > 20


# Answers


def answering(state_dir: Path, tmp_path: Path, how: str) -> support.Child:
    code = """
        import os, sys
        from mnemo_coord import Coordinator
        with Coordinator(sys.argv[1], name="oracle", roles=["oracle"]) as me:
            print("id", me.instance_id, flush=True)
            for delivery in me.receive(timeout=60):
                with delivery as question:
                    if sys.argv[2] == "dies":
                        os.kill(os.getpid(), 9)
                    if sys.argv[2] == "answers":
                        me.send(question.from_agent, "Noise", 0)
                        me.reply(question, "Answer", question.payload * 2)
    """
    child = support.python(code, tmp_path / "oracle", state_dir, how)
    child.wait_for("id ")
    return child


@pytest.mark.parametrize("address", ["oracle", "@oracle", "its id"])
def test_a_request_returns_its_answer(address: str, state_dir: Path, tmp_path: Path) -> None:
    with Coordinator(state_dir, settings=FAST) as me, answering(state_dir, tmp_path, "answers") as oracle:
        to = oracle.printed.split()[1] if address == "its id" else address
        answer = me.request(to, "Question", 21, timeout=10)
        assert (answer.message_type, answer.payload) == ("Answer", 42)
        assert answer.reply_to
        (noise,) = me.receive(timeout=5)
        assert noise.message.message_type == "Noise", "what else came meanwhile waits for its turn"


def test_an_answer_reaches_its_request_past_a_receiver(state_dir: Path) -> None:
    """Another thread of the same instance that receives everything does not get what a request waits for."""
    got: list[Message] = []
    with Coordinator(state_dir, settings=FAST) as me, Coordinator(state_dir, name="oracle", settings=FAST) as oracle:
        me.on_message(got.append)
        oracle.on_message(lambda message: oracle.reply(message, "Answer", message.payload + 1) and None)
        answers = [me.request("oracle", "Question", n, timeout=10).payload for n in range(30)]
        assert answers == list(range(1, 31))
        assert got == []


def test_many_requests_at_once(state_dir: Path) -> None:
    with Coordinator(state_dir, settings=FAST) as me, Coordinator(state_dir, name="oracle", settings=FAST) as oracle:
        oracle.on_message(lambda message: oracle.reply(message, "Answer", message.payload) and None)
        answers: dict[int, Any] = {}

        def ask(number: int) -> None:
            answers[number] = me.request("oracle", "Question", number, timeout=20).payload

        threads = [threading.Thread(target=ask, args=[number]) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert answers == {number: number for number in range(8)}


def test_no_answer_in_time(state_dir: Path) -> None:
    with Coordinator(state_dir, settings=FAST) as me:
        begun = time.monotonic()
        with pytest.raises(errors.TimedOut) as caught:
            me.request("nobody", "Question", timeout=0.3)
        assert 0.25 < time.monotonic() - begun < 5
        support.wait_until(lambda: fates(me.fleet, caught.value.id) == ["expired"], what="nobody works on it later")
        with pytest.raises(errors.UnknownAddress):
            me.request("00000000", "Question", timeout=5)
        late = me.send(me.instance_id, "Answer", 1, reply_to=caught.value.id)
        assert [delivery.message.id for delivery in me.receive(timeout=5)] == [late.id], "too late: a message like any other"


def test_who_dies_over_a_question_does_not_keep_anybody_waiting(state_dir: Path, tmp_path: Path) -> None:
    with Coordinator(state_dir, settings=FAST) as me, answering(state_dir, tmp_path, "dies") as oracle:
        begun = time.monotonic()
        with pytest.raises(errors.UnknownAddress, match="ended before it answered"):
            me.request(oracle.printed.split()[1], "Question", 1, timeout=60)
        assert time.monotonic() - begun < 10


# Work sharing

WORKER = """
    import sys
    from mnemo_coord import Coordinator, Settings
    log = open(sys.argv[2], "a", buffering=1)
    with Coordinator(sys.argv[1], roles=["worker"], settings=Settings(max_deliveries=50)) as me:
        print("works", flush=True)
        while True:
            for delivery in me.receive(timeout=60):
                with delivery as message:
                    log.write(f"{message.payload} {delivery.delivery}\\n")
"""


def test_every_message_of_a_shared_mailbox_is_handled_under_random_kills(state_dir: Path, tmp_path: Path) -> None:
    """1,000 messages, 8 workers, kill -9 again and again: every message handled, and what came twice is marked."""
    import random

    log, count, settings = tmp_path / "handled", 1_000, Settings(heartbeat_interval=0.2, poll_interval=0.2)

    def worker() -> support.Child:
        return support.python(WORKER, tmp_path / "workers", state_dir, log)

    def handled() -> list[tuple[int, int]]:
        return [(int(n), int(d)) for n, d in (line.split() for line in log.read_text().splitlines())]

    with Coordinator(state_dir, settings=settings) as me:
        workers = [worker() for _ in range(8)]
        log.touch()
        for child in workers:
            child.wait_for("works")
        kills = 0
        for number in range(count):
            me.send("@worker", "Work", number)
            if number % 60 == 30:
                victim = random.randrange(8)
                workers[victim].kill()
                workers[victim] = worker()
                kills += 1
        support.wait_until(lambda: {n for n, _ in handled()} == set(range(count)), 60, "every message is handled")
        support.wait_until(lambda: [d.waiting + d.claimed for d in me.fleet.fates.depths() if d.address == "@worker"] == [0])
        for child in workers:
            child.kill()
        seen: dict[int, list[int]] = {}
        for number, delivery in handled():
            seen.setdefault(number, []).append(delivery)
        assert all(len(set(deliveries)) == len(deliveries) for deliveries in seen.values()), "a later delivery is marked as one"
        assert kills > 10
        assert [known for known in me.fleet.fates.set_aside() if known.address == "@worker"] == []


def test_a_dead_receivers_message_goes_on_within_a_second(state_dir: Path, tmp_path: Path) -> None:
    code = """
        import signal, sys
        from mnemo_coord import Coordinator
        with Coordinator(sys.argv[1], roles=["worker"]) as me:
            print("works", flush=True)
            for delivery in me.receive(timeout=60):
                print("got", delivery.message.payload, flush=True)
                signal.pause()
    """
    with support.python(code, tmp_path / "worker", state_dir) as worker:
        worker.wait_for("works")
        with Coordinator(state_dir) as me:
            me.send("@worker", "Work", 1)
            worker.wait_for("got 1")
            with Coordinator(state_dir, roles=["worker"]) as other:
                assert list(other.receive(timeout=1.0)) == [], "a long handler keeps what it has"
                worker.kill()
                begun = time.monotonic()
                (delivery,) = other.receive(timeout=10)
                assert time.monotonic() - begun < 1.0
                assert (delivery.message.payload, delivery.delivery) == (1, 2)
                delivery.acknowledge()


def test_receivers_without_any_instance_take_over_from_each_other(state_dir: Path, tmp_path: Path) -> None:
    """Shell scripts that `receive` need nobody who reaps: the next one recovers what a dead one had."""
    assert support.run("--dir", state_dir, "send", "--to", "@worker", "Work", "1").returncode == 0
    code = """
        import signal, sys
        from mnemo_coord import Fleet
        from mnemo_coord.members.identity import draw
        from mnemo_coord.messages.address import Address
        with Fleet.open(sys.argv[1]) as fleet:
            me, lock = draw(fleet.state)
            for delivery in fleet.queue.receive([Address("@worker")], me):
                print("got", flush=True)
                signal.pause()
    """
    with support.python(code, tmp_path / "visitor", state_dir) as visitor:
        visitor.wait_for("got")
        taker = subprocess.Popen(
            [support.MNEMOSYNE, "--dir", state_dir, "receive", "--as", "@worker", "--json", "--timeout", "20"],
            stdout=subprocess.PIPE,
        )
        visitor.kill()
        out, _ = taker.communicate(timeout=20)
    assert (json.loads(out)["payload"], json.loads(out)["delivery"]) == (1, 2)


# The command


def test_set_aside_messages_are_shown_put_back_and_dropped(state_dir: Path) -> None:
    def mnemosyne(*args: str) -> support.Cli:
        return support.run("--dir", state_dir, "queue", *args)

    assert mnemosyne("--json").json == {"mailboxes": [], "dead_lettered": 0, "refused": 0}
    assert not state_dir.exists(), "looking makes nothing"
    assert mnemosyne("drop", "x").returncode == 3
    with Fleet.open(state_dir) as fleet:
        lost = [fleet.send("inbox", "Lost", n, sender=SENDER).id for n in range(3)]
        for _ in range(FAST.max_deliveries):
            for delivery in list(fleet.queue.receive([Address("inbox")], "aaaaaaaa")):
                delivery.give_back()
    shown = mnemosyne("show", "--json").json
    assert [(known["id"], known["fate"], known["delivery"]) for known in shown] == [(i, "dead-lettered", 5) for i in lost]
    assert "handed out 5 times" in mnemosyne("show").stdout
    assert mnemosyne("requeue", lost[0]).returncode == 0
    assert mnemosyne("requeue", lost[1], "--to", "elsewhere", "--json").json[0]["address"] == "elsewhere"
    assert mnemosyne("drop", lost[2]).returncode == 1
    assert mnemosyne("show", lost[2], "--json").json[0]["fate"] == "dead-lettered", "without --yes nothing is dropped"
    assert mnemosyne("drop", lost[2], "--yes").returncode == 0
    assert mnemosyne("show", lost[2]).returncode == 3
    assert list((state_dir / "coordination_queue" / "dead_letter").iterdir()) == []
    for address, message_id in (("inbox", lost[0]), ("elsewhere", lost[1])):
        got = support.run("--dir", state_dir, "receive", "--as", address, "--json")
        assert (got.json["id"], got.json["delivery"]) == (message_id, 1)
        assert mnemosyne("show", message_id, "--json").json[0]["fate"] == "acknowledged"
    assert mnemosyne("requeue").returncode == 2
    assert mnemosyne("requeue", "--all").returncode == 0


def test_what_is_no_message_is_not_put_back(state_dir: Path, tmp_path: Path) -> None:
    with Fleet.open(state_dir) as fleet:
        fleet.send("inbox", "T", 1, sender=SENDER)
        assert len(take(fleet, "inbox")) == 1
        new = state_dir / "coordination_queue" / Address("inbox").folder / "new"
        (new / "bad.json").write_bytes(b'{"id":"x"}')
        os.mkfifo(new / "pipe.json")
        (tmp_path / "precious").write_text("mine")
        (new / "link.json").symlink_to(tmp_path / "precious")
        assert take(fleet, "inbox") == []
    shown = support.run("--dir", state_dir, "queue", "show", "--json", timeout=5).json
    assert [(known["fate"], known["message"]) for known in shown] == [("refused", None)] * 3
    done = support.run("--dir", state_dir, "queue", "requeue", "--all", "--json")
    assert done.returncode == 1
    assert {outcome["outcome"] for outcome in done.json} == {"failed"}
    assert support.run("--dir", state_dir, "queue", "drop", "--all", "--yes", timeout=5).returncode == 0
    assert (tmp_path / "precious").read_text() == "mine"


def test_what_a_dead_instance_was_sent_can_be_given_to_another(state_dir: Path) -> None:
    with Coordinator(state_dir, settings=FAST) as me:
        with support.Serve(state_dir) as peer:
            peer.send_signal(signal.SIGSTOP)
            support.wait_until(lambda: support.status_of(state_dir, peer.instance_id) == "paused")
            sent = me.send(peer.instance_id, "Work", 7).id
            peer.kill()
        support.wait_until(lambda: fates(me.fleet, sent) == ["dead-lettered"])
        alone = support.run("--dir", state_dir, "queue", "requeue", sent)
        assert alone.returncode == 1
        assert "no live instance" in alone.stderr
        assert support.run("--dir", state_dir, "queue", "requeue", sent, "--to", me.instance_id).returncode == 0
        (delivery,) = me.receive(timeout=5)
        assert (delivery.message.id, delivery.message.payload) == (sent, 7)


def test_sending_from_a_shell_can_be_repeated(state_dir: Path) -> None:
    first, second = (
        support.run("--dir", state_dir, "send", "--to", "inbox", "Work", "1", "--id", "job-1", "--json").json for _ in range(2)
    )
    assert (first["duplicate"], second["duplicate"]) == (False, True)
    got = support.run("--dir", state_dir, "receive", "--as", "inbox", "--json")
    assert [json.loads(line)["id"] for line in got.stdout.splitlines()] == ["job-1"]
    reply = support.run("--dir", state_dir, "send", "--to", "cli", "Done", "--reply-to", "job-1", "--json")
    assert support.run("--dir", state_dir, "receive", "--as", "cli", "--json").json["reply_to"] == "job-1"
    assert reply.returncode == 0


def test_a_message_from_the_future_is_remarked(state_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Q16."""
    ahead = FakeClock(SystemClock().boot_id, wall=time.time() + 3600)
    with Fleet.open(state_dir, clock=ahead) as fleet:
        fleet.send("inbox", "T", 1, sender=SENDER)
    with Fleet.open(state_dir) as fleet:
        assert len(take(fleet, "inbox")) == 1
    assert "in the future" in caplog.text


def test_a_new_key_loses_no_message_on_its_way(state_dir: Path) -> None:
    """F9. What was signed with the old key is accepted for a while by those who knew it; nobody counts as dead."""
    with (
        Coordinator(state_dir, name="old", settings=FAST) as old,
        Coordinator(state_dir, name="late", settings=Settings(heartbeat_interval=60, poll_interval=0.2)) as late,
    ):
        (state_dir / "secret").write_text("0123456789abcdef" * 4 + "\n")
        before = old.fleet.signer.key_id
        support.wait_until(lambda: old.fleet.signer.key_id != before)
        late.send("old", "OldKey", 1)  # it has not noticed yet
        (delivery,) = old.receive(timeout=5)
        with delivery as message:
            assert message.message_type == "OldKey"
        assert {instance.status for instance in old.instances()} == {"alive"}
        assert old.cleanup_stale() == []
        late.heartbeat()
        old.send("late", "NewKey", 2)
        (delivery,) = late.receive(timeout=5)
        delivery.acknowledge()


@pytest.mark.parametrize("message_id", [None, "job-7"])
def test_a_note_that_does_not_fit_is_made_once_there_is_room(
    message_id: str | None, fleet: Fleet, monkeypatch: pytest.MonkeyPatch, state_dir: Path
) -> None:
    """Q29, I5. On a full disk the emptied message is its own note."""

    def again() -> bool:
        return fleet.send("inbox", "Work", 1, sender=SENDER, message_id=sent).duplicate

    def full(log: acknowledged.Acknowledged, noted: str) -> None:
        raise OSError(28, "No space left on device")

    fleet.send("inbox", "Before", 0, sender=SENDER)
    assert len(take(fleet, "inbox")) == 1
    sent = fleet.send("inbox", "Work", 1, sender=SENDER, message_id=message_id).id
    with monkeypatch.context() as patch:
        patch.setattr(acknowledged.Acknowledged, "add", full)
        assert [message.id for message in take(fleet, "inbox")] == [sent]
        fleet.queue.recover([Address("inbox")], "aaaaaaaa", lambda _: True)
        assert again()
        claimed = state_dir / "coordination_queue" / Address("inbox").folder / "claimed"
        assert [path.stat().st_size for path in claimed.iterdir()] == [0], "it takes no room"
    fleet.queue.recover([Address("inbox")], "aaaaaaaa", lambda _: True)
    assert list(claimed.iterdir()) == []
    assert again()
    assert take(fleet, "inbox") == []
    assert fates(fleet, sent) == ["acknowledged"]
