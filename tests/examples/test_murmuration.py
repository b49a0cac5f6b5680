"""Murmuration: two instances at once, each with its own processes and queue; nobody touches the other's; a crash loses nothing."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import support

EXAMPLE = support.REPOSITORY / "examples" / "murmuration"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home folder of its own, and the example as the current folder. What is left of it at the end is ended."""
    (tmp_path / "home").mkdir()
    shutil.copytree(EXAMPLE, tmp_path / "murmuration")
    monkeypatch.chdir(tmp_path / "murmuration")
    for name in ("XDG_DATA_HOME", "MURMUR_INSTANCE_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    yield tmp_path / "home"
    for one in psutil.process_iter(["environ"]):
        if (one.info["environ"] or {}).get("HOME") == str(tmp_path / "home") and one.pid != os.getpid():
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()


def ask(instance: str, *args: object) -> Any:
    """What a command says in a terminal of an instance."""
    done = support.run(*args, "--json", env={"MURMUR_INSTANCE_ID": instance})
    assert done.returncode == 0, done.stderr + done.stdout
    return done.json


def add(instance: str, what: str, seconds: float) -> str:
    done = support.run(
        "jobs", "add", "--env", f"SECONDS_TO_TAKE={seconds}", "--", "./build.sh", what, env={"MURMUR_INSTANCE_ID": instance}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def runner(instance: str, place: Path, *args: str) -> support.Child:
    return support.Child([support.MNEMOSYNE, "jobs", "run", *args], place / "logs", env={"MURMUR_INSTANCE_ID": instance})


def test_two_instances_each_with_its_own(home: Path) -> None:
    for name in ("alice", "bob"):
        assert support.run("init", name).returncode == 0
    mine, other = add("alice", "site", 1000), add("bob", "site", 1000)
    with runner("alice", home.parent) as alice, runner("bob", home.parent) as bob:
        alice.wait_for(f"alice/{mine}: running")
        bob.wait_for(f"bob/{other}: running")
        assert [job["id"] for job in ask("alice", "jobs", "list")["jobs"]] == [mine]
        assert [job["id"] for job in ask("bob", "jobs", "list")["jobs"]] == [other]
        assert [entry["name"] for entry in ask("alice", "ps")] == [mine]
        shared = {entry["name"]: entry for entry in ask("alice", "ps", "--shared-processes")}
        assert {name: (entry["instance"], entry["own"]) for name, entry in shared.items()} == {
            mine: ("alice", True),
            other: ("bob", False),
        }
        theirs = psutil.Process(shared[other]["pid"])
        for word in (other, theirs.pid, shared[other]["processes"][-1]):
            refused = support.run("kill", word, env={"MURMUR_INSTANCE_ID": "alice"})
            assert (refused.returncode, "of the instance 'bob'" in refused.stderr) == (4, True), refused.stderr
        with subprocess.Popen(["sleep", "1000"]) as stranger:
            assert support.run("kill", stranger.pid, env={"MURMUR_INSTANCE_ID": "alice"}).returncode == 3
            assert stranger.poll() is None
            stranger.kill()
        assert theirs.is_running()
        assert ask("bob", "kill", theirs.pid)["name"] == other
        assert not psutil.pid_exists(theirs.pid)
        assert [entry["name"] for entry in ask("alice", "ps")] == [mine], "and hers runs on"
        assert support.run("jobs", "cancel", mine, env={"MURMUR_INSTANCE_ID": "alice"}).returncode == 0
        assert [one.stop() for one in (alice, bob)] == [0, 0]
    for name in ("alice", "bob"):
        assert not (home / f".murmur_{name}" / "jobs.json").exists()
        (log,) = (home / f".murmur_{name}" / "logs" / "jobs").iterdir()
        assert re.fullmatch(rf"\S+Z {name}/\w+ \| building site for {name}\n", log.read_text())


def test_a_crash_of_one_loses_nothing_and_the_other_does_not_notice(home: Path) -> None:
    for name in ("alice", "bob"):
        assert support.run("init", name).returncode == 0
    wanted = [add("alice", what, seconds) for what, seconds in (("one", 0.1), ("two", 2), ("three", 0.1))]
    theirs = add("bob", "site", 0.1)
    with runner("alice", home.parent) as first:
        first.wait_for(f"alice/{wanted[1]}: running")
        first.kill()
    with runner("bob", home.parent, "--drain") as bob:
        assert bob.wait() == 0
    with runner("alice", home.parent, "--adopt", "--drain") as second:
        assert second.wait() == 0, second.log
    built = (home / ".murmur_alice" / "built").read_text().split()
    assert sorted(built[1::2]) == sorted(wanted), "each once"
    assert (home / ".murmur_bob" / "built").read_text().split() == ["site", theirs]
    assert not (home / ".murmur_alice" / "jobs.json").exists()


@pytest.mark.parametrize("block", range(2))
def test_the_readme_can_be_typed(block: int, home: Path) -> None:
    blocks = re.findall(r"```bash\n(.*?)```", (EXAMPLE / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    if block == 1:
        assert support.run("init", "alice").returncode == 0
    # The crash is wanted: a shell says that it was.
    done = subprocess.run(["bash", "-c", blocks[block]], capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    if block == 0:
        assert sorted(line.split()[0] for line in done.stdout.splitlines()[-3:]) == ["docs", "site", "site"]
    else:
        assert "orphaned" in done.stdout
        assert len((home / ".murmur_alice" / "built").read_text().splitlines()) == 1
