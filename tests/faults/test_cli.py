"""Commands in bad surroundings: one line and an exit code, no hang, no half state, and nothing of a live instance touched."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import support

COMMANDS = [["list"], ["send", "--to", "inbox", "T"], ["receive", "--as", "inbox"], ["doctor"], ["events"], ["serve"]]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_current_directory_that_is_gone(command: list[str], tmp_path: Path) -> None:
    """C3."""
    gone = tmp_path / "gone"
    gone.mkdir()
    script = f"cd {gone} && rmdir {gone} && exec {support.MNEMOSYNE} {' '.join(command)}"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 6
    assert len([line for line in done.stderr.splitlines() if line.startswith("mnemosyne: ")]) == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("what", ["file", "symlink", "dangling symlink", "FIFO"])
def test_a_state_directory_that_is_none(what: str, state_dir: Path, tmp_path: Path) -> None:
    """S1."""
    if what == "file":
        state_dir.write_text("precious")
    elif what == "FIFO":
        os.mkfifo(state_dir)
    else:
        target = tmp_path / "elsewhere"
        if what == "symlink":
            target.mkdir(mode=0o700)
        state_dir.symlink_to(target)
    for command in COMMANDS:
        done = support.run("--dir", state_dir, *command, timeout=10)
        assert done.returncode == 6, command
        assert str(state_dir) in done.stderr
        assert "Traceback" not in done.stderr
    assert what != "file" or state_dir.read_text() == "precious"
    assert what != "symlink" or list((tmp_path / "elsewhere").iterdir()) == []


def test_a_parent_that_anybody_may_write(tmp_path: Path) -> None:
    """T2."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    done = support.run("--dir", shared / ".mnemosyne", "send", "--to", "inbox", "T")
    assert done.returncode == 6
    assert not (shared / ".mnemosyne").exists()
    shared.chmod(0o1777)
    assert support.run("--dir", shared / ".mnemosyne", "send", "--to", "inbox", "T").returncode == 0


@pytest.mark.parametrize("umask", [0o000, 0o777, 0o022])
def test_modes_whatever_the_umask(umask: int, state_dir: Path) -> None:
    before = os.umask(umask)
    try:
        assert support.run("--dir", state_dir, "send", "--to", "inbox", "T").returncode == 0
        done = subprocess.run(
            ["timeout", "-s", "INT", "1", support.MNEMOSYNE, "--dir", str(state_dir), "serve", "--name", "x1"],
            check=False,
            capture_output=True,
        )
        assert done.returncode in {0, 124}
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o7777 for path in state_dir.rglob("*") if path.is_file()}
    folders = {path.stat().st_mode & 0o7777 for path in [state_dir, *state_dir.rglob("*")] if path.is_dir()}
    assert modes == {0o600}
    assert folders == {0o700}


def test_a_committed_state_directory_is_refused(tmp_path: Path) -> None:
    """X8. What git checks out may be entered by others: a planted key and registry have no effect."""
    origin, clone = tmp_path / "origin", tmp_path / "clone"
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run([*git, "init", "-q", str(origin)], check=True)
    planted = origin / ".mnemosyne"
    planted.mkdir()
    (planted / "secret").write_text("ab" * 32 + "\n")
    (planted / "process_registry.json").write_text('{"version":1,"instances":{"0badcafe":{"pid":1}}}')
    subprocess.run([*git, "-C", str(origin), "add", "-Af", "."], check=True)
    subprocess.run([*git, "-C", str(origin), "commit", "-q", "-m", "x"], check=True)
    subprocess.run([*git, "clone", "-q", str(origin), str(clone)], check=True)
    (clone / ".mnemosyne").chmod(0o755)
    assert support.run("list", cwd=clone).returncode == 6
    support.run("doctor", "--fix", cwd=clone)
    assert (clone / ".mnemosyne" / "secret").read_text() != "ab" * 32 + "\n", "a key that others have is worth nothing"
    (entry,) = support.run("list", "--json", cwd=clone).json
    assert entry["status"] == "untrusted"


def damage(state_dir: Path) -> None:
    (state_dir / "process_registry.json").write_text("{")
    (state_dir / "instances" / "0123abcd.beat").touch(0o600)
    (state_dir / "instances" / "4567cdef.lock").touch(0o600)
    (state_dir / "coordination_queue" / "tmp" / "89abcdef.1.x").touch(0o600)
    (state_dir / "history.jsonl").chmod(0o644)


@pytest.mark.parametrize("state", ["healthy", "damaged", "with a dead instance"])
def test_the_doctor_without_fix_changes_nothing(state: str, state_dir: Path) -> None:
    """I22, C13."""
    with support.Serve(state_dir, "--name", "x1") as one:
        support.run("--dir", state_dir, "send", "--to", "inbox", "T")
        if state == "with a dead instance":
            one.kill()
        else:
            assert one.stop() == 0
    if state == "damaged":
        damage(state_dir)
    before = support.tree(state_dir)
    looked = support.run("--dir", state_dir, "doctor", "--json")
    assert support.tree(state_dir) == before
    assert looked.returncode == (0 if state == "healthy" else 1)
    assert support.run("--dir", state_dir, "doctor", "--fix", "--json").returncode == 0
    again = support.run("--dir", state_dir, "doctor", "--fix", "--json").json
    assert again == {"status": "healthy", "findings": []}
    mended = support.tree(state_dir)
    support.run("--dir", state_dir, "doctor", "--fix")
    assert support.tree(state_dir) == mended, "the second is a no-op"


def test_cleanup_stale_only_clears_the_dead(state_dir: Path) -> None:
    with support.Serve(state_dir) as one:
        one.kill()
    damaged = state_dir / "instances" / "0123abcd.beat"
    damaged.touch(0o600)
    done = support.run("--dir", state_dir, "doctor", "--cleanup-stale", "--json")
    assert done.returncode == 0
    assert [finding["code"] for finding in done.json["findings"]] == ["instance-dead"]
    assert damaged.exists()
    assert support.run("--dir", state_dir, "list", "--json").json == []
    assert [entry["status"] for entry in support.run("--dir", state_dir, "list", "--all", "--json").json] == ["dead"]


def test_the_doctor_touches_nobody_alive(state_dir: Path) -> None:
    """C14, C15. Five busy instances, two doctors at once, again and again."""
    served = [support.Serve(state_dir, "--name", f"busy{number}") for number in range(5)]
    try:
        before = {entry["instance_id"] for entry in support.run("--dir", state_dir, "list", "--json").json}
        for round_ in range(4):
            for one in served:
                support.run("--dir", state_dir, "send", "--to", one.instance_id, "T", str(round_))
            argv = [support.MNEMOSYNE, "--dir", str(state_dir), "doctor", "--fix", "--json"]
            doctors = [support.Child(argv, state_dir.parent / "doctors") for _ in range(2)]
            assert [doctor.wait() for doctor in doctors] == [0, 0], [doctor.printed for doctor in doctors]
        after = support.run("--dir", state_dir, "list", "--json").json
        assert {entry["instance_id"] for entry in after} == before
        assert {entry["status"] for entry in after} == {"alive"}
        for one in served:
            support.wait_until(lambda one=one: one.log.count("Message T") == 4)
            assert one.stop() == 0
    finally:
        for one in served:
            one.__exit__()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_anywhere_nothing_is_half_done(number: int, state_dir: Path) -> None:
    """C9. Commands are ended after ever longer times."""
    codes = set()
    for step in range(12):
        argv = [support.MNEMOSYNE, "--dir", str(state_dir), "serve", "--name", "x1"]
        with support.Child(argv, state_dir.parent / "serve") as child:
            time.sleep(0.03 * step)  # the moment is the point
            child.send_signal(number)
            try:
                codes.add(child.wait(5))
            except subprocess.TimeoutExpired:
                assert step < 6, child.log  # Python lost it while it was starting: a person tries again
                codes.add(child.stop(number))
            assert "Traceback" not in child.log or step < 6 or "/mnemo_coord/cli/" not in child.log, (
                child.log
            )  # Python is starting
    assert codes <= {0, 130, 143, -number, 1}
    assert support.run("--dir", state_dir, "doctor", "--fix").returncode == 0
    assert support.run("--dir", state_dir, "list", "--json").json == []
    assert not (state_dir / "instances").exists() or list((state_dir / "instances").iterdir()) == []


@pytest.mark.parametrize("limit", ["--nofile=20", "--nofile=8", "--as=60000000", "--fsize=100", "--nproc=1"])
def test_scarce_resources_are_an_error_not_a_hang(limit: str, state_dir: Path) -> None:
    """C19."""
    support.run("--dir", state_dir, "send", "--to", "inbox", "T")
    for command in (
        ["list"],
        ["send", "--to", "inbox", "T"],
        ["doctor", "--fix"],
        ["receive", "--as", "inbox", "--timeout", "1"],
    ):
        done = support.run("--dir", state_dir, *command, prefix=["prlimit", limit], timeout=20)
        assert done.returncode in {0, 1, 5, 6, 127} or "--as" in limit, (command, done.stderr)
        assert "--as" in limit or "Traceback" not in done.stderr, done.stderr
    assert support.run("--dir", state_dir, "doctor", "--fix").returncode == 0


def test_a_lock_that_somebody_keeps_is_named(state_dir: Path, tmp_path: Path) -> None:
    """C21."""
    support.run("--dir", state_dir, "send", "--to", "inbox", "T")
    code = """
    import sys, time
    from mnemo_coord.disk import locks
    from mnemo_coord.disk.state_dir import StateDir
    with locks.hold(StateDir.open(sys.argv[1]), "registry", 1):
        print("held", flush=True)
        time.sleep(60)
    """
    with support.python(code, tmp_path, state_dir) as holder:
        holder.wait_for("held")
        done = support.run("--dir", state_dir, "serve", env={"MNEMOSYNE_LOCK_TIMEOUT": "0.3"})
        assert done.returncode == 5
        assert f"process {holder.pid}" in done.stderr
    assert not list((state_dir / "instances").iterdir())


def test_closed_output_and_odd_bytes(state_dir: Path) -> None:
    support.run("--dir", state_dir, "send", "--to", "inbox", "T")
    for script in ("list --json | head -0", "list --json >&-", "--help | head -0", "config show 2>&- | head -1", "list <&-"):
        done = subprocess.run(
            ["bash", "-c", f"{support.MNEMOSYNE} --dir {state_dir} {script}"],
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        )
        assert "Traceback" not in done.stderr, (script, done.stderr)
        assert "Exception ignored" not in done.stderr, (script, done.stderr)
    odd = [support.MNEMOSYNE.encode(), b"--dir", os.fsencode(state_dir), b"send", b"--to", b"in\xff\xfebox", b"\x1b[31mT\xff"]
    done_bytes = subprocess.run(odd, capture_output=True, check=False, timeout=20)
    assert done_bytes.returncode == 2
    assert b"\x1b" not in done_bytes.stderr
    assert b"Traceback" not in done_bytes.stderr
    for nasty in ("\x1b]0;x\x07", "a\nb", "\u202eabc", "\u200b"):
        shown = support.run("--dir", state_dir, "send", "--to", nasty, nasty)
        assert shown.returncode == 2
        assert not set(nasty) & set(shown.stderr.rstrip("\n")) - set("]0;xabc")


def test_the_same_second_run(state_dir: Path) -> None:
    """Everything again, on what the first run left."""
    for _ in range(2):
        with support.Serve(state_dir, "--name", "x1", "--role", "r1") as one:
            assert support.run("--dir", state_dir, "send", "--to", "x1", "T").returncode == 0
            one.wait_for("Message T")
            assert one.stop() == 0
    facts = support.run("--dir", state_dir, "events", "--json").json
    assert [fact["kind"] for fact in facts] == ["instance_registered", "instance_left"] * 2
    assert sys.executable
    assert json.loads((state_dir / "process_registry.json").read_text()) == {"version": 1, "instances": {}}
