"""`mnemosyne run` in a project: its ports are its own from before the program starts, its singletons as long as it runs."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest
import support

SLOW = """
import http.server, os, sys, time
print("started", flush=True)
sys.stdin = open(sys.argv[1])  # waits until somebody opens the other end
sys.stdin.read()
server = http.server.ThreadingHTTPServer((sys.argv[2], int(os.environ["PORT"])), http.server.SimpleHTTPRequestHandler)
print("listens", flush=True)
server.handle_request()
server.server_close()
print("closed", flush=True)
time.sleep(60)
"""
GIVEN = """
import json, os, socket, sys
names = os.environ["LISTEN_FDNAMES"].split(":")
fds = range(3, 3 + int(os.environ["LISTEN_FDS"]))
ports = {name: socket.socket(fileno=fd).getsockname() for name, fd in zip(names, fds, strict=True)}
others = [fd for fd in map(int, os.listdir("/proc/self/fd")) if fd > max(fds) and os.path.exists(f"/proc/self/fd/{fd}")]
print(json.dumps({"ports": ports, "mine": os.environ["LISTEN_PID"] == str(os.getpid()), "others": others}))
"""
APP = """
async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"served"})
"""


@pytest.fixture
def project(tmp_path: Path, port_base: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MNEMOSYNE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("MNEMOSYNE_DIR", str(tmp_path / "state"))
    for name in ("PORT", "MNEMOSYNE_SLOT", "MAILER"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "shop"
    folder.mkdir()
    write(folder, port_base)
    return folder


def write(folder: Path, port: int, more: str = "") -> None:
    (folder / "mnemosyne.yaml").write_text(
        f"project: shop\nstride: 2\nslots: 3\nservices:\n  web: {{port: {port}{more}}}\n  api: {{port: {port + 1}}}\n"
        "singletons: {mailer: {slot: 0}}\nenvironment: {MAILER: {singleton: mailer}}\n"
    )


def child(project: Path, *args: str, **env: str) -> support.Child:
    return support.Child([support.MNEMOSYNE, "run", *args], project.parent / "logs", cwd=project, env=env)


def sockets(pid: int) -> int:
    """How many a process has open."""
    return sum(os.readlink(link).startswith("socket:") for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink())


def refused(port: int, *, reuse: bool = False) -> bool:
    """Whether a stranger cannot have the port: on any of the four usual addresses."""
    answers = []
    for family, host in (
        (socket.AF_INET, "127.0.0.1"),
        (socket.AF_INET, "0.0.0.0"),
        (socket.AF_INET6, "::1"),
        (socket.AF_INET6, "::"),
    ):
        with socket.socket(family) as stranger:
            stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
            try:
                stranger.bind((host, port))
                answers.append(False)
            except OSError:
                answers.append(True)
    return all(answers)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_its_port_is_reserved_until_it_listens(host: str, project: Path, port_base: int) -> None:
    """Nobody has it before, it itself has it then, and afterwards it is as free as ever."""
    gate = project.parent / "gate"
    os.mkfifo(gate)
    with child(project, "--service", "web", "--", sys.executable, "-c", SLOW, str(gate), host) as one:
        one.wait_for("started")
        assert refused(port_base)
        before = sockets(one.pid)
        gate.write_text("go")
        one.wait_for("listens")
        support.wait_until(lambda: sockets(one.pid) < before, what="given up once it was seen listening")
        with urllib.request.urlopen(f"http://127.0.0.1:{port_base}/mnemosyne.yaml", timeout=10) as answer:
            assert b"shop" in answer.read()
        one.wait_for("closed")
        assert not refused(port_base, reuse=True)
        (program,) = psutil.Process(one.pid).children()
        program.kill()
        assert one.wait() == 137


def test_a_program_that_takes_sockets_is_given_them(project: Path, port_base: int) -> None:
    done = support.run(
        "run", "--service", "web", "--service", "api", "--listen-fds", "--", sys.executable, "-c", GIVEN, cwd=project
    )
    assert done.returncode == 0, done.stderr
    assert done.json == {
        "ports": {"web": ["127.0.0.1", port_base], "api": ["127.0.0.1", port_base + 1]},
        "mine": True,
        "others": [],
    }


def test_who_connects_early_is_served_by_a_server_that_starts_late(project: Path, port_base: int) -> None:
    """uvicorn on a socket that listens already: nobody is turned away while it starts."""
    (project / "late.py").write_text(APP)
    write(project, port_base, ", listen: fds")
    argv = [sys.executable, "-m", "uvicorn", "--fd", "3", "--log-level", "warning", "late:app"]
    with child(project, "--service", "web", "--", *argv) as one:
        connected = support.wait_until(lambda: connect(port_base))
        with connected:
            connected.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            connected.settimeout(20)
            assert b"served" in b"".join(iter(lambda: connected.recv(4096), b""))
        assert one.stop(signal.SIGTERM) in {0, 143}
    assert not connect(port_base), "nobody keeps it open behind the back of the program"


def connect(port: int) -> socket.socket | None:
    try:
        return socket.create_connection(("127.0.0.1", port), 5)
    except OSError:
        return None


def test_a_busy_port_is_told_with_its_owner_who_lives_on(project: Path) -> None:
    port = int(support.run("env", "--json", cwd=project).json["API_PORT"])
    with socket.create_server(("127.0.0.1", port)) as stranger:
        for more in ([], ["--listen-fds"]):
            done = support.run("run", "--service", "api", *more, "--json", "--", "true", cwd=project)
            assert done.returncode == 4
            assert f"api's port {port} is used by process {os.getpid()}" in done.json["error"]["message"]
        done = support.run("run", "--", "echo", "ran", cwd=project)
        assert (done.returncode, done.stdout) == (0, "ran\n"), "what was not asked for may be busy"
        assert f"api's port {port} is used by process {os.getpid()}" in done.stderr
        with socket.create_connection(("127.0.0.1", port), 5):
            stranger.accept()[0].close()


def test_what_cannot_be_started_gives_everything_back(project: Path, port_base: int) -> None:
    for more in ([], ["--listen-fds"]):
        assert support.run("run", "--service", "web", *more, "--", "/nonexistent", cwd=project).returncode == 7
    assert not refused(port_base)
    assert support.run("run", "--service", "wbe", "--", "true", cwd=project).returncode == 3
    assert support.run("run", "--service", "web", cwd=project).returncode == 2, "it has no command"
    assert support.run("run", "--service", "web", "--", "true", cwd=project.parent).returncode == 3, "no project"


def test_the_command_of_a_repository_runs_once_it_is_trusted(project: Path, port_base: int) -> None:
    words = ["sh", "-c", 'echo $PORT $1; echo "$0"', "${API_PORT}", "$PORT;x"]
    write(project, port_base, f", command: {json.dumps(words)}")
    run = ("run", "planner", "--service", "web")
    done = support.run(*run, cwd=project)
    assert (done.returncode, done.stdout) == (4, "")
    assert "mnemosyne trust" in done.stderr
    shown = support.run("trust", cwd=project)
    assert shown.returncode == 1
    assert f"web: sh -c {words[2]!r} ${{API_PORT}} $PORT;x" in shown.stdout
    assert support.run(*run, cwd=project).returncode == 4, "looking is not trusting"
    assert support.run("trust", "--yes", "--json", cwd=project).json["trusted"] is True
    done = support.run(*run, cwd=project)
    assert (done.returncode, done.stdout) == (0, f"{port_base} {port_base};x\n{port_base + 1}\n"), done.stderr
    write(project, port_base, ", command: 'echo changed'")
    assert support.run(*run, cwd=project).returncode == 4, "what has changed is asked for anew"
    support.run("trust", "--yes", cwd=project)
    assert support.run(*run, cwd=project).stdout == "changed\n"
    assert support.run("trust", "--revoke", cwd=project).returncode == 0
    assert support.run(*run, cwd=project).returncode == 4
    assert support.run("run", "--", "echo", "typed", cwd=project).stdout == "typed\n", "what a person types needs no trust"


def test_trust_is_for_a_repository_and_its_worktrees(project: Path, port_base: int) -> None:
    write(project, port_base, ", command: echo ran")
    support.git(project, "init", "-q")
    support.git(project, "add", ".")
    support.git(project, "commit", "-qm", "first")
    support.git(project, "worktree", "add", "-q", "../other")
    support.git(project.parent, "clone", "-q", "shop", "stranger")
    support.run("trust", "--yes", cwd=project)
    found = [
        support.run("run", "--service", "web", cwd=project.parent / name).returncode for name in ("shop", "other", "stranger")
    ]
    assert found == [0, 0, 4]


@pytest.mark.parametrize("variable", ["PATH", "LD_PRELOAD", "GIT_SSH_COMMAND", "BASH_ENV", "PYTHONPATH", "https_proxy"])
def test_a_variable_by_which_others_run_something_needs_trust(variable: str, project: Path, port_base: int) -> None:
    file = project / "mnemosyne.yaml"
    file.write_text(file.read_text().replace("environment: {", f"environment: {{{variable}: ./evil, "))
    for args in (("env",), ("run", "--", "echo", "ran")):
        done = support.run(*args, cwd=project)
        assert (done.returncode, done.stdout) == (4, "")
        assert variable in done.stderr
    assert variable in support.run("trust", "--json", cwd=project).json["variables"]
    support.run("trust", "--yes", cwd=project)
    assert f"{variable}=./evil" in support.run("env", cwd=project).stdout


def test_a_singleton_is_held_by_one_and_who_asks_is_told_who_has_it(project: Path, port_base: int) -> None:
    """Across fleets: the second one has a state directory of its own."""
    other = project.parent / "other"
    other.mkdir()
    write(other, port_base)
    show = ("sh", "-c", 'echo "MAILER=$MAILER"; exec sleep 60')
    with child(project, "--", *show) as first:
        first.wait_for("MAILER=true")
        support.run("env", cwd=other)
        done = support.run("run", "--enable-mailer", "--json", "--", "true", cwd=other, env={"MNEMOSYNE_DIR": str(other / "f")})
        assert done.returncode == 4
        said = done.json["error"]["message"]
        assert said.startswith("mailer of shop is held by process ")
        assert said.endswith(f" in {project}")
        assert support.run("run", "--", "sh", "-c", "echo $MAILER", cwd=other).stdout == "false\n"
        asked = support.run("run", "--", "true", cwd=other, env={"MAILER": "true"})
        assert asked.returncode == 4, "who sets the variable asks for it"
        (program,) = psutil.Process(first.pid).children()
        first.kill()
        program.kill()
        with child(other, "--enable-mailer", "--", *show) as second:
            second.wait_for("MAILER=true")
            third = support.run("run", "--", "sh", "-c", "echo $MAILER", cwd=project)
            assert third.stdout == "false\n"
            assert f"in {other}: it is off here" in third.stderr
            declined = support.run("run", "--", "sh", "-c", "echo $MAILER", cwd=project, env={"MAILER": "no"})
            assert (declined.stdout, declined.stderr) == ("false\n", "")
    assert support.run("run", "--enable-mialer", "--", "true", cwd=project).returncode == 3


def test_what_is_wrong_with_the_ledger_of_trust_is_said(project: Path) -> None:
    support.run("trust", "--yes", cwd=project)
    ledger = project.parent / "data" / "trusted.json"
    assert [entry["path"] for entry in json.loads(ledger.read_text())["trusted"]] == ["."]
    ledger.write_text("{")
    done = support.run("trust", cwd=project)
    assert done.returncode == 6
    assert "trusted.json" in done.stderr


def test_what_is_stored_without_a_name_is_warned_of_once(project: Path) -> None:
    """The id of a start is no name: at the next one nothing would be found."""
    file = project / "mnemosyne.yaml"
    file.write_text(file.read_text() + "scope: {root: home}\nstores: {orders: orders.db}\n")
    scope = ("run", "--", support.MNEMOSYNE, "scope", "--json")
    done = support.run(*scope, cwd=project)
    assert (done.json["name"], done.stderr) == (None, "")
    (project / "home").mkdir()
    (project / "home" / "orders.db").touch()
    done = support.run("run", "--", "echo", "ran", cwd=project)
    assert (done.returncode, done.stdout) == (0, "ran\n")
    assert done.stderr.count("WARNING") == 1
    for part in (str(project / "home"), "MNEMOSYNE_INSTANCE", "MNEMOSYNE_AUTO_SCOPE"):
        assert part in done.stderr
    done = support.run("run", "alice", "--", support.MNEMOSYNE, "scope", "--json", cwd=project)
    assert (done.json["name"], done.stderr) == ("alice", "")
