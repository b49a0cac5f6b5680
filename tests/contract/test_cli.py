"""The command line as other programs may rely on it: options, exit codes, JSON that validates, and manners."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import jsonschema
import psutil
import pytest
import support
from schemas import SCHEMAS, validate

from mnemo_coord.cli.commands import _COMMANDS
from mnemo_coord.disk.clock import SystemClock
from mnemo_coord.holdings.owner import own


def test_every_schema_is_one() -> None:
    for path in SCHEMAS.glob("*.json"):
        jsonschema.Draft202012Validator.check_schema(json.loads(path.read_text()))


@pytest.mark.parametrize("args", [[], *[[name] for name in _COMMANDS], ["config", "show"]], ids=" ".join)
def test_help_is_there_and_fits(args: list[str]) -> None:
    done = support.run(*args, "--help", env={"COLUMNS": "80"})
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: mnemosyne")
    assert all(len(line) <= 80 for line in done.stdout.splitlines()), done.stdout


def test_version() -> None:
    import mnemo_coord

    for flag in ("--version", "-V"):
        assert support.run(flag).stdout == f"mnemosyne {mnemo_coord.__version__}\n"


def test_success_is_one_valid_document(state_dir: Path) -> None:
    """C6."""
    with support.Serve(state_dir, "--name", "inbox", "--json") as served:
        validate(support.run("--dir", state_dir, "list", "--json").json, "list")
        validate(support.run("list", "--json", "--dir", state_dir).json, "list")
        validate(support.run("--json", "--dir", state_dir, "list", "--all").json, "list")
        for target in (["--to", served.instance_id], ["--to", "inbox"], ["--to", "@nobody"], ["--all"]):
            done = support.run("--dir", state_dir, "send", *target, "T", "[1]", "--json")
            assert done.returncode == 0
            validate(done.json, "send")
        unknown = support.run("--dir", state_dir, "send", "--to", "0123abcd", "T", "--json")
        assert unknown.returncode == 3
        validate(unknown.json, "send")
        validate(unknown.json, "error")
        validate(support.run("--dir", state_dir, "receive", "--as", "@nobody", "--json").json, "message")
        validate(support.run("--dir", state_dir, "doctor", "--json").json, "doctor")
        validate(support.run("--dir", state_dir, "events", "--json").json, "events")
        validate(support.run("--dir", state_dir, "config", "show", "--json").json, "config")
        validate(support.run("--dir", state_dir, "report", "idle", "--as", "inbox", "--json").json, "report")
        validate(support.run("--dir", state_dir, "list", "--json").json, "list")
        follow = [support.MNEMOSYNE, "--dir", str(state_dir), "events", "--follow", "--json"]
        with support.Child(follow, state_dir.parent / "follow") as events:
            events.wait_for("instance_registered")
            served.wait_for("message_acknowledged")
            assert served.stop() == 0
            events.wait_for("instance_left")
            for line in events.printed.splitlines():
                validate(json.loads(line), "event")
            assert events.stop(signal.SIGINT) == 130
        for line in served.printed.splitlines():
            validate(json.loads(line), "event")


FAILURES: dict[str, tuple[list[str], int, str]] = {
    "unknown command": (["lits"], 2, "usage"),
    "unknown option": (["list", "--frobnicate"], 2, "usage"),
    "no secret option": (["list", "--secret", "x"], 2, "usage"),
    "missing argument": (["send", "--to", "x-y"], 2, "usage"),
    "to and all": (["send", "--to", "x-y", "--all", "T"], 2, "usage"),
    "neither": (["send", "T"], 2, "usage"),
    "payload": (["send", "--to", "x-y", "T", "{"], 2, "config"),
    "payload NaN": (["send", "--to", "x-y", "T", "NaN"], 2, "not-encodable"),
    "payload large": (["send", "--to", "x-y", "T", json.dumps("x" * 1000)], 2, "message-too-large"),
    "payload deep": (["send", "--to", "x-y", "T", "[" * 99 + "]" * 99], 2, "not-encodable"),
    "address": (["send", "--to", "a/../b", "T"], 2, "config"),
    "reserved": (["send", "--to", "Default", "T"], 2, "config"),
    "sender": (["send", "--to", "x-y", "--from", "a b", "T"], 2, "config"),
    "sender an id": (["send", "--to", "x-y", "--from", "0123abcd", "T"], 2, "config"),
    "unknown id": (["send", "--to", "fedcba98", "T"], 3, "unknown-address"),
    "nothing waits": (["receive", "--as", "x-y"], 5, "timed-out"),
    "nothing comes": (["receive", "--as", "x-y", "--timeout", "0.2"], 5, "timed-out"),
    "receive as an id": (["receive", "--as", "0123abcd"], 2, "config"),
    "name": (["serve", "--name", "x" * 65], 2, "config"),
    "role": (["serve", "--role", "a/b"], 2, "config"),
    "interval": (["serve", "--poll-interval", "0"], 2, "config"),
    "interval NaN": (["serve", "--heartbeat-interval", "nan"], 2, "config"),
    "capacity": (["serve", "--api-capacity", "-1"], 2, "config"),
    "every interface": (["serve", "--with-api", "--api-addr", "0.0.0.0:3000"], 2, "config"),
    "no port": (["serve", "--with-api", "--api-addr", "127.0.0.1"], 2, "config"),
    "bad port": (["serve", "--with-api", "--api-addr", "127.0.0.1:65536"], 2, "config"),
    "other digits": (["serve", "--with-api", "--api-addr", "127.0.0.1:٣٠٠٠"], 2, "config"),
    "cannot start": (["own", "file", "--", "/nonexistent/command"], 7, "command"),
}


@pytest.mark.parametrize(("args", "code", "slug"), FAILURES.values(), ids=FAILURES)
def test_failure_is_one_line_or_one_document(args: list[str], code: int, slug: str, state_dir: Path) -> None:
    """C1, C6."""
    plain = support.run("--dir", state_dir, *args, cwd=state_dir.parent)
    assert plain.returncode == code
    assert plain.stdout == ""
    complaint = [line for line in plain.stderr.splitlines() if line.startswith("mnemosyne: ")]
    assert len(complaint) == 1
    assert "Traceback" not in plain.stderr
    args = args if "--" not in args else ["own", "--json", *args[1:]]
    as_json = support.run("--dir", state_dir, *args, *([] if "--json" in args else ["--json"]), cwd=state_dir.parent)
    assert as_json.returncode == code
    validate(as_json.json, "error")
    assert as_json.json["error"]["code"] == slug


@pytest.mark.parametrize("args", [["list"], ["doctor"], ["events"], ["config", "show"]], ids=" ".join)
def test_looking_makes_nothing(args: list[str], state_dir: Path) -> None:
    """C2."""
    done = support.run("--dir", state_dir, *args)
    assert done.returncode == 0
    assert not state_dir.exists()
    assert json.loads(support.run("--dir", state_dir, *args, "--json").stdout) is not None


def test_a_short_secret_is_refused_and_a_good_one_works(state_dir: Path) -> None:
    short = {"MNEMOSYNE_SHARED_SECRET": "15 bytes long.."}
    assert support.run("--dir", state_dir, "send", "--to", "x-y", "T", env=short).returncode == 2
    good = {"MNEMOSYNE_SHARED_SECRET": "a secret of 24 bytes long"}
    assert support.run("--dir", state_dir, "send", "--to", "x-y", "T", env=good).returncode == 0
    assert not (state_dir / "secret").exists()
    shown = support.run("--dir", state_dir, "config", "show", env=good)
    assert good["MNEMOSYNE_SHARED_SECRET"] not in shown.stdout + shown.stderr
    assert "MNEMOSYNE_SHARED_SECRET" in shown.stdout
    other = {"MNEMOSYNE_SHARED_SECRET": "another secret altogether"}
    assert support.run("--dir", state_dir, "receive", "--as", "x-y", env=other).returncode == 5, "refused, not shown"


def test_config_show_says_where_each_value_came_from(state_dir: Path) -> None:
    """F11."""
    env = {"MNEMOSYNE_API_ADDR": "127.0.0.1:4444", "MNEMOSYNE_DIR": str(state_dir)}
    found = {item["name"]: item for item in support.run("config", "show", "--json", env=env).json}
    assert (found["api_addr"]["value"], found["api_addr"]["source"]) == ("127.0.0.1:4444", "MNEMOSYNE_API_ADDR")
    assert (found["dir"]["value"], found["dir"]["source"]) == (str(state_dir), "MNEMOSYNE_DIR")
    assert found["lock_timeout"]["source"] == "default"
    assert found["secret"]["value"] == "<redacted>"
    bad = support.run("config", "show", env={"MNEMOSYNE_LOCK_TIMEOUT": "soon"})
    assert bad.returncode == 2
    assert "MNEMOSYNE_LOCK_TIMEOUT" in bad.stderr


def test_own_excludes_and_passes_everything_through(state_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "jobs.db"
    held = [support.MNEMOSYNE, "own", str(file), "--", "sh", "-c", "echo in; sleep 60"]
    with support.Child(held, tmp_path / "own") as owner:
        owner.wait_for("in")
        second = support.run("own", file, "--", "echo", "a b", cwd=tmp_path)
        assert (second.returncode, second.stdout) == (4, "")
        what = f"jobs.db at {file} is already owned by another live instance (process {owner.pid}) — not starting echo 'a b'"
        todo = "Run each instance with a distinct MNEMOSYNE_INSTANCE so they don't share a jobs.db; --retry S waits for it"
        assert second.stderr == f"mnemosyne: ERROR: {what}. {todo}\n"
        as_json = support.run("own", "--json", file, "--", "echo", "a b", cwd=tmp_path)
        assert (as_json.returncode, as_json.stderr) == (4, "")
        assert as_json.json == {"error": {"code": "conflict", "message": what, "hint": todo}}
        long = support.run("own", file, "--", "sh", "-c", "true;" * 100).stderr
        assert "…. Run each" in long
        assert len(long) < len(second.stderr) + 100
        (tmp_path / "link").symlink_to(tmp_path)
        assert support.run("own", tmp_path / "link" / "jobs.db", "--", "true").returncode == 4, "the same through a link"
        assert support.run("own", "--retry", "0.3", file, "--", "true").returncode == 4
        assert owner.stop() == 128 + signal.SIGTERM, "the signal reached the command"
    waiting = support.run(
        "own",
        "--retry",
        "10",
        file,
        "--",
        "sh",
        "-c",
        'test -z "$MNEMOSYNE_SHARED_SECRET" && exit 33',
        env={"MNEMOSYNE_SHARED_SECRET": "a secret of 24 bytes long"},
    )
    assert waiting.returncode == 33
    assert (tmp_path / "jobs.db.lock").exists(), "never unlinked"


def test_the_variable_that_own_names_is_that_of_the_project(tmp_path: Path) -> None:
    """Of the one around the file, else around the current folder. One that cannot be read changes nothing else."""
    for name in ("one", "two", "none", "broken"):
        (tmp_path / name).mkdir()
    (tmp_path / "one" / "mnemosyne.yaml").write_text("scope: {variable: ONE_INSTANCE}\n")
    (tmp_path / "two" / "mnemosyne.yaml").write_text("scope: {variable: TWO_INSTANCE}\n")
    (tmp_path / "broken" / "mnemosyne.yaml").write_text("scope: [\n")
    (tmp_path / "none" / "link").symlink_to(tmp_path / "one" / "db")
    expected = {
        ("one/db", "two"): "ONE",
        ("none/link", "two"): "ONE",
        ("none/db", "two"): "TWO",
        ("broken/db", "two"): "TWO",
        ("none/db", "none"): "MNEMOSYNE",
        ("broken/db", "broken"): "MNEMOSYNE",
    }
    for (path, folder), variable in expected.items():
        with own(tmp_path / path, SystemClock()):
            refused = support.run("own", tmp_path / path, "--", "true", cwd=tmp_path / folder)
        assert (refused.returncode, f"a distinct {variable}_INSTANCE so" in refused.stderr) == (4, True), refused.stderr


OWNS = """
    import sys, time
    from mnemo_coord.disk.clock import SystemClock
    from mnemo_coord.holdings.owner import own
    lock = own(sys.argv[1], SystemClock())
    print("has it", flush=True)
    time.sleep(60)
"""


def test_who_waits_with_retry_takes_over_when_the_owner_is_killed(tmp_path: Path) -> None:
    """Within a second, unless the machine is too busy to run it at all: then once of three times."""
    assert any(_taken_over_after(tmp_path / str(number)) < 1.0 for number in range(3))


def _taken_over_after(place: Path) -> float:
    file = place / "db"
    argv = [support.MNEMOSYNE, "own", "--retry", "60", str(file), "--", "echo", "has it"]
    place.mkdir()
    with support.python(OWNS, place / "owner", file) as owner:
        owner.wait_for("has it")
        with support.Child(argv, place / "heir") as heir:
            support.wait_until(lambda: _has_open(place / "db.lock", heir.pid), what="it waits")
            time.sleep(0.2)  # by now it has tried in vain
            began = time.monotonic()
            owner.kill()
            heir.wait_for("has it")
            took = time.monotonic() - began
            assert heir.wait() == 0
    return took


def _has_open(lock: Path, pid: int) -> bool:
    with suppress(psutil.Error):
        return str(lock) in {file.path for file in psutil.Process(pid).open_files()}
    return False


def test_receive_prints_then_acknowledges(state_dir: Path) -> None:
    for number in range(3):
        support.run("--dir", state_dir, "send", "--to", "inbox", "T", str(number))
    peeked = support.run("--dir", state_dir, "receive", "--as", "inbox", "--peek", "--json").stdout.splitlines()
    taken = support.run("--dir", state_dir, "receive", "--as", "inbox", "--json").stdout.splitlines()
    assert [json.loads(line)["payload"] for line in peeked] == [json.loads(line)["payload"] for line in taken] == [0, 1, 2]
    assert support.run("--dir", state_dir, "receive", "--as", "inbox").returncode == 5
    assert list((state_dir / "instances").iterdir()) == []


def test_receive_waits_and_follows(state_dir: Path) -> None:
    argv = [support.MNEMOSYNE, "--dir", str(state_dir), "receive", "--as", "@worker", "--follow", "--json"]
    with support.Child(argv, state_dir.parent / "receive") as receiver:
        for number in range(3):
            support.run("--dir", state_dir, "send", "--to", "@worker", "T", str(number))
            receiver.wait_for(f'"payload":{number}')
        assert receiver.stop(signal.SIGINT) == 130
    assert list((state_dir / "instances").iterdir()) == []


def test_a_reader_that_goes_away_keeps_no_message(state_dir: Path) -> None:
    """What could not be printed is given back."""
    for number in range(3):
        support.run("--dir", state_dir, "send", "--to", "inbox", "T", str(number))
    closed = subprocess.Popen(
        f"{support.MNEMOSYNE} --dir {state_dir} receive --as inbox --timeout 5 | true", shell=True, stderr=subprocess.PIPE
    )
    _, complaint = closed.communicate(timeout=30)
    assert b"Traceback" not in complaint
    again = support.run("--dir", state_dir, "receive", "--as", "inbox", "--json").stdout.splitlines()
    assert {json.loads(line)["payload"] for line in again} >= {1, 2}


def test_payload_from_stdin(state_dir: Path) -> None:
    assert support.run("--dir", state_dir, "send", "--to", "inbox", "T", "-", input='{"a":"ü"}').returncode == 0
    assert '"a":"\\u00fc"' in support.run("--dir", state_dir, "receive", "--as", "inbox", "--json").stdout


@pytest.mark.parametrize(("flag", "served"), [("--with-api", True), ("--with-api=true", True), ("--with-api=false", False)])
def test_with_api_takes_a_value(flag: str, served: bool, state_dir: Path, port_base: int) -> None:
    with support.Serve(state_dir, flag, "--api-addr", f"127.0.0.1:{port_base}") as one:
        (entry,) = support.run("--dir", state_dir, "list", "--json").json
        assert entry["api_url"] == (f"http://127.0.0.1:{port_base}" if served else None)
        assert one.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_serve_leaves_within_five_seconds(number: int, state_dir: Path, port_base: int) -> None:
    """C9, C10."""
    with support.Serve(state_dir, "--with-api", "--api-addr", f"127.0.0.1:{port_base}", "--name", "inbox") as one:
        assert one.stop(number, timeout=5) == 0
        assert "Traceback" not in one.log
    assert support.run("--dir", state_dir, "list", "--json").json == []
    assert list((state_dir / "instances").iterdir()) == []
    assert not list((state_dir / "coordination_queue").glob("[0-9a-f]*"))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    done = support.run("completion", shell)
    assert done.returncode == 0
    assert "_MNEMOSYNE_COMPLETE" in done.stdout


def test_bash_completes_commands() -> None:
    env = {"COMP_WORDS": "mnemosyne se", "COMP_CWORD": "1", "_MNEMOSYNE_COMPLETE": "bash_complete"}
    done = support.run(env=env)
    assert {line.split(",")[1] for line in done.stdout.splitlines()} == {"serve", "send", "service"}


@pytest.mark.parametrize("env", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}, {"FORCE_COLOR": "1", "CLICOLOR_FORCE": "1"}])
def test_no_escape_sequences_off_a_terminal(env: dict[str, str], state_dir: Path) -> None:
    """C7."""
    for args in (["--help"], ["list"], ["lits"], ["doctor"], ["config", "show"]):
        done = support.run("--dir", state_dir, *args, env=env)
        assert "\x1b" not in done.stdout + done.stderr


def test_git_worktrees_share_one_fleet(tmp_path: Path) -> None:
    repository, linked = tmp_path / "repo", tmp_path / "linked"
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run([*git, "init", "-q", str(repository)], check=True)
    subprocess.run([*git, "-C", str(repository), "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    subprocess.run([*git, "-C", str(repository), "worktree", "add", "-q", str(linked)], check=True, capture_output=True)
    (repository / "deep").mkdir()
    assert support.run("send", "--to", "inbox", "T", cwd=linked).returncode == 0
    assert support.run("receive", "--as", "inbox", cwd=repository / "deep").returncode == 0
    assert (repository / ".mnemosyne").stat().st_mode & 0o777 == 0o700
    assert not (linked / ".mnemosyne").exists()
    status = subprocess.run([*git, "-C", str(repository), "status", "--porcelain"], capture_output=True, text=True, check=True)
    assert status.stdout == ""


def test_an_ancestor_has_the_fleet(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    assert support.run("--dir", tmp_path / ".mnemosyne", "send", "--to", "inbox", "T").returncode == 0
    assert support.run("receive", "--as", "inbox", cwd=inner).returncode == 0


def test_secrets_are_in_no_command_line(state_dir: Path) -> None:
    """C18."""
    secret = "a secret of 24 bytes long"
    with support.Serve(state_dir, env={"MNEMOSYNE_SHARED_SECRET": secret}) as one:
        assert secret.encode() not in Path(f"/proc/{one.pid}/cmdline").read_bytes()
        assert secret not in one.log
    assert sys.executable
    assert secret not in "".join(path.read_text(errors="replace") for path in state_dir.rglob("*") if path.is_file())
    assert os.environ.get("MNEMOSYNE_SHARED_SECRET") is None
