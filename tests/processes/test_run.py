"""`mnemosyne run`: a program in any language is an instance for as long as it runs, and leaves nothing behind."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest
import support

from mnemo_coord import Fleet, doctor


def run(state_dir: Path, *args: object, **options: object) -> support.Cli:
    return support.run("--dir", state_dir, "run", *args, **options)  # type: ignore[arg-type]


def test_it_is_an_instance_while_it_runs(state_dir: Path) -> None:
    """What it does by the command it does in its own name, and nothing of it is left."""
    script = (
        f"{support.MNEMOSYNE} report working hard && {support.MNEMOSYNE} branch join main && {support.MNEMOSYNE} list --json"
    )
    done = run(state_dir, "--name", "web", "--role", "server", "--", "sh", "-c", script, cwd=state_dir.parent)
    assert done.returncode == 0, done.stderr
    (instance,) = json.loads(done.stdout.splitlines()[-1])
    assert (instance["name"], instance["roles"], instance["branch"]) == ("web", ["server"], "main")
    assert (instance["report"]["text"], instance["status"]) == ("hard", "alive")
    with Fleet.open(state_dir) as fleet:
        assert fleet.instances() == []
    assert doctor.examine(state_dir).findings == ()


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143)])
def test_its_exit_code_is_ours(script: str, code: int, state_dir: Path) -> None:
    assert run(state_dir, "--", "sh", "-c", script).returncode == code


def test_what_cannot_be_started_leaves_nothing(state_dir: Path) -> None:
    assert run(state_dir, "--", "/nonexistent/command").returncode == 7
    assert run(state_dir).returncode == 2
    with Fleet.open(state_dir) as fleet:
        assert fleet.instances() == []


def test_a_name_that_is_taken(state_dir: Path) -> None:
    with support.Serve(state_dir, "--name", "web"):
        done = run(state_dir, "--name", "web", "--", "sh", "-c", "echo ran")
        assert (done.returncode, done.stdout) == (4, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_are_passed_on(number: signal.Signals, state_dir: Path) -> None:
    script = "trap 'echo caught; exit 5' TERM HUP; echo ready; while :; do sleep 0.05; done"
    argv = [support.MNEMOSYNE, "--dir", str(state_dir), "run", "--", "sh", "-c", script]
    with support.Child(argv, state_dir.parent / "logs") as child:
        child.wait_for("ready")
        assert child.stop(number) == 5
        assert child.printed == "ready\ncaught\n"
    assert doctor.examine(state_dir).findings == ()


def test_the_key_is_not_handed_on_and_the_environment_is(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNEMOSYNE_DATA_DIR", str(state_dir.parent / "data"))
    folder = state_dir.parent / "shop"
    folder.mkdir()
    (folder / "mnemosyne.yaml").write_text("project: shop\nservices: {web: {port: 8123}}\n")
    secret = {"MNEMOSYNE_SHARED_SECRET": "0123456789abcdef0123", "OWN": "kept"}
    done = run(state_dir, "--", "env", "-0", cwd=folder, env=secret)
    found = dict(entry.partition("=")[::2] for entry in done.stdout.split("\0") if entry)
    assert "MNEMOSYNE_SHARED_SECRET" not in found
    assert found["OWN"] == "kept"
    assert int(found["PORT"]) == int(found["WEB_PORT"]) >= 8123
    assert found["MNEMOSYNE_DIR"] == str(state_dir)
    (folder / "mnemosyne.yaml").write_text("service: {}\n")
    assert run(state_dir, "--", "env", cwd=folder).returncode == 2


def test_killed_it_is_dead_for_the_others(state_dir: Path) -> None:
    argv = [support.MNEMOSYNE, "--dir", str(state_dir), "run", "--name", "web", "--", "sh", "-c", "echo ready; exec sleep 30"]
    with support.Serve(state_dir) as other, support.Child(argv, state_dir.parent / "logs") as child:
        child.wait_for("ready")
        other.wait_for("(web) is here")
        subprocess.run(["pkill", "-9", "-P", str(child.pid)], check=True)
        assert child.wait() == 137
        other.wait_for("(web) has left")
