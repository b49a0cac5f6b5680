"""Named instances by the commands: many `init` at once, what a person wrote, what an instance is told, and removing one."""

from __future__ import annotations

import json
import shutil
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import support
from ruamel.yaml import YAML
from unit.kernel import unshare

SCHEMAS = support.REPOSITORY / "docs" / "reference" / "schemas"
DEV, PROD = [19092, 20000, 20001, 6173], [20092, 21000, 21001, 7173]


@pytest.fixture
def me(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder, and the example as the current folder."""
    (tmp_path / "me").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "project").mkdir()
    shutil.copy(support.REPOSITORY / "examples" / "jiuwenswarm" / "mnemosyne.yaml", tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "me"


def command(*args: object, **options: Any) -> support.Cli:
    """Runs ``mnemosyne ARGS`` where nobody listens on any port: it is the seed's ports that are looked at here."""
    return support.run(*args, **options, prefix=unshare("-Urn"))


def asked(*args: object, code: int = 0, schema: str = "", **env: str) -> Any:
    """What a command says in JSON."""
    done = command("--json", *args, env=env)
    assert done.returncode == code, done.stdout + done.stderr
    if schema:
        jsonschema.Draft202012Validator(json.loads((SCHEMAS / f"{schema}.json").read_text())).validate(done.json)
    return done.json


def refused(*args: object, code: int, **env: str) -> str:
    """Why a command does nothing."""
    error = asked(*args, code=code, schema="error", **env)["error"]
    return f"{error['message']} ({error['hint']})"


def test_the_seed_as_it_is(me: Path) -> None:
    assert asked("init", "dev", schema="init")["fresh"] is True
    made = command("init", "--name", "prod", "--workspace", me / ".jiuwenswarm_prod")
    assert made.stdout == "prod  ~/.jiuwenswarm_prod  as:20092,w:21000,g:21001,f:7173\n"
    shown = command("instances")
    assert shown.stdout.splitlines() == [
        "INSTANCE  STATUS   PID  WORKSPACE            PORTS",
        "-" * 80,
        "default   stopped  -    ~/.jiuwenswarm       as:18092,w:19000,g:19001,f:5173",
        "dev       stopped  -    ~/.jiuwenswarm_dev   as:19092,w:20000,g:20001,f:6173",
        "prod      stopped  -    ~/.jiuwenswarm_prod  as:20092,w:21000,g:21001,f:7173",
    ]
    assert [list(one["ports"].values()) for one in asked("instances", schema="instances")[1:]] == [DEV, PROD]
    said = YAML(typ="safe").load(me / ".jiuwenswarm" / "instances.yaml")["instances"]
    assert said["prod"] == {
        "workspace": "~/.jiuwenswarm_prod",
        "ports": dict(zip(("agent_server", "web", "gateway", "frontend"), PROD, strict=True)),
    }
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode) for path in (me / ".jiuwenswarm_dev", *(me / ".jiuwenswarm_dev").iterdir())
    }
    assert modes == {".jiuwenswarm_dev": 0o700, ".env": 0o600, ".instance.made": 0o600, "logs": 0o700}


def test_again_changes_nothing(me: Path) -> None:
    first = asked("init", "dev", "--port", "web=21500")
    place = me / ".jiuwenswarm_dev"
    (place / ".env").write_text("API_KEY=mine\n" + (place / ".env").read_text())

    def everything() -> dict[Path, tuple[int, int]]:
        paths = [path for path in me.rglob("*") if path.is_file() and ".local" not in path.parts]
        return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}

    before = everything()
    assert asked("init", "dev", schema="init") == {**first, "fresh": False}
    assert asked("init", "dev", "--port", "w=21500")["ports"]["web"] == 21500
    assert "dev was there already" in command("init", "dev").stderr
    assert "exists with web on port 21500" in refused("init", "dev", "--port", "web=20000", code=4)
    assert "exists with the workspace" in refused("init", "dev", "--workspace", "elsewhere", code=4)
    assert everything() == before
    (place / ".env").unlink()
    asked("init", "dev")
    assert "WEB_PORT=21500\n" in (place / ".env").read_text(), "what is missing is made"


def test_what_is_typed_wrong(me: Path) -> None:
    for args in (["dev", "--project"], ["dev", "--name", "prod"], ["--name", ""], ["dev", "--workspace", ""],
                 *(["dev", "--port", text] for text in ("web", "=1", "web=65536"))):  # fmt: skip
        assert command("init", *args).returncode == 2, args
    said = refused("init", code=2)
    assert "`init NAME`" in said
    assert "`init --project`" in said
    assert "reserved" in refused("init", "Default", code=2)
    assert "called like its project" in refused("init", "JIUWENSWARM", code=2)
    assert "no service 'wbe'" in refused("init", "dev", "--port", "wbe=1", code=3)
    assert command("instances", cwd=Path("/")).returncode == 3
    assert list(me.iterdir()) == [], "nothing is made"


@pytest.mark.parametrize("same", [False, True])
def test_eight_at_once_lose_nothing(same: bool, me: Path) -> None:
    file = me / ".jiuwenswarm" / "instances.yaml"
    file.parent.mkdir(mode=0o700)
    file.write_text("# mine\ninstances:\n  old: {ports: {web: 21000}}   # kept\n")
    names = ["dev" if same else f"i{number}" for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda name: asked("init", name), names))
    found = asked("instances")
    assert {one["name"] for one in found} == {"default", "old", *names}
    assert sum(one["fresh"] for one in made) == len(set(names))
    slots = [one["slot"] for one in found]
    assert sorted(slots) == list(range(len(found))), "each has a number of its own, and none is left out"
    ports = [port for one in found for port in one["ports"].values()]
    assert len(ports) == len(set(ports))
    known = {one["name"]: (one["slot"], one["ports"]) for one in found}
    assert all(known[one["name"]] == (one["slot"], one["ports"]) for one in made), "what was said is what is written"
    assert {slot["slot"]: slot["ports"] for slot in asked("slots")} == {known[name][0]: known[name][1] for name in names}
    assert file.read_text().startswith("# mine\ninstances:\n  old: {ports: {web: 21000}}   # kept\n")
    assert [path.name for path in file.parent.iterdir()] == ["instances.yaml"]


def test_what_is_wrong_in_the_list_is_told_and_nothing_is_touched(me: Path) -> None:
    file = me / ".jiuwenswarm" / "instances.yaml"
    file.parent.mkdir(mode=0o700)
    for text, said in (
        ("instances:\n  dev:\n    ports: {web: true}\n", f"{file}:3: instances.dev.ports.web: has to be a whole number"),
        ("instances:\n  dev: {}\n  dev: {}\n", f"{file}:3: found duplicate key"),
        ("instanecs: {}\n", f"{file}:1: instanecs: is not known (did you mean 'instances'?)"),
    ):
        file.write_text(text)
        for args in (["init", "new"], ["instances"], ["env", "dev"], ["run", "dev", "--", "true"], ["rm", "dev", "--yes"]):
            assert refused(*args, code=2).startswith(said)
        assert file.read_text() == text


def test_the_two_variables_move_everything(me: Path, tmp_path: Path) -> None:
    moved = {"MNEMOSYNE_DATA_DIR": str(tmp_path / "data"), "MNEMOSYNE_CONFIG_DIR": str(tmp_path / "config")}
    made = asked("init", "dev", **moved)
    assert made["workspace"] == str(tmp_path / "data" / "jiuwenswarm_dev")
    assert made["file"] == str(tmp_path / "config" / "jiuwenswarm" / "instances.yaml")
    assert [one["workspace"] for one in asked("instances", **moved)] == [
        str(tmp_path / "data" / "jiuwenswarm"),
        made["workspace"],
    ]
    told = asked("env", "dev", **moved)
    assert (told["MNEMOSYNE_WORKSPACE"], told["WEB_PORT"]) == (made["workspace"], "20000")
    assert list(me.iterdir()) == []
    assert [one["name"] for one in asked("instances")] == ["default"], "elsewhere there is another world"
    assert asked("env", **moved)["MNEMOSYNE_WORKSPACE"] == str(tmp_path / "data" / "jiuwenswarm")


def test_a_base_is_overridden(me: Path) -> None:
    assert asked("instances", AGENT_SERVER_BASE_PORT="18192")[0]["ports"]["agent_server"] == 18192
    assert list(asked("init", "dev", JIUWENSWARM_GATEWAY_PORT="29001")["ports"].values()) == [19092, 20000, 30001, 6173]
    assert "WEB_BASE_PORT is 'x', which is not a port" in refused("instances", code=2, WEB_BASE_PORT="x")


def test_the_environment_of_an_instance(me: Path) -> None:
    """What its .env sets is set; what the shell sets wins; ports are those of the list."""
    for name in ("dev", "prod"):
        asked("init", name)
    (me / ".jiuwenswarm" / ".env").write_text("BASE=deepseek\nMODEL_NAME=${BASE}-chat\nWEB_PORT=1\n")
    (me / ".jiuwenswarm" / ".env").chmod(0o600)
    env = me / ".jiuwenswarm_dev" / ".env"
    env.write_text(env.read_text() + 'source ~/.jiuwenswarm/.env\nAPI_KEY="sk-$(touch ran)"\n')
    told = asked("env", "dev", schema="env", BASE="mine")
    assert (told["API_KEY"], told["MODEL_NAME"], "BASE" in told) == ("sk-$(touch ran)", "deepseek-chat", False)
    assert (told["WEB_PORT"], told["PORT"], told["MNEMOSYNE_SLOT"], told["MNEMOSYNE_INSTANCE"]) == (
        "20000",
        "19092",
        "1",
        "dev",
    )
    assert not Path("ran").exists()

    def after(*names: str) -> str:
        steps = "".join(f'eval "$({support.MNEMOSYNE} env {name})"\n' for name in names)
        return subprocess.run(
            [*unshare("-Urn"), "sh", "-ec", f"{steps}env | grep -v -e ^_= | sort"], capture_output=True, text=True, check=True
        ).stdout

    assert after("dev", "--name=prod") == after("prod"), "switching in one shell is like a fresh one"
    assert asked("env", "default")["WEB_PORT"] == asked("env")["WEB_PORT"] == "19000"
    assert "MNEMOSYNE_INSTANCE" not in asked("env")
    text = refused("env", "dve", code=3)
    assert "has no instance 'dve' (did you mean 'dev'?)" in text
    assert "has no instance 'x'" in refused("render", "--name", "x", code=3)
    for args in (["dev", "--name", "prod"], [""], ["--name", ""]):
        assert command("env", *args).returncode == 2
    before = env.read_text()
    list_ = me / ".jiuwenswarm" / "instances.yaml"
    list_.write_text(list_.read_text().replace("web: 20000", "web: 22222"))
    assert asked("env", "dev")["WEB_PORT"] == "22222", "a person's change counts"
    assert env.read_text() == before.replace("20000", "22222")
    assert next(one["ports"]["web"] for one in asked("slots") if one["name"] == "dev") == 22222
    env.chmod(0o604)
    (me / ".jiuwenswarm_dev" / ".instance.made").unlink()
    assert "other users can reach it" in refused("env", "dev", code=6)


def test_files_of_an_instance(me: Path) -> None:
    file = Path("mnemosyne.yaml")
    file.write_text(file.read_text() + "\ntemplates:\n  out/{name}.{slot}.conf: {from: t.conf, variables: [WEB_PORT]}\n")
    Path("t.conf").write_text("listen $WEB_PORT $host\n")
    asked("init", "dev")
    (path,) = asked("render", "--name", "dev", schema="render")
    assert Path(path) == Path("out/dev.1.conf").resolve()
    assert Path(path).read_text() == "listen 20000 $host\n"


def test_a_program_of_an_instance(me: Path, state_dir: Path) -> None:
    asked("init", "dev")
    (me / ".jiuwenswarm_dev" / ".env").write_text("API_KEY=sk-1\n")
    script = f"echo $API_KEY $WEB_PORT $MNEMOSYNE_INSTANCE $MNEMOSYNE_WORKSPACE; {support.MNEMOSYNE} env --format dotenv | grep ^WEB_"

    def run(*args: str, **env: str) -> list[str]:
        done = command("--dir", state_dir, "run", *args, "--", "sh", "-c", script, env=env)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    dev = str(me / ".jiuwenswarm_dev")
    for found in (run("dev"), run("--name", "dev"), run(MNEMOSYNE_INSTANCE="dev")):
        assert found == ["sk-1", "20000", "dev", dev, "WEB_PORT=20000"], "and what it asks in turn is about itself"
    assert run("other") == ["19000", "other", str(me / ".jiuwenswarm"), "WEB_PORT=19000"], "a name in the fleet only"
    assert run("default")[0] == "19000"
    assert command("--dir", state_dir, "run", "", "--", "true").returncode == 2


def test_a_program_finds_the_slot_of_its_checkout(tmp_path: Path, state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNEMOSYNE_DATA_DIR", str(tmp_path / "data"))
    Path(tmp_path / "mnemosyne.yaml").write_text("project: shop\nservices: {web: {port: 8000}}\n")
    script = f"echo $WEB_PORT; {support.MNEMOSYNE} env --format dotenv | grep ^WEB_"
    done = command("--dir", state_dir, "run", "--", "sh", "-c", script, cwd=tmp_path)
    first, again = done.stdout.split()
    assert again == f"WEB_PORT={first}"
    assert len(command("slots", "--json").json) == 1


def test_a_workspace_in_a_checkout_is_as_trusted_as_it_is(me: Path) -> None:
    asked("init", "dev", "--workspace", "inside")
    env = Path("inside/.env")
    env.write_text("LD_PRELOAD=/tmp/evil.so\n")
    assert "is not trusted" in refused("env", "dev", code=4)
    assert command("trust", "--yes").returncode == 0
    assert asked("env", "dev")["LD_PRELOAD"] == "/tmp/evil.so"


# Who runs it, and removing it

RUNS = """
import sys, time
from pathlib import Path
from mnemo_coord.disk.clock import SystemClock
from mnemo_coord.supervise import tenure
place = Path(sys.argv[1])
if sys.argv[2] == "lock":
    with tenure.starting("dev", place, 1):
        print("ready", flush=True)
        time.sleep(60)
tenure.begin(place, SystemClock(), detached=False, grace=1)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("how", ["lock", "record"])
def test_what_runs_is_shown_and_not_removed(how: str, me: Path, tmp_path: Path) -> None:
    place = Path(asked("init", "dev")["workspace"])
    with support.Child([sys.executable, "-c", RUNS, str(place), how], tmp_path / "logs") as child:
        child.wait_for("ready")
        dev = asked("instances", schema="instances")[1]
        pid = None if how == "lock" else child.pid
        assert dev["status"] in {"starting", "running"}
        assert dev["pid"] == pid
        for args in ([], ["--yes"], ["--workspace", "--yes"]):
            assert f"dev is {dev['status']}" + (f", process {pid}" if pid else "") in refused("rm", "dev", *args, code=4)
        child.stop(signal.SIGKILL)
    assert place.is_dir()
    assert command("rm", "dev", "--workspace", "--yes").returncode == 0
    assert not place.exists()


def test_a_plan_first(me: Path) -> None:
    place, kept = Path(asked("init", "dev")["workspace"]), me / "kept"
    kept.mkdir()
    (kept / "file").write_text("x")
    (place / "link").symlink_to(kept)
    (place / "deep" / "er").mkdir(parents=True)
    before = (me / ".jiuwenswarm" / "instances.yaml").read_bytes()
    planned = asked("rm", "dev", "--workspace", code=1, schema="rm")
    assert (planned["removed"], planned["files"]) == (False, 3)
    said = command("rm", "--name", "dev", "--workspace")
    assert (said.returncode, said.stdout) == (1, "")
    assert "--yes does it" in said.stderr
    assert (me / ".jiuwenswarm" / "instances.yaml").read_bytes() == before
    assert place.is_dir()
    assert asked("rm", "dev", "--yes", schema="rm")["workspace"] is None
    assert place.is_dir(), "it stays"
    assert "has no instance 'dev'" in refused("rm", "dev", code=3)
    assert asked("slots") == [], "its slot is free"
    assert asked("init", "dev")["slot"] == 1
    assert asked("rm", "dev", "--workspace", "--yes", schema="rm")["removed"] is True
    assert not place.exists()
    assert (kept / "file").read_text() == "x", "a link is removed, not what it leads to"


def test_what_is_never_removed(me: Path, tmp_path: Path) -> None:
    assert "the default instance" in refused("rm", "default", "--workspace", "--yes", code=2)
    for args in ([], [""]):
        assert command("rm", *args, "--yes").returncode == 2
    (tmp_path / "mine").mkdir(mode=0o700)
    asked("init", "dev", "--workspace", tmp_path / "mine")
    assert "was there before" in refused("rm", "dev", "--workspace", "--yes", code=4)
    assert [one["name"] for one in asked("instances")] == ["default", "dev"], "neither is its entry"
    assert (tmp_path / "mine" / ".env").exists()


def test_one_that_is_unusable_hides_none(me: Path) -> None:
    place = Path(asked("init", "dev")["workspace"])
    asked("init", "prod")
    place.chmod(0o755)
    found = command("instances", "--json")
    jsonschema.Draft202012Validator(json.loads((SCHEMAS / "instances.json").read_text())).validate(found.json)
    assert [one["status"] for one in found.json] == ["stopped", "unusable", "stopped"]
    assert "other users can reach it" in found.json[1]["problem"]
    assert "mnemosyne: dev: " in command("instances").stderr
    assert asked("env", "dev")["WEB_PORT"] == "20000", "ours, it is tightened when it is used"
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
