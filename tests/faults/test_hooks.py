"""The hook of git: it refuses what others hold, never more, and leaves no trace when it is taken away."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jsonschema
import pytest
import support

SCHEMAS = support.REPOSITORY / "docs" / "reference" / "schemas"
KEPT = "pre-commit.before-mnemosyne"


def git(root: Path, *args: str, env: dict[str, str] | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(
        ["git", *identity, *args],
        cwd=root, env={**os.environ, **(env or {})}, capture_output=True, text=True, check=check, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def commits(root: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return git(root, "commit", "-m", "x", *args, env=env, check=False)


def change(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((path.read_text() if path.exists() else "") + "more\n")
        git(root, "add", "--", name)


def hooks(root: Path, *args: str, **env: str) -> support.Cli:
    return support.run("hooks", *args, cwd=root, env=env)


def listing(folder: Path) -> dict[str, tuple[int, str | bytes]]:
    """Every name in a folder with its mode and what it holds or leads to."""
    return {
        path.name: (path.lstat().st_mode, os.readlink(path) if path.is_symlink() else path.read_bytes())
        for path in sorted(folder.iterdir())
    }


def script(path: Path, text: str, mode: int = 0o755) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(mode)


@pytest.fixture
def root(state_dir: Path) -> Path:
    """A repository with a commit and the hook."""
    folder = state_dir.parent.resolve()
    git(folder, "init", "-q", "-b", "main")
    change(folder, "docs/a", "src/b", "c")
    git(folder, "commit", "-qm", "first")
    assert hooks(folder, "install").returncode == 0
    return folder


@pytest.fixture
def bare_hooks(root: Path) -> Path:
    """The folder of hooks, before anything was installed."""
    assert hooks(root, "uninstall").returncode == 0
    return root / ".git" / "hooks"


@pytest.fixture
def holder(state_dir: Path, root: Path) -> Iterator[support.Serve]:
    """An instance that has main to itself."""
    with support.Serve(state_dir, "--name", "holder") as served:
        join(root, served.instance_id)
        yield served


def join(root: Path, who: str, *args: str, branch: str = "main") -> None:
    done = support.run("branch", "join", branch, *args, "--for", who, cwd=root)
    assert done.returncode == 0, done.stderr


# Refused and allowed


def test_a_commit_of_what_another_holds_is_refused(root: Path, holder: support.Serve) -> None:
    before = git(root, "rev-parse", "HEAD").stdout
    change(root, "c")
    refused = commits(root)
    assert refused.returncode == 1
    assert f"c: {holder.instance_id} has the branch to itself" in refused.stderr
    assert "mnemosyne branch join main" in refused.stderr
    assert "MNEMOSYNE_BYPASS=1 git commit" in refused.stderr
    assert git(root, "rev-parse", "HEAD").stdout == before
    assert commits(root, MNEMOSYNE_INSTANCE="nobody").returncode == 1, "who is not known is nobody"
    assert commits(root, MNEMOSYNE_INSTANCE="").returncode == 1
    assert commits(root, MNEMOSYNE_INSTANCE="holder").returncode == 0
    change(root, "c")
    assert commits(root, MNEMOSYNE_INSTANCE=holder.instance_id).returncode == 0


def test_only_what_was_named_is_held(state_dir: Path, root: Path) -> None:
    with support.Serve(state_dir, "--name", "one") as one, support.Serve(state_dir, "--name", "two") as two:
        join(root, one.instance_id, "--files", "docs/**", "--mode", "coordinated")
        join(root, two.instance_id, "--files", "src/**", "--mode", "coordinated")
        change(root, "c")
        assert commits(root).returncode == 0
        change(root, "c", "docs/a", "src/b")
        refused = commits(root, MNEMOSYNE_INSTANCE="two")
        assert refused.returncode == 1
        assert [line.strip() for line in refused.stderr.splitlines() if line.startswith("  ")] == [
            f"docs/a: {one.instance_id} may change docs/**"
        ]
        assert commits(root, "--", "src/b", MNEMOSYNE_INSTANCE="two").returncode == 0
        git(root, "checkout", "-qb", "other")
        assert commits(root).returncode == 0, "another branch is nobody's"
        join(root, one.instance_id, "read", branch="other")
        change(root, "docs/a")
        assert commits(root).returncode == 0, "who reads is in nobody's way"


def test_who_was_let_in_commits_its_own_files(state_dir: Path, root: Path, holder: support.Serve) -> None:
    with support.Serve(state_dir, "--name", "guest", "--role", "orchestrator") as guest:
        join(root, guest.instance_id, "--files", "src/**", "--mode", "coordinated")
        change(root, "src/b")
        assert commits(root).returncode == 1
        assert commits(root, MNEMOSYNE_INSTANCE="guest").returncode == 0
        change(root, "c")
        assert commits(root, MNEMOSYNE_INSTANCE="guest").returncode == 1
        assert commits(root, MNEMOSYNE_INSTANCE="holder").returncode == 0, "who was there first goes on"


def _all(root: Path) -> list[str]:
    (root / "docs" / "a").write_text("changed\n")
    return ["-a"]


def _path(root: Path) -> list[str]:
    (root / "docs" / "a").write_text("changed\n")
    return ["--", "docs/a"]


def _only(root: Path) -> list[str]:
    change(root, "c")
    (root / "docs" / "a").write_text("changed\n")
    return ["--only", "docs/a"]


def _include(root: Path) -> list[str]:
    change(root, "c")
    (root / "docs" / "a").write_text("changed\n")
    return ["--include", "docs/a"]


def _rename_away(root: Path) -> list[str]:
    git(root, "mv", "docs/a", "elsewhere")
    return []


def _rename_here(root: Path) -> list[str]:
    git(root, "mv", "c", "docs/a2")
    return []


def _delete(root: Path) -> list[str]:
    git(root, "rm", "-q", "docs/a")
    return []


def _mode(root: Path) -> list[str]:
    git(root, "update-index", "--chmod=+x", "docs/a")
    return []


def _amend(root: Path) -> list[str]:
    change(root, "docs/a")
    return ["--amend"]


def _link(root: Path) -> list[str]:
    (root / "docs" / "link").symlink_to("/nowhere")
    git(root, "add", "docs/link")
    return []


WAYS = [_all, _path, _only, _include, _rename_away, _rename_here, _delete, _mode, _amend, _link]


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_commit_it_is_seen(way, state_dir: Path, root: Path) -> None:
    with support.Serve(state_dir) as served:
        join(root, served.instance_id, "--files", "docs/**", "--mode", "coordinated")
        args = way(root)
        refused = commits(root, *args)
        assert refused.returncode == 1
        assert "docs/a" in refused.stderr or "docs/link" in refused.stderr
        assert commits(root, *args, MNEMOSYNE_INSTANCE=served.instance_id).returncode == 0, "and nothing else is in the way"


def test_what_is_not_part_of_the_commit_is_nobodys_business(state_dir: Path, root: Path) -> None:
    """Staged, but left out by `git commit -- path`; changed, but not staged; from a folder below."""
    with support.Serve(state_dir) as served:
        join(root, served.instance_id, "--files", "docs/**", "--mode", "coordinated")
        change(root, "docs/a", "c")
        assert commits(root / "src", "--", "../c").returncode == 0
        git(root, "reset", "-q")
        change(root, "src/b")
        assert commits(root / "src").returncode == 0
        git(root, "add", "-N", "docs")
        change(root, "src/b")
        assert commits(root).returncode == 0
        git(root, "add", "docs/a")
        assert commits(root / "src").returncode == 1


def test_the_first_commit(tmp_path: Path) -> None:
    root = (tmp_path / "new").resolve()
    root.mkdir()
    git(root, "init", "-q", "-b", "main")
    assert hooks(root, "install").returncode == 0
    with support.Serve(root / ".mnemosyne") as served:
        join(root, served.instance_id, "--files", "docs/**", "--mode", "coordinated")
        change(root, "c", "docs/a")
        refused = commits(root)
        assert refused.returncode == 1
        assert refused.stderr.count("may change") == 1
        git(root, "rm", "-q", "--cached", "docs/a")
        assert commits(root).returncode == 0


NAMES = [
    "a b",
    "a\nb",
    "\"a'",
    "-a",
    "ünï",
    "\x1b[31mred",
    "a\u202eb",
    "--all",
    "$(touch x)",
    "*",
    "tab\t",
    os.fsdecode(b"\xff"),
]


def test_names_of_every_kind_and_no_control_bytes(root: Path, holder: support.Serve) -> None:
    for name in NAMES:
        (root / name).write_text("x")
        (root / "src" / name).write_text("x")
    git(root, "add", "--all", "--", ":/")
    for args in (["commit", "-m", "x"], ["commit", "-m", "x", "--json"]):
        refused = git(root, *args[:3], check=False)
        assert refused.returncode == 1
        lines = refused.stderr.splitlines()
        assert len([line for line in lines if line.startswith("  ") and "has the branch" in line]) == 20
        assert any(line.strip().startswith("and ") and line.endswith(" more") for line in lines)
        assert not [one for one in refused.stderr if ord(one) < 32 and one != "\n"]
        assert "\u202e" not in refused.stderr
    paths = {one["path"] for one in hooks(root, "check", "--json").json["refused"]}
    assert {*NAMES, *(f"src/{name}" for name in NAMES)} <= paths
    assert commits(root, MNEMOSYNE_INSTANCE="holder").returncode == 0


def test_from_linked_worktrees(state_dir: Path, root: Path) -> None:
    with support.Serve(state_dir, "--branch", "wanted") as holder, support.Serve(state_dir, "--worktree") as other:
        place = {one: state_dir.resolve() / "worktrees" / one.instance_id for one in (holder, other)}
        join(root, holder.instance_id, branch="wanted")
        change(place[holder], "c")
        assert commits(place[holder]).returncode == 0, "its own worktree says who it is"
        change(place[holder], "src/b")
        assert commits(place[holder] / "src").returncode == 0
        branch = git(place[other], "symbolic-ref", "--short", "HEAD").stdout.strip()
        change(place[other], "c")
        assert commits(place[other]).returncode == 0, "its own branch is nobody else's"
        join(root, holder.instance_id, branch=branch)
        change(place[other], "c")
        assert commits(place[other]).returncode == 1
        git(place[other], "checkout", "-q", "--detach")
        detached = commits(place[other])
        assert (detached.returncode, "mnemosyne" in detached.stderr) == (0, False), "no branch, nothing to guard"


def test_a_holder_that_was_killed_holds_nothing(root: Path, holder: support.Serve) -> None:
    change(root, "c")
    holder.send_signal(signal.SIGSTOP)
    assert commits(root).returncode == 1, "who is stopped lives"
    holder.kill()
    assert commits(root).returncode == 0


def test_the_bypass(root: Path, holder: support.Serve) -> None:
    change(root, "c")
    for value in ("", "0", "no", "off", "2"):
        assert commits(root, MNEMOSYNE_BYPASS=value).returncode == 1
    for value in ("1", "true", "YES", "on"):
        change(root, "c")
        done = commits(root, MNEMOSYNE_BYPASS=value)
        assert done.returncode == 0
        (said,) = [line for line in done.stderr.splitlines() if "mnemosyne" in line]
        assert f"1 file held by {holder.instance_id}" in said
    assert "mnemosyne" not in commits(root, "--allow-empty", MNEMOSYNE_BYPASS="1").stderr, "nothing was in the way"


def test_the_json_is_as_its_schema_says(root: Path, holder: support.Serve) -> None:
    schema = {name: json.loads((SCHEMAS / f"{name}.json").read_text()) for name in ("hooks", "hooks-check")}
    change(root, "c")
    refused = hooks(root, "check", "--json")
    assert (refused.returncode, refused.stderr) == (1, "")
    one = {"path": "c", "instance_id": holder.instance_id, "reason": "has the branch to itself"}
    assert refused.json == {"branch": "main", "committer": None, "bypassed": False, "refused": [one]}
    passed = hooks(root, "check", "--json", MNEMOSYNE_BYPASS="1")
    assert (passed.returncode, passed.json["bypassed"], passed.json["refused"]) == (0, True, [one])
    own = hooks(root, "check", "--json", MNEMOSYNE_INSTANCE="holder")
    assert (own.returncode, own.json["committer"], own.json["refused"]) == (0, holder.instance_id, [])
    for done in (refused, passed, own, hooks(root.parent, "check", "--json")):
        jsonschema.validate(done.json, schema["hooks-check"])
    for args in (["status"], ["uninstall"], ["status"], ["install"]):
        jsonschema.validate(hooks(root, *args, "--json").json, schema["hooks"])


# Blind


def test_nothing_to_guard_is_silent(state_dir: Path, root: Path, tmp_path: Path) -> None:
    change(root, "c")
    for where in (root, tmp_path):
        done = hooks(where, "check")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not state_dir.exists(), "and makes nothing"
    with support.Serve(state_dir):
        done = hooks(root, "check")
        assert (done.returncode, done.stderr) == (0, "")
        done = support.run("--dir", state_dir, "hooks", "check", cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")


def _slow_git(root: Path, state_dir: Path, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "bin").mkdir()
    script(tmp_path / "bin" / "git", "sleep 60")
    return {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}


def _failing_git(root: Path, state_dir: Path, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "bin").mkdir()
    script(tmp_path / "bin" / "git", "echo 'fatal: it is so' >&2; exit 128")
    return {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}


def _open_state(root: Path, state_dir: Path, tmp_path: Path) -> dict[str, str]:
    state_dir.chmod(0o755)
    return {}


def _damaged_record(root: Path, state_dir: Path, tmp_path: Path) -> dict[str, str]:
    (record,) = (state_dir / "branches").glob("*.json")
    record.write_bytes(b"{}")
    return {}


def _bad_setting(root: Path, state_dir: Path, tmp_path: Path) -> dict[str, str]:
    return {"MNEMOSYNE_LOCK_TIMEOUT": "soon"}


def _no_folder(root: Path, state_dir: Path, tmp_path: Path) -> dict[str, str]:
    shutil.rmtree(state_dir / "branches")
    (state_dir / "branches").write_text("")
    return {}


@pytest.mark.parametrize("harm", [_slow_git, _failing_git, _open_state, _damaged_record, _bad_setting, _no_folder])
def test_a_guard_that_cannot_see_says_so_and_stops_nobody(
    harm, state_dir: Path, root: Path, tmp_path: Path, holder: support.Serve
) -> None:
    change(root, "c")
    holder.send_signal(signal.SIGSTOP)  # it would mend what is damaged
    env = harm(root, state_dir, tmp_path)
    done = hooks(root, "check", **env)
    assert (done.returncode, done.stdout) == (0, "")
    assert "not checked" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_looking_writes_nothing(state_dir: Path, root: Path, holder: support.Serve) -> None:
    holder.kill()
    change(root, "c")
    index = support.tree(root / ".git")
    before = support.tree(state_dir)
    assert hooks(root, "check").returncode == 0
    assert support.tree(state_dir) == before
    assert support.tree(root / ".git") == index


@pytest.mark.parametrize("gone", ["program", "interpreter", "command", "everything"])
def test_a_guard_that_is_gone_stops_nobody(gone: str, root: Path, holder: support.Serve, tmp_path: Path) -> None:
    """The program is not there any more, its interpreter is not, it is of a version without the command."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "mnemosyne"
    script(program, f'exec {support.MNEMOSYNE} "$@"')
    hook = root / ".git" / "hooks" / "pre-commit"
    from mnemo_coord.holdings.hook_script import render

    hook.write_bytes(render("", 0, str(program)))
    change(root, "c")
    assert commits(root).returncode == 1
    path = f"{Path(shutil.which('git') or '').parent}:/usr/bin:/bin"
    if gone == "interpreter":
        program.write_text("#!/nowhere/python\n")
    elif gone == "command":
        script(program, "exit 1")
    else:
        program.unlink()
    if gone == "program":
        path = f"{Path(support.MNEMOSYNE).parent}:{path}"
    done = commits(root, PATH=path)
    assert done.returncode == (1 if gone == "program" else 0), "in PATH there is one yet"
    assert ("is not checked" in done.stderr) == (gone != "program")


# What was there before


CHAINED = {
    "passes": ("echo before >&2", 0o755, 0),
    "fails": ("echo before >&2; exit 7", 0o755, 1),
    "is not executable": ("echo before >&2; exit 7", 0o644, 0),
}


@pytest.mark.parametrize(("text", "mode", "code"), CHAINED.values(), ids=CHAINED)
def test_what_was_there_runs_first(text: str, mode: int, code: int, root: Path, bare_hooks: Path) -> None:
    script(bare_hooks / "pre-commit", text, mode)
    before = listing(bare_hooks)
    installed = hooks(root, "install", "--json").json
    assert (installed["state"], installed["before"], installed["changed"]) == ("installed", str(bare_hooks / KEPT), True)
    change(root, "c")
    done = commits(root)
    assert (done.returncode != 0) == bool(code)
    assert ("before" in done.stderr) == bool(mode & 0o100)
    assert listing(bare_hooks)[KEPT] == before["pre-commit"]
    assert hooks(root, "uninstall").returncode == 0
    assert listing(bare_hooks) == before


def test_what_was_there_gets_arguments_stdin_and_its_exit_code_through(root: Path, bare_hooks: Path) -> None:
    script(bare_hooks / "pre-commit", 'echo "$# $1 $2 $(cat)"; exit 7')
    hooks(root, "install")
    argv = [str(bare_hooks / "pre-commit"), "a b", "*"]
    done = subprocess.run(argv, cwd=root, input="in", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (7, "2 a b * in\n")


def test_what_was_there_may_change_the_commit(root: Path, bare_hooks: Path, holder: support.Serve) -> None:
    """What it adds is seen; and it runs before anything is refused."""
    join(root, holder.instance_id, "--files", "docs/**", "--mode", "coordinated")
    script(bare_hooks / "pre-commit", "echo formatted > docs/a; git add docs/a")
    hooks(root, "install")
    change(root, "c")
    refused = commits(root)
    assert refused.returncode == 1
    assert "docs/a" in refused.stderr


def test_a_link_is_kept_as_a_link(root: Path, bare_hooks: Path) -> None:
    script(root / "team-hook", 'echo "team" >&2')
    (bare_hooks / "pre-commit").symlink_to("../../team-hook")
    before = listing(bare_hooks)
    assert hooks(root, "install").returncode == 0
    assert os.readlink(bare_hooks / KEPT) == "../../team-hook"
    assert not (bare_hooks / "pre-commit").is_symlink()
    assert "mnemosyne" not in (root / "team-hook").read_text()
    assert "team" in commits(root, "--allow-empty").stderr
    assert hooks(root, "uninstall").returncode == 0
    assert listing(bare_hooks) == before


@pytest.mark.parametrize("there", [None, 0o755, 0o640, "link", "dangling"])
def test_twice_in_and_twice_out_leaves_nothing(there: int | str | None, root: Path, bare_hooks: Path) -> None:
    hook = bare_hooks / "pre-commit"
    if isinstance(there, int):
        hook.write_bytes(b"\x00 not even \xff text")
        hook.chmod(there)
    elif there:
        hook.symlink_to("pre-push.sample" if there == "link" else "nowhere")
    before = listing(bare_hooks)
    assert hooks(root, "install", "--json").json["changed"] is True
    once = support.tree(bare_hooks)
    assert stat.S_IMODE(hook.stat().st_mode) == 0o755
    assert hooks(root, "install", "--json").json["changed"] is False
    assert support.tree(bare_hooks) == once
    assert hooks(root, "status").returncode == 0
    assert hooks(root, "uninstall", "--json").json["changed"] is True
    assert listing(bare_hooks) == before
    again = hooks(root, "uninstall", "--json")
    assert (again.returncode, again.json["changed"]) == (0, False)
    assert listing(bare_hooks) == before
    assert hooks(root, "status").returncode == 1


def test_a_folder_that_was_made_goes_again(root: Path, bare_hooks: Path) -> None:
    shutil.rmtree(bare_hooks)
    hooks(root, "install")
    assert [path.name for path in bare_hooks.iterdir()] == ["pre-commit"]
    hooks(root, "uninstall")
    assert not bare_hooks.exists()
    git(root, "config", "core.hooksPath", "tools/git/hooks")
    hooks(root, "install")
    assert (root / "tools" / "git" / "hooks" / "pre-commit").exists()
    hooks(root, "uninstall")
    assert not (root / "tools").exists()
    hooks(root, "install")
    (root / "tools" / "more").write_text("mine")
    hooks(root, "uninstall")
    assert [path.name for path in (root / "tools").iterdir()] == ["more"]


def test_a_hook_that_took_our_place_is_chained_anew(root: Path, bare_hooks: Path) -> None:
    script(bare_hooks / "pre-commit", "echo first >&2")
    hooks(root, "install")
    script(bare_hooks / "new", "echo second >&2")
    (bare_hooks / "new").rename(bare_hooks / "pre-commit")
    between = listing(bare_hooks)
    refused = hooks(root, "uninstall")
    assert refused.returncode == 4
    assert KEPT in refused.stderr
    assert listing(bare_hooks) == between
    assert hooks(root, "install", "--json").json["before"] == str(bare_hooks / f"{KEPT}-2")
    assert "second" in commits(root, "--allow-empty").stderr
    assert hooks(root, "uninstall").returncode == 0
    assert listing(bare_hooks) == between


def test_what_is_not_ours_or_was_changed_stays(root: Path, bare_hooks: Path) -> None:
    script(bare_hooks / "pre-commit", "true")
    before = listing(bare_hooks)
    assert hooks(root, "uninstall", "--json").json["state"] == "foreign"
    assert listing(bare_hooks) == before
    (bare_hooks / "pre-commit").unlink()
    hooks(root, "install")
    with (bare_hooks / "pre-commit").open("a") as stream:
        stream.write("echo mine\n")
    before = listing(bare_hooks)
    for action in ("uninstall", "install"):
        assert hooks(root, action).returncode == 4
        assert listing(bare_hooks) == before
    assert hooks(root, "status", "--json").json["state"] == "changed"
    (bare_hooks / "pre-commit").unlink()
    hooks(root, "install")
    (bare_hooks / "pre-commit").chmod(0o644)
    assert hooks(root, "status").returncode == 1, "git does not run it"
    hooks(root, "install")
    assert hooks(root, "status").returncode == 0


def test_a_hook_that_looks_at_its_name_is_pointed_out(root: Path, bare_hooks: Path) -> None:
    script(bare_hooks / "pre-commit", 'exec ./$(basename "$0")')
    assert "$0" in hooks(root, "install").stderr


def test_many_at_once(root: Path, bare_hooks: Path) -> None:
    script(bare_hooks / "pre-commit", "echo before >&2")
    before = listing(bare_hooks)
    for action in ("install", "uninstall"):
        argv = [support.MNEMOSYNE, "hooks", action]
        started = [subprocess.Popen(argv, cwd=root, stdout=subprocess.DEVNULL) for _ in range(6)]
        assert [one.wait(60) for one in started] == [0] * 6
        if action == "install":
            assert {name for name in listing(bare_hooks) if not name.endswith(".sample")} == {"pre-commit", KEPT}
    assert listing(bare_hooks) == before


def test_one_after_the_other(root: Path, bare_hooks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mnemo_coord import errors
    from mnemo_coord.holdings import hooks as room

    monkeypatch.setattr(room, "_TIMEOUT", 1.0)
    place, before = room.place_of(root), listing(bare_hooks)
    with files_locked(bare_hooks), pytest.raises(errors.TimedOut, match="somebody else"):
        room.install(place, "mnemosyne")
    assert listing(bare_hooks) == before
    room.install(place, "mnemosyne")
    with files_locked(bare_hooks), pytest.raises(errors.TimedOut):
        room.uninstall(place)
    assert room.look(place).state == "installed"


@contextmanager
def files_locked(folder: Path) -> Iterator[None]:
    """As by somebody else who installs."""
    fd = os.open(folder, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(fd)


def test_a_crash_half_way_loses_nothing(root: Path, bare_hooks: Path) -> None:
    """As it lies there after each step of an install that was killed."""
    script(bare_hooks / "pre-commit", "echo before >&2")
    before = listing(bare_hooks)
    os.link(bare_hooks / "pre-commit", bare_hooks / KEPT)
    (bare_hooks / "pre-commit.mnemosyne-new").write_text("#!/bi")
    assert hooks(root, "install", "--json").json["before"] == str(bare_hooks / KEPT)
    assert "before" in commits(root, "--allow-empty").stderr
    hooks(root, "uninstall")
    assert listing(bare_hooks) == before


def test_a_disk_that_takes_nothing_leaves_it_as_it_was(bare_hooks: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mnemo_coord.disk import files
    from mnemo_coord.holdings import hooks as room

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    script(bare_hooks / "pre-commit", "true")
    before = listing(bare_hooks)
    monkeypatch.setattr(files, "write_all", full)
    for link in (os.link, lambda *_, **__: full()):
        monkeypatch.setattr(os, "link", link)
        with pytest.raises(OSError, match="No space"):
            room.install(room.place_of(root), "mnemosyne")
        assert listing(bare_hooks) == before


# Where


def test_hooks_inside_and_outside_of_the_repository(
    root: Path, bare_hooks: Path, tmp_path: Path, holder: support.Serve
) -> None:
    git(root, "config", "core.hooksPath", ".githooks")
    change(root, "c")
    assert commits(root).returncode == 0
    assert hooks(root / "src", "install", "--json").json["path"] == str(root / ".githooks" / "pre-commit")
    change(root, "c")
    assert commits(root / "src").returncode == 1
    git(root, "config", "--unset", "core.hooksPath")
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text("[core]\n\thooksPath = ~/git hooks\n")
    env = {"HOME": str(home)}
    for action in ("install", "uninstall"):
        refused = hooks(root, action, **env)
        assert refused.returncode == 4
        assert "--shared" in refused.stderr
        assert str(home / "git hooks") in refused.stderr
    assert not (home / "git hooks").exists()
    assert hooks(root, "install", "--shared", "--json", **env).json["path"] == str(home / "git hooks" / "pre-commit")
    assert commits(root, **env).returncode == 1
    assert hooks(root, "status", **env).returncode == 0
    assert hooks(root, "uninstall", "--shared", **env).returncode == 0
    assert not (home / "git hooks").exists()
    (bare_hooks.parent / "hooks").rename(tmp_path / "moved")
    (bare_hooks.parent / "hooks").symlink_to(tmp_path / "moved")
    assert hooks(root, "install").returncode == 4, "a link leads out as well"


def test_from_a_linked_worktree_it_is_put_where_all_find_it(root: Path, bare_hooks: Path) -> None:
    linked = root.parent / "linked"
    git(root, "worktree", "add", "-q", str(linked))
    assert hooks(linked, "install", "--json").json["path"] == str(bare_hooks / "pre-commit")
    assert hooks(root, "status").returncode == 0
    assert hooks(linked, "uninstall").returncode == 0


def test_no_repository_bare_and_odd_places(tmp_path: Path, root: Path) -> None:
    (tmp_path / "none").mkdir()
    subprocess.run(["git", "init", "-q", "--bare", str(tmp_path / "bare")], check=True)
    for action in ("install", "uninstall", "status"):
        assert hooks(tmp_path / "none", action).returncode == 3
        for place in (tmp_path / "bare", root / ".git"):
            done = hooks(place, action)
            assert done.returncode == 2
            assert "bare repository" in done.stderr
    for value in ("/dev/null", "c"):
        git(root, "config", "core.hooksPath", value)
        done = hooks(root, "install", "--shared")
        assert done.returncode == 4
        assert "is not a folder" in done.stderr
        assert hooks(root, "status").returncode == 1
    git(root, "config", "core.hooksPath", "")
    assert hooks(root, "install").returncode == 2


def test_a_fleet_and_a_program_of_any_name(tmp_path: Path, root: Path) -> None:
    odd = tmp_path / 'it\'s a "fleet" $(x)'
    odd.mkdir()
    assert support.run("--dir", odd / "state", "hooks", "install", cwd=root).returncode == 0
    with support.Serve(odd / "state") as served:
        done = support.run("--dir", odd / "state", "branch", "join", "main", "--for", served.instance_id, cwd=root)
        assert done.returncode == 0, done.stderr
        change(root, "c")
        assert "is refused" in commits(root).stderr
