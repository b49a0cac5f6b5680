"""The guard of commits: which files others hold, as a table; and what git says of a commit."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from mnemo_coord.holdings import guard, hook_script
from mnemo_coord.holdings.assignments import Assignment, draft
from mnemo_coord.holdings.git import Git

ME, YOU, HER = "0000000a", "0000000b", "0000000c"


def at(who: str, *globs: str, branch: str = "main", intent: str | None = None, mode: str = "coordinated") -> Assignment:
    return draft(who, branch, intent, globs, mode)


def alone(who: str, *globs: str, intent: str | None = None) -> Assignment:
    return at(who, *globs, intent=intent, mode="isolated")


FILES = ["src/a.py", "docs/b.md"]
TABLE = {
    "nobody is there": (None, [], []),
    "alone on everything": (None, [alone(YOU)], FILES),
    "alone with some files": (None, [alone(YOU, "docs/**")], FILES),
    "beside others, with some": (None, [at(YOU, "docs/**")], ["docs/b.md"]),
    "beside others, with all": (None, [at(YOU)], FILES),
    "a folder by its name": (None, [at(YOU, "src")], ["src/a.py"]),
    "other files": (None, [at(YOU, "tests/**")], []),
    "a reader": (None, [at(YOU, intent="read")], []),
    "a reader alone": (None, [alone(YOU, intent="read")], []),
    "another branch": (None, [at(YOU, branch="other")], []),
    "a branch by another case": (None, [at(YOU, branch="Main")], []),
    "its holder": (YOU, [alone(YOU)], []),
    "its holder, with some files": (YOU, [alone(YOU, "docs/**")], []),
    "somebody with nothing": (ME, [alone(YOU)], FILES),
    "somebody on another branch": (ME, [alone(YOU), at(ME, branch="other")], FILES),
    "somebody who reads": (ME, [alone(YOU), at(ME, intent="read")], FILES),
    "each with its own": (ME, [at(YOU, "docs/**"), at(ME, "src/**")], ["docs/b.md"]),
    "beside, without consent": (ME, [alone(YOU), at(ME, "src/**")], FILES),
    "let in by consent": (ME, [replace(alone(YOU), admits=(ME,)), at(ME, "src/**")], ["docs/b.md"]),
    "consented to somebody else": (ME, [replace(alone(YOU), admits=(HER,)), at(ME, "src/**")], FILES),
    "who consented": (ME, [alone(YOU), replace(at(ME, "src/**"), admits=(YOU,))], ["docs/b.md"]),
    "past those in the way": (ME, [alone(YOU), replace(at(ME, "src/**"), bypassed=True)], ["docs/b.md"]),
    "whom somebody came past": (ME, [replace(alone(YOU), bypassed=True), at(ME, "src/**")], ["docs/b.md"]),
    "consent of one of two": (ME, [replace(at(YOU), admits=(ME,)), at(HER), at(ME)], FILES),
    "consent without coming": (ME, [replace(alone(YOU), admits=(ME,))], FILES),
}


@pytest.mark.parametrize(("committer", "assignments", "refused"), TABLE.values(), ids=TABLE)
def test_what_is_refused(committer: str | None, assignments: list[Assignment], refused: list[str]) -> None:
    for order in (assignments, assignments[::-1]):
        assert [one.path for one in guard.refusals(FILES, "main", committer, order)] == refused


def test_a_refusal_says_who_and_why() -> None:
    found = guard.refusals(["src/a.py"], "main", None, [alone(YOU), at(HER, "x", "src/*.py")])
    assert [(one.instance_id, one.reason) for one in found] == [(YOU, "has the branch to itself"), (HER, "may change src/*.py")]


@pytest.mark.parametrize("path", ["a/" * 3000 + "b", "x" * 4000, "**", "[a]", "{a", "a\nb", "-x", os.fsdecode(b"\xff")])
def test_every_name_is_decided(path: str) -> None:
    assert guard.refusals([path], "main", None, [at(YOU)])
    assert guard.refusals([path], "main", None, [at(YOU, "**/*")])


def test_many_files_and_globs_are_decided() -> None:
    globs = [f"src/part{number}/**/*.py" for number in range(64)]
    paths = [f"src/part{number % 128}/deep/er/file{number}.py" for number in range(2000)]
    assert len(guard.refusals(paths, "main", None, [at(YOU, *globs)])) == 1024


def test_what_is_checked_out_and_staged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = lambda *args: subprocess.run(["git", *args], cwd=tmp_path, check=True, capture_output=True)  # noqa: E731
    assert guard.checked_out(Git(tmp_path)) is None, "no repository"
    git("init", "-q", "-b", "feature/a")
    (tmp_path / "sub").mkdir()
    for name in ("a", "sub/b"):
        (tmp_path / name).write_text("1")
    git("add", ".")
    for name, value in {"diff.relative": "true", "diff.orderFile": "none", "diff.external": "false"}.items():
        git("config", name, value)
    assert guard.checked_out(Git(tmp_path)) == "feature/a"
    assert guard.staged(Git(tmp_path / "sub")) == ["a", "sub/b"], "before the first commit, and whatever is configured"
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x")
    git("tag", "feature/a")
    assert guard.checked_out(Git(tmp_path)) == "feature/a", "beside a tag of the same name"
    assert guard.staged(Git(tmp_path)) == []
    git("mv", "a", "c")
    assert guard.staged(Git(tmp_path)) == ["a", "c"]
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "other"))
    assert guard.staged(Git(tmp_path)) == ["a", "c"]
    assert guard.staged(Git.of_hook(tmp_path)) == ["a", "sub/b"], "the index that git names: there nothing is"
    monkeypatch.delenv("GIT_INDEX_FILE")
    git("config", "--remove-section", "diff")
    git("checkout", "-q", "--detach")
    assert guard.checked_out(Git(tmp_path)) is None


def test_our_hook_is_known_by_every_byte() -> None:
    text = hook_script.render("pre-commit.before-mnemosyne-2", 2, "/a b/it's/mnemosyne", "/x/$(y)")
    assert hook_script.parse(text) == hook_script.Ours("pre-commit.before-mnemosyne-2", 2)
    for number in range(len(text)):
        if b"\n" in text[:number] and number > text.index(b"["):
            changed = text[:number] + bytes([text[number] ^ 1]) + text[number + 1 :]
            in_comment = text.index(b"]") <= number < text.index(b"\n", text.index(b"]"))
            assert (hook_script.parse(changed) is None) or in_comment
    assert hook_script.parse(b"") is None
