"""Hostile surroundings: what fails is said in one line, what lives stays, and all goes on when the trouble is over.

Covered elsewhere, and not repeated here:

- a full disk for commands alone: test_queue.test_a_full_disk_refuses_sending_and_still_hands_out;
- a read-only file system without a live instance: test_queue.test_a_read_only_file_system_can_be_looked_at;
- no inotify, for messages: test_queue.test_without_inotify_the_poll_delivers, and for the watch alone unit/test_watch.py;
- steps of the wall clock, by hours and by ten years: test_heartbeat.test_wall_clock_jumps_reap_nobody;
- hours of sleep by the clock: test_heartbeat.test_hours_of_sleep_make_nobody_dead_or_stalled;
- an instance in a shifted time namespace: test_heartbeat.test_a_process_in_a_shifted_time_namespace_is_not_reaped;
- an instance in another PID namespace: test_heartbeat.test_another_pid_namespace_is_judged_by_its_lock;
- hidepid=2: test_heartbeat.test_hidden_processes_are_not_reaped;
- a state directory that is gone for good under two: test_heartbeat.test_a_fleet_moves_back_in;
- commands with few descriptors or small files: test_cli.test_scarce_resources_are_an_error_not_a_hang.
"""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
import support
from unit.kernel import forbidden, need_root, unshare

from mnemo_coord import Coordinator, Fleet, Settings

NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
"""Before a command: an ordinary user without any rights."""

FAST = Settings(heartbeat_interval=0.2, poll_interval=0.2)


def listed(state_dir: Path, prefix: Sequence[str] = ()) -> dict[str, str]:
    done = support.run("--dir", state_dir, "list", "--json", prefix=prefix)
    return {entry["instance_id"]: entry["status"] for entry in done.json}


def beats(state_dir: Path, instance_id: str, number: int = 5) -> None:
    """Waits until an instance has beaten so often; it looks out for the others as often as that here."""
    beat = state_dir / "instances" / f"{instance_id}.beat"
    for _ in range(number):
        before = beat.read_bytes()
        support.wait_until(lambda before=before: beat.read_bytes() != before, 5, "a beat")


def is_locked(state_dir: Path, instance_id: str) -> bool:
    """Whether the lock that proves the life of an instance is there and held."""
    path = state_dir / "instances" / f"{instance_id}.lock"
    return path.exists() and subprocess.run(["flock", "--nonblock", "--shared", path, "true"], check=False).returncode == 1


def complaint(done: support.Cli, code: int) -> str:
    """The one line of a command that failed as it should."""
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    (line,) = done.stderr.splitlines()
    assert line.startswith("mnemosyne: ")
    return line


def driver(program: str, *args: object, prefix: Sequence[str], setup: str = "") -> None:
    """Runs a program that is itself a test in other surroundings; ``setup`` is done there first."""
    python = [sys.executable, "-c", program, *map(str, args)]
    argv = [*prefix, "sh", "-ec", f'{setup}\nexec "$@"', "sh", *python] if setup else [*prefix, *python]
    paths = os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    surroundings = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(argv, env=surroundings, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


# Disks

FULL = """
import os, sys
from pathlib import Path
import support
from faults.test_surroundings import FAST, beats, complaint, listed
from mnemo_coord import Coordinator

state_dir, scarce = Path(sys.argv[1]), sys.argv[2]
run = lambda *args: support.run("--dir", state_dir, *args)
with support.Serve(state_dir, "--name", "worker") as worker, Coordinator(state_dir, name="keeper", settings=FAST) as me:
    assert run("send", "--to", "inbox", "First").returncode == 0
    assert run("send", "--to", "keeper", "Kept").returncode == 0
    fillers = []
    try:
        while True:
            fillers.append(state_dir / f"filler-{len(fillers)}")
            fillers[-1].touch(0o600)
            with fillers[-1].open("ab", buffering=0) as filler:
                filler.write(b"x" * (65536 if scarce == "blocks" else 0))
    except OSError:
        pass
    while scarce == "blocks":  # to the last block
        try:
            with fillers[-1].open("ab", buffering=0) as filler:
                filler.write(b"x" * 4096)
        except OSError:
            break

    assert "no space left" in complaint(run("send", "--to", "inbox", "Second"), 6)
    assert "no space left" in complaint(run("serve"), 6)
    ids = {worker.instance_id: "alive", me.instance_id: "alive"}
    beats(state_dir, worker.instance_id)
    assert listed(state_dir) == ids
    looked = run("doctor", "--json")
    assert looked.returncode == 0, (looked.stdout, looked.stderr)
    fixed = run("doctor", "--fix")
    assert fixed.returncode == 0 or "no space left" in complaint(fixed, 6)  # its lock may need an inode
    (kept,) = list(me.receive())
    with kept as message:
        assert message.message_type == "Kept"
    assert list(me.receive()) == [], "acknowledged"
    handed_out = run("receive", "--as", "inbox", "--json")
    assert handed_out.returncode == 0, handed_out.stderr
    assert handed_out.json["message_type"] == "First"

    for filler in fillers:
        filler.unlink(missing_ok=True)
    assert run("send", "--to", "worker", "Third").returncode == 0
    worker.wait_for("Message Third")
    assert worker.log.count("instance_died") == 0
    assert worker.stop() == 0
assert run("doctor", "--fix").returncode == 0
assert run("receive", "--as", "inbox").returncode == 5, "what was refused is not there"
"""


@pytest.mark.parametrize(("scarce", "options"), [("blocks", "size=256k"), ("inodes", "size=4m,nr_inodes=64")])
def test_a_full_disk_harms_no_live_instance(scarce: str, options: str, state_dir: Path) -> None:
    """Q29, H7, C11."""
    state_dir.mkdir(mode=0o700)
    setup = f"mount -t tmpfs -o {options},mode=0700 none {state_dir}"
    driver(FULL, state_dir, scarce, prefix=unshare("-Urm"), setup=setup)


def test_a_read_only_view_shows_the_living(state_dir: Path) -> None:
    """C11. The instance writes; whoever looks has the same folder read-only, as in a container."""
    with support.Serve(state_dir, "--name", "worker") as one:
        mounted = f"mount --bind {state_dir} {state_dir}; mount -o remount,bind,ro {state_dir}"
        frozen = [*unshare("-Urm"), "sh", "-ec", f'{mounted}; exec "$@"', "sh"]
        assert listed(state_dir, frozen) == {one.instance_id: "alive"}
        looked = support.run("--dir", state_dir, "events", "--json", prefix=frozen)
        assert [fact["kind"] for fact in looked.json] == ["instance_registered"]
        examined = support.run("--dir", state_dir, "doctor", "--json", prefix=frozen)
        assert examined.json == {"status": "healthy", "findings": []}
        for command in (["send", "--to", "worker", "T"], ["send", "--to", "new", "T"], ["serve"]):
            done = support.run("--dir", state_dir, *command, prefix=frozen)
            assert "read-only" in complaint(done, 6)
        assert support.run("--dir", state_dir, "doctor", "--fix", prefix=frozen).returncode in {0, 6}
        assert listed(state_dir) == {one.instance_id: "alive"}
        assert one.stop() == 0


# Notifications

UNWATCHED = """
import sys
from pathlib import Path
import support

state_dir = Path(sys.argv[1])
with support.Serve(state_dir, "--name", "inbox") as one, support.Serve(state_dir) as two:
    one.wait_for(f"Instance {two.instance_id} is here")
    support.run("--dir", state_dir, "send", "--to", "inbox", "Polled")
    one.wait_for("Message Polled")
    two.kill()
    one.wait_for(f"Instance {two.instance_id} died")
    support.wait_until(lambda: support.status_of(state_dir, two.instance_id) is None)
    assert one.log.count("polling instead") == 1, one.log
    assert one.stop() == 0
"""


@pytest.mark.parametrize("limit", ["instances", "watches"])
def test_without_notifications_a_death_is_found_by_the_poll(limit: str, state_dir: Path) -> None:
    """Q26, H2."""
    driver(UNWATCHED, state_dir, prefix=unshare("-Ur"), setup=f"echo 0 > /proc/sys/user/max_inotify_{limit}")


COUNTS = """
import sys, time
from mnemo_coord import Coordinator
with Coordinator(sys.argv[1], name="inbox") as me:
    me.on_event(lambda event: print(event.kind, event.instance_id, flush=True))
    me.on_message(lambda message: print(f"got {message.payload}\\n", end="", flush=True))
    print("in", me.instance_id, flush=True)
    time.sleep(60)
"""


def flood(folder: Path, number: int) -> None:
    """Causes that many events in a folder: of two names in turn, because the kernel joins equal ones."""
    pair = [folder / ".flood-1", folder / ".flood-2"]
    for _ in range(number // 2):
        for path in pair:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
            os.utime(path)
    for path in pair:
        path.unlink()


def test_a_queue_of_events_that_overflows_loses_nothing(state_dir: Path, tmp_path: Path) -> None:
    """Q26, I10. Messages and a death come while the receiver is stopped and the kernel has dropped their events."""
    events = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text()) + 4000
    with ExitStack() as stack:
        receiver = stack.enter_context(support.python(COUNTS, tmp_path / "counts", state_dir))
        receiver_id = receiver.wait_for("in ").split()[1]
        peer = stack.enter_context(support.Serve(state_dir))
        fleet = stack.enter_context(Fleet.open(state_dir))
        receiver.wait_for(f"instance_registered {peer.instance_id}")
        receiver.send_signal(signal.SIGSTOP)
        support.wait_until(lambda: support.status_of(state_dir, receiver_id) == "paused")
        bell = next((state_dir / "coordination_queue").glob("name-*")) / "bell"
        for folder in (bell, state_dir / "instances"):
            flood(folder, events)
        for number in range(50):
            fleet.send("inbox", "T", number, sender="tester")
        peer.kill()
        receiver.send_signal(signal.SIGCONT)
        receiver.wait_for("got 49", 30)
        receiver.wait_for(f"instance_died {peer.instance_id}", 30)
        support.wait_until(lambda: support.status_of(state_dir, peer.instance_id) is None)
        fleet.send("inbox", "T", "afterwards", sender="tester")
        receiver.wait_for("got afterwards", 30)
        assert [line for line in receiver.printed.splitlines() if line.startswith("got")] == [
            *(f"got {number}" for number in range(50)),
            "got afterwards",
        ]
        assert "Traceback" not in receiver.log


# The state directory under a live fleet


@pytest.fixture
def three(state_dir: Path) -> Iterator[list[support.Serve]]:
    with ExitStack() as stack:
        yield [stack.enter_context(support.Serve(state_dir, "--name", f"worker{number}")) for number in range(3)]


def all_back(state_dir: Path, fleet: Sequence[support.Serve]) -> None:
    """Each is there with its id, still has its name, and gets what is sent to it."""
    alive = {one.instance_id: "alive" for one in fleet}
    support.wait_until(lambda: listed(state_dir) == alive, 5, "all of them are present again")
    with Fleet.open(state_dir) as outside:
        for number, one in enumerate(fleet):
            for address in (one.instance_id, f"worker{number}"):
                assert outside.send(address, "Again", sender="tester").delivered == (address,)
                one.wait_for(f"Message Again from tester to {address} ")
    assert not [line for one in fleet for line in one.log.splitlines() if " died" in line]


def name_is_taken(state_dir: Path, name: str, instance_id: str) -> None:
    """Nobody else gets it, and who asks is told who has it."""
    refused = support.run("--dir", state_dir, "serve", "--name", name, prefix=["timeout", "3"])
    assert refused.returncode != 124, f"{name} has a second holder"
    assert instance_id in complaint(refused, 4)


def test_a_state_directory_away_for_an_instant(state_dir: Path, three: list[support.Serve]) -> None:
    """I16, I17."""
    for _ in range(20):
        away = state_dir.rename(state_dir.with_name("away"))
        try:
            away.rename(state_dir)
        except OSError:
            shutil.rmtree(state_dir)  # somebody's beat made it anew in between
            away.rename(state_dir)
    all_back(state_dir, three)
    name_is_taken(state_dir, "worker0", three[0].instance_id)


def test_a_state_directory_that_comes_back_after_it_was_made_anew(state_dir: Path, three: list[support.Serve]) -> None:
    """I16, I17. The old one has their old locks, of files that are theirs still."""
    away = state_dir.rename(state_dir.with_name("away"))
    for one in three:
        one.wait_for("moving back in")
    all_back(state_dir, three)
    state_dir.rename(state_dir.with_name("anew"))
    away.rename(state_dir)
    support.wait_until(lambda: all(one.log.count("moving back in") >= 2 for one in three), 10)
    all_back(state_dir, three)


@pytest.mark.parametrize("how", ["removed", "renamed away"])
def test_a_state_directory_that_is_gone(how: str, state_dir: Path, three: list[support.Serve]) -> None:
    """I16."""
    if how == "removed":
        subprocess.run(["rm", "-rf", str(state_dir)], check=False)
    else:
        state_dir.rename(state_dir.with_name("away"))
    for one in three:
        one.wait_for("moving back in")
    all_back(state_dir, three)


@pytest.mark.parametrize("how", ["removed", "renamed away"])
def test_locks_are_taken_again_where_the_state_directory_is_now(how: str, state_dir: Path, three: list[support.Serve]) -> None:
    """I16, I17. A lock in a folder that is elsewhere proves nothing to anybody here."""
    test_a_state_directory_that_is_gone(how, state_dir, three)
    support.wait_until(lambda: all(is_locked(state_dir, one.instance_id) for one in three), 3, "they have their locks")


@pytest.mark.parametrize("how", ["removed", "renamed away"])
def test_names_are_kept_when_the_state_directory_is_gone(how: str, state_dir: Path, three: list[support.Serve]) -> None:
    """I16. A name has one holder, also where the file of its lock has gone."""
    test_a_state_directory_that_is_gone(how, state_dir, three)
    name_is_taken(state_dir, "worker0", three[0].instance_id)


@pytest.mark.parametrize("how", ["removed", "renamed away"])
def test_nobody_has_left_when_the_state_directory_is_gone(how: str, state_dir: Path, three: list[support.Serve]) -> None:
    """I13. ``instance_left`` says that somebody has left in order; these live, and their processes can be seen."""
    test_a_state_directory_that_is_gone(how, state_dir, three)
    assert [line for one in three for line in one.log.splitlines() if "has left" in line] == []


# Time


def test_stopped_for_minutes_it_keeps_everything(state_dir: Path) -> None:
    """H1. Whoever looks has a clock that is five minutes further on."""
    later = [*unshare("-UrT", "--boottime", "300", "--monotonic", "300", "--fork", "--kill-child")]
    with support.Serve(state_dir, "--name", "sleeper") as sleeper:
        sleeper.send_signal(signal.SIGSTOP)
        support.wait_until(lambda: support.status_of(state_dir, sleeper.instance_id) == "paused")
        done = support.run("--dir", state_dir, "list", "--json", prefix=later)
        assert [(entry["status"], entry["heartbeat_age"] > 299) for entry in done.json] == [("paused", True)]
        examined = support.run("--dir", state_dir, "doctor", "--fix", "--json", prefix=later)
        assert [finding["code"] for finding in examined.json["findings"]] == ["instance-paused"]
        with support.Serve(state_dir, prefix=later) as other:
            beats(state_dir, other.instance_id)
            name_is_taken(state_dir, "sleeper", sleeper.instance_id)
            waits = support.run("--dir", state_dir, "send", "--to", sleeper.instance_id, "WhileAsleep")
            assert waits.returncode == 0, waits.stderr
            assert support.status_of(state_dir, sleeper.instance_id) == "paused"
            sleeper.send_signal(signal.SIGCONT)
            sleeper.wait_for("Message WhileAsleep")
            support.wait_until(lambda: support.status_of(state_dir, sleeper.instance_id) == "alive", 5)
            assert " died" not in other.log


def test_a_group_that_was_suspended_wakes_up_whole(state_dir: Path, three: list[support.Serve]) -> None:
    """H6. All stop at once for many intervals, as in a suspend; none calls another dead or stalled when it wakes."""
    for number, one in enumerate(three):
        for later in three[number + 1 :]:
            one.wait_for(f"Instance {later.instance_id} (")
    before = [one.log for one in three]
    for one in three:
        one.send_signal(signal.SIGSTOP)
    time.sleep(1.4)  # seven intervals, which is the point
    for one in three:
        one.send_signal(signal.SIGCONT)
    all_back(state_dir, three)
    said = [line for one, old in zip(three, before, strict=True) for line in one.log[len(old) :].splitlines()]
    assert [line for line in said if "Message Again" not in line and " is here" not in line] == []
    name_is_taken(state_dir, "worker0", three[0].instance_id)


# Processes

REUSED = """
import subprocess, sys
from pathlib import Path
import support

state_dir = Path(sys.argv[1])
with support.Serve(state_dir, "--name", "victim") as victim:
    victim.kill()  # and nobody is there to notice
for _ in range(50):
    with open("/proc/sys/kernel/ns_last_pid", "w") as last:
        last.write(str(victim.pid - 1))
    stranger = subprocess.Popen(["sleep", "60"])
    if stranger.pid == victim.pid:
        break
    stranger.kill()
    stranger.wait()
assert stranger.pid == victim.pid, "forced"
try:
    assert support.status_of(state_dir, victim.instance_id) == "dead"
    waits = support.run("--dir", state_dir, "send", "--to", victim.instance_id, "T")
    assert waits.returncode == 3, waits.stderr
    fixed = support.run("--dir", state_dir, "doctor", "--fix", "--json")
    assert fixed.returncode == 0, fixed.stdout
    assert "instance-dead" in [finding["code"] for finding in fixed.json["findings"]]
    assert support.status_of(state_dir, victim.instance_id) is None
    with support.Serve(state_dir, "--name", "victim") as successor:
        assert successor.stop() == 0
    assert stranger.poll() is None, "it is none of ours"
finally:
    stranger.kill()
    stranger.wait()
"""


def test_a_stranger_with_the_number_of_a_dead_one_is_left_alone(state_dir: Path) -> None:
    """R11, R13, I15, I23."""
    driver(REUSED, state_dir, prefix=unshare("-Urpf", "--mount-proc", "--kill-child"))


FORKS = """
import ctypes, os, sys, time
from mnemo_coord import Coordinator
me = Coordinator(sys.argv[1], name="parent")
me.register()
claim = me.claim("lamp")
child = os.fork() if sys.argv[2] == "fork" else ctypes.PyDLL(None).fork()
if child == 0:
    ctypes.PyDLL(None).pause()
print("forked", me.instance_id, child, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("how", ["fork", "fork that Python does not see"])
def test_a_child_outlives_its_parent_and_holds_nothing(how: str, state_dir: Path, tmp_path: Path) -> None:
    """H2, V17, I16. A fork by C code keeps the descriptors, and so the claim, until it ends; the dead is dead all the same."""
    with Coordinator(state_dir, settings=FAST) as me, support.python(FORKS, tmp_path / "forks", state_dir, how) as parent:
        _, parent_id, number = parent.wait_for("forked").split()
        child = int(number)
        died: list[str | None] = []
        support.wait_until(lambda: any(event.instance_id == parent_id for event in me.events.since()))
        me.on_event(lambda event: died.append(event.instance_id) if event.kind == "instance_died" else None)
        try:
            parent.kill()
            support.wait_until(lambda: died == [parent_id], 5, "the death is told")
            support.wait_until(lambda: support.status_of(state_dir, parent_id) is None, 5, "and it is reaped")
            os.kill(child, 0)
            if how == "fork":
                me.claim("lamp").release()
                with Coordinator(state_dir, name="parent", settings=FAST):
                    os.kill(child, 0)
        finally:
            os.kill(child, signal.SIGKILL)
        me.claim("lamp", timeout=5).release()
        with support.Serve(state_dir, "--name", "parent") as successor:
            assert successor.stop() == 0
        assert support.run("--dir", state_dir, "doctor", "--fix").returncode == 0


CLOSES = """
import os, sys, time
from mnemo_coord import Coordinator
me = Coordinator(sys.argv[1], name="closed")
me.register()
me.on_message(lambda message: print(f"got {message.message_type}\\n", end="", flush=True))
print("in", me.instance_id, flush=True)
while not os.path.exists(sys.argv[2]):
    time.sleep(0.01)
os.closerange(3, 200)
print("closed", flush=True)
while os.path.exists(sys.argv[2]):
    time.sleep(0.01)
me.unregister()
print("left", flush=True)
"""


@pytest.fixture
def closed(state_dir: Path, tmp_path: Path) -> Iterator[tuple[support.Child, str]]:
    """An instance whose descriptors have been closed, and that has its lock again. It polls once in a second."""
    go = tmp_path / "go"
    with support.python(CLOSES, tmp_path / "closes", state_dir, go, env={"MNEMOSYNE_POLL_INTERVAL": "1"}) as one:
        instance_id = one.wait_for("in ").split()[1]
        go.touch()
        one.wait_for("closed")
        assert support.status_of(state_dir, instance_id) in {"alive", "stalled"}
        support.wait_until(lambda: is_locked(state_dir, instance_id), 5, "it has its lock again")
        yield one, instance_id


def test_every_descriptor_closed_behind_our_back(state_dir: Path, closed: tuple[support.Child, str]) -> None:
    """H19. As programs do that become daemons, and libraries that start processes."""
    one, instance_id = closed
    with support.Serve(state_dir) as peer:
        support.wait_until(lambda: support.status_of(state_dir, instance_id) == "alive", 5)
        for address in (instance_id, "closed"):
            sent = support.run("--dir", state_dir, "send", "--to", address, f"To-{address}")
            assert sent.returncode == 0, sent.stderr
            one.wait_for(f"got To-{address}", 5)
        assert support.run("--dir", state_dir, "doctor", "--fix").returncode == 0
        assert support.status_of(state_dir, instance_id) == "alive"
        assert " died" not in peer.log


def test_bells_are_heard_again_after_every_descriptor_was_closed(state_dir: Path, closed: tuple[support.Child, str]) -> None:
    """Q26, I10. The poll delivers meanwhile; a message that comes just after one takes a second by the poll alone."""
    one, _ = closed
    delays = []
    with Fleet.open(state_dir) as outside:
        for number in range(6):
            start = time.monotonic()
            outside.send("closed", f"Rung-{number}", sender="tester")
            one.wait_for(f"got Rung-{number}", 5)
            delays.append(time.monotonic() - start)
    assert statistics.median(delays) < 0.5, delays


def test_it_leaves_in_order_after_every_descriptor_was_closed(
    state_dir: Path, tmp_path: Path, closed: tuple[support.Child, str]
) -> None:
    """H19."""
    one, instance_id = closed
    with support.Serve(state_dir) as peer:
        (tmp_path / "go").unlink()
        assert one.wait(10) == 0, one.log
        assert "left" in one.printed
        assert support.status_of(state_dir, instance_id) is None
        assert " died" not in peer.log


def test_a_name_is_kept_when_every_descriptor_was_closed(state_dir: Path, closed: tuple[support.Child, str]) -> None:
    """H19, I16. One instance at a time has a name."""
    name_is_taken(state_dir, "closed", closed[1])


@pytest.mark.parametrize("limit", ["--nofile=20", "--nofile=3", "--fsize=100"])
def test_a_live_instance_outlasts_a_limit(limit: str, state_dir: Path) -> None:
    """C19, H7, Q30. The limit comes while it runs, and goes again."""
    with support.Serve(state_dir, "--name", "inbox") as one, support.Serve(state_dir) as peer:
        one.wait_for(f"Instance {peer.instance_id} is here")
        subprocess.run(["prlimit", f"--pid={one.pid}", f"{limit}:"], check=True)
        support.run("--dir", state_dir, "send", "--to", "inbox", "Tight")
        time.sleep(1.0)  # five intervals, which is the point
        assert support.status_of(state_dir, one.instance_id) in {"alive", "stalled"}
        assert support.run("--dir", state_dir, "doctor", "--fix").returncode in {0, 1}
        name = limit.partition("=")[0]
        subprocess.run(["prlimit", f"--pid={one.pid}", f"{name}={'unlimited' if 'fsize' in name else '1024'}:"], check=True)
        if "fsize" not in limit:  # which its log is subject to, too
            one.wait_for("Message Tight", 10)
        support.wait_until(lambda: not list((state_dir / "coordination_queue").glob("name-*/new/*")), 10, "it was taken")
        support.wait_until(lambda: support.status_of(state_dir, one.instance_id) == "alive", 5)
        support.run("--dir", state_dir, "send", "--to", "inbox", "Free")
        one.wait_for("Message Free")
        assert " died" not in peer.log
        assert one.stop() == 0


@pytest.mark.parametrize("limit", ["--nofile=20", "--fsize=100"])
def test_an_instance_that_starts_under_a_limit_works_or_says_why(limit: str, state_dir: Path) -> None:
    """C19."""
    argv = ["prlimit", limit, support.MNEMOSYNE, "--dir", str(state_dir), "serve", "--name", "inbox"]
    with support.Child(argv, state_dir.parent / "limited") as child:
        said = ("is in the fleet at", "Too many open files", "File too large", "mnemosyne: ")
        support.wait_until(lambda: child.process.poll() is not None or any(text in child.log for text in said))
        sent = support.run("--dir", state_dir, "send", "--to", "inbox", "Hello", "--json")
        assert sent.returncode == 0, sent.stderr
        code = child.stop() if child.process.poll() is None else child.process.returncode
        assert code in {0, 6}, child.log
        assert code == 0 or len([line for line in child.log.splitlines() if line.startswith("mnemosyne: ")]) == 1
        assert "Traceback" not in child.log
        waits = support.run("--dir", state_dir, "receive", "--as", "inbox", "--json")
        assert waits.json.get("id") == sent.json["id"] or f"({sent.json['id']})" in child.log, "neither lost nor hidden"
    assert support.run("--dir", state_dir, "doctor", "--fix").returncode == 0
    assert listed(state_dir) == {}


# Users and file systems


def session(state_dir: Path, prefix: Sequence[str] = ()) -> None:
    """What people do, from the first start to the doctor after a crash."""

    def run(*args: str) -> support.Cli:
        return support.run("--dir", state_dir, *args, prefix=prefix, cwd=Path("/"))

    with (
        support.Serve(state_dir, "--name", "inbox", prefix=prefix) as one,
        support.Serve(state_dir, "--role", "helper", prefix=prefix) as two,
    ):
        assert listed(state_dir, prefix) == {one.instance_id: "alive", two.instance_id: "alive"}
        for address, who in (("inbox", one), (two.instance_id, two), ("@helper", two)):
            sent = run("send", "--to", address, "Hello")
            assert sent.returncode == 0, sent.stderr
            who.wait_for(f"to {address} (")
        assert run("send", "--to", "later", "Work").returncode == 0
        assert run("receive", "--as", "later", "--json").json["message_type"] == "Work"
        two.kill()
        one.wait_for(f"Instance {two.instance_id} died")
        support.wait_until(lambda: listed(state_dir, prefix) == {one.instance_id: "alive"})
        assert run("doctor", "--fix").returncode == 0
        assert run("send", "--to", two.instance_id, "Hello").returncode == 3
        assert one.stop() == 0
    with support.Serve(state_dir, "--name", "inbox", prefix=prefix) as alone:
        alone.kill()
    assert run("doctor", "--json").returncode == 1
    assert listed(state_dir, prefix) == {alone.instance_id: "dead"}
    assert run("doctor", "--fix").returncode == 0
    assert run("doctor", "--json").json["status"] == "healthy"
    assert listed(state_dir, prefix) == {}
    assert [fact["kind"] for fact in run("events", "--json").json][-2:] == ["instance_registered", "instance_died"]


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder of the user nobody, which that user can reach."""
    need_root()
    place = Path(tempfile.mkdtemp(prefix="mnemo-", dir="/tmp"))  # pytest's folders are closed to others
    os.chown(place, 65534, 65534)
    place.chmod(0o755)
    if subprocess.run([*NOBODY, support.MNEMOSYNE, "--version"], check=False, capture_output=True, cwd="/").returncode:
        forbidden("another user cannot run the command from here")
    yield place
    shutil.rmtree(place)


def test_a_whole_session_of_an_ordinary_user(home: Path) -> None:
    """Root may pass over every mode; users are not root."""
    session(home / "fleet", NOBODY)
    assert {path.stat().st_uid for path in (home / "fleet").rglob("*")} == {65534}


def test_where_it_stands_need_not_be_open_to_it(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody was sent to another user by a program that stands in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o700)
    with support.Serve(home / "fleet", "--name", "inbox", prefix=NOBODY) as one:
        sent = support.run("--dir", home / "fleet", "send", "--to", "inbox", "Hello", prefix=NOBODY)
        assert sent.returncode == 0, sent.stderr
        assert one.stop() == 0


def test_another_user_sees_and_changes_nothing(home: Path) -> None:
    """T1, S1, C11. The parent is open to all, the state directory is not."""
    os.chown(home, 0, 0)
    state_dir = home / "fleet"
    with support.Serve(state_dir, "--name", "worker") as one:
        secret = subprocess.run([*NOBODY, "cat", state_dir / "secret"], check=False, capture_output=True, text=True)
        assert (secret.returncode, secret.stdout) == (1, "")
        one.send_signal(signal.SIGSTOP)  # so that nothing else changes anything
        support.wait_until(lambda: support.status_of(state_dir, one.instance_id) == "paused")
        before = support.tree(state_dir)
        commands = (
            ["list"],
            ["send", "--to", "worker", "T"],
            ["send", "--all", "T"],
            ["receive", "--as", "worker"],
            ["doctor"],
            ["doctor", "--fix"],
            ["events"],
            ["serve"],
        )
        for command in commands:
            done = support.run("--dir", state_dir, *command, prefix=NOBODY, cwd=Path("/"))
            assert str(state_dir) in complaint(done, 6)
            done = support.run("--dir", state_dir, *command, "--json", prefix=NOBODY, cwd=Path("/"))
            assert set(done.json["error"]) == {"code", "message", "hint"}
        assert support.tree(state_dir) == before
        one.send_signal(signal.SIGCONT)
        assert one.stop() == 0


OVERLAID = """
import sys
from pathlib import Path
import support
from faults.test_surroundings import listed, session

state_dir = Path(sys.argv[1])
if sys.argv[2] == "a used fleet":
    assert list(listed(state_dir).values()) == ["dead"]
    assert support.run("--dir", state_dir, "receive", "--as", "later", "--json").json["message_type"] == "Old"
    fixed = support.run("--dir", state_dir, "doctor", "--fix")
    assert fixed.returncode == 0, fixed.stdout + fixed.stderr
session(state_dir)
"""


@pytest.mark.parametrize("lower", ["empty", "a used fleet"])
def test_a_whole_session_on_overlayfs(lower: str, tmp_path: Path) -> None:
    """X7. Files of the lower layer get another inode when they are first written."""
    mount, below = tmp_path / "mount", tmp_path / "lower"
    mount.mkdir()
    below.mkdir()
    if lower == "a used fleet":
        with support.Serve(below / "fleet", "--name", "inbox") as one:
            support.run("--dir", below / "fleet", "send", "--to", "later", "Old")
            one.kill()
    setup = f"""
        mount -t tmpfs -o mode=0700 none {mount}
        mkdir {mount}/upper {mount}/work {mount}/merged
        mount -t overlay overlay -o userxattr,lowerdir={below},upperdir={mount}/upper,workdir={mount}/work {mount}/merged
    """
    prefix = unshare("-Urm")
    if subprocess.run([*prefix, "sh", "-ec", setup], check=False, capture_output=True).returncode:
        forbidden("overlayfs is not allowed in a user namespace here")
    before = support.tree(below / "fleet")
    driver(OVERLAID, f"{mount}/merged/fleet", lower, prefix=prefix, setup=setup)
    assert support.tree(below / "fleet") == before
