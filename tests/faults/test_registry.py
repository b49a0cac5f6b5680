"""The registry under bad content, bad entries, races and kills: nothing live is lost, nothing forged is obeyed."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import forge
import pytest
import support

from mnemo_coord import Coordinator, membership
from mnemo_coord.disk import locks
from mnemo_coord.disk.signing import Signer
from mnemo_coord.disk.state_dir import StateDir

DAMAGE = {
    "nothing": b"",
    "4 KB of NUL": b"\0" * 4096,
    "white space": b" \n\t " * 7,
    "cut off": b'{"version":1,"instances":{"a1b2',
    "list": b"[]",
    "null": b"null",
    "number": b"17",
    "text": b'"x"',
    "deep": b"[" * 1500 + b"]" * 1500,
    "deep object": b'{"a":' * 1200 + b"1" + b"}" * 1200,
    "no instances": b'{"version":1}',
    "instances a list": b'{"version":1,"instances":[]}',
    "version of the future": b'{"version":2,"instances":{}}',
    "not UTF-8": b'{"version":1,"instances":{"\xff\xfe":1}}',
}


def listed(state_dir: Path) -> dict[str, str]:
    return {entry["instance_id"]: entry["status"] for entry in support.run("--dir", state_dir, "list", "--json").json}


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def test_a_missing_registry_comes_back(state_dir: Path) -> None:
    """R1."""
    with support.Serve(state_dir) as one, support.Serve(state_dir) as two:
        expected = {one.instance_id: "alive", two.instance_id: "alive"}
        (state_dir / "process_registry.json").unlink()
        assert listed(state_dir) == expected, "seen at once, from the instances' own files"
        support.wait_until((state_dir / "process_registry.json").exists, 5)
        assert listed(state_dir) == expected


@pytest.mark.parametrize("content", DAMAGE.values(), ids=DAMAGE)
def test_damage_is_set_aside_and_rebuilt(content: bytes, state_dir: Path) -> None:
    """R2, R5."""
    registry = state_dir / "process_registry.json"
    with support.Serve(state_dir) as one:
        registry.write_bytes(content)
        assert listed(state_dir) == {one.instance_id: "alive"}
        support.wait_until(lambda: registry.exists() and registry.read_bytes() != content, 5)
        assert set(json.loads(registry.read_text())["instances"]) == {one.instance_id}
        kept = list((state_dir / "quarantine").glob("process_registry.json.*"))
        assert [path.read_bytes() for path in kept] == [content]


SIGNATURES: dict[str, Any] = {
    "empty": "",
    "null": None,
    "number": 7,
    "list": ["a"],
    "63 digits": "a" * 63,
    "65 digits": "a" * 65,
    "upper case": "A" * 64,
    "not ASCII": "é" * 64,
    "wrong": "0" * 64,
    "surrogate": "\ud800" * 64,
    "object": {"hex": "a" * 64},
}


@pytest.mark.parametrize("signature", SIGNATURES.values(), ids=SIGNATURES)
def test_a_bad_signature_is_kept_and_never_obeyed(signature: Any, state_dir: Path) -> None:
    """R8. The forged entry claims to be this very process, which lives."""
    with support.Serve(state_dir) as one:
        one.send_signal(signal.SIGSTOP)  # so that nobody rewrites the file meanwhile
        forge.add(state_dir, "f0f0f0f0", {**forge.body("f0f0f0f0"), "signature": signature})
        damaged = "\ud800" in str(signature)  # half a surrogate pair is no JSON: the whole file is rebuilt
        statuses = listed(state_dir)
        assert statuses.get("f0f0f0f0") == (None if damaged else "untrusted")
        assert statuses[one.instance_id] in {"alive", "paused", "stalled"}
        done = support.run("--dir", state_dir, "doctor", "--fix", "--json")
        assert done.returncode in {0, 1}
        stored = json.loads((state_dir / "process_registry.json").read_text())["instances"]
        assert damaged or "f0f0f0f0" in stored, "kept"


def test_an_entry_of_another_fleet_is_ignored(state_dir: Path) -> None:
    """R7, X8."""
    with support.Serve(state_dir) as one:
        stranger = forge.sealed(state_dir, forge.body("0badcafe", name="planner"), Signer(b"another fleet's secret 32 bytes!"))
        forge.add(state_dir, "0badcafe", stranger)
        assert listed(state_dir) == {one.instance_id: "alive", "0badcafe": "untrusted"}
        sent = support.run("--dir", state_dir, "send", "--to", "0badcafe", "Hello")
        assert sent.returncode == 3
        everybody = support.run("--dir", state_dir, "send", "--all", "Hello", "--json").json
        assert everybody["delivered"] == [one.instance_id]
        support.run("--dir", state_dir, "doctor", "--fix")
        assert listed(state_dir)["0badcafe"] == "untrusted"


def test_a_reformatted_registry_is_still_trusted(state_dir: Path) -> None:
    """People and jq reformat JSON; that changes no record."""
    with support.Serve(state_dir) as one:
        path = state_dir / "process_registry.json"
        path.write_text(json.dumps(json.loads(path.read_text()), indent=4))
        assert listed(state_dir) == {one.instance_id: "alive"}


def test_an_older_copy_of_a_record_does_not_win(state_dir: Path) -> None:
    """R9. Its owner has moved on to a newer version; what an old copy says of its port is not repeated."""
    with support.Serve(state_dir) as one:
        path = state_dir / "process_registry.json"
        record = json.loads(path.read_text())["instances"][one.instance_id]
        del record["signature"]
        old = forge.sealed(state_dir, {**record, "seq": 0, "api_port": 65000, "api_host": "127.0.0.1"})
        one.send_signal(signal.SIGSTOP)
        forge.add(state_dir, one.instance_id, old)
        entry = next(entry for entry in support.run("--dir", state_dir, "list", "--json").json)
        assert entry["api_url"] is None
        one.send_signal(signal.SIGCONT)
        support.wait_until(
            lambda: json.loads(path.read_text())["instances"][one.instance_id]["seq"] == record["seq"], 5, "the newest is back"
        )


def test_a_record_of_another_boot_is_dead_and_nobody_is_signalled(state_dir: Path, tmp_path: Path) -> None:
    """R11, R13. The process number belongs to a stranger now."""
    with support.Serve(state_dir) as one, support.python("import time; time.sleep(60)", tmp_path) as stranger:
        yesterday = forge.body("11111111", pid=stranger.pid, boot_id="00000000-0000-0000-0000-000000000000")
        forge.add(state_dir, "11111111", forge.sealed(state_dir, yesterday))
        reused = forge.body("22222222", pid=stranger.pid, start_time=1, pidfd_inode=1)
        one.send_signal(signal.SIGSTOP)
        forge.add(state_dir, "22222222", forge.sealed(state_dir, reused))
        statuses = listed(state_dir)
        assert (statuses.get("11111111", "dead"), statuses["22222222"]) == ("dead", "dead")
        one.send_signal(signal.SIGCONT)
        assert support.run("--dir", state_dir, "doctor", "--fix").returncode == 0
        assert listed(state_dir) == {one.instance_id: "alive"}
        assert stranger.process.poll() is None


PIDS: dict[str, Any] = {
    "0": 0,
    "-1": -1,
    "-2": -2,
    "1": 1,
    "true": True,
    "1.0": 1.0,
    "text": "12",
    "null": None,
    "2**31": 2**31,
    "2**63": 2**63,
    "1e300": 1e300,
    "list": [4],
}


@pytest.mark.parametrize("pid", PIDS.values(), ids=PIDS)
def test_an_odd_process_number_is_never_signalled(pid: Any, state_dir: Path, tmp_path: Path) -> None:
    """R12. Signed with the fleet's own key, so that only the number is odd."""
    with support.Serve(state_dir):
        forge.add(state_dir, "33333333", forge.sealed(state_dir, forge.body("33333333", pid=pid)))
        trace = tmp_path / "trace"
        watched = support.strace("-o", str(trace), "-e", "trace=kill,tkill,tgkill,pidfd_send_signal,rt_sigqueueinfo")
        for command in (["list", "--json"], ["doctor", "--fix", "--json"]):
            done = support.run("--dir", state_dir, *command, prefix=watched)
            assert done.returncode in {0, 1}, done.stderr
            assert json.loads(done.stdout)
        calls = [
            line for line in trace.read_text().splitlines() if "kill(" in line or "send_signal" in line or "sigqueue" in line
        ]
        assert calls == []
        assert listed(state_dir).get("33333333", "untrusted") in {"untrusted", "dead"}


def test_a_huge_registry_costs_little(state_dir: Path) -> None:
    """R15. 50 MB of it, and a terabyte that is one hole."""
    for make in (
        lambda path: path.write_bytes(b'{"version":1,"instances":{' + b" " * 50_000_000),
        lambda path: os.truncate(path, 2**40),
    ):
        with support.Serve(state_dir) as one:
            one.send_signal(signal.SIGSTOP)
            make(state_dir / "process_registry.json")
            start = time.monotonic()
            limited = ["prlimit", "--as=500000000"]
            done = support.run("--dir", state_dir, "list", "--json", prefix=limited)
            assert time.monotonic() - start < 5
            assert [entry["instance_id"] for entry in done.json] == [one.instance_id]
            one.send_signal(signal.SIGCONT)
            support.wait_until(lambda: 0 < size_of(state_dir / "process_registry.json") < 10_000, 5)
            one.stop()


def plant(kind: str, path: Path, target: Path) -> None:
    path.unlink(missing_ok=True)
    if kind == "symlink":
        path.symlink_to(target)
    elif kind == "dangling symlink":
        path.symlink_to(target.with_name("nowhere"))
    elif kind == "hard link":
        os.link(target, path)
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            here = os.open(path.parent, os.O_RDONLY)
            listener.bind(f"/proc/self/fd/{here}/{path.name}")
            os.close(here)
    elif kind == "device":
        os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero: reading it never ends


KINDS = ["symlink", "dangling symlink", "hard link", "FIFO", "folder", "socket", "device"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["process_registry.json", "secret"])
def test_a_planted_file_is_neither_followed_nor_waited_for(kind: str, name: str, state_dir: Path, tmp_path: Path) -> None:
    """R17, S2."""
    target = tmp_path / "precious"
    target.write_text('{"version":1,"instances":{}}')
    target.chmod(0o644)
    with support.Serve(state_dir) as one:
        one.stop()
    plant(kind, state_dir / name, target)
    before = (target.read_bytes(), target.stat().st_mode, target.stat().st_mtime_ns)
    for command in (["list"], ["send", "--to", "somebody", "Hello"], ["doctor"], ["doctor", "--fix"]):
        start = time.monotonic()
        done = support.run("--dir", state_dir, *command, timeout=10)
        assert time.monotonic() - start < 5, command
        assert "Traceback" not in done.stderr
        assert command[0] == "doctor" or done.returncode == 6 or (name == "process_registry.json" and command[0] == "send")
        assert (target.read_bytes(), target.stat().st_mode, target.stat().st_mtime_ns) == before
    assert support.run("--dir", state_dir, "doctor", "--fix").returncode == 0


@pytest.mark.parametrize("processes", [11, 64])
def test_registering_at_the_same_moment_loses_nothing(processes: int, state_dir: Path, tmp_path: Path) -> None:
    """I12. All wait for one file and then register at once. Forked, so that they come at once, and do not starve other tests."""
    code = """
    import os, sys, time, traceback
    from pathlib import Path
    import mnemo_coord.coordinator, filelock, watchdog.observers
    from mnemo_coord import Coordinator

    go, parent = Path(sys.argv[2]), os.getpid()

    def live():
        while not go.exists() and os.getppid() == parent:
            time.sleep(0.002)
        with Coordinator(sys.argv[1]) as me:
            os.write(1, f"in {me.instance_id}\\n".encode())
            while go.exists() and os.getppid() == parent:
                time.sleep(0.05)

    pids = []
    for _ in range(int(sys.argv[3])):
        pids.append(os.fork())
        if not pids[-1]:
            try:
                live()
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
    print("ready", flush=True)
    sys.exit(sum(os.waitpid(pid, 0)[1] != 0 for pid in pids))
    """
    go = tmp_path / "go"
    slow = {"MNEMOSYNE_HEARTBEAT_INTERVAL": "2", "MNEMOSYNE_POLL_INTERVAL": "2"}
    with support.python(code, tmp_path / "p", state_dir, go, processes, env=slow) as family:
        family.wait_for("ready", 60)
        go.touch()
        support.wait_until(lambda: family.printed.count("in ") == processes, 60)
        ids = {line.removeprefix("in ") for line in family.printed.splitlines() if line.startswith("in ")}
        assert len(ids) == processes
        assert set(json.loads((state_dir / "process_registry.json").read_text())["instances"]) == ids
        go.unlink()
        assert family.wait(60) == 0, family.log
        assert json.loads((state_dir / "process_registry.json").read_text())["instances"] == {}


@pytest.mark.parametrize("busy", [True, False])
def test_who_leaves_waits_for_a_busy_registry_and_not_for_a_stuck_one(
    busy: bool, state_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """C10. Somebody has the registry's lock for six times the patience; it changes meanwhile, or it does not."""
    monkeypatch.setattr(membership, "_PARTING_PATIENCE", patience := 0.2)
    registry = state_dir / "process_registry.json"
    held, left = threading.Event(), threading.Event()

    def hold() -> None:
        with closing(StateDir.open(state_dir)) as state, locks.hold(state, "registry", 5.0):
            held.set()
            ends = time.monotonic() + 6 * patience
            while not left.wait(patience / 4) and time.monotonic() < ends:
                if busy:
                    os.utime(registry)

    with Coordinator(state_dir):
        other = threading.Thread(target=hold)
        other.start()
        assert held.wait(5)
    left.set()
    other.join()
    assert bool(json.loads(registry.read_text())["instances"]) is not busy
    assert ("Could not leave cleanly" in caplog.text) is not busy


def test_random_kills_leave_exactly_the_living(state_dir: Path, tmp_path: Path) -> None:
    """R18."""
    code = """
    import sys, time
    from mnemo_coord import Coordinator
    while True:
        with Coordinator(sys.argv[1]) as me:
            me.heartbeat()
    """
    chance = random.Random(4)
    children = [support.python(code, tmp_path / "p", state_dir) for _ in range(8)]
    with support.Serve(state_dir) as stays:
        for _ in range(12):
            victim = chance.choice(children)
            time.sleep(chance.uniform(0.02, 0.2))  # the moment of the kill is the point
            victim.kill()
            children.remove(victim)
            children.append(support.python(code, tmp_path / "p", state_dir))
        for child in children:
            child.kill()
        assert support.run("--dir", state_dir, "doctor", "--fix").returncode == 0
        assert listed(state_dir) == {stays.instance_id: "alive"}
        assert stays.stop() == 0
    assert support.run("--dir", state_dir, "doctor", "--json").json["status"] == "healthy"


def test_a_kill_at_each_call_of_the_rewrite_leaves_old_or_new(state_dir: Path, tmp_path: Path) -> None:
    """R22."""
    with support.Serve(state_dir) as one:
        pass
    stays = forge.body("44444444")
    forge.add(state_dir, "44444444", forge.sealed(state_dir, stays))
    code = """
    import sys
    from mnemo_coord import Fleet
    import forge
    from mnemo_coord.members.registration import Registration
    with Fleet.open(sys.argv[1]) as fleet:
        fleet.registry.put(Registration.from_body(forge.body("55555555")))
    """
    path = {"PYTHONPATH": str(Path(__file__).parent.parent)}
    survived = {}
    for call in ("openat", "write", "fsync", "rename,renameat,renameat2"):
        for number in range(1, 400):
            registry = str(state_dir / "process_registry.json")
            inject = support.strace("-o", "/dev/null", "-P", str(state_dir), "-P", registry)
            pattern = f"inject={call}:signal=SIGKILL:when={number}"
            argv = [
                *inject,
                "-e",
                f"trace={call}",
                "-e",
                pattern,
                sys.executable,
                "-c",
                "\n".join(
                    line.strip() if line.strip()[:4] != "flee" else "    " + line.strip() for line in code.strip().splitlines()
                ),
                str(state_dir),
            ]
            done = subprocess.run(argv, env={**os.environ, **path}, capture_output=True, check=False, timeout=30)
            instances = json.loads((state_dir / "process_registry.json").read_text())["instances"]
            assert set(instances) - {"55555555", one.instance_id} == {"44444444"}
            if done.returncode == 0:
                survived[call] = number
                break
    assert set(survived) == {"openat", "write", "fsync", "rename,renameat,renameat2"}
    assert survived["rename,renameat,renameat2"] >= 2, "the injection did hit the rename"


@pytest.mark.parametrize(
    "fault", ["fsync:error=EIO", "write:error=ENOSPC", "renameat:error=EIO", "openat:error=EMFILE:when=30+"]
)
def test_a_rewrite_that_fails_leaves_the_old_content(fault: str, state_dir: Path) -> None:
    """R23."""
    with support.Serve(state_dir) as one:
        one.kill()
    registry = state_dir / "process_registry.json"
    before = registry.read_bytes()
    call = fault.split(":", maxsplit=1)[0]
    traced = support.strace("-o", "/dev/null", "-P", str(registry) + ".*", "-P", str(state_dir), "-e", f"trace={call}")
    if call != "openat":
        done = support.run("--dir", state_dir, "doctor", "--cleanup-stale", prefix=[*traced, "-e", f"inject={fault}"])
        assert done.returncode != 0 or registry.read_bytes() != before
        assert "Traceback" not in done.stderr
    else:
        done = support.run("--dir", state_dir, "doctor", "--cleanup-stale", prefix=["prlimit", "--nofile=9"])
        assert done.returncode != 0
        assert "Traceback" not in done.stderr
    assert json.loads(registry.read_text())["version"] == 1
    assert support.run("--dir", state_dir, "doctor", "--fix").returncode == 0


@pytest.mark.parametrize("mode", [0o777, 0o755, 0o710])
def test_a_folder_that_others_may_enter_is_refused_until_tightened(mode: int, state_dir: Path) -> None:
    """R20, S1."""
    with support.Serve(state_dir):
        pass
    state_dir.chmod(mode)
    done = support.run("--dir", state_dir, "list")
    assert done.returncode == 6
    assert "doctor --fix" in done.stderr
    assert support.run("--dir", state_dir, "doctor", "--fix").returncode == 0
    assert state_dir.stat().st_mode & 0o777 == 0o700
    assert support.run("--dir", state_dir, "list").returncode == 0


def test_open_files_are_tightened_and_an_open_key_is_replaced(state_dir: Path) -> None:
    """R20, S4. What others could read of the key is worth nothing afterwards; live instances go on with the new one."""
    with support.Serve(state_dir) as one:
        secret = (state_dir / "secret").read_text()
        (state_dir / "process_registry.json").chmod(0o666)
        (state_dir / "secret").chmod(0o644)
        found = support.run("--dir", state_dir, "doctor", "--json")
        assert found.returncode == 1
        assert {"mode-too-open", "secret-untrusted"} <= {finding["code"] for finding in found.json["findings"]}
        support.run("--dir", state_dir, "doctor", "--fix")
        assert (state_dir / "secret").read_text() != secret
        assert (state_dir / "secret").stat().st_mode & 0o777 == 0o600
        support.wait_until(lambda: listed(state_dir) == {one.instance_id: "alive"}, 5)


def test_another_users_folder_is_refused(state_dir: Path) -> None:
    """S1."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    with support.Serve(state_dir):
        pass
    os.chown(state_dir, 12345, 12345)
    done = support.run("--dir", state_dir, "list", "--json")
    assert done.returncode == 6
    assert done.json["error"]["code"] == "untrusted"
