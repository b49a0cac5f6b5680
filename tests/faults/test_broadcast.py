"""A broadcast is one file with many names, and nobody notices: what one recipient does with his changes nobody else's."""

from __future__ import annotations

import errno
import os
import signal
import stat
from pathlib import Path
from typing import Any

import pytest
import support

from mnemo_coord import Coordinator, Fleet, Settings
from mnemo_coord.disk.files import CRASH_VARIABLE
from mnemo_coord.messages.acknowledged import Acknowledged

FAST = Settings(heartbeat_interval=0.1, poll_interval=0.1)


@pytest.fixture
def three(state_dir: Path) -> Any:
    members = [Coordinator(state_dir, settings=FAST) for _ in range(3)]
    for member in members:
        member.register()
    yield members
    for member in members:
        member.unregister()


def queue(state_dir: Path) -> Path:
    return state_dir / "coordination_queue"


def files_of(state_dir: Path) -> list[Path]:
    return sorted(queue(state_dir).glob("*/new/*.json"))


def send(state_dir: Path, payload: Any = 1, **options: Any) -> Any:
    with Fleet.open(state_dir, settings=FAST) as fleet:
        return fleet.broadcast("News", payload, sender="tester", **options)


def taken(member: Coordinator) -> list[Any]:
    found = []
    for delivery in member.receive():
        with delivery as message:
            found.append(message.payload)
    return found


@pytest.mark.parametrize("durable", [False, True])
def test_it_is_written_once(durable: bool, three: list[Coordinator], state_dir: Path) -> None:
    assert len(send(state_dir, durable=durable).delivered) == 3
    found = [path.stat() for path in files_of(state_dir)]
    assert len(found) == 3
    assert {(status.st_ino, status.st_nlink) for status in found} == {(found[0].st_ino, 3)}
    assert {stat.S_IMODE(status.st_mode) for status in found} == {0o600}
    assert list((queue(state_dir) / "tmp").iterdir()) == []
    assert [taken(member) for member in three] == [[1], [1], [1]]
    assert files_of(state_dir) == []


def test_what_one_does_changes_nothing_for_the_others(three: list[Coordinator], state_dir: Path) -> None:
    send(state_dir, "news")
    first, second, third = three
    assert taken(first) == ["news"]
    for _ in range(Settings().max_deliveries):  # never acknowledged: it becomes a dead letter of the second
        for delivery in second.receive():
            delivery.give_back()
    dead = [path for path in (queue(state_dir) / "dead_letter").iterdir() if path.suffix == ".json"]
    assert [path.name.partition(".")[0] for path in dead] == [second.instance_id]
    assert taken(third) == ["news"]


def test_a_note_on_a_full_disk_empties_nobody_elses(
    three: list[Coordinator], state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file of whoever cannot note that he handled it becomes the note, and would be emptied were it his alone."""
    first = three[0]
    send(state_dir, "before")
    assert [taken(member) for member in three] == [["before"]] * 3  # its log exists
    send(state_dir, "news")

    def full(log: Acknowledged, message_id: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Acknowledged, "add", full)
        (delivery,) = first.receive()
        delivery.acknowledge()
    assert [taken(member) for member in three] == [[], ["news"], ["news"]]


@pytest.mark.parametrize("error", [errno.EPERM, errno.EMLINK, errno.EXDEV, errno.EOPNOTSUPP, errno.EEXIST, errno.ENOSYS])
def test_where_there_are_no_links_each_gets_a_file(
    error: int, three: list[Coordinator], state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "link", refused)
    assert len(send(state_dir).delivered) == 3
    assert len({path.stat().st_ino for path in files_of(state_dir)}) == 3
    assert [taken(member) for member in three] == [[1], [1], [1]]
    assert list((queue(state_dir) / "tmp").iterdir()) == []


def test_sent_again_under_its_id_it_fills_the_gaps(three: list[Coordinator], state_dir: Path) -> None:
    send(state_dir, message_id="news-1")
    files_of(state_dir)[0].unlink()
    receipt = send(state_dir, message_id="news-1")
    assert len(receipt.delivered) == 3
    assert len(files_of(state_dir)) == 3
    assert [taken(member) for member in three] == [[1], [1], [1]]
    send(state_dir, message_id="news-1")
    assert [taken(member) for member in three] == [[], [], []]


def test_the_full_are_named_and_the_rest_get_it(three: list[Coordinator], state_dir: Path) -> None:
    small = Settings(heartbeat_interval=0.1, poll_interval=0.1, mailbox_limit=1)
    with Fleet.open(state_dir, settings=small) as fleet:
        fleet.send(three[0].instance_id, "Task", 0, sender="tester")
        receipt = fleet.broadcast("News", 1, sender="tester")
    assert [failure.address for failure in receipt.failed] == [three[0].instance_id]
    assert set(receipt.delivered) == {three[1].instance_id, three[2].instance_id}


BROADCAST = """
import sys
from mnemo_coord import Fleet
with Fleet.open(sys.argv[1]) as fleet:
    fleet.broadcast("News", 1, sender="tester")
"""


@pytest.mark.parametrize(
    ("point", "sent"),
    [("message-tmp-created", 0), ("message-tmp-written", 0), ("message-published", 1), ("message-published:2", 2)],
)
def test_a_sender_that_is_killed_leaves_what_the_doctor_removes(
    point: str, sent: int, three: list[Coordinator], state_dir: Path, tmp_path: Path
) -> None:
    with support.python(BROADCAST, tmp_path, state_dir, env={CRASH_VARIABLE: point}) as child:
        assert child.wait() == -signal.SIGKILL
    (left,) = (queue(state_dir) / "tmp").iterdir()
    assert left.name.endswith(".all")
    assert sum(len(taken(member)) for member in three) == sent
    report = support.run("--dir", state_dir, "doctor", "--fix", "--json")
    assert "leftover-message" in report.stdout
    assert list((queue(state_dir) / "tmp").iterdir()) == []


def test_a_second_name_is_for_broadcasts_only(three: list[Coordinator], state_dir: Path, tmp_path: Path) -> None:
    """Q23. A message to one address that has another name somewhere was planted."""
    first = three[0]
    with Fleet.open(state_dir, settings=FAST) as fleet:
        fleet.send(first.instance_id, "Task", "planted", sender="tester")
    (path,) = files_of(state_dir)
    os.link(path, tmp_path / "elsewhere.json")
    assert taken(first) == []
    (reason,) = (queue(state_dir) / "quarantine").glob("*.reason")
    assert "second hard link" in reason.read_text()
    assert (tmp_path / "elsewhere.json").stat().st_size > 0
