"""A swarm whose instances have names: what its README says, and default, dev and prod at once, none in another's way."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import support

EXAMPLE = support.REPOSITORY / "examples" / "jiuwenswarm"
SERVICES = ("agent_server", "web", "gateway", "frontend")
NAMES = ("default", "dev", "prod")
OFFSETS = {"agent_server": 0, "web": 908, "gateway": 909, "frontend": 100}
"""Between the ports of one slot, so that those of all slots are apart."""


def free_base() -> int:
    """A port from which those of three slots are free, below those that other tests take."""
    for _ in range(200):
        base = random.randrange(10_000, 16_000)
        wanted = [base + 1000 * slot + offset for slot in range(3) for offset in OFFSETS.values()]
        if all(_is_free(port) for port in wanted):
            return base
    pytest.fail("no free ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.fixture
def swarm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The example in a home folder of its own, with other ports; the folder."""
    base = free_base()
    for service, offset in OFFSETS.items():
        monkeypatch.setenv(f"JIUWENSWARM_{service.upper()}_PORT", str(base + offset))
    for name in ("MNEMOSYNE_DATA_DIR", "MNEMOSYNE_CONFIG_DIR", "XDG_DATA_HOME", "MODEL_NAME", "JIUWENSWARM_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MNEMOSYNE_DIR", str(tmp_path / "fleet" / ".mnemosyne"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    (tmp_path / "home").mkdir()
    folder = tmp_path / "swarm"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    yield folder
    for one in _left(folder):
        one.kill()


def _left(folder: Path) -> list[psutil.Process]:
    """Every process that works in the folder."""
    return [one for one in psutil.process_iter(["cwd"]) if one.info["cwd"] == str(folder)]


def run(swarm: Path, *args: str) -> support.Cli:
    done = support.run(*args, cwd=swarm, timeout=90)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def get(port: int, path: str = "/") -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return answer.read().decode()


def first_event(port: int) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/events", timeout=10) as stream:
        assert stream.readline() == b"event: health\n"
        return json.loads(stream.readline().partition(b"data: ")[2])


def test_the_readme(swarm: Path) -> None:
    """Its commands, as one script; then it is all gone again."""
    text = (swarm / "README.md").read_text()
    script = "set -e\n" + "".join(re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    bash = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(bash, cwd=swarm, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    said = re.search(r"^```text\n(.*?)```", text, re.MULTILINE | re.DOTALL)
    assert said is not None
    assert said.group(1).strip() in done.stdout
    assert len(re.findall(r"^(?:default|dev|prod) +running +\d+ ", done.stdout, re.MULTILINE)) == 3
    assert "ExecStart=" in done.stdout
    assert not _left(swarm)


def test_three_at_once_and_each_its_own(swarm: Path) -> None:
    run(swarm, "trust", "--yes")
    for name in NAMES[1:]:
        run(swarm, "init", name)
        with (Path.home() / f".jiuwenswarm_{name}" / ".env").open("a") as file:
            file.write(f"MODEL_NAME=model-of-{name}\n")
    for name in NAMES:
        run(swarm, "start", name, "--detach")
    listed = {one["name"]: one for one in run(swarm, "instances", "--json").json}
    assert [one["status"] for one in listed.values()] == ["running"] * 3
    ports = {name: listed[name]["ports"] for name in NAMES}
    assert len({port for own in ports.values() for port in own.values()}) == 12
    called = {one["name"] or "default": one["name"] or one["instance_id"] for one in run(swarm, "list", "--json").json}
    for name in NAMES:
        who = {"instance": called[name], "model": f"model-of-{name}" if name != "default" else "none"}
        assert json.loads(get(ports[name]["gateway"], "/ask?text=abc")) == {"through": "gateway", "answer": "cba"} | who
        assert first_event(ports[name]["web"]) == {"status": "ok"} | who
        assert f"<h1>{called[name]}</h1>" in get(ports[name]["frontend"])

    os.kill(listed["dev"]["pid"], signal.SIGKILL)  # its launcher; the others do not notice
    support.wait_until(lambda: support.run("status", "dev", "--json", cwd=swarm).json["status"] == "orphaned")
    run(swarm, "stop", "dev")
    assert support.run("status", "dev", cwd=swarm).returncode == 1
    for name in ("default", "prod"):
        assert support.run("status", name, cwd=swarm).returncode == 0
        assert get(ports[name]["agent_server"], "/health")

    run(swarm, "start", "dev", "app", "--detach")
    assert json.loads(get(ports["dev"]["gateway"], "/health"))["instance"] == "dev"
    assert set(run(swarm, "status", "dev", "--json").json["services"]) == {"agent_server", "gateway"}
    for name in NAMES:
        run(swarm, "stop", name)
    assert not _left(swarm)


def test_the_variables_of_the_document(swarm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A world of its own for each home: the same name in two of them is two instances, with ports of their own."""
    here = run(swarm, "init", "dev", "--json").json
    monkeypatch.setenv("JIUWENSWARM_DATA_DIR", str(tmp_path / "data"))
    there = run(swarm, "init", "dev", "--json").json
    assert (here["workspace"], there["workspace"]) == (str(Path.home() / ".jiuwenswarm_dev"), str(tmp_path / "data_dev"))
    assert there["file"] == str(tmp_path / "data" / "instances.yaml")
    assert not set(here["ports"].values()) & set(there["ports"].values())
    monkeypatch.setenv("JIUWENSWARM_CONFIG_DIR", str(tmp_path / "config"))
    assert run(swarm, "init", "qa", "--json").json["file"] == str(tmp_path / "config" / "instances.yaml")
    monkeypatch.delenv("JIUWENSWARM_CONFIG_DIR")
    monkeypatch.delenv("JIUWENSWARM_DATA_DIR")
    assert run(swarm, "instances", "--json").json[1]["ports"] == here["ports"]
