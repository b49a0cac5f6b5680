"""Agents on one disk: names share no file, one scheduler runs on a jobs.db, and each job is done once, also through a kill."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Self

import psutil
import pytest
import support

EXAMPLE = support.REPOSITORY / "examples" / "protoagent"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder of its own; what the agents store is in ``.protoagent`` there."""
    for name in ("PROTOAGENT_INSTANCE", "PROTOAGENT_AUTO_SCOPE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MNEMOSYNE_DIR", str(tmp_path / "fleet" / ".mnemosyne"))
    (tmp_path / "home").mkdir()
    shutil.copytree(EXAMPLE, tmp_path / "agents", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


class Agent(support.Child):
    """An agent, serving when its ``with`` block is entered."""

    def __init__(self, home: Path, *args: object, cwd: Path | None = None, **env: str) -> None:
        argv = [sys.executable, str(home / "agents" / "agent.py"), "--port", "0", *map(str, args)]
        super().__init__(argv, home / "logs", env=env, cwd=cwd or home / "agents")

    def __enter__(self) -> Self:
        self.port = int(self.wait_for("serves on port", 60).split(" port ")[1].split(",")[0])
        return self

    def ask(self, path: str, **body: object) -> tuple[int, Any]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", json.dumps(body).encode() if body else None)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, json.load(refused)

    def is_in(self, state: str) -> Any:
        return support.wait_until(lambda: self.ask("/status")[1]["scheduler"] == state, 60, f"{state}: {self.log}")

    def schedule(self, job: str, seconds: float) -> None:
        assert self.ask("/jobs", id=job, **{"in": seconds}) == (201, {"id": job})

    @property
    def warnings(self) -> list[str]:
        """Those of a start without a name; there may be others, such as that the kernel has no notifications left."""
        return [line for line in self.log.splitlines() if line.startswith("WARNING unscoped")]


def fired(root: Path) -> list[tuple[str, int]]:
    """Which job was done by which process, in the order in which they were."""
    log = root / "memory" / "fired.log"
    lines = log.read_text().splitlines() if log.exists() else []
    return [(line.partition("@")[0], int(line.rpartition(" ")[2])) for line in lines]


def waiting(root: Path) -> int:
    """Jobs that are not forgotten yet."""
    with closing(sqlite3.connect(root / "scheduler" / "jobs.db", timeout=10)) as database:
        return int(database.execute("SELECT count(*) FROM apscheduler_jobs").fetchone()[0])


def test_names_share_no_file_and_each_does_its_own_jobs(home: Path) -> None:
    """By the variable, by the config field, and derived from two working directories."""
    root, folders = home / "home" / ".protoagent", {}
    (root / "alice" / "older").mkdir(parents=True)  # with a name, what lies there already is no reason to warn
    for name in ("configured", "one", "two"):
        folders[name] = home / ("agents" if name != "configured" else "") / name
        folders[name].mkdir()
    shutil.copy(EXAMPLE / "mnemosyne.yaml", folders["configured"])
    (folders["configured"] / "config.yaml").write_text("instance_id: bob\n")
    auto = {"PROTOAGENT_AUTO_SCOPE": " Yes "}
    agents = [
        Agent(home, PROTOAGENT_INSTANCE="alice", PROTOAGENT_AUTO_SCOPE="1"),
        Agent(home, cwd=folders["configured"]),
        Agent(home, cwd=folders["one"], **auto),
        Agent(home, cwd=folders["two"], **auto),
    ]
    derived = [support.run("scope", "--json", cwd=folders[name], env=auto).json["name"] for name in ("one", "two")]
    assert [re.sub("[0-9a-f]{6}$", "…", name) for name in derived] == ["one-…", "two-…"]
    names = ["alice", "bob", *derived]
    with ExitStack() as stack:
        for agent in agents:
            stack.enter_context(agent)
        for agent, name in zip(agents, names, strict=True):
            assert agent.is_in("running")
            assert agent.ask("/status")[1]["root"] == str(root / name)
            assert agent.ask("/messages", text=f"hello {name}") == (200, {"messages": 1})
            for number in range(5):
                agent.schedule(f"{name.partition('-')[0]}-{number}", 0.02 * number)
        for agent, name in zip(agents, names, strict=True):
            support.wait_until(lambda name=name: len(fired(root / name)) >= 5 and waiting(root / name) == 0)
            mine = {Path(file.path) for file in psutil.Process(agent.pid).open_files() if str(root) in file.path}
            assert mine
            assert all(path.is_relative_to(root / name) for path in mine)
            assert agent.stop() == 0
            assert agent.warnings == []
    for agent, name in zip(agents, names, strict=True):
        short = name.partition("-")[0]
        assert sorted(fired(root / name)) == [(f"{short}-{number}", agent.pid) for number in range(5)]
        assert (root / name / "memory" / "conversation.log").read_text() == f"'hello {name}'\n"
    nothing_is_shared(root, names)


def nothing_is_shared(root: Path, names: list[str]) -> None:
    """Everything lies below the folder of a name, no two of them are one file, and all have every store."""
    files = [path for path in root.rglob("*") if not path.is_dir()]
    assert {path.relative_to(root).parts[0] for path in files} == set(names)
    assert len({path.stat().st_ino for path in files}) == len(files)
    listed = Counter(str(path.relative_to(root).relative_to(path.relative_to(root).parts[0])) for path in files)
    assert listed == dict.fromkeys(
        [
            "checkpoints.db",
            "knowledge.db",
            "inbox.db",
            "skills/listen.md",
            "workflows/message.md",
            "memory/conversation.log",
            "memory/fired.log",
            "scheduler/jobs.db",
            "scheduler/jobs.db.lock",
        ],
        len(names),
    )


def test_one_scheduler_on_a_jobs_db_and_an_heir(home: Path) -> None:
    """Two that share a jobs.db: one stays off and serves. The owner is killed as it was about to forget a job: who waits goes on."""
    root = home / "home" / ".protoagent"
    with Agent(home) as owner, ExitStack() as stack:
        assert owner.is_in("running")
        second, heir = (stack.enter_context(agent) for agent in (Agent(home), Agent(home, "--retry", 100)))
        stays_off(second, owner, root)
        assert heir.ask("/status")[1]["scheduler"] == "waiting"
        assert [len(agent.warnings) for agent in (owner, second, heir)] == [0, 1, 1], "the home was empty for the first"
        for part in (str(root), "PROTOAGENT_INSTANCE=NAME", "PROTOAGENT_AUTO_SCOPE=1"):
            assert part in second.warnings[0]
        for number in range(10):
            owner.schedule(f"plain-{number}", 0.01 * number)
        support.wait_until(lambda: len(fired(root)) >= 10 and waiting(root) == 0)
        assert sorted(fired(root)) == sorted((f"plain-{number}", owner.pid) for number in range(10))
        late = killed_before_it_forgets(owner, root)
        heir.wait_for("[scheduler] owns")
        assert heir.is_in("running")
        heir.schedule("new", 0)
        support.wait_until(lambda: "new" in dict(fired(root)) and waiting(root) == 0)
        assert {job for job, pid in fired(root) if pid == heir.pid} == {*late, "new"}
        assert set(Counter(job for job, _ in fired(root)).values()) == {1}, "each once, whoever did it"
        assert second.ask("/status")[1]["scheduler"] == "off", "it does not come back by itself"
        assert [second.stop(), heir.stop()] == [0, 0]


def stays_off(second: Agent, owner: Agent, root: Path) -> None:
    line = second.wait_for("ERROR [scheduler]")
    jobs = root / "scheduler" / "jobs.db"
    found = re.fullmatch(
        rf"ERROR \[scheduler\] jobs\.db at {re.escape(str(jobs))} is already owned by another live instance "
        rf"\(process {owner.pid}, instance [0-9a-f]{{8}}\) — not starting the scheduler\. Run each instance with a distinct "
        r"PROTOAGENT_INSTANCE so they don't share a jobs\.db; --retry S waits for it",
        line,
    )
    assert found, line
    assert second.ask("/messages", text="hello")[0] == 200, "the rest serves"
    status, refused = second.ask("/jobs", id="x", **{"in": 0})
    assert (status, refused["scheduler"]) == (503, "off")
    assert refused["reason"] == line.removeprefix("ERROR [scheduler] ")


def killed_before_it_forgets(owner: Agent, root: Path) -> set[str]:
    """Kills it after it did a job and before that is crossed out; returns the jobs that were due meanwhile.

    Whoever holds a write lock on jobs.db lets APScheduler see that a job is due, but not forget it.
    """
    with closing(sqlite3.connect(root / "scheduler" / "jobs.db", timeout=10, isolation_level=None)) as database:
        for attempt in range(20):  # the machine may be too slow for a second
            late = {f"late-{attempt}-{number}" for number in range(5)}
            for job in (f"victim-{attempt}", *sorted(late)):
                owner.schedule(job, 1.0)
            posted = time.monotonic()
            database.execute("BEGIN IMMEDIATE")
            if f"victim-{attempt}" not in dict(fired(root)):
                break
            database.execute("ROLLBACK")
        support.wait_until(lambda: f"victim-{attempt}" in dict(fired(root)))
        owner.send_signal(signal.SIGSTOP)
        support.wait_until(lambda: time.monotonic() > posted + 1.0)
        assert not late & set(dict(fired(root))), "it goes on only when the first is forgotten"
        owner.kill()
        database.execute("ROLLBACK")
    return late


def test_kills_at_any_moment(home: Path) -> None:
    """A jobs.db goes from hand to hand; whatever moment each owner dies at, no job is done twice, and none is lost."""
    root, jobs = home / "home" / ".protoagent", [f"job-{number}" for number in range(60)]
    started = [Agent(home, "--retry", 100) for _ in range(3)]
    with ExitStack() as stack:
        living = [stack.enter_context(agent) for agent in started]
        owner = support.wait_until(lambda: running(living))
        for number, job in enumerate(jobs):
            owner.schedule(job, 0.5 + 0.01 * number)
        for count in (15, 35):
            support.wait_until(lambda count=count: len(fired(root)) >= count)
            owner.kill()
            living.remove(owner)
            owner = support.wait_until(lambda: running(living))
        support.wait_until(lambda: len({job for job, _ in fired(root)}) == len(jobs) and waiting(root) == 0)
        assert Counter(job for job, _ in fired(root)) == Counter(jobs)
        assert len({pid for _, pid in fired(root)}) >= 2
        assert owner.stop() == 0


def running(agents: list[Agent]) -> Agent | None:
    return next((agent for agent in agents if agent.ask("/status")[1]["scheduler"] == "running"), None)


@pytest.mark.parametrize("name", ["../x", "scheduler"])
def test_a_name_that_is_refused_starts_nothing(name: str, home: Path) -> None:
    agent = Agent(home, PROTOAGENT_INSTANCE=name)
    assert agent.wait() == 2
    assert agent.log.startswith(f"ERROR PROTOAGENT_INSTANCE: {name!r} is ")
    assert list((home / "home").iterdir()) == []
    assert list((home / "fleet").iterdir()) == []


def test_the_readme_does_what_it_says(home: Path) -> None:
    blocks = re.findall(r"^```bash\n(.*?)^```$", (EXAMPLE / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 2
    for block in blocks:
        script = block
        for port in sorted(set(re.findall(r"\b787\d\b", block))):
            script = script.replace(port, str(free_port()))
        script = f"export PATH={Path(sys.executable).parent}:$PATH\n{script}"
        done = subprocess.run(
            ["timeout", "60", "bash", "-c", script],
            cwd=home / "agents",
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert set(dict(fired(home / "home" / ".protoagent" / "bob"))) == {"tea"}
    shown = re.search(r"^```text\n(.*)\n```$", (EXAMPLE / "README.md").read_text(), re.MULTILINE)
    assert shown
    logged = next(line for line in done.stderr.splitlines() if line.startswith("ERROR"))
    assert anonymous(logged, home) == anonymous(shown[1], Path("/"))


def anonymous(line: str, home: Path) -> str:
    return re.sub(
        r"process \d+, instance [0-9a-f]{8}", "…", line.replace(str(home / "home" / ".protoagent"), "/home/you/.protoagent")
    )


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
