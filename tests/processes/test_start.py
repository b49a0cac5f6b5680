"""`mnemosyne start`, `stop`, `restart`, `status`, `logs`: real processes, real kills, and nothing left of them."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import random
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import support

HTTP = "python -m http.server --bind 127.0.0.1 $PORT"
DEEP = "sleep 1000 & (setsid sleep 1001 &) ; exec sleep 1002"
"""A tree: a child, one in a session of its own that loses its parents, and itself."""


class Place:
    """A project, and what its instances leave in the process table."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.mark = f"{folder.name}-{port}"

    def write(self, services: str) -> None:
        """Writes mnemosyne.yaml anew, trusts it, and makes its instance dev."""
        if self.workspace.exists():
            assert self.run("rm", "dev", "--yes").returncode == 0
        (self.folder / "mnemosyne.yaml").write_text(
            f"project: shop\nhome: {self.folder.parent / 'home'}\nstride: 3\nslots: 3\nservices:\n{services}"
        )
        assert self.run("trust", "--yes").returncode == 0
        assert self.run("init", "dev").returncode == 0

    def usual(self, more: str = "") -> None:
        self.write(
            f"  web: {{port: {self.port}, short: w, group: front, command: {HTTP}}}\n"
            f"  api: {{port: {self.port + 1}, short: a, group: back, command: {HTTP}}}\n{more}"
        )

    def run(self, *args: object, **options: object) -> support.Cli:
        return support.run(*args, cwd=self.folder, timeout=60, **options)  # type: ignore[arg-type]

    def child(self, *args: str) -> support.Child:
        return support.Child([support.MNEMOSYNE, *args], self.folder.parent / "logs", cwd=self.folder)

    @property
    def workspace(self) -> Path:
        return self.folder.parent / "home_dev"

    def left(self) -> list[str]:
        """Every process that came of this project, except ourselves."""
        found = []
        for one in psutil.process_iter(["pid", "cmdline", "environ"]):
            environ = one.info["environ"] or {}
            if environ.get("PLACE") == self.mark and one.pid != os.getpid():
                found.append(f"{one.pid} {' '.join(one.info['cmdline'] or ['?'])}")
        return found

    def assert_nothing_is_left(self) -> None:
        support.wait_until(lambda: not self.left(), what=f"left: {self.left()}")
        assert not [path.name for path in self.workspace.iterdir() if path.name in {".instance.pid", ".instance.json"}]
        for port in (self.port, self.port + 1, self.port + 3, self.port + 4):
            with socket.socket() as free:
                free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                free.bind(("127.0.0.1", port))


@pytest.fixture
def place(tmp_path: Path, port_base: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    folder = tmp_path / "shop"
    folder.mkdir()
    found = Place(folder, port_base)
    monkeypatch.setenv("MNEMOSYNE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    monkeypatch.delenv("MNEMOSYNE_DATA_DIR", raising=False)
    monkeypatch.setenv("PLACE", found.mark)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    found.usual()
    yield found
    for text in found.left():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(text.split()[0]), signal.SIGKILL)


def get(port: int) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/mnemosyne.yaml", timeout=10) as answer:
        return answer.read()


def test_it_runs_in_the_foreground_until_ctrl_c(place: Place) -> None:
    with place.child("start", "dev") as one:
        one.wait_for("dev is ready")
        assert b"project: shop" in get(place.port + 3)
        shown = place.run("status", "dev", "--json").json
        assert (shown["status"], shown["pid"]) == ("running", one.pid)
        assert {name: service["state"] for name, service in shown["services"].items()} == {"web": "ready", "api": "ready"}
        assert f"process {shown['services']['web']['pid']}" in shown["ports"]["web"]["held_by"]
        assert (place.workspace / ".instance.pid").read_text().split()[0] == str(one.pid)
        listed = place.run("list", "--json").json
        assert [instance["name"] for instance in listed] == ["dev"], "it is an instance of the fleet"
        again = place.run("start", "dev")
        assert again.returncode == 4
        assert f"PID {one.pid}" in again.stderr
        assert one.stop(signal.SIGINT) == 0
    assert "ready http://127.0.0.1" in one.log
    assert place.run("status", "dev").returncode == 1
    place.assert_nothing_is_left()


def test_it_runs_in_the_background(place: Place) -> None:
    done = place.run("start", "dev", "--detach", "--json")
    assert done.returncode == 0, done.stderr
    assert done.json["services"]["web"]["url"] == f"http://127.0.0.1:{place.port + 3}"
    assert b"project: shop" in get(place.port + 4)
    table = place.run("instances").stdout
    assert re.search(rf"^dev +running +{done.json['pid']} ", table, re.MULTILINE), table
    refused = place.run("rm", "dev", "--yes")
    assert refused.returncode == 4
    restarted = place.run("restart", "dev", "--mode", "front", "--json")
    assert restarted.json["pid"] != done.json["pid"]
    assert list(restarted.json["services"]) == ["web"]
    stopped = place.run("stop", "dev", "--json")
    assert stopped.json == {"name": "dev", "was": "running", "services": ["web"]}
    assert "was not running" in place.run("stop", "--name", "dev").stderr
    place.assert_nothing_is_left()


def test_what_is_asked_for_wrongly(place: Place) -> None:
    assert place.run("stop", "").returncode == 2
    assert place.run("stop").returncode == 2
    assert place.run("start", "nobody").returncode == 3
    assert place.run("start", "dev", "middle").returncode == 3
    assert place.run("logs", "dev", "nothing").returncode == 3
    file = place.folder / "mnemosyne.yaml"
    file.write_text(file.read_text() + "# changed\n")
    done = place.run("start", "dev")
    assert (done.returncode, "mnemosyne trust" in done.stderr) == (4, True)
    place.assert_nothing_is_left()


def test_a_group_alone(place: Place) -> None:
    with place.child("start", "--name", "dev", "back") as one:
        one.wait_for("dev is ready")
        assert list(place.run("status", "dev", "--json").json["services"]) == ["api"]
        one.stop()
    place.assert_nothing_is_left()


def test_two_starters_have_one_tree(place: Place) -> None:
    """The second waits for the start lock, and then says what the seed says, or that it runs."""
    place.usual(f"  slow: {{port: {place.port + 2}, short: s, command: sleep 1000, ready_within: 60}}\n")
    with place.child("start", "dev") as first:
        first.wait_for("web: ready")
        second = place.run("start", "dev")
        assert second.returncode == 4
        assert second.stderr.splitlines()[-2:] == [
            "[mnemosyne] ERROR: Instance 'dev' startup in progress by another process",
            "[mnemosyne] Wait a few seconds or check if another terminal is starting this instance.",
        ]
        assert place.run("instances", "--json").json[1]["status"] == "starting"
        stopped = place.run("stop", "dev")
        assert stopped.returncode == 0, stopped.stderr
        assert first.wait() == 0
    place.assert_nothing_is_left()


def test_a_service_that_fails_is_started_again_and_given_up(place: Place) -> None:
    script = "import os, sys; n = len(open('count').read()); open('count', 'a').write('x'); sys.exit(3) if n < 2 else None"
    (place.folder / "count").touch()
    (place.folder / "flaky.py").write_text(f"{script}\nos.execvp('sleep', ['sleep', '1000'])\n")
    place.write(
        f"  flaky: {{port: {place.port}, ready: none, command: python flaky.py}}\n"
        f"  never: {{port: {place.port + 1}, ready: none, restart: never, command: sh -c 'exit 5'}}\n"
        f"  gone: {{port: {place.port + 2}, command: /no/such/program}}\n"
    )
    with place.child("start", "dev") as one:
        one.wait_for("flaky: backoff: has ended with exit code 3; started again in 1 s")
        one.wait_for("never: fatal: has ended with exit code 5")
        one.wait_for("gone: fatal: /no/such/program: cannot be started: no such file or directory")
        support.wait_until(lambda: (place.folder / "count").read_text() == "xxx")
        support.wait_until(lambda: place.run("status", "dev", "--json").json["services"]["flaky"]["state"] == "ready")
        assert one.stop() == 7
    place.assert_nothing_is_left()


def test_a_service_that_is_killed_comes_back_and_what_is_left_of_it_goes(place: Place) -> None:
    place.write(
        f"  deep: {{port: {place.port}, ready: none, command: {json.dumps(['sh', '-c', 'sleep 1000 & exec sleep 1002'])}}}\n"
    )
    with place.child("start", "dev") as one:
        one.wait_for("dev is ready")
        before = place.run("status", "dev", "--json").json["services"]["deep"]["pid"]
        (orphan,) = psutil.Process(before).children()
        os.kill(before, signal.SIGKILL)
        one.wait_for("signal 9; started again in 0.5 s")
        assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE
        one.wait_for("deep: ready")
        support.wait_until(lambda: place.run("status", "dev", "--json").json["services"]["deep"]["pid"] not in {before, None})
        assert one.stop() == 0
    place.assert_nothing_is_left()


@pytest.mark.parametrize("way", ["port", "http", "log", "notify"])
def test_ready_is_what_the_file_says(way: str, place: Place) -> None:
    """Each waits for a file, and is not ready before."""
    (place.folder / "late.py").write_text(
        "import http.server, os, pathlib, socket, time\n"
        "class H(http.server.SimpleHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200 if pathlib.Path('go').exists() else 503); self.end_headers()\n"
        "way = os.environ['WAY']\n"
        "while way != 'http' and not pathlib.Path('go').exists(): time.sleep(0.01)\n"
        "print('now listening', flush=True)\n"
        "if way == 'notify':\n"
        "    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "    s.sendto(b'READY=1\\n', '\\0' + os.environ['NOTIFY_SOCKET'][1:])\n"
        "if way in ('log', 'notify'): time.sleep(1000)\n"
        "http.server.HTTPServer(('127.0.0.1', int(os.environ['PORT'])), H).serve_forever()\n"
    )
    ready = {"port": "port", "http": "{http: /health}", "log": "{log: 'now (listen|serv)ing'}", "notify": "notify"}[way]
    place.write(f"  late: {{port: {place.port}, ready: {ready}, command: env WAY={way} python late.py}}\n")
    with place.child("start", "dev") as one:
        one.wait_for("late: starting")
        support.wait_until(lambda: place.run("status", "dev", "--json").json["services"]["late"]["pid"])
        assert "late: ready" not in one.log
        (place.folder / "go").touch()
        one.wait_for("dev is ready")
        assert one.stop() == 0
    place.assert_nothing_is_left()


def test_what_is_late_is_told_and_goes_on(place: Place) -> None:
    place.write(f"  late: {{port: {place.port}, ready_within: 1, command: sleep 1000}}\n")
    done = place.run("start", "dev", "--detach", "--json")
    assert done.returncode == 5
    assert "not ready after 1 s" in done.json["services"]["late"]["text"]
    assert place.run("stop", "dev").returncode == 0
    place.assert_nothing_is_left()


def test_after_its_launcher_was_killed(place: Place) -> None:
    """What is left is shown, ended by `stop`, and never doubled by `start`."""
    place.usual(f"  deep: {{port: {place.port + 2}, ready: none, short: d, command: {json.dumps(['sh', '-c', DEEP])}}}\n")
    for ending in ("stop", "start"):
        done = place.run("start", "dev", "--detach", "--json")
        assert done.returncode == 0, done.stderr
        before = len(place.left())
        os.kill(done.json["pid"], signal.SIGKILL)
        support.wait_until(lambda: place.run("status", "dev", "--json").json["status"] == "orphaned")
        assert re.search(r"^dev +orphaned +\d+ ", place.run("instances").stdout, re.MULTILINE)
        assert get(place.port + 3), "they serve on"
        if ending == "start":
            again = place.run("start", "dev", "--detach", "--json")
            assert again.returncode == 0, again.stderr
            assert len(place.left()) == before, "one tree"
        assert place.run("stop", "dev").returncode == 0
        place.assert_nothing_is_left()


def test_a_number_that_is_somebody_elses_is_never_signalled(place: Place) -> None:
    done = place.run("start", "dev", "--detach", "--json")
    record = json.loads((place.workspace / ".instance.json").read_text())
    assert place.run("stop", "dev").returncode == 0
    with subprocess.Popen(["sleep", "1000"], start_new_session=True, env={}) as stranger:
        record["launcher"] |= {"pid": stranger.pid}
        for service in record["services"].values():
            service["pid"] = stranger.pid
        (place.workspace / ".instance.json").write_text(json.dumps(record))
        (place.workspace / ".instance.json").chmod(0o600)
        (place.workspace / ".instance.pid").write_text(f"{stranger.pid} then\n")
        assert place.run("status", "dev", "--json").json["status"] == "stopped"
        assert place.run("stop", "dev").returncode == 0
        started = place.run("start", "dev", "--detach", "--json")
        assert started.returncode == 0, started.stderr
        assert place.run("stop", "dev").returncode == 0
        assert stranger.poll() is None
        stranger.kill()
    assert done.returncode == 0
    place.assert_nothing_is_left()


def test_what_ignores_sigterm_is_killed_after_its_grace_and_a_second_ctrl_c_does_not_wait(place: Place) -> None:
    words = json.dumps(["sh", "-c", "trap '' TERM; echo stubborn; while :; do sleep 1; done"])
    for grace in (1, 600):
        place.write(f"  deaf: {{port: {place.port}, ready: {{log: stubborn}}, grace: {grace}, command: {words}}}\n")
        with place.child("start", "dev") as one:
            one.wait_for("dev is ready")
            one.send_signal(signal.SIGINT)
            one.wait_for("deaf: stopping")
            if grace == 600:
                one.send_signal(signal.SIGINT)
            assert one.wait(20) == 0
        place.assert_nothing_is_left()


def test_a_busy_port_is_told_and_nothing_is_started(place: Place) -> None:
    with socket.create_server(("127.0.0.1", place.port + 4)):
        done = place.run("start", "dev", "--json")
        assert done.returncode == 4
        assert f"api's port {place.port + 4} is used by process {os.getpid()}" in done.json["error"]["message"]
    place.assert_nothing_is_left()


def test_logs_are_bounded_escaped_and_followed(place: Place) -> None:
    (place.folder / "noisy.py").write_text(
        "import sys, time\n"
        "out = sys.stdout.buffer\n"
        "out.write(b'\\x1b[31mred\\x07 \\xff\\n' + b'n' * 30_000 + b'\\n')\n"
        "for _ in range(160): out.write(b'0123456789abcdef' * 8192 + b'\\n')\n"
        "out.write(b'the last line'); out.flush(); open('done', 'w'); time.sleep(1000)\n"
    )
    place.write(f"  noisy: {{port: {place.port}, ready: none, command: python noisy.py}}\n")
    logs = place.workspace / "logs"
    with place.child("start", "dev") as one:
        one.wait_for("dev is ready")
        support.wait_until((place.folder / "done").exists)
        with place.child("logs", "dev", "-f", "-n", "1") as follower:
            one.stop()
            follower.wait_for("dev/noisy | the last line")
            follower.stop(signal.SIGINT)
    sizes = {path.name: path.stat().st_size for path in logs.iterdir()}
    assert set(sizes) == {"noisy.log", "noisy.1.log", "noisy.2.log"}
    assert max(sizes.values()) <= 5 * 1024 * 1024
    assert b"\x1b" not in b"".join(path.read_bytes() for path in logs.iterdir())
    assert {path.stat().st_mode & 0o777 for path in logs.iterdir()} == {0o600}
    assert place.run("logs", "dev", "noisy", "-n", "1", "--json").json["line"] == "the last line"
    place.assert_nothing_is_left()


def test_what_a_service_inherits(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """V6, V15, V16: no key, no descriptor, no ignored signal; its own port and its instance."""
    monkeypatch.setenv("MNEMOSYNE_SHARED_SECRET", "0123456789abcdef0123")
    (place.folder / "look.py").write_text(
        "import json, os, signal, time\n"
        "fds = [fd for fd in map(int, os.listdir('/proc/self/fd')) if os.path.exists(f'/proc/self/fd/{fd}')]\n"
        "ignored = [n for n in (1, 2, 3, 15) if signal.getsignal(n) == signal.SIG_IGN]\n"
        "names = ('PORT', 'WEB_PORT', 'MNEMOSYNE_INSTANCE', 'MNEMOSYNE_SHARED_SECRET', 'MNEMOSYNE_WORKSPACE', 'API_KEY')\n"
        "print(json.dumps([fds, ignored, {name: os.environ.get(name) for name in names}]), flush=True)\n"
        "time.sleep(1000)\n"
    )
    place.write(f"  web: {{port: {place.port}, ready: none, command: python look.py}}\n  api: {{port: {place.port + 1}}}\n")
    with (place.workspace / ".env").open("a") as file:
        file.write('API_KEY="sk-dev-key"\n')
    argv = ["sh", "-c", f"trap '' HUP INT QUIT TERM; exec {support.MNEMOSYNE} start dev"]
    with support.Child(argv, place.folder.parent / "logs", cwd=place.folder) as one:
        one.wait_for("dev is ready")
        support.wait_until(lambda: place.run("logs", "dev").stdout)
        fds, ignored, variables = json.loads(place.run("logs", "dev", "--json").json["line"])
        assert (fds, ignored) == ([0, 1, 2], [])
        assert variables == {
            "PORT": str(place.port + 3),
            "WEB_PORT": str(place.port + 3),
            "MNEMOSYNE_INSTANCE": "dev",
            "MNEMOSYNE_SHARED_SECRET": None,
            "MNEMOSYNE_WORKSPACE": str(place.workspace),
            "API_KEY": "sk-dev-key",
        }
        assert one.stop() == 0
    place.assert_nothing_is_left()


def test_on_a_terminal_something_moves(place: Place) -> None:
    place.write(
        f"  late: {{port: {place.port}, ready: {{log: ready}}, command: sh -c 'sleep 1; echo ready; exec sleep 1000'}}\n"
    )
    ours, theirs = pty.openpty()
    with subprocess.Popen([support.MNEMOSYNE, "start", "dev"], stdout=theirs, stderr=theirs, cwd=place.folder) as one:
        os.close(theirs)
        seen = b""
        while b"dev is ready" not in seen:
            seen += os.read(ours, 4096)
        one.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # the end of a terminal
            while True:
                seen += os.read(ours, 4096)
        assert one.wait(20) == 0
    os.close(ours)
    assert b"waiting for late" in seen
    place.assert_nothing_is_left()


@pytest.mark.parametrize("seed", range(6))
def test_rounds_of_start_kill_and_start_or_stop(seed: int, place: Place) -> None:
    """Five rounds each: whatever is killed, and when, nothing is left and there are never two trees."""
    dice = random.Random(seed)
    for _ in range(5):
        with place.child("start", "dev") as one:
            moment = dice.choice(["web: starting", "web: ready", "dev is ready"])
            one.wait_for(moment)
            if dice.random() < 0.5:
                one.kill()
            else:
                services = place.run("status", "dev", "--json").json["services"]
                pids = [service["pid"] for service in services.values() if service["pid"]]
                if pids:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(dice.choice(pids), signal.SIGKILL)
            if dice.random() < 0.5:
                again = place.run("start", "dev", "--detach")
                assert again.returncode in {0, 4}, again.stderr
                leaders = [text for text in place.left() if "http.server" in text]
                assert len(leaders) <= 2, "never two trees"
            done = place.run("stop", "dev")
            assert done.returncode == 0, done.stderr
        place.assert_nothing_is_left()
