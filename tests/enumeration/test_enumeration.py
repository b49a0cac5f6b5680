"""Every operation, with every fault, at every system call: whatever happens, nothing is lost, and everything is mended.

Each case leaves the fleet of the case before it: one live peer watches all of them and must neither be reaped nor lose what it
holds.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import support
from enumeration.harness import FAULTS, Outcome, Zygote, zygote
from enumeration.operations import OPERATIONS
from unit.kernel import forbidden

from mnemo_coord import Fleet, Settings, doctor
from mnemo_coord.findings import Severity
from mnemo_coord.messages.address import Address

PATIENT = Settings(heartbeat_interval=3600.0, poll_interval=3600.0)
LIMIT = 400
"""No operation has more calls than this; a case beyond it means that the enumeration does not end."""

PEER = """
    import signal, sys
    from mnemo_coord import Coordinator, Settings
    # It beats, and reaps nobody: its lookout would be faster than the operations under test.
    with Coordinator(sys.argv[1], name="peer", settings=Settings(heartbeat_interval=0.5, poll_interval=3600)) as me:
        me._member._polling.stop()
        with me.claim("anchor") as anchor:
            print("anchored", me.instance_id, anchor.epoch, flush=True)
            signal.pause()
"""


class Place:
    """One state directory, through all the cases of an operation and a fault."""

    def __init__(self, path: Path, peer: support.Child) -> None:
        self.path = path
        _, self.peer, anchor = peer.wait_for("anchored ").split()
        self.anchor = int(anchor)
        self.epoch = 0

    def check(self, operation: str, outcome: Outcome) -> None:
        """Everything that has to hold after a case, and again after the doctor."""
        assert outcome.code in {0, 10, 11, -signal.SIGKILL}, outcome
        assert not outcome.words("failed"), f"an error of the system came through as it is: {outcome}"
        with Fleet.open(self.path, settings=PATIENT) as fleet:
            self._peer_lives(fleet)
            self._mended()
            self._peer_lives(fleet)
            self._nothing_left(fleet)
            self._nothing_lost(fleet, outcome)
        for (epoch,) in outcome.words("epoch"):
            assert epoch > self.epoch
            self.epoch = epoch
        shutil.rmtree(self.path / "fresh", ignore_errors=True)

    def _peer_lives(self, fleet: Fleet) -> None:
        # A registry that could not be rebuilt in full has it again at its next beat.
        support.wait_until(lambda: self.peer in fleet.registry.read(), 5, "the peer is in the registry")
        by_id = {instance.instance_id: instance for instance in fleet.instances()}
        assert by_id[self.peer].status == "alive"
        holders = {holder.claim: holder for _, holder in fleet.claims.held()}
        assert (holders["anchor"].instance_id, holders["anchor"].epoch) == (self.peer, self.anchor)
        assert holders["peer"].instance_id == self.peer

    def _mended(self) -> None:
        """What is left is mended by one doctor, and a second one has nothing to do."""
        for place in (*filter(Path.exists, [self.path / "fresh"]), self.path):
            first = doctor.examine(place, fix=True, settings=PATIENT)
            assert [finding for finding in serious(first) if not finding.fixed] == []
            before = tree(place)
            assert serious(doctor.examine(place, fix=True, settings=PATIENT)) == []
            assert tree(place) == before, "the second one changes nothing"
            assert list(place.rglob("*.tmp")) == []

    def _nothing_left(self, fleet: Fleet) -> None:
        assert set(fleet.registry.read()) == {self.peer}
        assert {path.name.partition(".")[0] for path in (self.path / "instances").iterdir()} == {self.peer}
        assert list((self.path / "coordination_queue" / "tmp").glob("*")) == []

    def _nothing_lost(self, fleet: Fleet, outcome: Outcome) -> None:
        taken = {}
        for address in ("inbox", "@worker"):
            for delivery in fleet.queue.receive([Address(address)], "00000000"):
                with delivery as message:
                    assert message.id not in taken, "handed out twice"
                    taken[message.id] = message
        aside = {known.id: known for known in fleet.fates.set_aside()}
        assert all(known.fate != "refused" for known in aside.values()), "nothing half written was published"
        accepted = {words[0] for words in outcome.words("accepted")}
        done = {words[0] for words in outcome.words("acknowledged")}
        assert not done & set(taken), "acknowledged, and handed out again"
        assert accepted <= set(taken) | done | {words[0] for words in outcome.words("got")} | set(aside), outcome
        if outcome.words("refused") and "the-one" not in accepted:
            assert "the-one" not in taken, "send raised, and the message is there"
        box = self.path / "coordination_queue" / self.peer / "new"
        for address, message_id in outcome.words("broadcast"):
            assert address == self.peer
            assert list(box.glob(f"{message_id}*"))
        for path in box.iterdir():
            json.loads(path.read_bytes())
            path.unlink()
        for folder in ("dead_letter", "quarantine"):
            shutil.rmtree(self.path / "coordination_queue" / folder, ignore_errors=True)
        for log in self.path.glob("coordination_queue/*/acknowledged"):
            log.unlink()  # the next case sends the same id again


def serious(report: doctor.Report) -> list[doctor.Finding]:
    return [finding for finding in report.findings if finding.severity is not Severity.NOTICE]


def tree(place: Path) -> dict[str, tuple[int, int, bytes]]:
    return {path: about for path, about in support.tree(place).items() if not path.endswith((".beat", ".traffic"))}


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Zygote]:
    if shutil.which("strace") is None:
        forbidden("strace is not installed")
    with zygote(tmp_path / "strace.log") as zygote_:
        yield zygote_


@pytest.fixture
def place(state_dir: Path, tmp_path: Path) -> Iterator[Place]:
    with support.python(PEER, tmp_path / "peer", state_dir) as peer:
        yield Place(state_dir, peer)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_fault_at_every_call(operation: str, fault: str, running: Zygote, place: Place) -> None:
    """I1 to I27, R22, R23, Q19, Q20, Q29, Q30, Q32, Q38."""
    hits = {call: enumerated(operation, fault, call, running, place) for call in FAULTS[fault].calls}
    print(f"{operation}: {fault} at {sum(hits.values())} calls: {hits}")
    assert sum(hits.values())


def enumerated(operation: str, fault: str, call: str, running: Zygote, place: Place) -> int:
    """Runs the operation with the fault at each of its calls of one kind. Returns how many there were."""
    for number in range(1, LIMIT):
        outcome = running.run(operation, place.path, FAULTS[fault].at(call, number))
        try:
            place.check(operation, outcome)
        except (AssertionError, KeyError) as error:
            raise AssertionError(f"{fault} at {call} {number} of {operation}: {outcome}\n{error!r}") from None
        if not outcome.hit:
            return number - 1
    pytest.fail("it never survived")


def test_the_table_is_complete() -> None:
    assert len(OPERATIONS) == 10
    assert set(FAULTS) == {"SIGKILL", "ENOSPC", "EIO", "EMFILE", "short write"}
    assert os.path.exists("/proc/self/status")
