"""Every named crash point: the process is killed there, in each operation that passes it, and what it leaves is harmless.

The doctor mends it alone, or a live peer does without being asked; nothing accepted is lost, nothing is invented, and no
epoch goes back.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pytest
import support

from mnemo_coord import Coordinator, Fleet, Settings, doctor
from mnemo_coord.disk import locks
from mnemo_coord.disk.files import CRASH_VARIABLE, CrashPoint
from mnemo_coord.findings import Severity

FAST = Settings(heartbeat_interval=0.2, poll_interval=0.1)

REGISTER = """
import sys
from mnemo_coord import Coordinator
with Coordinator(sys.argv[1], name="crasher", roles=["worker"]) as me:
    print("registered", flush=True)
"""

HOLD = """
import signal, sys
from mnemo_coord import Coordinator
with Coordinator(sys.argv[1], name="crasher", roles=["worker"]) as me:
    in_hand = next(iter(me.receive(timeout=5)))
    print("own", me.send(me.instance_id, "Own").id, flush=True)
    lamp = me.claim("lamp")
    print("holds everything", flush=True)
    if sys.argv[2:] == ["stay"]:
        signal.pause()
"""

SEND = """
import sys
from mnemo_coord import Fleet
with Fleet.open(sys.argv[1]) as fleet:
    print("accepted", fleet.send("@worker", "Work", "attempt", sender="tester").id, flush=True)
"""

RECEIVE = """
import sys
from mnemo_coord import Coordinator
with Coordinator(sys.argv[1], roles=["worker"]) as me:
    for delivery in me.receive(timeout=5):
        delivery.acknowledge()
"""

CLAIM = """
import sys
from mnemo_coord import Coordinator
with Coordinator(sys.argv[1]) as me, me.claim("lamp"):
    print("taken", flush=True)
"""

JOIN = """
import sys
from mnemo_coord import Coordinator
with Coordinator(sys.argv[1], name="crasher") as me:
    me.branches.join("main", files=["src/**"], mode="coordinated")
    print("joined", me.branches.switch("main").epoch, flush=True)
"""

CLEAN_UP = """
import sys
from mnemo_coord import Fleet
with Fleet.open(sys.argv[1]) as fleet:
    print("reaped", fleet.cleanup_stale(), flush=True)
"""


@dataclass(kw_only=True)
class Scene:
    """A state directory before and after the crash, and what is known of the messages in it."""

    state_dir: Path
    logs: Path
    expected: dict[str, int] = field(default_factory=dict)
    """Ids of the messages that ``@worker`` must get after the crash, and as which delivery."""
    dead_letters: set[str] = field(default_factory=set)
    """Ids of the messages for an id that is gone."""
    epochs: dict[str, int] = field(default_factory=dict)

    def furnish(self) -> None:
        """Two accepted messages wait, and the claim has been held before."""
        with Coordinator(self.state_dir, settings=FAST) as early:
            with early.claim("lamp"):
                pass
            self.expected = {early.send("@worker", "Work", number).id: 1 for number in range(2)}
        self.epochs = epochs(self.state_dir)

    def first_taken(self) -> None:
        """The first of the messages was in somebody's hands and is to come again."""
        self.expected[next(iter(self.expected))] = 2

    def leave_a_dead_one(self) -> None:
        """Somebody dies who holds a name, a role, a claim and a message."""
        with support.python(HOLD, self.logs, self.state_dir, "stay") as victim:
            victim.wait_for("holds everything")
            victim.kill()
        self.remember(victim)

    def remember(self, child: support.Child) -> None:
        """What a child that took a message in hand and wrote to itself leaves."""
        self.first_taken()
        self.dead_letters |= {line.split()[1] for line in child.printed.splitlines() if line.startswith("own")}

    def crash(self, code: str | list[str], point: CrashPoint, passing: int) -> support.Child:
        argv = [sys.executable, "-c", code, str(self.state_dir)] if isinstance(code, str) else code
        with support.Child(argv, self.logs, env={CRASH_VARIABLE: f"{point}:{passing}"}) as child:
            assert child.wait() == -signal.SIGKILL, f"it did not pass {point}: {child.log}"
        return child


def epochs(state_dir: Path) -> dict[str, int]:
    """The epoch of every claim: the length of its lock file."""
    return {path.name: path.stat().st_size for path in (state_dir / "claims").glob("*.lock")}


def mnemosyne(scene: Scene, *args: str) -> list[str]:
    return [support.MNEMOSYNE, "--dir", str(scene.state_dir), *args]


# The operations that pass the points. Each makes what it needs, crashes, and says what must be there afterwards.

Operation = Callable[[Scene, CrashPoint, int], None]


def first_start(scene: Scene, point: CrashPoint, passing: int) -> None:
    scene.crash(REGISTER, point, passing)


def register(scene: Scene, point: CrashPoint, passing: int) -> None:
    scene.furnish()
    scene.crash(REGISTER, point, passing)


def leave(scene: Scene, point: CrashPoint, passing: int) -> None:
    scene.furnish()
    scene.remember(scene.crash(HOLD, point, passing))


def send(scene: Scene, point: CrashPoint, passing: int) -> None:
    scene.furnish()
    child = scene.crash(SEND, point, passing)
    assert "accepted" not in child.printed, "nobody was told that it was accepted"


def send_to_a_new_name(scene: Scene, point: CrashPoint, passing: int) -> None:
    scene.furnish()
    scene.crash(mnemosyne(scene, "send", "--to", "nobody-yet", "Work"), point, passing)


def receive(scene: Scene, point: CrashPoint, passing: int) -> None:
    scene.furnish()
    scene.crash(RECEIVE, point, passing)
    taken_or_gone(scene, point)


def receive_without_registering(scene: Scene, point: CrashPoint, passing: int) -> None:
    scene.furnish()
    child = scene.crash(mnemosyne(scene, "receive", "--as", "@worker", "--json"), point, passing)
    taken_or_gone(scene, point)
    printed = [json.loads(line)["id"] for line in child.printed.splitlines()]
    first = next(iter(scene.expected), None)
    if point is CrashPoint.MESSAGE_HANDLED:
        assert printed == [first], "written out before it is acknowledged"
    elif point is CrashPoint.MESSAGE_ACK_NOTED:
        assert len(printed) == 1
        assert printed[0] not in scene.expected
    elif point is not CrashPoint.MESSAGE_ACKNOWLEDGED:
        assert printed == []


def taken_or_gone(scene: Scene, point: CrashPoint) -> None:
    if point in {CrashPoint.MESSAGE_CLAIMED, CrashPoint.MESSAGE_HANDLED}:
        scene.first_taken()
    elif point in {CrashPoint.MESSAGE_ACK_NOTED, CrashPoint.MESSAGE_ACKNOWLEDGED}:
        del scene.expected[next(iter(scene.expected))]


def claim(scene: Scene, point: CrashPoint, passing: int) -> None:
    scene.furnish()
    scene.crash(CLAIM, point, passing)
    (lamp,) = epochs(scene.state_dir).values()
    assert lamp == (1 if point is CrashPoint.CLAIM_LOCKED else 2)


def join(scene: Scene, point: CrashPoint, passing: int) -> None:
    scene.furnish()
    scene.crash(JOIN, point, passing)
    counted = (scene.state_dir / "claims" / f"branch-{b'main'.hex()}.lock").stat().st_size
    assert counted == passing, "epochs rise by one"


def clean_up(scene: Scene, point: CrashPoint, passing: int) -> None:
    scene.furnish()
    scene.leave_a_dead_one()
    scene.crash(CLEAN_UP, point, passing)


def doctor_reaps(scene: Scene, point: CrashPoint, passing: int) -> None:
    scene.furnish()
    scene.leave_a_dead_one()
    scene.crash(mnemosyne(scene, "doctor", "--fix"), point, passing)


def doctor_rebuilds(scene: Scene, point: CrashPoint, passing: int) -> None:
    scene.furnish()
    scene.leave_a_dead_one()
    (scene.state_dir / "process_registry.json").write_bytes(b"\0" * 100)
    scene.crash(mnemosyne(scene, "doctor", "--fix"), point, passing)


class Way(NamedTuple):
    """An operation, and at which of its passings of the point it dies."""

    operation: Operation
    passing: int = 1


CHANGES_OF_THE_REGISTRY = [
    Way(register),
    Way(first_start),
    Way(leave, 2),
    Way(clean_up),
    Way(doctor_reaps),
    Way(doctor_rebuilds),
    Way(doctor_rebuilds, 2),
]
CLAIMS = [Way(claim), Way(register)]
RECEIVING = [Way(receive), Way(receive_without_registering), Way(receive_without_registering)]

WAYS: dict[CrashPoint, list[Way]] = {
    CrashPoint.LIFE_LOCK_CREATED: [Way(register), Way(receive_without_registering)],
    CrashPoint.LIFE_LOCK_TAKEN: [Way(register), Way(receive_without_registering)],
    CrashPoint.RECORD_WRITTEN: [Way(register), Way(first_start)],
    CrashPoint.FIRST_BEAT_WRITTEN: [Way(register)],
    CrashPoint.REGISTRY_LOCKED: CHANGES_OF_THE_REGISTRY,
    CrashPoint.REGISTRY_TMP_CREATED: CHANGES_OF_THE_REGISTRY,
    CrashPoint.REGISTRY_TMP_WRITTEN: CHANGES_OF_THE_REGISTRY,
    CrashPoint.REGISTRY_REPLACED: CHANGES_OF_THE_REGISTRY,
    CrashPoint.MAILBOX_MADE: [Way(register), Way(register, 3), Way(send_to_a_new_name)],
    CrashPoint.MESSAGE_TMP_CREATED: [Way(send)],
    CrashPoint.MESSAGE_TMP_WRITTEN: [Way(send)],
    CrashPoint.MESSAGE_PUBLISHED: [Way(send)],
    CrashPoint.MESSAGE_CLAIMED: RECEIVING[:2],
    CrashPoint.MESSAGE_HANDLED: RECEIVING[:2],
    CrashPoint.MESSAGE_ACK_NOTED: RECEIVING[:2],
    CrashPoint.MESSAGE_ACKNOWLEDGED: RECEIVING[:2],
    CrashPoint.CLAIM_LOCKED: CLAIMS,
    CrashPoint.CLAIM_EPOCH_RAISED: CLAIMS,
    CrashPoint.CLAIM_RECORDED: CLAIMS,
    CrashPoint.BRANCH_JOINED: [Way(join), Way(join, 2)],
    CrashPoint.REAP_LOCKED: [Way(clean_up), Way(doctor_reaps)],
    CrashPoint.REAP_MESSAGES_RETURNED: [Way(clean_up), Way(doctor_reaps)],
    CrashPoint.REAP_RECORD_REMOVED: [Way(clean_up), Way(doctor_reaps)],
    CrashPoint.LEAVE_RECORD_REMOVED: [Way(leave)],
    CrashPoint.LEAVE_MAILBOX_REMOVED: [Way(leave)],
}
REAPING = {clean_up, doctor_reaps, doctor_rebuilds}
EVERY_WAY = [
    pytest.param(point, way, id=f"{point}-{way.operation.__name__}-{way.passing}" if way else f"{point}-has-no-way")
    for point in CrashPoint
    for way in WAYS.get(point) or [None]
]


@pytest.fixture
def scene(state_dir: Path, tmp_path: Path) -> Scene:
    return Scene(state_dir=state_dir, logs=tmp_path / "logs")


# What must hold afterwards


def serious(report: doctor.Report) -> list[str]:
    return [finding.code for finding in report.findings if finding.severity is not Severity.NOTICE]


def without_beats(state_dir: Path) -> dict[str, tuple[int, int, bytes]]:
    """Everything that nobody alive rewrites."""
    return {path: about for path, about in support.tree(state_dir).items() if not path.endswith((".beat", ".traffic"))}


def doctor_mends(state_dir: Path) -> list[str]:
    """``doctor --fix`` succeeds, and a second one finds nothing and changes nothing. Returns what the first one found."""
    first = support.run("--dir", state_dir, "doctor", "--fix", "--json")
    assert first.returncode == 0, first.stdout
    before = without_beats(state_dir)
    assert serious(doctor.examine(state_dir, fix=True)) == []
    assert without_beats(state_dir) == before
    return [finding["code"] for finding in first.json["findings"] if finding["severity"] != "notice"]


def registered(state_dir: Path) -> set[str]:
    path = state_dir / "process_registry.json"
    return set(json.loads(path.read_text())["instances"]) if path.exists() else set()


def files_of_instances(state_dir: Path) -> set[str]:
    return {path.name for path in (state_dir / "instances").glob("*")}


def nobody_but(alive: set[str], state_dir: Path) -> bool:
    files = {f"{instance_id}.{kind}" for instance_id in alive for kind in ("lock", "beat", "traffic")}
    boxes = {path.name for path in (state_dir / "coordination_queue").glob("????????")}
    records = {*(state_dir / "claims").glob("*.json"), *(state_dir / "branches").glob("*")}
    return registered(state_dir) == alive and files_of_instances(state_dir) == files and boxes == alive and not records


def ids_in(folder: Path) -> list[str]:
    return sorted(json.loads(path.read_bytes())["id"] for path in folder.glob("*.json"))


def check_messages(scene: Scene, point: CrashPoint, operation: Operation, received: list[tuple[str, int, object]]) -> None:
    """Everything accepted came once, as the right delivery; nothing else did."""
    attempts = [(number, payload) for name, number, payload in received if name not in scene.expected]
    came = operation is send and point is CrashPoint.MESSAGE_PUBLISHED
    assert attempts == ([(1, "attempt")] if came else []), "what was published comes, what was not does not"
    assert {name: number for name, number, _ in received if name in scene.expected} == scene.expected
    assert len(received) == len(scene.expected) + len(attempts)
    queue = scene.state_dir / "coordination_queue"
    assert ids_in(queue / "dead_letter") == sorted(scene.dead_letters)
    assert len(list((queue / "dead_letter").glob("*.reason"))) == len(scene.dead_letters)
    assert list((queue / "quarantine").glob("*")) == []


def check_whole(scene: Scene, point: CrashPoint, operation: Operation, alive: set[str]) -> None:
    """The state directory is as if nothing had happened, and a fresh instance can do everything with it."""
    state_dir = scene.state_dir
    assert nobody_but(alive, state_dir), (registered(state_dir), files_of_instances(state_dir))
    assert list((state_dir / "coordination_queue" / "tmp").glob("*")) + list(state_dir.rglob("*.tmp")) == []
    seen = epochs(state_dir)
    assert all(seen[name] >= epoch for name, epoch in scene.epochs.items()), "an epoch went back"
    with Coordinator(state_dir, name="crasher", roles=["worker"], settings=FAST) as fresh:
        received = []
        for delivery in fresh.receive():
            with delivery as message:
                received.append((message.id, delivery.delivery, message.payload))
        check_messages(scene, point, operation, received)
        fresh.send("crasher", "Hello", {})
        with next(iter(fresh.receive(timeout=5))) as message:
            assert message.message_type == "Hello"
        with fresh.claim("lamp") as lamp:
            assert lamp.epoch > seen.get(f"{lamp.stem}.lock", 0)
        if any(name.startswith("branch-") for name in seen):
            fresh.branches.join("main")
        risen = epochs(state_dir)
        assert all(risen[name] > seen[name] for name in seen), "taken anew, the name and the lamp, each at a later epoch"


@pytest.mark.parametrize(("point", "way"), EVERY_WAY)
def test_the_doctor_mends_what_a_crash_leaves(point: CrashPoint, way: Way | None, scene: Scene) -> None:
    """R22, Q19, Q20, C13."""
    assert way is not None, f"no operation here passes {point}"
    way.operation(scene, point, way.passing)
    doctor_mends(scene.state_dir)
    check_whole(scene, point, way.operation, set())


LEFT_FOR_THE_DOCTOR = {"leftover-message", "leftover-registry", "leftover-claim"}
"""Half-written files harm nobody, so no peer looks for them."""


@pytest.mark.parametrize("point", CrashPoint)
def test_a_live_peer_mends_it_unasked(point: CrashPoint, scene: Scene) -> None:
    """I14."""
    operation, passing = WAYS[point][0]
    peer = Coordinator(scene.state_dir, settings=FAST)
    if operation not in REAPING:  # it would be faster than the one that is to die at it
        peer.register()
    try:
        operation(scene, point, passing)
        if operation in REAPING:
            peer.register()
        alive = {peer.instance_id}
        support.wait_until(lambda: nobody_but(alive, scene.state_dir), 5, "the peer clears it away")
        assert set(doctor_mends(scene.state_dir)) <= LEFT_FOR_THE_DOCTOR
        check_whole(scene, point, operation, alive)
    finally:
        peer.unregister()


def test_the_passing_that_is_asked_for_is_the_one_that_kills(scene: Scene) -> None:
    with support.python(SEND, scene.logs, scene.state_dir, env={CRASH_VARIABLE: "message-published:2"}) as child:
        assert child.wait() == 0, child.log
        assert "accepted" in child.printed


# Crashes without a name


@pytest.mark.parametrize("call", ["renameat", "fsync", "mkdirat", "ftruncate"])
def test_a_first_start_killed_at_any_call_leaves_no_litter(call: str, scene: Scene, tmp_path: Path) -> None:
    """R22. The key, the folders, the epoch and the registry are made; what was half made is gone or of use."""
    log = tmp_path / "strace"
    strace = support.strace("-o", str(log), "-e", f"trace={call}")
    for number in range(1, 40):
        state_dir = scene.state_dir.parent / f"{number}"
        code = [sys.executable, "-c", REGISTER, str(state_dir)]
        with support.Child([*strace, "-e", f"inject={call}:signal=SIGKILL:when={number}", *code], scene.logs) as child:
            if child.wait() == 0:
                assert number > 1, "it was never hit"
                return
        doctor_mends(state_dir)
        check_whole(Scene(state_dir=state_dir, logs=scene.logs), CrashPoint.RECORD_WRITTEN, first_start, set())
    pytest.fail("it never survived")


def doctor_waits_to_reap(doctor_pid: int) -> bool:
    try:
        folder = Path(f"/proc/{doctor_pid}/fd")
        return any(os.path.basename(os.readlink(path)) == "reaper.lock" for path in folder.iterdir())
    except FileNotFoundError:  # closed between the look at the folder and the look at the link
        return False


def test_a_doctor_whom_a_live_peer_outruns_finds_it_mended(scene: Scene) -> None:
    """C14. It sees the dead one, and by the time that it has the reaper's lock another has reaped it."""
    scene.furnish()
    scene.leave_a_dead_one()
    with Fleet.open(scene.state_dir, settings=FAST) as peer:
        (entry,) = peer.registry.read().values()
        with locks.hold(peer.state, "reaper", 5), threading.Lock():
            examining = support.Child(mnemosyne(scene, "doctor", "--fix"), scene.logs)
            support.wait_until(lambda: doctor_waits_to_reap(examining.pid))
            assert peer.reaper._reap(entry.registration)
    with examining:
        assert examining.wait() == 0, examining.printed
    doctor_mends(scene.state_dir)
