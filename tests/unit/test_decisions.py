"""The decisions, as tables: the verdict, names, addresses, whom to watch, settings, errors, what may be shown."""

from __future__ import annotations

import itertools
import os
import pickle
import signal
import subprocess
import threading
from pathlib import Path

import pytest
import support

from mnemo_coord import display, errors, events, loops, settings
from mnemo_coord.disk.clock import SystemClock
from mnemo_coord.disk.probes import LockState
from mnemo_coord.holdings import ports
from mnemo_coord.members import identity, liveness
from mnemo_coord.members.identity import ProcessIdentity, check_name
from mnemo_coord.members.liveness import Evidence, ProcessState, Verdict, decide
from mnemo_coord.members.lookout import neighbours, retry_delay
from mnemo_coord.messages import file_name, sending
from mnemo_coord.messages.address import Address

EVERYTHING = list(
    itertools.product([True, False], [True, False], LockState, [True, False], ProcessState, [None, 0.0, 5.9, 6.1, 1e9])
)


def test_only_proof_makes_dead() -> None:
    """I13, I20. Over all the evidence there can be."""
    for same_machine, same_boot, lock, replaced, process, age in EVERYTHING:
        evidence = Evidence(
            same_machine=same_machine, same_boot=same_boot, lock=lock, lock_replaced=replaced, process=process, beat_age=age
        )
        verdict = decide(evidence, 6.0)
        ended = process in {ProcessState.EXITED, ProcessState.GONE}
        unseen = process is ProcessState.UNKNOWN
        freed = lock is LockState.FREE and not replaced and unseen
        assert (verdict is Verdict.FOREIGN) == (not same_machine)
        assert (verdict is Verdict.DEAD) == (same_machine and (not same_boot or ended or freed)), evidence
        if verdict is Verdict.STALLED:
            assert age is None or age > 6.0
        if verdict is Verdict.ALIVE:
            assert age is not None
            assert age <= 6.0
        # Age alone never decides between life and death.
        younger = decide(
            Evidence(
                same_machine=same_machine, same_boot=same_boot, lock=lock, lock_replaced=replaced, process=process, beat_age=0.0
            ),
            6.0,
        )
        assert (younger is Verdict.DEAD) == (verdict is Verdict.DEAD)


def identity_of(pid: int) -> ProcessIdentity:
    own = ProcessIdentity.own(SystemClock())
    fd = os.pidfd_open(pid)
    inode = os.fstat(fd).st_ino if own.pidfd_inode else 0
    os.close(fd)
    changes = {"pid": pid, "pidfd_inode": inode, "start_time": identity.start_time_and_state(pid)[0]}
    return ProcessIdentity(**{**own.to_body(), **changes})


def test_what_became_of_a_process() -> None:
    child = subprocess.Popen(["sleep", "60"])
    recorded = identity_of(child.pid)
    without_inode = ProcessIdentity(**{**recorded.to_body(), "pidfd_inode": 0})
    for process in (recorded, without_inode):
        assert liveness.observe(process) is ProcessState.SAME
    child.send_signal(signal.SIGSTOP)
    support.wait_until(lambda: liveness.observe(recorded) is ProcessState.STOPPED)
    child.kill()
    support.wait_until(lambda: liveness.observe(recorded) is ProcessState.EXITED, what="a zombie has ended")
    child.wait()
    assert liveness.observe(recorded) is ProcessState.GONE


def test_another_process_with_the_same_number_is_not_it() -> None:
    own = ProcessIdentity.own(SystemClock()).to_body()
    assert liveness.observe(ProcessIdentity(**{**own, "pidfd_inode": 1})) in {ProcessState.GONE, ProcessState.SAME}
    reused = ProcessIdentity(**{**own, "pidfd_inode": 0, "start_time": own["start_time"] - 1})
    assert liveness.observe(reused) is ProcessState.GONE
    shifted = ProcessIdentity(**{**own, "pidfd_inode": 0, "start_time": 5, "time_namespace": 1})
    assert liveness.observe(shifted) is ProcessState.SAME, "in another time namespace the start time means nothing"
    elsewhere = ProcessIdentity(**{**own, "pid_namespace": 1})
    assert liveness.observe(elsewhere) is ProcessState.UNKNOWN


@pytest.mark.parametrize("pid", [2**31 - 1, 4_194_304])
def test_numbers_that_nobody_has(pid: int) -> None:
    own = ProcessIdentity.own(SystemClock()).to_body()
    assert liveness.observe(ProcessIdentity(**{**own, "pid": pid})) in {ProcessState.GONE, ProcessState.UNKNOWN}


@pytest.mark.parametrize("name", ["a", "A-b_9", "x" * 64, "deadbee", "deadbeef0", "DEADBEEF"])
def test_good_names(name: str) -> None:
    assert check_name(name) == name


BAD_NAMES = {
    "": "is empty",
    "x" * 65: "65 characters",
    "a\n": "character other",
    "a b": "character other",
    "ü": "character other",
    "٣": "character other",
    "../x": "character other",
    ".x": "character other",
    "Default": "reserved",
    "ALL": "reserved",
    "mnemosyne": "reserved",
    "deadbeef": "instance id",
}


@pytest.mark.parametrize(("name", "rule"), BAD_NAMES.items())
def test_bad_names_say_which_rule_they_break(name: str, rule: str) -> None:
    with pytest.raises(errors.Config, match=rule):
        check_name(name)


@pytest.mark.parametrize("text", ["0123abcd", "planner", "@reviewer", "x" * 64, "@" + "Y" * 64])
def test_an_address_and_its_folder(text: str) -> None:
    assert Address.of_box(Address.parse(text).folder) == Address(text)


@pytest.mark.parametrize(
    "folder", ["tmp", "quarantine", "dead_letter", "name-", "name-zz", "name-2e2e", "role-ff", "name-64656661756c74", "x"]
)
def test_folders_that_are_no_mailbox(folder: str) -> None:
    assert Address.of_box(folder) is None


def test_deliveries_are_counted_in_the_name() -> None:
    name = "18e9e3658ecf5ae6-a3f3a711.json"
    for number in range(1, 12):
        assert file_name.delivery_of(name) == number
        name = file_name.next_delivery(name)
    assert name == "18e9e3658ecf5ae6-a3f3a711~12.json"
    assert file_name.delivery_of("x~0.json") == 0


def test_everybody_is_watched_by_several() -> None:
    ids = [f"{number:08x}" for number in range(0, 1000, 7)]
    watched = [neighbour for own in ids for neighbour in neighbours(ids, own, 8)]
    assert {watched.count(one) for one in ids} == {8}
    assert neighbours(["b", "a", "c"], "b", 8) == ["c", "a"]
    assert neighbours([], "b", 8) == []


def test_looking_again_ends_at_half_a_second() -> None:
    delays = list(itertools.takewhile(lambda delay: delay is not None, map(retry_delay, itertools.count())))
    assert delays[0] == 0.001
    assert 0.4 < sum(delays) < 1.0


@pytest.mark.parametrize(("waiting", "limit", "until"), [(0, 8000, 1000), (7992, 8000, 1), (8000, 8000, 0), (9999, 8000, 0)])
def test_the_fuller_the_more_often_counted(waiting: int, limit: int, until: int) -> None:
    assert sending.sends_until_recount(waiting, limit) == until


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("127.0.0.1:3000", ("127.0.0.1", 3000)),
        ("localhost:0", ("127.0.0.1", 0)),
        ("[::1]:65535", ("::1", 65535)),
        ("127.9.9.9:1", ("127.9.9.9", 1)),
    ],
)
def test_good_addresses(text: str, parsed: tuple[str, int]) -> None:
    assert ports.parse_address(text) == parsed


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "3000",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:x",
        "127.0.0.1:-1",
        "127.0.0.1:1_0",
        "0.0.0.0:1",
        "[::]:1",
        "10.0.0.1:1",
        "h:1",
    ],
)
def test_bad_addresses(text: str) -> None:
    with pytest.raises(errors.Config):
        ports.parse_address(text)


@pytest.mark.parametrize(("port", "tried"), [(3000, range(3000, 3011)), (0, range(1)), (65530, range(65530, 65536))])
def test_eleven_ports_are_tried(port: int, tried: range) -> None:
    assert ports.candidates(port) == tried


def test_settings_have_an_order() -> None:
    environ = {"MNEMOSYNE_POLL_INTERVAL": "3", "MNEMOSYNE_DURABLE": "on", "MNEMOSYNE_API_ADDR": ""}
    assert settings.resolve({}, environ).poll_interval == 3
    assert settings.resolve({"poll_interval": 4.0}, environ).poll_interval == 4
    assert settings.resolve({"poll_interval": None}, environ).durable is True
    assert settings.resolve({}, environ).api_addr == "127.0.0.1:3000"
    for name, value in [("MNEMOSYNE_POLL_INTERVAL", "x"), ("MNEMOSYNE_DURABLE", "maybe"), ("MNEMOSYNE_MAILBOX_LIMIT", "1.5")]:
        with pytest.raises(errors.Config, match=name):
            settings.resolve({}, {name: value})
    for changes in ({"poll_interval": -1}, {"poll_interval": float("nan")}, {"api_capacity": 0}, {"heartbeat_interval": 0}):
        with pytest.raises(errors.Config):
            settings.Settings(**changes)


ALL_ERRORS = [getattr(errors, name) for name in errors.__all__ if name != "translated"]


def test_every_error_survives_pickling_and_has_its_own_code() -> None:
    assert len({kind.code for kind in ALL_ERRORS}) == len(ALL_ERRORS)
    for kind in ALL_ERRORS:
        error = kind("message", hint="hint", path="p", size=3)
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), again.hint, again.path, again.size) == (kind, "message", "hint", "p", 3)
        assert error.exit_code in range(1, 8)
        with pytest.raises(AttributeError):
            error.nothing  # noqa: B018


def test_errors_are_what_pythons_own_are() -> None:
    assert issubclass(errors.NotFound, LookupError)
    assert issubclass(errors.TimedOut, TimeoutError)
    assert issubclass(errors.Config, ValueError)


UNFIT = [
    "\x00",
    "\x07",
    "\x1b",
    "\r",
    "\n",
    "\x7f",
    "\x85",
    "\x9b",
    "\u2028",
    "\u2029",
    "\u202e",
    "\u2066",
    "\u200b",
    "\u200f",
    "\ufeff",
    "\ud800",
    "\U000e0041",
]


@pytest.mark.parametrize("character", UNFIT)
def test_what_steers_a_terminal_is_shown_as_text(character: str) -> None:
    """S8."""
    shown = display.printable(f"a{character}b")
    assert character not in shown
    assert shown.isprintable()
    assert shown.encode()


def test_plain_text_stays() -> None:
    assert display.printable("Grüße, 你好 🙂 [x]") == "Grüße, 你好 🙂 [x]"


def test_the_buffer_keeps_the_newest_and_resumes() -> None:
    buffer = events.Broadcaster(3, lambda: "now")
    got: list[int] = []

    def broken(event: events.Event) -> None:
        raise ValueError

    buffer.subscribe(broken)
    stop = buffer.subscribe(lambda event: got.append(event.id))
    for _ in range(5):
        buffer.publish(events.EventKind.PORT_TAKEN, "x")
    assert [event.id for event in buffer.since()] == [3, 4, 5]
    assert [event.id for event in buffer.since(4)] == [5]
    stop()
    buffer.publish(events.EventKind.PORT_TAKEN, "x")
    assert got == [1, 2, 3, 4, 5]


def test_a_loop_goes_on_when_a_step_fails(caplog: pytest.LogCaptureFixture) -> None:
    steps: list[int] = []
    done = threading.Event()

    def step() -> float:
        steps.append(1)
        if len(steps) < 4:
            raise OSError("disk on fire")
        done.set()
        return 60.0

    loop = loops.Loop("test", step)
    loop.start()
    support.wait_until(lambda: loop.wake() or done.is_set())
    support.wait_until(lambda: loop.healthy)
    loop.stop()
    assert caplog.text.count("disk on fire") == 1, "said once"


def test_claims_and_owner_locks(tmp_path: Path) -> None:
    from mnemo_coord import Coordinator

    place = tmp_path / "fleet" / ".mnemosyne"
    with Coordinator(place) as one, Coordinator(place) as two:
        with one.claim("lamp") as claim:
            assert claim.epoch == 1
            with pytest.raises(errors.Conflict) as caught:
                two.claim("lamp", timeout=0.1)
            assert caught.value.holder == one.instance_id
            claim.check()
            assert [holder.instance_id for _, holder in one.fleet.claims.held()] == [one.instance_id]
        with two.claim("lamp") as again:
            assert again.epoch == 2
            path = next((place / "claims").glob("singleton-*.lock"))
            path.rename(path.with_suffix(".away"))
            with pytest.raises(errors.LeaseLost):
                again.check()
        for odd in ("", "x" * 101, "\ud800", None):
            with pytest.raises(errors.Config):
                one.claim(odd)  # type: ignore[arg-type]
        with one.own(tmp_path / "db"):
            with pytest.raises(errors.Conflict) as caught:
                two.own(tmp_path / "db")
            assert caught.value.holder == os.getpid()
        two.own(tmp_path / "db").release()
        with pytest.raises(errors.State):
            one.own(tmp_path / "no" / "such" / "folder")
