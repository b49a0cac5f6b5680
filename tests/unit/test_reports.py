"""What instances say of themselves is stored whole, checked, told once, and belongs to them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mnemo_coord import errors
from mnemo_coord.disk import records
from mnemo_coord.disk.clock import SystemClock
from mnemo_coord.disk.signing import Purpose, Signer
from mnemo_coord.disk.state_dir import StateDir
from mnemo_coord.events import Broadcaster
from mnemo_coord.members import reports
from mnemo_coord.messages.traffic import Tally, TrafficFile, flows

SIGNER, CLOCK, ME = Signer(b"x" * 32), SystemClock(), "a1b2c3d4"


@pytest.fixture
def state(state_dir: Path) -> Iterator[StateDir]:
    opened = StateDir.open(state_dir)
    yield opened
    opened.close()


def say(state: StateDir, word: str = "idle", text: str = "", who: str = ME) -> reports.AgentReport:
    return reports.write(state, SIGNER, CLOCK, who, word, text)


def test_what_was_said_is_read_back(state: StateDir) -> None:
    said = say(state, "stuck", 'ü"\n\x1b\u202e' + "x" * 150)
    assert reports.read(state, SIGNER, ME) == said
    assert (state.path / "reports" / f"{ME}.state").stat().st_mode & 0o777 == 0o600
    assert reports.read(state, SIGNER, "00000000") is None
    assert say(state, "idle") == reports.read(state, SIGNER, ME)
    assert os.listdir(state.path / "reports") == [f"{ME}.state"]
    reports.remove(state, ME)
    reports.remove(state, ME)
    assert reports.read(state, SIGNER, ME) is None


@pytest.mark.parametrize("word", ["", "Working", "dead", None, 7, "idle "])
def test_a_state_is_one_of_four(word: str, state: StateDir) -> None:
    with pytest.raises(errors.Config):
        say(state, word)


@pytest.mark.parametrize("text", ["x" * 201, None, 7, b"x", "\ud800"])
def test_a_text_is_short_and_text(text: str, state: StateDir) -> None:
    with pytest.raises(errors.Config):
        say(state, "idle", text)
    assert not (state.path / "reports").exists()


def test_what_is_not_ours_is_not_said(state: StateDir) -> None:
    say(state)
    path = state.path / "reports" / f"{ME}.state"
    sealed = path.read_bytes()
    body = records.unseal(sealed, SIGNER, Purpose.REPORT, "x")
    for spoiled in (
        b"", sealed[:-1], sealed.replace(b"idle", b"busy"), records.seal(body, SIGNER, Purpose.RECORD),
        records.seal(body, Signer(b"y" * 32), Purpose.REPORT), records.seal({**body, "instance_id": "e5f6a7b8"}, SIGNER, Purpose.REPORT),
        records.seal({**body, "state": "busy"}, SIGNER, Purpose.REPORT), records.seal({**body, "text": 7}, SIGNER, Purpose.REPORT),
        records.seal({"instance_id": ME}, SIGNER, Purpose.REPORT), sealed + b" " * 4096,
    ):  # fmt: skip
        path.write_bytes(spoiled)
        assert reports.read(state, SIGNER, ME) is None, spoiled
    path.unlink()
    os.mkfifo(path)
    assert reports.read(state, SIGNER, ME) is None


def test_each_is_told_once(state: StateDir) -> None:
    events = Broadcaster(100, lambda: "now")
    hearing = reports.Hearing(state, SIGNER, events)
    said = say(state, "idle", "1")
    hearing.tell(ME, said)
    hearing.hear([f"{ME}.state", f"{ME}.state.7.tmp", "x", "../x.state"])
    hearing.hear_all()
    say(state, "idle", "2", "e5f6a7b8")
    hearing.hear_all()
    hearing.hear_all()
    assert [(event.instance_id, event.data["text"]) for event in events.since()] == [(ME, "1"), ("e5f6a7b8", "2")]
    reports.remove(state, ME)
    hearing.hear_all()
    hearing.tell(ME, said)
    assert events.last_id == 3, "the same words of another life are news"


def test_what_could_not_be_read_is_tried_again(state: StateDir) -> None:
    events = Broadcaster(100, lambda: "now")
    signer = Signer(b"y" * 32)
    hearing = reports.Hearing(state, signer, events)
    say(state, "idle", "1")
    hearing.hear_all()
    assert events.last_id == 0
    signer.adopt(SIGNER.secret, None)
    hearing.hear_all()
    assert [event.data["text"] for event in events.since()] == ["1"]
    say(state, "idle", "2")
    hearing.hear_all()
    assert [event.data["text"] for event in events.since()] == ["1", "2"]


def test_leftovers_are_found_and_a_writer_at_work_is_not(state: StateDir) -> None:
    say(state)
    say(state, who="e5f6a7b8")
    folder = state.path / "reports"
    for name in (f"{ME}.state.{os.getpid()}.tmp", f"{ME}.state.99999999.tmp", "rubbish"):
        (folder / name).touch()
    found = reports.check(state, lambda who: who == ME)
    left = {"e5f6a7b8.state", f"{ME}.state.99999999.tmp", "rubbish"}
    assert {finding.subject for finding in found} == {f"reports/{name}" for name in left}
    assert all(finding.fixed for finding in reports.check(state, lambda who: who == ME, fix=True))
    assert set(os.listdir(folder)) == {f"{ME}.state", f"{ME}.state.{os.getpid()}.tmp"}


# Traffic


def received(state: StateDir) -> dict[str, int]:
    return {flow.from_agent: flow.count for flow in flows(state, SIGNER, CLOCK)}


def test_sums_are_read_by_others(state: StateDir) -> None:
    written = TrafficFile(state, ME)
    written.make()
    assert received(state) == {}
    tally, path = Tally(CLOCK), state.path / "instances" / f"{ME}.traffic"
    assert tally.news(SIGNER, ME) is None, "nothing has come"
    for sender, number in (("ci", 1), ("e5f6a7b8", 3)):
        for _ in range(number):
            tally.count(sender)
    written.write(tally.news(SIGNER, ME) or b"")
    assert received(state) == {"ci": 1, "e5f6a7b8": 3}
    assert all(flow.to_agent == ME and 0 <= flow.age < 10 for flow in flows(state, SIGNER, CLOCK))
    before = path.stat()
    tally.count("ci")
    written.write(tally.news(SIGNER, ME) or b"")
    assert received(state)["ci"] == 2
    assert path.stat().st_ino == before.st_ino, "a full disk has no room for another file"
    path.unlink()
    assert tally.news(SIGNER, ME) is None, "nothing is new"
    tally.count("ci")
    written.write(tally.news(SIGNER, ME) or b"")
    assert received(state)["ci"] == 3, "it comes back with the next message"
    written.remove()
    assert not path.exists()


def test_what_is_no_sum_is_passed_over(state: StateDir) -> None:
    TrafficFile(state, ME).make()
    path = state.path / "instances" / f"{ME}.traffic"
    whole = {"instance_id": ME, "boot_id": CLOCK.boot_id, "received": [["ci", 1, 1]]}
    odd = (
        {**whole, "boot_id": "x"},
        {**whole, "instance_id": "e5f6a7b8"},
        {**whole, "received": 7},
        {**whole, "received": [[1]]},
        {},
    )
    for data in (*(records.seal(body, SIGNER, Purpose.TRAFFIC) for body in odd), b"rubbish", b" " * 9000):
        path.write_bytes(data)
        assert received(state) == {}
    path.write_bytes(records.seal(whole, SIGNER, Purpose.TRAFFIC))
    assert received(state) == {"ci": 1}


def test_one_instance_tells_48_senders_apart_and_all_fit(state: StateDir) -> None:
    tally = Tally(CLOCK)
    for number in range(100):
        tally.count(f"{number:064}")
    written = TrafficFile(state, ME)
    written.write(tally.news(SIGNER, ME) or b"")
    assert list(received(state)) == [f"{number:064}" for number in range(52, 100)]


def test_what_is_told_and_heard_at_once_is_published_once(state: StateDir) -> None:
    """One thread reports and tells, another hears what lies there: nothing old is published after something newer."""
    events = Broadcaster(10, lambda: "now")
    hearing = reports.Hearing(state, SIGNER, events)
    published: list[str] = []
    events.subscribe(lambda event: published.append(event.data["text"]))
    done = threading.Event()

    def listen() -> None:
        while not done.is_set():
            hearing.hear([f"{ME}.state"])
            hearing.hear_all()

    listener = threading.Thread(target=listen)
    listener.start()
    try:
        for number in range(1500):
            hearing.tell(ME, say(state, "idle", str(number)))
    finally:
        done.set()
        listener.join()
    assert sorted(map(int, published)) == list(range(1500))
