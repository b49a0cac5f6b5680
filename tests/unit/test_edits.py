"""What is being changed is stored whole under any name, and what collides is said once, by rules that are tables."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import support

from mnemo_coord.disk import records
from mnemo_coord.disk.folders import Folders
from mnemo_coord.disk.signing import Purpose, Signer
from mnemo_coord.disk.state_dir import StateDir
from mnemo_coord.edit_watch import _payload, settled_in
from mnemo_coord.holdings import edits
from mnemo_coord.holdings.assignments import Assignment, Intent, Mode
from mnemo_coord.holdings.checkout import Checkout, changed_paths, folders_around, git_folder
from mnemo_coord.holdings.edit_collisions import all_collisions, collisions, narrowed, shown
from mnemo_coord.holdings.edits import Edits, drawn_up, meant, spelled

SIGNER, ME, OTHER, THIRD = Signer(b"x" * 32), "a1b2c3d4", "00000002", "00000003"
HOSTILE = ["a\nb", 'say "x"', "\udcff\udc80", "x" * 250, "50%", "%0A", "\x1b[31m", "a\u202eb", "ü/ä", "\\", "a b"]


@pytest.fixture
def state(state_dir: Path) -> Iterator[StateDir]:
    opened = StateDir.open(state_dir)
    yield opened
    opened.close()


def said(who: str, *files: str, at: str = "", branch: str | None = "", repository: str = "/r/.git") -> Edits:
    name = f"branch-{who}" if branch == "" else branch
    return Edits(instance_id=who, checkout=at or f"/{who}", repository=repository, branch=name, files=files)


def holds(who: str, mode: Mode, *files: str, intent: Intent = Intent.WRITE, **more: object) -> Assignment:
    made = Assignment(branch="main", instance_id=who, intent=intent, files=files or ("**",), mode=mode)
    return replace(made, **more)  # type: ignore[arg-type]


# Names


@pytest.mark.parametrize("path", HOSTILE)
def test_any_name_is_spelled_in_printable_text_and_read_back(path: str) -> None:
    assert spelled(path).isprintable()
    assert spelled(path).encode()
    assert meant(spelled(path)) == path


def test_two_names_are_never_spelled_alike() -> None:
    assert len({spelled(path) for path in [*HOSTILE, "a%0Ab", "%FF%00"]}) == len(HOSTILE) + 2


# The record


def test_what_was_written_is_read_back(state: StateDir) -> None:
    one = replace(said(ME, *sorted(HOSTILE), branch=None), checkout="/\udcff\n", more=3)
    edits.write(state, SIGNER, one)
    assert edits.read(state, SIGNER, ME) == one
    assert edits.read_all(state, SIGNER) == {ME: one}
    assert (state.path / "edits" / f"{ME}.json").stat().st_mode & 0o777 == 0o600
    assert edits.is_there(state, ME)
    edits.remove(state, ME)
    edits.remove(state, ME)
    assert os.listdir(state.path / "edits") == []
    assert not edits.is_there(state, ME)


def test_what_is_not_ours_is_not_heeded(state: StateDir) -> None:
    edits.write(state, SIGNER, said(ME, "a"))
    path = state.path / "edits" / f"{ME}.json"
    sealed = path.read_bytes()
    body = records.unseal(sealed, SIGNER, Purpose.EDITS, "x")
    for spoiled in (
        b"", sealed[:-1], sealed.replace(b'"a"', b'"b"'), records.seal(body, SIGNER, Purpose.RECORD),
        records.seal(body, Signer(b"y" * 32), Purpose.EDITS), records.seal({**body, "instance_id": OTHER}, SIGNER, Purpose.EDITS),
        *(records.seal({**body, **harm}, SIGNER, Purpose.EDITS) for harm in ({"files": "a"}, {"files": [1]}, {"more": None}, {"branch": 1}, {"files": ["a"] * 1001})),
    ):  # fmt: skip
        path.write_bytes(spoiled)
        assert edits.read(state, SIGNER, ME) is None, spoiled
    path.unlink()
    os.mkfifo(path)
    assert edits.read_all(state, SIGNER) == {}


def test_a_record_is_bounded(state: StateDir) -> None:
    many = drawn_up(ME, "/c", "/r", "main", [f"{number:04}" for number in range(1003)])
    assert (len(many.files), many.more) == (1000, 3)
    long = drawn_up(ME, "/c", "/r", "main", [f"{number:04}" + "\udcff" * 4000 for number in range(1000)])
    assert 0 < len(long.files) < 1000
    assert len(long.files) + long.more == 1000
    edits.write(state, SIGNER, long)
    assert edits.read(state, SIGNER, ME) == long


def test_leftovers_are_found_and_a_writer_at_work_is_not(state: StateDir) -> None:
    edits.write(state, SIGNER, said(ME))
    edits.write(state, SIGNER, said(OTHER))
    folder = state.path / "edits"
    for name in (f"{ME}.json.{os.getpid()}.tmp", f"{ME}.json.99999999.tmp", "rubbish"):
        (folder / name).touch()
    found = edits.check(state, lambda who: who == ME)
    left = {f"{OTHER}.json", f"{ME}.json.99999999.tmp", "rubbish"}
    assert {(finding.code, finding.subject) for finding in found} == {("leftover-edits", f"edits/{name}") for name in left}
    assert all(finding.fixed for finding in edits.check(state, lambda who: who == ME, fix=True))
    assert set(os.listdir(folder)) == {f"{ME}.json", f"{ME}.json.{os.getpid()}.tmp"}


# What git says


def test_what_git_says_is_changed() -> None:
    status = " M a\0?? b c\0D  d\0UU e\n\0MM a\0?? other-repository/\0A  -> f\0"
    assert changed_paths(status) == ["-> f", "a", "b c", "d", "e\n"]
    assert changed_paths("") == []


def test_the_repository_is_found_without_git(tmp_path: Path) -> None:
    def git(*argv: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *argv], cwd=tmp_path, check=True)

    git("init", "-q", "main")
    git("-C", "main", "commit", "-q", "--allow-empty", "-m", "first")
    git("-C", "main", "worktree", "add", "-q", str(tmp_path / "linked"))
    for place in ("main", "linked"):
        (tmp_path / place / "in").mkdir()
        assert (
            git_folder(tmp_path / place / "in") == Checkout.around(tmp_path / place).repository == str(tmp_path / "main/.git")
        )
    assert git_folder(tmp_path) is None


def test_folders_around_files() -> None:
    assert folders_around([]) == {""}
    assert folders_around(["a", "b/c/d", "b/e"]) == {"", "b", "b/c"}


@pytest.mark.parametrize(
    ("now", "first", "last", "left"),
    [(9.0, None, 0.0, None), (1.0, 1.0, 1.0, 0.1), (1.05, 1.0, 1.05, 0.1), (1.2, 1.0, 1.0, 0.0), (1.45, 1.0, 1.44, 0.05), (1.6, 1.0, 1.59, 0.0)],
)  # fmt: skip
def test_when_it_has_settled(now: float, first: float | None, last: float, left: float | None) -> None:
    assert settled_in(now, first, last) == (None if left is None else pytest.approx(left))


# Collisions

CASES = {
    "the same file": (said(ME, "a", "b"), [said(OTHER, "b", "c")], [], [("error", OTHER, ("b",))]),
    "other files": (said(ME, "a"), [said(OTHER, "b")], [], []),
    "critical": (said(ME, "db/migrations/1.sql"), [said(OTHER, "db/migrations/1.sql")], [], [("block", OTHER, ("db/migrations/1.sql",))]),
    "critical, but not what collides": (said(ME, "a", "db/migrations/1"), [said(OTHER, "a")], [], [("error", OTHER, ("a",))]),
    "another repository": (said(ME, "a"), [said(OTHER, "a", repository="/s/.git")], [], []),
    "the same checkout": (said(ME, "a", at="/c"), [said(OTHER, "a", at="/c")], [], []),
    "three": (said(ME, "a", "b"), [said(OTHER, "a"), said(THIRD, "a", "b")], [], [("error", OTHER, ("a",)), ("error", THIRD, ("a", "b"))]),
    "alone on the branch": (said(ME, "a", branch="main"), [], [holds(OTHER, Mode.ISOLATED, "z")], [("error", OTHER, ("a",))]),
    "critical, alone on the branch": (said(ME, "db/migrations/1", branch="main"), [], [holds(OTHER, Mode.ISOLATED)], [("block", OTHER, ("db/migrations/1",))]),
    "held": (said(ME, "src/a", "b", branch="main"), [], [holds(OTHER, Mode.COORDINATED, "src/**")], [("error", OTHER, ("src/a",))]),
    "not held": (said(ME, "b", branch="main"), [], [holds(OTHER, Mode.COORDINATED, "src/**")], []),
    "held on another branch": (said(ME, "a", branch="x"), [], [holds(OTHER, Mode.ISOLATED)], []),
    "no branch": (said(ME, "a", branch=None), [], [holds(OTHER, Mode.ISOLATED)], []),
    "held by me": (said(ME, "a", branch="main"), [], [holds(ME, Mode.ISOLATED)], []),
    "a reader": (said(ME, "a", branch="main"), [], [holds(OTHER, Mode.ISOLATED, intent=Intent.READ)], []),
    "it admits me": (said(ME, "a", branch="main"), [], [holds(OTHER, Mode.ISOLATED, admits=(ME,))], []),
    "I bypassed": (said(ME, "a", branch="main"), [], [holds(OTHER, Mode.ISOLATED), holds(ME, Mode.ISOLATED, bypassed=True)], []),
    "held by who is in the same checkout": (said(ME, "a", branch="main", at="/c"), [said(OTHER, at="/c")], [holds(OTHER, Mode.ISOLATED)], []),
    "changed and held by the same": (said(ME, "a", "b", branch="main"), [said(OTHER, "a")], [holds(OTHER, Mode.ISOLATED)], [("error", OTHER, ("a",)), ("error", OTHER, ("b",))]),
}  # fmt: skip
CRITICAL = ("**/migrations/**",)


@pytest.mark.parametrize("case", CASES)
def test_what_collides(case: str) -> None:
    own, others, held, expected = CASES[case]
    found = collisions(own, others, held, CRITICAL)
    assert [(str(one.severity), one.other, one.files) for one in found] == expected
    for one in found:
        assert (one.instance_id, one.kind, one.branch) == (ME, "edits", own.branch)
        assert one.other in one.reason


def test_each_pair_is_listed_once() -> None:
    everybody = {one.instance_id: one for one in (said(ME, "a", branch="main"), said(OTHER, "a"), said(THIRD, "z"))}
    held = {"/r/.git": [holds(THIRD, Mode.COORDINATED, "a")], "/s/.git": [holds(OTHER, Mode.ISOLATED)]}
    found = all_collisions(everybody, held, ())
    assert sorted((one.instance_id, one.other) for one in found) == [(ME, OTHER), (ME, THIRD)]


def test_what_is_shown_is_bounded_and_printable() -> None:
    names = [f"{number:02}\n" for number in range(25)]
    (found,) = collisions(said(ME, *names, branch=None), [said(OTHER, *names, branch="\u202e")], [], ())
    one = shown(found)
    assert one.files == (*(f"{number:02}%0A" for number in range(20)), "…")
    assert one.branch == ""
    assert one.reason.isprintable()
    assert narrowed(found, {"03\n"}, ("03*",)).files == ("03\n",)
    assert narrowed(found, {"03\n"}, ("03*",)).severity == "block"


@pytest.mark.parametrize("name", ['"' * 120, "\udcff" * 80, "x" * 250, "ü" * 125])
def test_a_message_about_it_always_fits(name: str) -> None:
    own = said(ME, *(f"{number}{name}" for number in range(30)), branch="b" * 250)
    (found,) = collisions(own, [said(OTHER, *own.files, branch="c" * 250)], [], ())
    assert len(records.encode(_payload(found))) < 620
    assert _payload(found)["kind"] == "edits"


# Folders


def test_folders_ring_for_every_change_and_for_no_reader(tmp_path: Path) -> None:
    rung: list[tuple[str, str, bool]] = []
    folders = Folders(lambda *what: rung.append(what))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "f").write_text("x")
    (tmp_path / "out").mkdir()
    place = str(tmp_path / "in")
    assert folders.watch([place, str(tmp_path / "gone")])
    assert not folders.watch([place])
    assert folders.sound
    (tmp_path / "in" / "f").read_text()
    os.listdir(tmp_path / "in")
    inner, outer = tmp_path / "in", tmp_path / "out"
    for change, *args in (
        ((inner / "f").write_text, "y"), ((inner / "f").chmod, 0o700), ((inner / "f").rename, inner / "g"),
        ((inner / "g").rename, outer / "g"), ((outer / "g").rename, inner / "h"), ((inner / "h").unlink,),
        ((inner / "d").mkdir,), ((inner / "d").rmdir,),
    ):  # fmt: skip
        assert [one for one in rung if one[1] not in {"f", "g", "h", "d"}] == []
        rung.clear()
        change(*args)
        support.wait_until(lambda: rung, 5)
    rung.clear()
    (tmp_path / "in").rename(tmp_path / "moved")
    (tmp_path / "in").mkdir()
    assert folders.watch([place]), "another folder at the same path is watched"
    (tmp_path / "in" / "new").touch()
    support.wait_until(lambda: (place, "new", False) in rung, 5)
    folders.stop()
    folders.stop()
    assert not folders.sound
