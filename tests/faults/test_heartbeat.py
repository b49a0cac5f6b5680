"""Liveness under pauses, clock jumps, lost locks and foreign namespaces: only what is proved dead is ever reaped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import support

from mnemo_coord import Coordinator, Settings
from mnemo_coord.disk.clock import SystemClock
from mnemo_coord.members.liveness import Verdict
from mnemo_coord.members.reaper import Reaper
from mnemo_coord.members.registration import Registration

FAST = Settings(heartbeat_interval=0.1, poll_interval=0.1)


class Skewed(SystemClock):
    """The machine's clocks, set wrong by as many nanoseconds as a test likes, at any moment."""

    wall_skew = 0
    age_skew = 0

    def wall_ns(self) -> int:
        return super().wall_ns() + self.wall_skew

    def age_ns(self) -> int:
        return super().age_ns() + self.age_skew


def history(state_dir: Path) -> list[tuple[str, str]]:
    lines = (state_dir / "history.jsonl").read_text().splitlines()
    return [(fact["kind"], fact["instance_id"]) for fact in map(json.loads, lines)]


def watchers(state_dir: Path, number: int) -> list[Coordinator]:
    found = [Coordinator(state_dir, settings=FAST) for _ in range(number)]
    for watcher in found:
        watcher.register()
    return found


def test_a_stopped_instance_keeps_everything(state_dir: Path) -> None:
    """H1."""
    with support.Serve(state_dir, "--name", "sleeper") as sleeper, Coordinator(state_dir, settings=FAST) as me:
        stalled = threading.Event()
        me.on_event(lambda event: stalled.set() if event.kind == "instance_stalled" else None)
        sleeper.send_signal(signal.SIGSTOP)
        support.wait_until(lambda: support.status_of(state_dir, sleeper.instance_id) == "paused")
        time.sleep(1.5)  # many intervals, which is the point: no age makes it dead
        me.cleanup_stale()
        assert support.run("--dir", state_dir, "doctor", "--fix").returncode in {0, 1}
        assert support.status_of(state_dir, sleeper.instance_id) == "paused"
        refused = support.run("--dir", state_dir, "serve", "--name", "sleeper")
        assert refused.returncode == 4
        assert sleeper.instance_id in refused.stderr
        sleeper.send_signal(signal.SIGCONT)
        support.wait_until(lambda: support.status_of(state_dir, sleeper.instance_id) == "alive", 3)


def test_who_listens_is_told_of_every_neighbour_that_stalls(state_dir: Path) -> None:
    """H1, H17. Not only of the two that everybody looks at closely."""
    sleepers = [support.Serve(state_dir) for _ in range(4)]
    try:
        with Coordinator(state_dir, settings=FAST) as me:
            told: dict[str, list[str]] = {sleeper.instance_id: [] for sleeper in sleepers}
            me.on_event(lambda event: told[event.instance_id].append(event.kind))
            support.wait_until(lambda: all(told.values()) or len(me.instances()) == 5)
            for sleeper in sleepers:
                sleeper.send_signal(signal.SIGSTOP)
            support.wait_until(lambda: all("instance_stalled" in kinds for kinds in told.values()), what=str(told))
            for sleeper in sleepers:
                sleeper.send_signal(signal.SIGCONT)
            support.wait_until(lambda: all("instance_recovered" in kinds for kinds in told.values()), what=str(told))
    finally:
        for sleeper in sleepers:
            sleeper.send_signal(signal.SIGCONT)
            sleeper.__exit__()


def test_a_kill_is_noticed_by_all_and_reaped_once(state_dir: Path) -> None:
    """H2."""
    peers = watchers(state_dir, 5)
    try:
        with support.Serve(state_dir) as victim:
            seen: list[str] = []
            for peer in peers:
                support.wait_until(lambda peer=peer: any(e.instance_id == victim.instance_id for e in peer.events.since()))
                peer.on_event(lambda event: seen.append(event.kind) if event.instance_id == victim.instance_id else None)
            victim.kill()
            support.wait_until(lambda: len(seen) >= 5)
            support.wait_until(lambda: support.status_of(state_dir, victim.instance_id) is None)
            for peer in peers:
                peer.heartbeat()
            assert seen == ["instance_died"] * 5
            assert history(state_dir).count(("instance_died", victim.instance_id)) == 1
    finally:
        for peer in peers:
            peer.unregister()


def test_leaving_is_not_dying(state_dir: Path) -> None:
    with Coordinator(state_dir, settings=FAST) as me:
        seen: list[str] = []
        me.on_event(lambda event: seen.append(event.kind))
        with support.Serve(state_dir) as peer:
            support.wait_until(lambda: "instance_registered" in seen)
            assert peer.stop() == 0
        support.wait_until(lambda: "instance_left" in seen)
        assert "instance_died" not in seen


def test_a_death_is_noticed_long_before_the_poll(state_dir: Path) -> None:
    """The kernel tells: with a poll of 30 s a kill is seen at once."""
    with Coordinator(state_dir, settings=Settings(poll_interval=30, heartbeat_interval=5)) as me:
        died = threading.Event()
        me.on_event(lambda event: died.set() if event.kind == "instance_died" else None)
        with support.Serve(state_dir) as peer:
            support.wait_until(lambda: any(e.instance_id == peer.instance_id for e in me.events.since()))
            peer.kill()
            assert died.wait(2)


CLOSES_ITS_LOCK = """
import os, sys, time
from mnemo_coord import Coordinator, Settings
me = Coordinator(sys.argv[1], settings=Settings(heartbeat_interval=60, poll_interval=60))
me.register()
print("registered", me.instance_id, flush=True)
sys.stdin.readline()
for fd in os.listdir("/proc/self/fd"):
    try:
        if os.readlink(f"/proc/self/fd/{fd}").endswith(f"{me.instance_id}.lock"):
            os.close(int(fd))
    except OSError:
        pass
print("closed", flush=True)
time.sleep(60)
"""


def test_whoever_closes_its_lock_and_runs_on_is_not_dead_and_not_looked_at_for_ever(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """H9, H2. Its end is waited for, half a second long; when it ends after all, the poll or its lock file says so."""
    with Coordinator(state_dir, settings=Settings(poll_interval=60, heartbeat_interval=60)) as me:
        seen: list[tuple[str, str | None]] = []
        looks: list[float] = []
        verdict = Reaper.verdict

        def looked(reaper: Reaper, registration: Registration, **how: bool) -> Verdict:
            looks.append(time.monotonic())
            return verdict(reaper, registration, **how)

        me.on_event(lambda event: seen.append((event.kind, event.instance_id)))
        argv = [sys.executable, "-c", CLOSES_ITS_LOCK, str(state_dir)]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as peer:
            try:
                assert peer.stdin
                assert peer.stdout
                instance_id = peer.stdout.readline().split()[1]
                support.wait_until(lambda: ("instance_registered", instance_id) in seen)
                monkeypatch.setattr(Reaper, "verdict", looked)
                peer.stdin.write("\n")
                peer.stdin.flush()
                assert peer.stdout.readline() == "closed\n"
                support.wait_until(lambda: looks and time.monotonic() - looks[-1] > 1)
                assert len(looks) <= 4, "whoever looks again and again takes the processor that a dying one needs"
                assert support.status_of(state_dir, instance_id) in {"alive", "stalled"}
                assert ("instance_died", instance_id) not in seen
            finally:
                peer.kill()


def test_a_stopped_instance_that_is_killed_is_noticed_at_once(state_dir: Path) -> None:
    """H1, H2."""
    with Coordinator(state_dir, settings=Settings(poll_interval=60, heartbeat_interval=60)) as me:
        died = threading.Event()
        me.on_event(lambda event: died.set() if event.kind == "instance_died" else None)
        with support.Serve(state_dir) as peer:
            support.wait_until(lambda: any(e.instance_id == peer.instance_id for e in me.events.since()))
            peer.send_signal(signal.SIGSTOP)
            peer.kill()
            assert died.wait(5)


def test_many_that_die_at_once_are_noticed_without_the_poll(state_dir: Path) -> None:
    """H2, F10. More than are waited for at a time."""
    program = "import sys, time; from mnemo_coord import Coordinator; Coordinator(sys.argv[1]).register(); time.sleep(60)"
    with Coordinator(state_dir, settings=Settings(poll_interval=60, heartbeat_interval=60)) as me:
        seen: list[str] = []
        me.on_event(lambda event: seen.append(event.kind))
        peers = [subprocess.Popen([sys.executable, "-c", program, str(state_dir)]) for _ in range(20)]
        try:
            support.wait_until(lambda: seen.count("instance_registered") == 20, 60)
        finally:
            for peer in peers:
                peer.kill()
            for peer in peers:
                peer.wait(10)
        support.wait_until(lambda: seen.count("instance_died") == 20, 20)


@pytest.mark.parametrize("hours", [-1, 1, 87_600, -87_600])
def test_wall_clock_jumps_reap_nobody(hours: int, state_dir: Path) -> None:
    """H5."""
    clock = Skewed()
    with support.Serve(state_dir) as peer, Coordinator(state_dir, settings=FAST, clock=clock) as me:
        clock.wall_skew = hours * 3_600_000_000_000
        assert me.cleanup_stale() == []
        me.heartbeat()
        assert {instance.instance_id: instance.status for instance in me.instances()} == {
            me.instance_id: "alive",
            peer.instance_id: "alive",
        }
        assert all(instance.heartbeat_age is not None and 0 <= instance.heartbeat_age < 60 for instance in me.instances())


def test_hours_of_sleep_make_nobody_dead_or_stalled(state_dir: Path) -> None:
    """H5, H6. BOOTTIME moves on by two hours between two steps of everybody's loops."""
    clock = Skewed()
    with Coordinator(state_dir, settings=FAST, clock=clock) as me, Coordinator(state_dir, settings=FAST, clock=clock) as other:
        seen: list[str] = []
        me.on_event(lambda event: seen.append(event.kind))
        support.wait_until(lambda: any(e.instance_id == other.instance_id for e in me.events.since()))
        clock.age_skew += 7_200_000_000_000
        time.sleep(0.5)  # several looks, at hearts that have not beaten for two hours by the clock
        assert me.cleanup_stale() == []
        assert set(seen) <= {"instance_registered"}


def test_a_process_in_a_shifted_time_namespace_is_not_reaped(state_dir: Path, tmp_path: Path) -> None:
    """H15. Its clock since boot is two hours ahead of ours."""
    prefix = ["unshare", "-UrT", "--boottime", "7200", "--fork", "--kill-child"]
    code = "import sys,time; from mnemo_coord import Coordinator\nwith Coordinator(sys.argv[1]) as me:\n print('in', me.instance_id, flush=True)\n time.sleep(60)"
    if subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode:
        assert not os.environ.get("CI"), "time namespaces are required here"
        pytest.skip("the kernel refuses time namespaces")
    with (
        support.Serve(state_dir) as here,
        support.Child([*prefix, sys.executable, "-c", code, str(state_dir)], tmp_path) as there,
    ):
        other = there.wait_for("in ").split()[1]
        assert support.status_of(state_dir, other) in {"alive", "stalled"}
        assert support.run("--dir", state_dir, "doctor", "--fix").returncode in {0, 1}
        assert support.status_of(state_dir, other) in {"alive", "stalled"}
        assert support.status_of(state_dir, here.instance_id) == "alive"


def test_another_pid_namespace_is_judged_by_its_lock(state_dir: Path, tmp_path: Path) -> None:
    """H14. Its process number means nothing here; the lock does."""
    prefix = ["unshare", "-Urpf", "--mount-proc", "--kill-child"]
    code = "import sys,time; from mnemo_coord import Coordinator\nwith Coordinator(sys.argv[1]) as me:\n print('in', me.instance_id, flush=True)\n time.sleep(60)"
    with (
        support.Serve(state_dir) as here,
        support.Child([*prefix, sys.executable, "-c", code, str(state_dir)], tmp_path) as there,
    ):
        other = there.wait_for("in ").split()[1]
        assert support.status_of(state_dir, other) == "alive"
        assert support.run("--dir", state_dir, "doctor", "--fix", "--json").json["findings"] == []
        assert support.status_of(state_dir, other) == "alive"
        there.kill()
        here.wait_for(f"Instance {other} died")
        support.wait_until(lambda: support.status_of(state_dir, other) is None)


def test_hidden_processes_are_not_reaped(state_dir: Path) -> None:
    """H13. Who looks sees no process but its own."""
    with support.Serve(state_dir) as one:
        look = f"mount -t proc -o hidepid=2 p /proc; exec {support.MNEMOSYNE} --dir {state_dir} doctor --fix --json"
        done = subprocess.run(["unshare", "-Urpfm", "sh", "-c", look], capture_output=True, text=True, check=False, timeout=30)
        assert json.loads(done.stdout)["status"] == "healthy", done.stderr
        assert support.status_of(state_dir, one.instance_id) == "alive"


def test_beats_that_cannot_be_written_are_tried_again(state_dir: Path) -> None:
    """H7. The folder of the heartbeats is gone, and a file lies in its place."""
    with support.Serve(state_dir) as one:
        beat = state_dir / "instances" / f"{one.instance_id}.beat"
        beat.unlink()
        beat.mkdir()
        one.wait_for("WARN The heartbeat failed and will be tried again")
        lines = one.log.count("heartbeat failed")
        time.sleep(1.2)
        assert one.log.count("heartbeat failed") == lines, "said once"
        assert support.status_of(state_dir, one.instance_id) == "stalled"
        beat.rmdir()
        support.wait_until(lambda: support.status_of(state_dir, one.instance_id) == "alive", 5)


def test_a_beat_that_raises_does_not_end_the_heartbeats(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """H8."""
    with Coordinator(state_dir, settings=FAST) as me:
        beats = me._here._beats
        whole = beats.beat

        def broken(seq: int) -> None:
            raise RuntimeError("out of order")

        monkeypatch.setattr(beats, "beat", broken)
        support.wait_until(lambda: not me.healthy)
        monkeypatch.setattr(beats, "beat", whole)
        support.wait_until(lambda: me.healthy)
        support.wait_until(lambda: [i.status for i in me.instances()] == ["alive"])


def test_a_lock_file_that_was_removed_is_taken_again(state_dir: Path) -> None:
    """H10."""
    with support.Serve(state_dir) as one, support.Serve(state_dir) as two:
        lock = state_dir / "instances" / f"{one.instance_id}.lock"
        lock.unlink()
        assert support.status_of(state_dir, one.instance_id) in {"alive", "stalled"}
        one.wait_for("was lost and has been taken again")
        assert lock.exists()
        assert support.run("--dir", state_dir, "doctor", "--fix").returncode == 0
        assert "died" not in two.log
        one.kill()
        two.wait_for(f"Instance {one.instance_id} died")


def test_descriptors_closed_behind_our_back_cost_nothing(state_dir: Path, tmp_path: Path) -> None:
    """H19. A library closes every descriptor of the process; the lock is free, its owner lives and takes it again."""
    code = """
    import os, sys, time
    from mnemo_coord import Coordinator
    me = Coordinator(sys.argv[1]); me.register()
    member = me._here
    os.close(member._lock.fd)
    print("closed", me.instance_id, flush=True)
    while not member._lock.is_held():
        time.sleep(0.01)
    print("held again", flush=True)
    time.sleep(60)
    """
    with support.Serve(state_dir) as peer, support.python(code, tmp_path, state_dir) as one:
        instance_id = one.wait_for("closed").split()[1]
        assert support.status_of(state_dir, instance_id) in {"alive", "stalled"}
        one.wait_for("held again")
        assert "died" not in peer.log
        assert support.status_of(state_dir, instance_id) == "alive"
        assert support.run("--dir", state_dir, "doctor", "--fix").returncode == 0


def test_a_forked_child_does_not_keep_a_dead_parent_alive(state_dir: Path, tmp_path: Path) -> None:
    code = """
    import os, sys, time
    from mnemo_coord import Coordinator
    me = Coordinator(sys.argv[1]); me.register()
    child = os.fork()
    if child == 0:
        me.unregister()  # not its to leave
        time.sleep(60)
    print("forked", me.instance_id, child, flush=True)
    time.sleep(60)
    """
    with support.Serve(state_dir) as peer, support.python(code, tmp_path, state_dir) as one:
        _, instance_id, child = one.wait_for("forked").split()
        try:
            assert support.status_of(state_dir, instance_id) == "alive"
            one.kill()
            peer.wait_for(f"Instance {instance_id} died")
            support.wait_until(lambda: support.status_of(state_dir, instance_id) is None)
        finally:
            os.kill(int(child), signal.SIGKILL)


def test_starvation_stalls_and_kills_nobody(state_dir: Path) -> None:
    """H17. A process that gets no time looks like one that is stopped and continued now and then."""
    with support.Serve(state_dir) as starved, support.Serve(state_dir) as peer:
        for _ in range(3):
            starved.send_signal(signal.SIGSTOP)
            time.sleep(0.8)  # four intervals without a beat
            starved.send_signal(signal.SIGCONT)
        peer.wait_for(f"Instance {starved.instance_id} has stalled")
        peer.wait_for(f"Instance {starved.instance_id} has recovered")
        assert "died" not in peer.log


def test_many_instances_miss_no_beat(state_dir: Path, tmp_path: Path) -> None:
    """H18. A hundred instances in ten processes, for five seconds."""
    code = """
    import sys, time
    from mnemo_coord import Coordinator, Settings
    settings = Settings(heartbeat_interval=1, poll_interval=2)
    members = [Coordinator(sys.argv[1], settings=settings) for _ in range(10)]
    for member in members:
        member.register()
    print("in", flush=True)
    time.sleep(60)
    """
    children = [support.python(code, tmp_path / "p", state_dir) for _ in range(10)]
    try:
        for child in children:
            child.wait_for("in", 60)
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            listed = support.run("--dir", state_dir, "list", "--json", env={"MNEMOSYNE_HEARTBEAT_INTERVAL": "1"}).json
            assert len(listed) == 100
            assert {entry["status"] for entry in listed} == {"alive"}
        assert not [fact for fact in history(state_dir) if fact[0] == "instance_died"]
    finally:
        for child in children:
            child.__exit__()


@pytest.mark.parametrize("how", ["removed", "renamed away"])
def test_a_fleet_moves_back_in(how: str, state_dir: Path) -> None:
    """The state directory vanishes under two live instances; they make it anew and find each other again."""
    with support.Serve(state_dir) as one, support.Serve(state_dir) as two:
        if how == "removed":
            subprocess.run(["rm", "-rf", str(state_dir)], check=False)
        else:
            state_dir.rename(state_dir.with_name("elsewhere"))
        one.wait_for("moving back in")
        two.wait_for("moving back in")
        both = {one.instance_id: "alive", two.instance_id: "alive"}
        support.wait_until(
            lambda: {e["instance_id"]: e["status"] for e in support.run("--dir", state_dir, "list", "--json").json} == both
        )
        sent = support.run("--dir", state_dir, "send", "--to", two.instance_id, "StillThere")
        assert sent.returncode == 0, sent.stderr
        two.wait_for("Message StillThere")
        assert "died" not in one.log + two.log


def test_what_somebody_says_is_heard_at_once(state_dir: Path) -> None:
    """Also the very first time, when nobody has said anything in this fleet yet."""
    slow = Settings(heartbeat_interval=60, poll_interval=60)
    with Coordinator(state_dir, settings=slow) as listener, Coordinator(state_dir, settings=slow) as speaker:
        heard: list[str] = []
        listener.on_event(lambda event: heard.append(event.data["text"]) if event.kind == "agent_state" else None)
        support.wait_until((state_dir / "reports").is_dir)
        for text in ("1", "2"):
            speaker.report("idle", text)
            support.wait_until(lambda text=text: text in heard, 5.0)
