"""Git is asked within limits; what it lists is read field by field."""

from __future__ import annotations

import os
import stat
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import support

from mnemo_coord import errors
from mnemo_coord.holdings.git import Git, check_branch
from mnemo_coord.holdings.risks import Listed, entry_codes, parsed


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repo"
    subprocess.run(["git", "init", "-q", "-b", "main", str(root)], check=True)
    return root


def script(place: Path, text: str) -> str:
    path = place / "git"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_where_the_root_is(repository: Path, tmp_path: Path) -> None:
    (repository / "deep" / "er").mkdir(parents=True)
    assert Git(repository / "deep" / "er").root == repository.resolve()
    for elsewhere in (tmp_path, repository / ".git"):
        with pytest.raises(errors.NotFound, match="not inside a worktree"):
            _ = Git(elsewhere).root
    subprocess.run(["git", "init", "-q", "--bare", str(tmp_path / "bare")], check=True)
    with pytest.raises(errors.NotFound):
        _ = Git(tmp_path / "bare").root


def test_a_repository_without_a_commit(repository: Path) -> None:
    git = Git(repository)
    assert git.head() is None
    assert git.branch_at("main") is None


def test_the_environment_points_nowhere_else(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "elsewhere"))
    monkeypatch.setenv("MNEMOSYNE_SHARED_SECRET", "x" * 32)
    assert Git(repository).root == repository.resolve()
    said = Git(tmp_path, executable=script(tmp_path, "env")).run("x")
    assert "GIT_TERMINAL_PROMPT=0" in said
    assert "MNEMOSYNE_SHARED_SECRET" not in said
    assert "GIT_DIR" not in said


def test_hooks_do_not_run(repository: Path, tmp_path: Path) -> None:
    hook = repository / ".git" / "hooks" / "post-checkout"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    hook.chmod(0o755)
    git = Git(repository)
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    git.run(*identity, "commit", "--quiet", "--allow-empty", "-m", "x")
    git.run("checkout", "--quiet", "-b", "other")
    assert not (tmp_path / "ran").exists()


def test_git_that_is_missing_fails_dies_hangs_or_is_old(tmp_path: Path) -> None:
    """W10."""
    with pytest.raises(errors.Command, match="cannot be started"):
        Git(tmp_path, executable=str(tmp_path / "none")).run("version")
    with pytest.raises(errors.Command, match="cannot be started"):
        Git(tmp_path / "none").run("version")
    with pytest.raises(errors.Command, match="git x: it is so") as failed:
        Git(tmp_path, executable=script(tmp_path, "echo more >&2; echo 'fatal: it is so' >&2; exit 3")).run("x")
    assert failed.value.returncode == 3
    with pytest.raises(errors.Command, match="ended by signal 9"):
        Git(tmp_path, executable=script(tmp_path, "kill -9 $$")).succeeds("x")
    with pytest.raises(errors.Command, match="or later is needed"):
        _ = Git(tmp_path, executable=script(tmp_path, "echo git version 2.20.1")).root
    slow = script(tmp_path, f"sleep 300 & echo $! > {tmp_path}/pid; wait")
    begun = time.monotonic()
    with pytest.raises(errors.TimedOut):
        Git(tmp_path, timeout=0.5, executable=slow).run("x")
    assert time.monotonic() - begun < 5
    pid = int((tmp_path / "pid").read_text())
    support.wait_until(lambda: not psutil.pid_exists(pid), what="what it started is ended with it")


def test_a_prompt_is_answered_by_nobody(tmp_path: Path) -> None:
    """W10."""
    asks = script(tmp_path, 'read answer || { echo "fatal: no answer" >&2; exit 1; }')
    with pytest.raises(errors.Command, match="no answer"):
        Git(tmp_path, executable=asks).run("x")


@pytest.mark.parametrize(
    "name", ["", "-x", "a b", "a..b", "/a", "a/", "a~1", "a^", "a:b", "a\nb", "a\\b", "@{-1}x", "x.lock", "\x1b[31m", None, 7]
)
def test_what_is_no_name_of_a_branch(name: str, repository: Path) -> None:
    with pytest.raises(errors.Config):
        check_branch(Git(repository), name)


@pytest.mark.parametrize("name", ["main", "feature/orders", "ümlaut", "a-b_c.d"])
def test_what_is_one(name: str, repository: Path) -> None:
    assert check_branch(Git(repository), name) == name


def test_the_list_of_worktrees_is_read() -> None:
    zeros = "0" * 40
    text = (
        "worktree /r\0HEAD abc\0branch refs/heads/main\0\0"
        "worktree /r/w\nt\0HEAD def\0detached\0locked a reason\0\0"
        f"worktree /r/new\0HEAD {zeros}\0branch refs/heads/x/y\0locked initializing\0prunable gone\0\0"
        "worktree /bare\0bare\0\0"
    )
    assert list(parsed(text)) == [
        Listed("/r", "abc", "main"),
        Listed("/r/w\nt", "def", None, "a reason"),
        Listed("/r/new", None, "x/y", "initializing"),
        Listed("/bare"),
    ]
    assert list(parsed("")) == []


def test_the_codes_of_a_status_are_read() -> None:
    assert entry_codes("") == []
    assert entry_codes(" M a\0?? b c\0R  new\0old\0UU x\0") == [" M", "??", "R ", "UU"]


def test_names_that_are_no_text_come_through(repository: Path) -> None:
    odd = os.fsdecode(b"od\xffd")
    (repository / odd).touch()
    assert Git(repository).run("ls-files", "-z", "--others").split("\0")[0] == odd
