"""``mnemosyne service``: systemd takes the unit as it is, and what it starts tells the service manager what it has to know."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
import support

SCHEMA = support.REPOSITORY / "docs" / "reference" / "schemas" / "service.json"


class Manager:
    """A service manager as a service sees it: a socket, and variables."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._socket.settimeout(30)
        self.heard: list[str] = []

    def await_line(self, wanted: str) -> None:
        """Waits until it is told this."""
        while wanted not in self.heard:
            self.heard += self._socket.recv(4096).decode().splitlines()

    def forget(self) -> None:
        """Empties the queue: what is waited for next is said from now on."""
        self.heard.clear()
        self._socket.setblocking(False)
        try:
            while True:
                self._socket.recv(4096)
        except BlockingIOError:
            self._socket.settimeout(30)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    found = Manager(tmp_path)
    yield found
    found.close()


@pytest.fixture
def shop(tmp_path: Path, port_base: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in a folder whose name has everything that a unit has to quote; the folder, with an instance dev."""
    monkeypatch.setenv("MNEMOSYNE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    monkeypatch.delenv("MNEMOSYNE_DATA_DIR", raising=False)
    monkeypatch.setenv("PORT_BASE", str(port_base))
    folder = tmp_path / 'my "shop" 50% $HOME'
    folder.mkdir()
    return written(folder, f"  web: {{port: {port_base}, grace: 3, ready_within: 20, command: python3 -m http.server $PORT}}\n")


def written(folder: Path, services: str) -> Path:
    text = f"project: shop\nhome: {folder.parent / 'home'}\nstride: 3\nslots: 3\nservices:\n{services}"
    (folder / "mnemosyne.yaml").write_text(text)
    assert support.run("trust", "--yes", cwd=folder).returncode == 0
    assert support.run("init", "dev", cwd=folder).returncode == 0
    return folder


def launched(shop: Path, manager: Manager, **more: str) -> support.Child:
    """What the unit starts, started as the manager would."""
    words = [support.MNEMOSYNE, "start", "--name", "dev"]
    return support.Child(words, shop.parent / "logs", cwd=shop, env={"NOTIFY_SOCKET": manager.address, **more})


def test_systemd_takes_the_unit(shop: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        assert not os.environ.get("CI"), "systemd is installed there"
        pytest.skip("systemd-analyze is not installed")
    for words in ([], ["dev"], ["--name", "dev"]):
        done = support.run("service", *words, "--json", cwd=shop)
        assert done.returncode == 0, done.stdout
        jsonschema.validate(done.json, json.loads(SCHEMA.read_text()))
        assert support.run("service", *words, cwd=shop).stdout == done.json["unit"]
        file = shop.parent / done.json["file"]
        file.write_text(done.json["unit"])
        env = {**os.environ, "XDG_RUNTIME_DIR": str(shop.parent), "SYSTEMD_LOG_LEVEL": "warning"}
        seen = subprocess.run(
            [analyze, "--user", "--man=no", "verify", str(file)], capture_output=True, text=True, env=env, check=False
        )
        said = [line for line in seen.stderr.splitlines() if file.name in line or str(shop.parent) in line]
        assert (seen.returncode, said) == (0, []), seen.stderr
    broken = shop.parent / "broken.service"
    broken.write_text(done.json["unit"].replace("ExecStart=/", "ExecStart=/nowhere/"))
    seen = subprocess.run([analyze, "--user", "--man=no", "verify", str(broken)], capture_output=True, env=env, check=False)
    assert seen.returncode != 0, "it does look"


def test_it_says_ready_goes_on_and_ends(shop: Path, manager: Manager) -> None:
    with launched(shop, manager, WATCHDOG_USEC="400000") as one:
        manager.await_line("READY=1")
        assert support.run("status", "dev", cwd=shop).returncode == 0
        for _ in range(3):
            manager.forget()
            manager.await_line("WATCHDOG=1")
        one.send_signal(signal.SIGTERM)
        manager.await_line("STOPPING=1")
        assert one.wait() == 0


def test_a_watchdog_for_another_process_is_none(shop: Path, manager: Manager) -> None:
    with launched(shop, manager, WATCHDOG_USEC="1000", WATCHDOG_PID="1") as one:
        manager.await_line("READY=1")
        one.send_signal(signal.SIGTERM)
        manager.await_line("STOPPING=1")
        assert "WATCHDOG=1" not in manager.heard
        assert one.wait() == 0


def test_ready_is_said_when_the_last_is(shop: Path, manager: Manager, port_base: int) -> None:
    """One fails at first: what it does is told, and it is not ready until it is."""
    flag = shop.parent / "flag"
    (shop / "later.py").write_text(
        f"import os, time\nif not os.path.exists({str(flag)!r}): raise SystemExit(9)\nprint('up', flush=True)\ntime.sleep(1000)\n"
    )
    assert support.run("rm", "dev", "--yes", cwd=shop).returncode == 0
    written(shop, f"  later: {{port: {port_base}, ready: {{log: up}}, command: python3 later.py}}\n")
    with launched(shop, manager) as one:
        manager.await_line("STATUS=later: backoff: has ended with exit code 9; started again in 0.5 s")
        flag.touch()
        manager.forget()
        manager.await_line("READY=1")
        one.stop()


def test_services_are_not_told_of_the_manager(shop: Path, manager: Manager, port_base: int) -> None:
    (shop / "look.py").write_text(
        "import os, time\n"
        "print([name for name in ('NOTIFY_SOCKET', 'WATCHDOG_USEC', 'WATCHDOG_PID') if name in os.environ], flush=True)\n"
        "time.sleep(1000)\n"
    )
    assert support.run("rm", "dev", "--yes", cwd=shop).returncode == 0
    written(shop, f"  look: {{port: {port_base}, ready: {{log: '[[]'}}, command: python3 look.py}}\n")
    with launched(shop, manager, WATCHDOG_USEC="400000") as one:
        manager.await_line("READY=1")
        assert support.run("logs", "dev", "--json", cwd=shop).json["line"] == "[]"
        one.stop()


@pytest.mark.parametrize("address", ["", "/nowhere/notify", "relative", "@" + "x" * 200, "\udcff"])
def test_a_manager_that_is_not_there_is_no_matter(address: str, shop: Path) -> None:
    env = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "nonsense"}
    with support.Child([support.MNEMOSYNE, "start", "dev"], shop.parent / "logs", cwd=shop, env=env) as one:
        one.wait_for("dev is ready")
        assert one.stop() == 0


def test_what_is_not_there(shop: Path, tmp_path: Path) -> None:
    assert support.run("service", "nobody", cwd=shop).returncode == 3
    assert support.run("service", "dev", "nogroup", cwd=shop).returncode == 3
    assert support.run("service", "dev", "web", "more", cwd=shop).returncode == 2
    assert support.run("service", "", cwd=shop).returncode == 2
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert support.run("service", cwd=elsewhere).returncode == 3


def test_what_it_says_beside_the_unit(shop: Path) -> None:
    secret = "0123456789abcdef0123"
    done = support.run("service", "dev", cwd=shop, env={"MNEMOSYNE_SHARED_SECRET": secret})
    assert "MNEMOSYNE_SHARED_SECRET is not in it" in done.stderr
    assert secret not in done.stdout + done.stderr
    (shop / "mnemosyne.yaml").write_text((shop / "mnemosyne.yaml").read_text() + "# changed\n")
    assert "not trusted" in support.run("service", "dev", cwd=shop).stderr
