"""Every named crash point: the process is killed there, and what it leaves is harmless, mended, and loses nothing."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import support

from mnemo_coord import Coordinator, Settings
from mnemo_coord.disk.files import CRASH_VARIABLE, CrashPoint

REGISTER = """
import sys
from mnemo_coord import Coordinator
with Coordinator(sys.argv[1], name="crasher") as me:
    print("registered", flush=True)
"""

SEND = """
import sys
from mnemo_coord import Fleet
with Fleet.open(sys.argv[1]) as fleet:
    receipt = fleet.send("inbox", "Work", {"n": 1}, sender="tester")
    print("accepted", receipt.id, flush=True)
"""

RECEIVE = """
import sys
from mnemo_coord import Coordinator
with Coordinator(sys.argv[1], name="inbox") as me:
    for delivery in me.receive(timeout=5):
        with delivery as message:
            print("got", message.id, flush=True)
        print("acknowledged", message.id, flush=True)
"""

CLAIM = """
import sys
from mnemo_coord import Coordinator
with Coordinator(sys.argv[1]) as me:
    with me.claim("lamp") as claim:
        print("epoch", claim.epoch, flush=True)
"""

REAP = """
import sys
from mnemo_coord import Fleet
with Fleet.open(sys.argv[1]) as fleet:
    print("reaped", fleet.cleanup_stale(), flush=True)
"""

SCENARIO = {
    CrashPoint.LIFE_LOCK_CREATED: REGISTER,
    CrashPoint.LIFE_LOCK_TAKEN: REGISTER,
    CrashPoint.RECORD_WRITTEN: REGISTER,
    CrashPoint.FIRST_BEAT_WRITTEN: REGISTER,
    CrashPoint.REGISTRY_LOCKED: REGISTER,
    CrashPoint.REGISTRY_TMP_CREATED: REGISTER,
    CrashPoint.REGISTRY_TMP_WRITTEN: REGISTER,
    CrashPoint.REGISTRY_REPLACED: REGISTER,
    CrashPoint.MAILBOX_MADE: REGISTER,
    CrashPoint.LEAVE_RECORD_REMOVED: REGISTER,
    CrashPoint.LEAVE_MAILBOX_REMOVED: REGISTER,
    CrashPoint.MESSAGE_TMP_CREATED: SEND,
    CrashPoint.MESSAGE_TMP_WRITTEN: SEND,
    CrashPoint.MESSAGE_PUBLISHED: SEND,
    CrashPoint.MESSAGE_CLAIMED: RECEIVE,
    CrashPoint.MESSAGE_HANDLED: RECEIVE,
    CrashPoint.MESSAGE_ACK_NOTED: RECEIVE,
    CrashPoint.MESSAGE_ACKNOWLEDGED: RECEIVE,
    CrashPoint.CLAIM_LOCKED: CLAIM,
    CrashPoint.CLAIM_EPOCH_RAISED: CLAIM,
    CrashPoint.CLAIM_RECORDED: CLAIM,
    CrashPoint.REAP_LOCKED: REAP,
    CrashPoint.REAP_MESSAGES_RETURNED: REAP,
    CrashPoint.REAP_RECORD_REMOVED: REAP,
}

KEPT_BY_POINT = {
    # Whether a message that was waiting before the crash is still to be had after it.
    CrashPoint.MESSAGE_CLAIMED: True,
    CrashPoint.MESSAGE_HANDLED: True,
    CrashPoint.MESSAGE_ACK_NOTED: False,
    CrashPoint.MESSAGE_ACKNOWLEDGED: False,
}


def messages(state_dir: Path) -> list[dict[str, object]]:
    """What waits for the name ``inbox`` now, taken."""
    done = support.run("--dir", state_dir, "receive", "--as", "inbox", "--json")
    return [json.loads(line) for line in done.stdout.splitlines() if '"error"' not in line]


def prepare(state_dir: Path, scenario: str, tmp_path: Path) -> set[str]:
    """Makes what the scenario needs; returns the ids of accepted messages."""
    if scenario is RECEIVE:
        sent = support.run("--dir", state_dir, "send", "--to", "inbox", "Work", '{"n":0}', "--json")
        return {sent.json["id"]}
    if scenario is REAP:
        with support.Serve(state_dir, "--name", "victim", "--role", "worker") as victim:
            victim.kill()
    return set()


@pytest.mark.parametrize("point", list(CrashPoint))
def test_a_crash_leaves_nothing_that_harms(point: CrashPoint, state_dir: Path, tmp_path: Path) -> None:
    accepted = prepare(state_dir, SCENARIO[point], tmp_path)
    with support.python(SCENARIO[point], tmp_path / "crash", state_dir, env={CRASH_VARIABLE: point}) as child:
        assert child.wait() == -signal.SIGKILL, child.log
        handled = {line.split()[1] for line in child.printed.splitlines() if line.startswith("got")}
        accepted |= {line.split()[1] for line in child.printed.splitlines() if line.startswith("accepted")}

    fixed = support.run("--dir", state_dir, "doctor", "--fix", "--json")
    assert fixed.returncode == 0, fixed.stdout
    again = support.run("--dir", state_dir, "doctor", "--fix", "--json").json
    assert again["status"] == "healthy", again
    assert [finding for finding in again["findings"] if finding["severity"] != "notice"] == []

    registry = state_dir / "process_registry.json"
    assert not registry.exists() or json.loads(registry.read_text())["instances"] == {}
    assert list((state_dir / "instances").glob("*")) == []
    assert list((state_dir / "coordination_queue" / "tmp").glob("*")) == []

    left = {message["id"] for message in messages(state_dir)}
    if point in KEPT_BY_POINT:
        assert left == (accepted if KEPT_BY_POINT[point] else set())
    elif point is CrashPoint.MESSAGE_PUBLISHED:
        assert len(left) == 1, "published, so it is delivered although its sender never heard so"
    else:
        assert accepted <= left | handled

    epoch = 0
    for _ in range(2):  # a fresh instance works, with the name of the dead one
        with Coordinator(state_dir, name="crasher", settings=Settings(heartbeat_interval=0.2, poll_interval=0.2)) as me:
            me.send("crasher", "Hello", {})
            with next(iter(me.receive(timeout=5))) as message:
                assert message.message_type == "Hello"
            with me.claim("lamp") as claim:
                assert claim.epoch > epoch
                epoch = claim.epoch
    if point in {CrashPoint.CLAIM_EPOCH_RAISED, CrashPoint.CLAIM_RECORDED}:
        assert epoch == 3, "the epoch of the crashed holder is not used again"


def test_a_point_is_passed_only_once_it_is_asked_for(state_dir: Path, tmp_path: Path) -> None:
    """The second passing is asked for, and the operation that passes it once survives."""
    with support.python(SEND, tmp_path / "crash", state_dir, env={CRASH_VARIABLE: "message-published:2"}) as child:
        assert child.wait() == 0, child.log
