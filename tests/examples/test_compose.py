"""Compose in two ways, and PostgreSQL, by the tools that people use: what two instances have, and that none of it is the same.

The files that use the environment are read by Debian's docker-compose, those that need an override by podman-compose: the first
is too old for the tags of an override. Neither needs a daemon for that.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import pytest
import support
from ruamel.yaml import YAML

EXAMPLES = support.REPOSITORY / "examples"
SCHEMA = support.REPOSITORY / "docs" / "reference" / "schemas" / "compose.json"
PODMAN_COMPOSE = str(Path(sys.executable).parent / "podman-compose")
NAMES = """
import os, json
from compose.cli.command import get_project_name
from compose.config import config, environment
from compose import network, volume

around = environment.Environment(os.environ)
files = os.environ["COMPOSE_FILE"].split(":")
loaded = config.load(config.find(".", files, around, None))
project = get_project_name(".", None, around)
volumes = volume.ProjectVolumes.from_config(project, loaded, None).volumes.values()
networks = network.build_networks(project, loaded, None).values()
print(json.dumps([found.full_name for found in [*volumes, *networks]]))
"""
"""What docker-compose 1 calls volumes and networks: its `config` does not say it."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MNEMOSYNE_DATA_DIR", str(tmp_path / "data"))
    for name in [name for name in os.environ if name.startswith(("COMPOSE_", "POSTGRES_", "MINIO_", "AI_INSTANCE", "PG"))]:
        monkeypatch.delenv(name)
    return tmp_path


def checkout(folder: Path, example: str) -> Path:
    shutil.copytree(EXAMPLES / example, folder)
    return folder


def env(folder: Path) -> dict[str, str]:
    done = support.run("env", "--json", cwd=folder)
    assert done.returncode == 0, done.stdout
    return done.json


def text(argv: list[str], folder: Path, own: dict[str, str]) -> str:
    done = subprocess.run(argv, cwd=folder, env={**os.environ, **own}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def config(argv: list[str], folder: Path, own: dict[str, str]) -> dict[str, Any]:
    """What a tool makes of the compose files, as a document."""
    return YAML(typ="safe").load(text([*argv, "config"], folder, own))


def host_ports(document: dict[str, Any]) -> list[str]:
    ports = [port for service in document["services"].values() for port in service.get("ports", ())]
    return sorted(str(port["published"]) if isinstance(port, dict) else port.split(":")[-2] for port in ports)


def containers(document: dict[str, Any]) -> list[str]:
    return [service["container_name"] for service in document["services"].values() if "container_name" in service]


# Files that use the environment


def test_files_that_use_the_environment(home: Path) -> None:
    """What the seed's file becomes in the main checkout and in a worktree, by Debian's docker-compose."""
    seen = []
    for name in ("orienter", "claude-worktrees/orienter/hotfix"):
        folder = checkout(home / name, "orient")
        rendered = support.run("render", "--json", cwd=folder)
        assert "shared" not in rendered.stderr
        own = env(folder)
        number = own["AI_INSTANCE_ID"]
        document = config(["docker-compose"], folder, own)
        names = json.loads(text(["/usr/bin/python3", "-c", NAMES], folder, own))
        assert document["services"]["postgres"]["environment"]["POSTGRES_DB"] == own["POSTGRES_DB"] == f"whatsapp_bot_{number}"
        assert host_ports(document) == sorted(own[f"{one}_PORT"] for one in ("POSTGRES", "MINIO_API", "MINIO_CONSOLE"))
        assert sorted(containers(document)) == [f"orienter-minio-{number}", f"orienter-postgres-{number}"]
        project = f"orienter-instance-{number}"
        assert sorted(names) == [f"{project}_{key}" for key in ("default", "infra", "minio-data", "postgres-data")]
        seen.append({own["COMPOSE_PROJECT_NAME"], own["POSTGRES_DB"], *host_ports(document), *containers(document), *names})
    assert not seen[0] & seen[1]


# Files that were not written for it


@pytest.fixture
def shops(home: Path, port_base: int) -> list[Path]:
    """Two checkouts of a project that knows nothing of instances, with ports that are free here."""
    folders = [checkout(home / name, "legacy-compose") for name in ("shop", "other-checkout")]
    for folder in folders:
        for file in (folder / "docker-compose.yml", folder / "mnemosyne.yaml"):
            old = file.read_text()
            new = old.replace("8080", str(port_base)).replace("published: 5432", f"published: {port_base + 1}")
            file.write_text(new.replace("port: 5432", f"port: {port_base + 1}").replace("shop\n\n", "shop\nstride: 5\n\n"))
    return folders


def test_a_file_that_was_not_written_for_it(shops: list[Path], port_base: int) -> None:
    seen, plain = [], []
    for folder in shops:
        before = (folder / "docker-compose.yml").read_bytes()
        assert support.run("render", cwd=folder).returncode == 0
        own = env(folder)
        seen.append(config([PODMAN_COMPOSE, "--dry-run"], folder, own))
        plain.append(config([PODMAN_COMPOSE, "--dry-run"], folder, {"COMPOSE_FILE": str(folder / "docker-compose.yml")}))
        assert (folder / "docker-compose.yml").read_bytes() == before
        assert host_ports(seen[-1]) == sorted([own["WEB_PORT"], own["DB_PORT"]]), "and none beside them"
    assert plain[0] == plain[1], "without the override all of it is the same"
    assert (host_ports(plain[0]), len(containers(plain[0]))) == ([str(port_base), str(port_base + 1)], 2)
    for document in seen:
        assert containers(document) == [], "named by project"
        assert [found for found in [*document["volumes"].values(), *document["networks"].values()] if found] == []
        assert document["services"]["db"]["environment"] == {"POSTGRES_PASSWORD": "shop"}
    assert not set(host_ports(seen[0])) & set(host_ports(seen[1]))
    assert host_ports(seen[0]) == host_ports(plain[0]), "in slot 0"


def test_an_override_that_is_not_there_starts_nothing(shops: list[Path]) -> None:
    """Left out, what the other checkouts have would be started. podman-compose goes on without it, so it is said as well."""
    folder = shops[0]
    reminded = support.run("env", "--json", cwd=folder)
    assert f"{folder}/docker-compose.mnemosyne-0.yml is not there" in reminded.stderr
    argv = ["docker-compose", "config"]
    done = subprocess.run(argv, cwd=folder, env={**os.environ, **reminded.json}, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "docker-compose.mnemosyne-0.yml" in done.stderr
    run = support.run("run", "--", "sh", "-c", 'echo "$COMPOSE_FILE"', cwd=folder)
    assert f"{folder}/docker-compose.mnemosyne-0.yml is not there" in run.stderr
    assert run.stdout == f"{reminded.json['COMPOSE_FILE']}\n"
    support.run("render", cwd=folder)
    assert support.run("env", cwd=folder).stderr == ""


def test_the_command(shops: list[Path], port_base: int) -> None:
    folder = shops[0]
    file = folder / "docker-compose.yml"
    schema = json.loads(SCHEMA.read_text())
    fresh = support.run("compose", "--json", cwd=folder)
    jsonschema.Draft202012Validator(schema).validate(fresh.json)
    assert (fresh.returncode, fresh.json["override"], len(fresh.json["ports"])) == (1, None, 2)
    assert list(folder.glob("*.mnemosyne-*")) == [], "it only looks"
    plain = support.run("compose", cwd=folder)
    said = "docker-compose.yml: services.worker: /srv/shop/uploads of the host (use a path in the project, such as ./data, or a volume)"
    assert plain.stdout.splitlines() == [
        "SERVICE  HOST             CONTAINER",
        f"web      {port_base}            80/tcp",
        f"db       127.0.0.1:{port_base + 1}  5432/tcp",
        f"shared: {said}",
    ]
    assert "mnemosyne render" in plain.stderr

    rendered = support.run("render", "--json", cwd=folder)
    (path,) = rendered.json
    assert rendered.stderr == f"mnemosyne: shared by all instances: {said}\n"
    assert support.run("compose", "--json", cwd=folder).json["override"] == path
    file.write_text(file.read_text().replace("/srv/shop/uploads", "./up\\x1bloads").replace("shop-web", "shop-front"))
    good = support.run("compose", "--json", cwd=folder)
    assert (good.returncode, good.json["shared"], good.json["override"]) == (0, [], path)
    file.write_text(file.read_text() + '  "\\x1b[2J": {external: true}\n')
    for command, where in (("compose", "stdout"), ("render", "stderr")):
        assert "volumes.\\x1b[2J: \\x1b[2J is made elsewhere" in getattr(support.run(command, cwd=folder), where)
    file.write_text(file.read_text().replace("container_name: shop-front", ""))
    assert support.run("compose", "--json", cwd=folder).json["override"] is None, "it says something else now"
    file.unlink()
    assert support.run("compose", cwd=folder).returncode == support.run("render", cwd=folder).returncode == 2
    (folder / "mnemosyne.yaml").write_text("project: shop\n")
    none = support.run("compose", "--json", cwd=folder)
    assert (none.returncode, none.json["error"]["code"]) == (3, "not-found")


def test_the_commands_of_the_readmes(home: Path, port_base: int) -> None:
    """Every block of shell, in its order, by a shell that stops at the first that fails."""
    for example in ("orient", "legacy-compose"):
        folder = checkout(home / example, example)
        file = folder / "mnemosyne.yaml"
        file.write_text(file.read_text().replace("port: 80,", f"port: {port_base},"))  # 80 is root's
        blocks = re.findall(r"^```sh\n(.*?)^```$", (folder / "README.md").read_text(), re.MULTILINE | re.DOTALL)
        script = f"PATH={Path(support.MNEMOSYNE).parent}:$PATH:/usr/sbin\n" + "".join(blocks)
        assert script.count("mnemosyne render") == 1
        done = subprocess.run(["sh", "-eu", "-c", script], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        said = re.findall(r"^shared: .*|^name: .*|^ +container_name: .*", done.stdout, re.MULTILINE)
        assert said, done.stdout


# PostgreSQL


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that an ordinary user reaches and owns: PostgreSQL does not run as root."""
    with TemporaryDirectory(prefix="mnemosyne-pg-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def as_user() -> list[str]:
    return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []


def sql(own: dict[str, str], statement: str) -> subprocess.CompletedProcess[str]:
    argv = ["psql", "--no-psqlrc", "-qtA", own["DATABASE_URL"], "-c", statement]
    return subprocess.run(argv, env={**os.environ, "PGCONNECT_TIMEOUT": "5"}, capture_output=True, text=True, check=False)


def answers(own: dict[str, str], server: support.Child) -> bool:
    assert server.process.poll() is None, server.log
    return sql(own, "select 1").stdout == "1\n"


def test_two_postgresql_at_once(home: Path, place: Path, port_base: int) -> None:
    owns, servers = [], []
    with ExitStack() as stack:
        for name in ("orienter", "claude-worktrees/orienter/hotfix"):
            folder = checkout(place / name, "orient")
            file = folder / "mnemosyne.yaml"
            file.write_text(file.read_text().replace("port: 5432,", f"port: {port_base},").replace("stride: 1000", "stride: 1"))
            own = env(folder)
            if os.geteuid() == 0:
                os.chown(folder, 65534, 65534)
            start = [*as_user(), str(folder / "postgres.sh")]
            server = stack.enter_context(support.Child(start, home / "logs", env=own, cwd=folder))
            stack.callback(server.stop, signal.SIGINT)  # killed, it would leave its workers behind
            owns.append(own)
            servers.append(server)
        for own, server in zip(owns, servers, strict=True):
            support.wait_until(lambda own=own, server=server: answers(own, server), 60, "PostgreSQL answers")
            assert sql(own, "create table mine (of text)").returncode == 0
            assert sql(own, f"insert into mine values ('{own['AI_INSTANCE_ID']}')").returncode == 0
        assert [sql(own, "select current_database(), of from mine").stdout for own in owns] == [
            "whatsapp_bot_0|0\n",
            "whatsapp_bot_9|9\n",
        ]
        assert [urlsplit(own["DATABASE_URL"]).port for own in owns] == [port_base, port_base + 9]
        assert sql({"DATABASE_URL": owns[1]["DATABASE_URL"].replace("_9", "_0")}, "select 1").returncode != 0
        for own, server in zip(owns, servers, strict=True):
            data = Path(f"/proc/{server.pid}/cwd").readlink()  # PostgreSQL works in its data folder
            assert data.match(f"*/{own['DATA_DIR']}/postgres")
            assert sql(own, "show unix_socket_directories").stdout == "\n"
        again = subprocess.run(start, env={**os.environ, **owns[1]}, capture_output=True, text=True, check=False)
        assert again.returncode != 0, "one server for each instance"
        assert servers[1].stop(signal.SIGINT) == 0
        with support.Child(start, home / "logs", env=owns[1]) as second:
            stack.callback(second.stop, signal.SIGINT)
            support.wait_until(lambda: answers(owns[1], second), 60, "PostgreSQL answers again")
            assert sql(owns[1], "select of from mine").stdout == "9\n", "its data stay"
            assert second.stop(signal.SIGINT) == 0
            assert "initdb" not in second.log
