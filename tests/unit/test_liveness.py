"""Only proof makes an instance dead: another boot, its process gone or another one, or a freed lock where no process is seen.

The age of a heartbeat never does. Every combination of the evidence stands in the table."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import support
from unit.fake_clock import FakeClock
from unit.kernel import unshare

from mnemo_coord.disk.clock import SystemClock
from mnemo_coord.disk.locks import LifeLock
from mnemo_coord.disk.probes import LockState
from mnemo_coord.disk.state_dir import StateDir
from mnemo_coord.members import identity, liveness
from mnemo_coord.members.heartbeat import Beat
from mnemo_coord.members.identity import ProcessIdentity, lock_name
from mnemo_coord.members.liveness import Evidence, ProcessState, Verdict, await_end, decide, observe
from mnemo_coord.members.registration import Registration

STALLED_AFTER = 6.0
AGES: dict[float | None, Verdict] = {
    None: Verdict.STALLED,
    0.0: Verdict.ALIVE,
    STALLED_AFTER: Verdict.ALIVE,
    STALLED_AFTER + 0.001: Verdict.STALLED,
    90.0: Verdict.STALLED,
    1e12: Verdict.STALLED,
}
"""What an instance that lives is called by the age of its heartbeat."""

LOCKS = [(state, replaced) for state in LockState for replaced in (False, True)]
PROOF = {
    # The process is over: whatever the lock says, which a descendant may hold.
    (ProcessState.EXITED, lock) for lock in LOCKS
} | {
    (ProcessState.GONE, lock) for lock in LOCKS
} | {
    # The lock that was registered is free, and no process can be seen that would have lost it.
    (ProcessState.UNKNOWN, (LockState.FREE, False))
}  # fmt: skip
"""All that proves a death on this machine and in this boot. Nothing else does."""


def evidence(process: ProcessState, lock: tuple[LockState, bool], age: float | None, **changes: Any) -> Evidence:
    here = {"same_machine": True, "same_boot": True, **changes}
    return Evidence(lock=lock[0], lock_replaced=lock[1], process=process, beat_age=age, **here)


@pytest.mark.parametrize("process", ProcessState)
@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: f"{lock[0]}{'-replaced' if lock[1] else ''}")
def test_the_verdict(process: ProcessState, lock: tuple[LockState, bool]) -> None:
    """I13, I15, H1, H5, H14, H15, H17, H19."""
    for age, by_age in AGES.items():
        verdict = decide(evidence(process, lock, age), STALLED_AFTER)
        if (process, lock) in PROOF:
            assert verdict is Verdict.DEAD
        elif process is ProcessState.STOPPED:
            assert verdict is Verdict.PAUSED
        else:
            assert verdict is by_age
        assert verdict.lives is ((process, lock) not in PROOF)


EVERYTHING = list(itertools.product(ProcessState, LOCKS, AGES))


def test_whoever_is_on_another_machine_is_foreign() -> None:
    """I15, X6. Nothing here proves anything of it, another boot id least of all."""
    for process, lock, age in EVERYTHING:
        for same_boot in (True, False):
            seen = evidence(process, lock, age, same_machine=False, same_boot=same_boot)
            assert decide(seen, STALLED_AFTER) is Verdict.FOREIGN


def test_whoever_is_of_another_boot_is_dead() -> None:
    """R11. Whatever has its number or its lock file now."""
    for process, lock, age in EVERYTHING:
        assert decide(evidence(process, lock, age, same_boot=False), STALLED_AFTER) is Verdict.DEAD


def test_age_never_decides_between_life_and_death() -> None:
    """I13, I20."""
    for process, lock in itertools.product(ProcessState, LOCKS):
        verdicts = {decide(evidence(process, lock, age), limit) for age in AGES for limit in (0.0, 6.0, 1e300)}
        assert verdicts == {Verdict.DEAD} or Verdict.DEAD not in verdicts


def test_what_cannot_be_seen_is_not_dead() -> None:
    """H13, H14. Unknown means held."""
    for state in (LockState.HELD, LockState.MISSING, LockState.UNKNOWN):
        for replaced, age in itertools.product((False, True), AGES):
            assert decide(evidence(ProcessState.UNKNOWN, (state, replaced), age), STALLED_AFTER).lives


@pytest.mark.parametrize("verdict", Verdict)
def test_messages_are_accepted_for_those_who_live(verdict: Verdict) -> None:
    assert verdict.lives is (verdict in {Verdict.ALIVE, Verdict.STALLED, Verdict.PAUSED})


# Real processes


def identity_of(process: int, **changes: Any) -> ProcessIdentity:
    own = ProcessIdentity.own(SystemClock())
    fd = os.pidfd_open(process)
    inode = os.fstat(fd).st_ino if own.pidfd_inode else 0
    os.close(fd)
    start_time = identity.start_time_and_state(process)[0]
    return ProcessIdentity(**{**own.to_body(), "pid": process, "pidfd_inode": inode, "start_time": start_time, **changes})


WAYS = {"with its pidfd": {}, "by its start time": {"pidfd_inode": 0}, "by its number": {"pidfd_inode": 0, "start_time": 0}}


@pytest.mark.parametrize("known", WAYS)
def test_what_becomes_of_a_process(known: str, tmp_path: Path) -> None:
    """H1, H2."""
    with support.Child(["sleep", "60"], tmp_path / "child") as child:
        recorded = identity_of(child.pid, **WAYS[known])
        assert observe(recorded) is ProcessState.SAME
        child.send_signal(signal.SIGSTOP)
        support.wait_until(lambda: observe(recorded) is ProcessState.STOPPED)
        assert observe(recorded, thorough=False) is ProcessState.SAME
        child.send_signal(signal.SIGCONT)
        support.wait_until(lambda: observe(recorded) is ProcessState.SAME)
        child.process.send_signal(signal.SIGKILL)
        support.wait_until(lambda: observe(recorded) is ProcessState.EXITED, what="it is a zombie")
        os.kill(child.pid, 0)
        assert observe(recorded, thorough=False) is ProcessState.EXITED
        child.process.wait(10)
        assert observe(recorded) is ProcessState.GONE


def test_a_process_of_another_user_can_be_seen() -> None:
    """H13. The first process is root's and runs."""
    assert observe(identity_of(1)) is ProcessState.SAME


ANOTHER = {
    "another pidfd": ({"pidfd_inode": 1}, ProcessState.GONE),
    "started earlier": ({"pidfd_inode": 0, "start_time": 1}, ProcessState.GONE),
    "started later": ({"pidfd_inode": 0, "start_time": 2**62}, ProcessState.GONE),
    "its clock is another": ({"pidfd_inode": 0, "start_time": 1, "time_namespace": 1}, ProcessState.SAME),
    "its start is unknown": ({"pidfd_inode": 0, "start_time": 0}, ProcessState.SAME),
    "in another PID namespace": ({"pid_namespace": 1}, ProcessState.UNKNOWN),
    "in no known PID namespace": ({"pid_namespace": 0}, ProcessState.UNKNOWN),
    "a number that nobody has": ({"pid": 2**22 + 1}, ProcessState.GONE),
    "a number that nobody can have": ({"pid": 2**31 - 1}, ProcessState.GONE),
}


@pytest.mark.parametrize("which", ANOTHER)
def test_another_process_is_not_taken_for_it(which: str) -> None:
    """R12, R13, H14, H15. This very process has the recorded number."""
    changes, expected = ANOTHER[which]
    if which == "another pidfd" and not ProcessIdentity.own(SystemClock()).pidfd_inode:
        pytest.skip("before Linux 6.9 all pidfds have one inode")
    assert observe(identity_of(os.getpid(), **changes)) is expected


def test_it_is_unknown_when_no_descriptor_is_left(tmp_path: Path) -> None:
    """EMFILE proves nothing."""
    program = """
    import os, resource
    from mnemo_coord.disk.clock import SystemClock
    from mnemo_coord.members import liveness
    from mnemo_coord.members.identity import ProcessIdentity
    own = ProcessIdentity.own(SystemClock())
    assert liveness.observe(own) is liveness.ProcessState.SAME
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1, 64))
    seen = liveness.observe(own)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    print(seen, flush=True)
    """
    with support.python(program, tmp_path / "child") as child:
        assert child.wait() == 0, child.log
        assert child.printed == "unknown\n"


REUSED = """
import json, os, subprocess, sys
from mnemo_coord.disk.clock import SystemClock, namespace
from mnemo_coord.members import identity, liveness
from mnemo_coord.members.identity import ProcessIdentity

def of(pid):
    own = ProcessIdentity.own(SystemClock())
    fd = os.pidfd_open(pid)
    inode = os.fstat(fd).st_ino if own.pidfd_inode else 0
    os.close(fd)
    start_time = identity.start_time_and_state(pid)[0]
    return ProcessIdentity(**{**own.to_body(), "pid": pid, "pidfd_inode": inode, "start_time": start_time})

first = subprocess.Popen(["sleep", "60"])
recorded = of(first.pid)
before = liveness.observe(recorded)
first.kill()
first.wait()
gone = liveness.observe(recorded)
with open("/proc/sys/kernel/ns_last_pid", "w") as last:
    last.write(str(first.pid - 1))
stranger = subprocess.Popen(["sleep", "60"])
same_tick = ProcessIdentity(**{**recorded.to_body(), "start_time": of(stranger.pid).start_time})
result = {
    "reused": stranger.pid == first.pid,
    "before": before,
    "gone": gone,
    "after": liveness.observe(recorded),
    "same tick": liveness.observe(same_tick) if recorded.pidfd_inode else "gone",
    "stranger": liveness.observe(of(stranger.pid)),
    "stranger runs": stranger.poll() is None,
}
stranger.kill()
stranger.wait()
print(json.dumps(result), flush=True)
"""


def test_a_reused_number_belongs_to_somebody_else() -> None:
    """R11, R13. Also when both started in the same tick of the clock."""
    argv = [*unshare("-Urpf", "--mount-proc", "--kill-child"), sys.executable, "-c", REUSED]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "reused": True,
        "before": "same",
        "gone": "gone",
        "after": "gone",
        "same tick": "gone",
        "stranger": "same",
        "stranger runs": True,
    }


ELSEWHERE = """
import json, sys
from mnemo_coord.disk.clock import SystemClock
from mnemo_coord.members.identity import ProcessIdentity
print(json.dumps(ProcessIdentity.own(SystemClock()).to_body()), flush=True)
sys.stdin.read()
"""


def test_a_process_of_another_pid_namespace_cannot_be_seen() -> None:
    """H14, X6. Its number there is another's here."""
    argv = [*unshare("-Urpf", "--mount-proc", "--kill-child"), sys.executable, "-c", ELSEWHERE]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        recorded = ProcessIdentity(**json.loads(process.stdout.readline()))
        assert recorded.pid == 1
        assert observe(recorded) is ProcessState.UNKNOWN
        process.communicate("", timeout=20)
    assert observe(recorded) is ProcessState.UNKNOWN, "and its end cannot either"


# The evidence


@pytest.fixture
def owned(state: StateDir) -> Any:
    lock = LifeLock.create(lock_name("a1b2c3d4"), dir_fd=state.folder("instances"))
    assert lock is not None
    yield lock
    lock.close()


def registration(lock: LifeLock, clock: FakeClock, **changes: Any) -> Registration:
    own = ProcessIdentity(**{**ProcessIdentity.own(clock).to_body(), **changes})
    return Registration(
        instance_id="a1b2c3d4",
        name=None,
        roles=(),
        registered_at="2026-01-01T00:00:00.000Z",
        seq=1,
        api_port=None,
        api_host=None,
        branch=None,
        worktree_path=None,
        lock=lock.identity,
        process=own,
    )


def beat(clock: FakeClock) -> Beat:
    return Beat(instance_id="a1b2c3d4", seq=1, at="", age_ns=clock.age_ns(), boot_id=clock.boot_id, record_seq=1)


def test_the_evidence_on_a_live_one(state: StateDir, owned: LifeLock, clock: FakeClock) -> None:
    """H1, H5. Ages are counted by the clock that does not jump."""
    last = beat(clock)
    clock.advance(90, wall=-3600)
    seen = liveness.examine(state, registration(owned, clock), last, clock)
    assert seen == evidence(ProcessState.SAME, (LockState.UNKNOWN, False), 90.0)
    assert decide(seen, STALLED_AFTER) is Verdict.STALLED


def test_an_age_is_never_negative(state: StateDir, owned: LifeLock, clock: FakeClock) -> None:
    """H5, H15."""
    ahead = FakeClock(age=10_000)
    assert liveness.examine(state, registration(owned, clock), beat(ahead), clock).beat_age == 0.0


def test_a_beat_of_another_boot_is_none(state: StateDir, owned: LifeLock, clock: FakeClock) -> None:
    assert liveness.examine(state, registration(owned, clock), beat(FakeClock("another")), clock).beat_age is None
    assert liveness.examine(state, registration(owned, clock), None, clock).beat_age is None


def test_after_a_reboot_it_is_dead_although_its_number_lives(state: StateDir, owned: LifeLock, clock: FakeClock) -> None:
    """R11."""
    recorded, last = registration(owned, clock), beat(clock)
    clock.reboot("another")
    seen = liveness.examine(state, recorded, last, clock)
    assert (seen.same_boot, seen.process, seen.beat_age) == (False, ProcessState.UNKNOWN, None)
    assert decide(seen, STALLED_AFTER) is Verdict.DEAD


@pytest.mark.parametrize(("recorded", "here"), [("", "now"), ("then", ""), ("", "")])
def test_where_a_boot_has_no_name_nobody_is_of_another(recorded: str, here: str, state: StateDir, owned: LifeLock) -> None:
    seen = liveness.examine(state, registration(owned, FakeClock(recorded)), None, FakeClock(here))
    assert seen.same_boot
    assert decide(seen, STALLED_AFTER).lives


def test_another_machine_is_told_by_its_name(state: StateDir, owned: LifeLock, clock: FakeClock) -> None:
    seen = liveness.examine(state, registration(owned, clock, machine="another"), beat(clock), clock)
    assert decide(seen, STALLED_AFTER) is Verdict.FOREIGN


def test_where_the_process_cannot_be_seen_its_lock_is_asked_for(state: StateDir, owned: LifeLock, clock: FakeClock) -> None:
    unseen = registration(owned, clock, pid_namespace=1)
    seen = liveness.examine(state, unseen, beat(clock), clock)
    assert seen == evidence(ProcessState.UNKNOWN, (LockState.HELD, False), 0.0)
    assert decide(seen, STALLED_AFTER) is Verdict.ALIVE


@pytest.mark.parametrize("process", set(ProcessState) - {ProcessState.UNKNOWN})
@pytest.mark.parametrize("lock", LOCKS)
def test_where_the_process_is_seen_the_lock_proves_nothing_more(process: ProcessState, lock: tuple[LockState, bool]) -> None:
    """That is why it is not asked for then."""
    for age in AGES:
        asked, not_asked = evidence(process, lock, age), evidence(process, (LockState.UNKNOWN, False), age)
        assert decide(asked, STALLED_AFTER) is decide(not_asked, STALLED_AFTER)


def test_a_lost_lock_of_a_running_process_is_no_death(state: StateDir, owned: LifeLock, clock: FakeClock) -> None:
    """H10, H19."""
    recorded = registration(owned, clock)
    unseen = registration(owned, clock, pid_namespace=1)
    owned.close()
    seen = liveness.examine(state, recorded, beat(clock), clock)
    assert seen == evidence(ProcessState.SAME, (LockState.UNKNOWN, False), 0.0)
    assert decide(seen, STALLED_AFTER) is Verdict.ALIVE
    assert decide(liveness.examine(state, unseen, beat(clock), clock), STALLED_AFTER) is Verdict.DEAD


def test_a_lock_file_that_was_deleted_or_replaced_proves_nothing(state: StateDir, owned: LifeLock, clock: FakeClock) -> None:
    """H10. Its owner has the old file open, so the new one has another inode."""
    unseen = registration(owned, clock, pid_namespace=1)
    path = state.path / "instances" / lock_name("a1b2c3d4")
    path.unlink()
    missing = liveness.examine(state, unseen, beat(clock), clock)
    assert (missing.lock, missing.lock_replaced) == (LockState.MISSING, False)
    assert decide(missing, STALLED_AFTER) is Verdict.ALIVE
    path.touch(0o600)
    replaced = liveness.examine(state, unseen, beat(clock), clock)
    assert (replaced.lock, replaced.lock_replaced) == (LockState.FREE, True)
    assert decide(replaced, STALLED_AFTER) is Verdict.ALIVE


def test_a_process_that_is_kept_in_sight(tmp_path: Path) -> None:
    """Its descriptor stays open, and is not believed once somebody has closed it behind our back."""
    kept = liveness.KeptProcesses()
    before = set(os.listdir("/proc/self/fd"))
    with support.Child(["sleep", "60"], tmp_path / "one") as one:
        process = identity_of(one.pid)
        assert kept.look(process) is ProcessState.SAME
        (descriptor,) = set(os.listdir("/proc/self/fd")) - before
        os.dup2(0, int(descriptor))
        assert kept.look(process) is ProcessState.SAME
        os.close(int(descriptor))
        one.send_signal(signal.SIGSTOP)
        assert kept.look(process) is ProcessState.SAME
        one.process.kill()
        support.wait_until(lambda: kept.look(process) is ProcessState.EXITED, what="a zombie has ended")
        one.wait()
        assert kept.look(process) is ProcessState.GONE
    assert kept.look(identity_of(os.getpid())._replace(pid_namespace=1)) is ProcessState.UNKNOWN
    for _ in range(3):
        with support.Child(["sleep", "60"], tmp_path / "more") as one:
            assert kept.look(identity_of(one.pid)) is ProcessState.SAME
    kept.close()
    assert set(os.listdir("/proc/self/fd")) == before


def test_all_that_are_kept_are_asked_about_at_once(tmp_path: Path) -> None:
    """It is certain of those that run only; anything else is for `look` to say."""
    kept = liveness.KeptProcesses()
    before = set(os.listdir("/proc/self/fd"))
    with support.Child(["sleep", "60"], tmp_path / "one") as one, support.Child(["sleep", "60"], tmp_path / "other") as other:
        near = [registered(identity_of(each.pid)) for each in (one, other)]
        assert not kept.are_running(near), "nothing is kept yet"
        assert kept.look(near[0].process) is ProcessState.SAME
        assert not kept.are_running(near)
        assert kept.look(near[1].process) is ProcessState.SAME
        for _ in range(3):
            assert kept.are_running(near)
        assert kept.are_running(near[:1]), "another list"
        assert kept.are_running(near)
        for descriptor in set(os.listdir("/proc/self/fd")) - before:
            with suppress(OSError):  # the one that listed them
                os.close(int(descriptor))
        assert not kept.are_running(near), "closed behind our back"
        for each in near:
            assert kept.look(each.process) is ProcessState.SAME
        assert kept.are_running(near)
        other.send_signal(signal.SIGSTOP)
        assert kept.are_running(near), "a stopped process has not ended"
        other.process.kill()
        support.wait_until(lambda: not kept.are_running(near), what="one of them has ended")
        assert kept.are_running(near[:1])
        assert kept.look(near[1].process) is ProcessState.EXITED
        assert not kept.are_running(near)
    kept.close()
    assert set(os.listdir("/proc/self/fd")) == before
    assert kept.are_running([])


def registered(process: ProcessIdentity) -> Registration:
    return Registration(
        instance_id="a1b2c3d4", name=None, roles=(), registered_at="", seq=1, api_port=None, api_host=None, branch=None,
        worktree_path=None, lock=(1, 1), process=process,
    )  # fmt: skip


def test_the_end_of_a_process_is_waited_for(tmp_path: Path) -> None:
    """H2. As soon as the first has ended there is an answer, and one that runs on costs the whole time and is not dead."""
    with support.Child(["sleep", "60"], tmp_path / "one") as one, support.Child(["sleep", "60"], tmp_path / "other") as other:
        both = {"one": identity_of(one.pid), "other": identity_of(other.pid)}
        begun = time.monotonic()
        assert await_end(both, 0.1) == {"one": ProcessState.SAME, "other": ProcessState.SAME}
        assert time.monotonic() - begun >= 0.09
        other.send_signal(signal.SIGSTOP)
        threading.Timer(0.05, other.process.send_signal, [signal.SIGKILL]).start()
        assert await_end(both, 30.0) == {"one": ProcessState.SAME, "other": ProcessState.EXITED}
        other.process.wait(10)
        assert await_end(both, 30.0) == {"one": ProcessState.SAME, "other": ProcessState.GONE}
        assert time.monotonic() - begun < 20


@pytest.mark.parametrize("which", ANOTHER)
def test_nobody_waits_for_another_process(which: str) -> None:
    """R12, R13. Nor where one of several cannot be seen."""
    changes, expected = ANOTHER[which]
    if which == "another pidfd" and not ProcessIdentity.own(SystemClock()).pidfd_inode:
        pytest.skip("before Linux 6.9 all pidfds have one inode")
    found = await_end({"me": identity_of(os.getpid()), "it": identity_of(os.getpid(), **changes)}, 0.0)
    assert found == {"me": ProcessState.SAME, "it": expected}
    if expected is not ProcessState.SAME:
        begun = time.monotonic()
        await_end({"me": identity_of(os.getpid()), "it": identity_of(os.getpid(), **changes)}, 30.0)
        assert time.monotonic() - begun < 10


def test_waiting_for_ends_keeps_no_descriptor() -> None:
    before = len(os.listdir("/proc/self/fd"))
    own = identity_of(os.getpid())
    await_end(
        {"a": own, "b": identity_of(os.getpid(), pid=2**22 + 1), "c": identity_of(os.getpid(), start_time=1, pidfd_inode=0)},
        0.0,
    )
    assert set(await_end({str(number): own for number in range(1000)}, 30.0).values()) == {ProcessState.UNKNOWN}
    assert len(os.listdir("/proc/self/fd")) == before
    assert await_end({}, 30.0) == {}
