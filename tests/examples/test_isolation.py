"""The examples orient and protoagent by the commands: many checkouts at once, none of which gets in another's way."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import support

EXAMPLES = support.REPOSITORY / "examples"
SCHEMAS = support.REPOSITORY / "docs" / "reference" / "schemas"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MNEMOSYNE_DATA_DIR", str(tmp_path / "data"))
    for name in ("AI_INSTANCE_ID", "DATABASE_URL", "POSTGRES_DB", "MNEMOSYNE_ENV"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def checkout(home: Path, name: str, example: str = "orient", text: tuple[str, str] | None = None) -> Path:
    folder = home / name
    shutil.copytree(EXAMPLES / example, folder)
    if text:
        file = folder / "mnemosyne.yaml"
        file.write_text(file.read_text().replace(*text))
    return folder


def worktree(home: Path, name: str) -> Path:
    return checkout(home, f"claude-worktrees/orienter/{name}")


def env(folder: Path, **more: str) -> dict[str, str]:
    done = support.run("env", "--json", cwd=folder, env=more)
    assert done.returncode == 0, done.stdout
    return done.json


def test_nine_whose_hashes_collide_at_the_same_moment(home: Path) -> None:
    """feature-auth-refactor and feature-b prefer 8; so do seven more, found by counting."""
    from mnemo_coord.instances.slots import cksum

    names = [name for name in (f"f{number}" for number in range(200)) if cksum(name) % 9 + 1 == 8][:9]
    folders = [worktree(home, name) for name in names]
    main = checkout(home, "orienter")
    with ThreadPoolExecutor(10) as pool:
        found = list(pool.map(env, [*folders, main]))
    assert sorted(int(one["AI_INSTANCE_ID"]) for one in found[:9]) == list(range(1, 10))
    assert found[9]["AI_INSTANCE_ID"] == "0"
    ports = [value for one in found for name, value in one.items() if name.endswith("_PORT")]
    assert len(ports) == len(set(ports)) == 80
    assert [env(folder) for folder in folders] == found[:9], "and each keeps its own"
    tenth = support.run("env", "--json", cwd=worktree(home, "one-more"))
    assert (tenth.returncode, tenth.json["error"]["code"]) == (4, "conflict")


def test_the_second_that_prefers_a_slot_is_told_and_the_first_is_untouched(home: Path) -> None:
    first = env(worktree(home, "feature-auth-refactor"))
    done = support.run("env", cwd=worktree(home, "feature-b"))
    assert "export AI_INSTANCE_ID=9" in done.stdout
    assert "feature-b has slot 9 instead, and keeps it" in done.stderr
    assert env(home / "claude-worktrees/orienter/feature-auth-refactor/") == first
    listed = support.run("slots", "--json").json
    assert [(one["name"], one["slot"]) for one in listed] == [("feature-auth-refactor", 8), ("feature-b", 9)]
    assert support.run("slots", "--release", home / "claude-worktrees/orienter/feature-b", "--json").json[0]["slot"] == 9
    assert support.run("slots", "--release", home).returncode == 3


def test_two_projects_with_equal_ports(home: Path) -> None:
    one = checkout(home, "one", text=("project: orienter", "project: one"))
    other = checkout(home, "other", text=("project: orienter", "project: other"))
    ports = [{value for name, value in env(folder).items() if name.endswith("_PORT")} for folder in (one, other)]
    assert not ports[0] & ports[1]
    assert "2" in support.run("slots").stdout


def test_a_stranger_is_named_and_left_alone(home: Path) -> None:
    folder = worktree(home, "feature-c")  # prefers slot 1
    with socket.socket(socket.AF_INET6) as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind(("::1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        file = folder / "mnemosyne.yaml"
        file.write_text(file.read_text().replace("port: 5173", f"port: {port - 1000}"))
        done = support.run("env", "--json", cwd=folder)
        assert done.json["AI_INSTANCE_ID"] == "2"
        assert f"vite's port {port} is used by process" in done.stderr
        with socket.create_connection(("::1", port), 5):
            pass


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_switching_in_one_shell_is_like_a_fresh_one(shell: str, home: Path) -> None:
    main, other = checkout(home, "orienter"), worktree(home, "hotfix")
    load = f'eval "$({support.MNEMOSYNE} env)"'

    def after(*folders: Path) -> str:
        steps = "\n".join(f"cd {folder} && {load}" for folder in folders)
        own = "export DATABASE_URL=postgresql://me:secret@db.example/zz"
        done = subprocess.run(
            [shell, "-c", f"{own}\n{steps}\nenv | grep -v -e ^_= -e ^OLDPWD= | sort"],
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    fresh = {folder: after(folder) for folder in (main, other)}
    assert "DATABASE_URL=postgresql://me:secret@db.example:14432/whatsapp_bot_9" in fresh[other]
    assert after(main, main) == fresh[main]
    assert after(main, other) == fresh[other]
    assert after(main, other, main) == fresh[main]


def test_a_slot_that_is_none_evaluates_nothing(home: Path) -> None:
    folder = checkout(home, "orienter")
    for odd in ("10", "x", "-1"):
        done = support.run("env", cwd=folder, env={"AI_INSTANCE_ID": odd})
        assert (done.returncode, done.stdout) == (2, "")
    assert env(folder, AI_INSTANCE_ID="3")["NGINX_PORT"] == "3080"
    assert env(folder)["NGINX_PORT"] == "80", "what is asked for once is not for ever"


def test_two_nginx_at_once(home: Path, port_base: int) -> None:
    """Two checkouts, each with a configuration of its own, that nginx takes and really serves."""
    with ExitStack() as stack:
        said = {}
        for folder in (checkout(home, "orienter"), worktree(home, "hotfix")):
            file = folder / "mnemosyne.yaml"
            file.write_text(file.read_text().replace("port: 80,", f"port: {port_base},").replace("stride: 1000", "stride: 7"))
            path, _ = support.run("render", "--json", cwd=folder).json
            assert "$host" in Path(path).read_text()
            nginx = [shutil.which("nginx") or "/usr/sbin/nginx", "-p", str(folder), "-c", path]
            checked = subprocess.run([*nginx, "-t"], capture_output=True, text=True, check=False)
            assert checked.returncode == 0, checked.stderr
            server = stack.enter_context(support.Child(nginx, folder / "logs"))
            stack.callback(server.stop, signal.SIGQUIT)  # killed, it would leave its workers behind
            port = int(env(folder)["NGINX_PORT"])
            said[port] = support.wait_until(lambda port=port, server=server: answer(port, server), what="nginx answers")
        assert len(said) == 2
        assert said == {port: f"nginx on {port} for localhost" for port in said}


def answer(port: int, server: support.Child) -> str | None:
    assert server.process.poll() is None, server.log
    with suppress(OSError), urllib.request.urlopen(f"http://localhost:{port}/instance", timeout=5) as found:
        return found.read().decode().strip()
    return None


def test_scopes_by_the_command(home: Path) -> None:
    folder = checkout(home, "agent", "protoagent", ("~/.protoagent", str(home / "root")))
    plain = support.run("scope", "--json", cwd=folder)
    assert (plain.json["name"], plain.json["source"], plain.stderr) == (None, "none", "")
    (home / "root").mkdir()
    (home / "root" / "inbox.db").touch()
    loud = support.run("scope", "--json", cwd=folder)
    assert loud.stderr.count("WARNING") == 1
    assert loud.json == plain.json
    named = support.run("scope", "--json", cwd=folder, env={"PROTOAGENT_INSTANCE": "alice"})
    assert (named.json["root"], named.stderr) == (str(home / "root" / "alice"), "")
    assert support.run("scope", cwd=folder, env={"PROTOAGENT_INSTANCE": "../x"}).returncode == 2
    (folder / "config.yaml").write_text("instance_id: bob\n")
    assert support.run("scope", cwd=folder).stdout.splitlines()[0] == "name: bob (config)"


def test_a_new_project_is_valid_and_is_not_overwritten(home: Path) -> None:
    import jsonschema
    from ruamel.yaml import YAML

    folder = home / "my shop"
    folder.mkdir()
    assert support.run("init", cwd=folder).returncode == 2
    done = support.run("init", "--project", "--json", cwd=folder)
    path = Path(done.json["path"])
    before = path.read_text()
    schema = json.loads((SCHEMAS / "mnemosyne.yaml.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(YAML(typ="safe").load(before))
    everything = re.sub(r"^#(?=(  )?[a-z]\w*:)", "", before, flags=re.MULTILINE)  # all that is commented out
    jsonschema.Draft202012Validator(schema).validate(YAML(typ="safe").load(everything))
    assert support.run("env", cwd=folder).stdout.startswith("export MNEMOSYNE_SLOT=0\n")
    again = support.run("init", "--project", cwd=folder)
    assert (again.returncode, path.read_text()) == (4, before)
    assert support.run("env", cwd=home).returncode == 3
