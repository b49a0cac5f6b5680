"""The state directory is found in the written order, used only when it is ours alone, and missed when it is replaced."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import support
from unit.kernel import need_root

from mnemo_coord import errors
from mnemo_coord.disk import files, layout
from mnemo_coord.disk import state_dir as room
from mnemo_coord.disk.state_dir import StateDir

NAME = ".mnemosyne"


def git(place: Path, *args: object) -> str:
    settings = ["user.name=n", "user.email=e@example.org", "protocol.file.allow=always", "init.defaultBranch=main"]
    options = [word for setting in settings for word in ("-c", setting)]
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    argv = ["git", *options, "-C", str(place), *map(str, args)]
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=30, env=surroundings).stdout


def repository(place: Path) -> Path:
    place.mkdir(parents=True)
    git(place, "init", "-q")
    git(place, "commit", "-q", "--allow-empty", "-m", "first")
    return place


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


# Where it is: each function makes a place and returns where one stands and what is found from there


def in_a_plain_folder(top: Path) -> tuple[Path, Path]:
    (top / "plain").mkdir()
    return top / "plain", top / "plain"


def below_one_that_has_it(top: Path) -> tuple[Path, Path]:
    (top / "a" / NAME).mkdir(parents=True)
    (top / "a" / "b" / "c").mkdir(parents=True)
    return top / "a" / "b" / "c", top / "a"


def below_two_that_have_it(top: Path) -> tuple[Path, Path]:
    below_one_that_has_it(top)
    (top / "a" / "b" / NAME).mkdir()
    return top / "a" / "b" / "c", top / "a" / "b"


def at_the_root_of_a_repository(top: Path) -> tuple[Path, Path]:
    return repository(top / "main"), top / "main"


def inside_a_repository(top: Path) -> tuple[Path, Path]:
    (repository(top / "main") / "src" / "deep").mkdir(parents=True)
    return top / "main" / "src" / "deep", top / "main"


def inside_the_git_folder(top: Path) -> tuple[Path, Path]:
    return repository(top / "main") / ".git" / "hooks", top / "main"


def in_a_repository_below_one_that_has_it(top: Path) -> tuple[Path, Path]:
    (top / NAME).mkdir()
    return inside_a_repository(top)


def in_a_repository_with_one_inside(top: Path) -> tuple[Path, Path]:
    here, main = inside_a_repository(top)
    (here / NAME).mkdir()
    return here, main


def in_a_linked_worktree(top: Path) -> tuple[Path, Path]:
    git(repository(top / "main"), "worktree", "add", "-q", top / "linked")
    (top / "linked" / "src").mkdir()
    return top / "linked" / "src", top / "main"


def in_a_worktree_inside_the_main_one(top: Path) -> tuple[Path, Path]:
    git(repository(top / "main"), "worktree", "add", "-q", top / "main" / "inner")
    return top / "main" / "inner", top / "main"


def in_a_worktree_that_was_moved(top: Path) -> tuple[Path, Path]:
    in_a_linked_worktree(top)
    git(top / "main", "worktree", "move", top / "linked", top / "moved")
    return top / "moved", top / "main"


def in_a_submodule(top: Path) -> tuple[Path, Path]:
    repository(top / "library")
    git(repository(top / "main"), "submodule", "add", "-q", top / "library", "module")
    return top / "main" / "module", top / "main" / "module"


def in_a_linked_worktree_of_a_submodule(top: Path) -> tuple[Path, Path]:
    _, module = in_a_submodule(top)
    git(module, "worktree", "add", "-q", top / "linked")
    return top / "linked", module


def in_a_repository_with_its_git_folder_elsewhere(top: Path) -> tuple[Path, Path]:
    (top / "main").mkdir()
    git(top, "init", "-q", "--separate-git-dir", top / "elsewhere.git", top / "main")
    return top / "main", top / "main"


def in_a_worktree_of_a_bare_repository(top: Path) -> tuple[Path, Path]:
    repository(top / "origin")
    (top / "project").mkdir()
    git(top, "clone", "-q", "--bare", top / "origin", top / "project" / ".bare")
    git(top / "project" / ".bare", "worktree", "add", "-q", top / "project" / "tree")
    return top / "project" / "tree", top / "project"


def in_a_bare_repository(top: Path) -> tuple[Path, Path]:
    git(top, "init", "-q", "--bare", "bare.git")
    return top / "bare.git", top / "bare.git"


def in_a_worktree_whose_repository_is_gone(top: Path) -> tuple[Path, Path]:
    in_a_linked_worktree(top)
    shutil.rmtree(top / "main")
    return top / "linked", top / "linked"


def beside_a_git_file_of_nonsense(top: Path) -> tuple[Path, Path]:
    (top / "odd").mkdir()
    (top / "odd" / ".git").write_bytes(b"\xff\0nonsense" * 1000)
    return top / "odd", top / "odd"


PLACES = [
    in_a_plain_folder,
    below_one_that_has_it,
    below_two_that_have_it,
    at_the_root_of_a_repository,
    inside_a_repository,
    inside_the_git_folder,
    in_a_repository_below_one_that_has_it,
    in_a_repository_with_one_inside,
    in_a_linked_worktree,
    in_a_worktree_inside_the_main_one,
    in_a_worktree_that_was_moved,
    in_a_submodule,
    in_a_linked_worktree_of_a_submodule,
    in_a_repository_with_its_git_folder_elsewhere,
    in_a_worktree_of_a_bare_repository,
    in_a_bare_repository,
    in_a_worktree_whose_repository_is_gone,
    beside_a_git_file_of_nonsense,
]


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """Above it is neither a repository nor a state directory."""
    place = tmp_path / "top"
    place.mkdir()
    assert room.main_worktree(tmp_path) is None
    return place


@pytest.mark.parametrize("make", PLACES)
def test_where_it_is(make: Callable[[Path], tuple[Path, Path]], top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W9."""
    here, expected = make(top)
    monkeypatch.chdir(here)
    before = support.tree(top)
    assert room.locate(None, {}) == expected / NAME
    assert support.tree(top) == before, "looking touches nothing"


@pytest.mark.parametrize("make", [in_a_plain_folder, below_one_that_has_it, in_a_linked_worktree])
def test_a_path_beats_the_variable_which_beats_the_place(
    make: Callable[[Path], tuple[Path, Path]], top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F11."""
    monkeypatch.chdir(make(top)[0])
    variable = {"MNEMOSYNE_DIR": str(top / "variable")}
    assert room.locate(top / "path", variable) == top / "path"
    assert room.locate(None, variable) == top / "variable"
    assert room.locate("", variable) == top / "variable"
    assert room.locate(None, {"MNEMOSYNE_DIR": ""}).name == NAME
    monkeypatch.setenv("MNEMOSYNE_DIR", str(top / "surroundings"))
    assert room.locate() == top / "surroundings"


def test_a_path_is_relative_to_here_and_its_folder_is_resolved(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(top)
    monkeypatch.setenv("HOME", str(top / "home"))
    (top / "real").mkdir()
    (top / "link").symlink_to("real")
    (top / "last").symlink_to("real")
    assert room.locate("x", {}) == top / "x"
    assert room.locate("~/x", {}) == top / "home" / "x"
    assert room.locate("link/x", {}) == top / "real" / "x"
    assert room.locate("last", {}) == top / "last", "its own last component is for the opening to refuse"


def test_a_home_that_nobody_has_is_a_path_like_any_other(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """I27. As a shell has it; opening it says that its parent folder does not exist."""
    monkeypatch.chdir(top)
    assert room.locate("~nobody-has-this-name/x", {}) == top / "~nobody-has-this-name" / "x"
    with pytest.raises(errors.State, match="its parent folder does not exist"):
        StateDir.open("~nobody-has-this-name/x")


def test_the_current_directory_may_be_gone(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """C3."""
    (top / "gone").mkdir()
    monkeypatch.chdir(top / "gone")
    (top / "gone").rmdir()
    for named in (None, "relative"):
        with pytest.raises(errors.State, match="the current directory is gone"):
            room.locate(named, {})
    assert room.locate(top / "x", {}) == top / "x"


# Making and opening it


@pytest.mark.parametrize("value", [0, 0o022, 0o777], ids=oct)
def test_everything_in_it_is_private_whatever_the_umask(value: int, state_dir: Path) -> None:
    """S1."""
    with umask(value):
        state = StateDir.open(state_dir)
        os.close(files.create("file", dir_fd=state.folder("coordination_queue/quarantine")))
    assert mode(state_dir) == 0o700
    assert {mode(path) for path in state_dir.rglob("*") if path.is_dir()} == {0o700}
    assert {mode(path) for path in state_dir.rglob("*") if path.is_file()} == {0o600}
    state.close()


def as_link(place: Path) -> None:
    (place.parent / "real").mkdir(0o700)
    place.symlink_to("real")


def as_dangling_link(place: Path) -> None:
    place.symlink_to("nowhere")


def as_file(place: Path) -> None:
    place.write_text("precious")


def as_pipe(place: Path) -> None:
    os.mkfifo(place, 0o600)


def as_open_folder(bits: int) -> Callable[[Path], None]:
    def make(place: Path) -> None:
        place.mkdir()
        place.chmod(bits)

    return make


def as_foreign_folder(place: Path) -> None:
    need_root()
    place.mkdir(0o700)
    os.chown(place, 65534, 65534)


def below_open_parent(place: Path) -> None:
    place.mkdir(0o700)
    place.parent.chmod(0o777)


REFUSED = {
    "a link": (as_link, "symbolic link"),
    "a dangling link": (as_dangling_link, "symbolic link"),
    "a file": (as_file, "not a folder"),
    "a pipe": (as_pipe, "not a folder"),
    "open to all": (as_open_folder(0o777), "mode 0777"),
    "readable": (as_open_folder(0o755), "mode 0755"),
    "open to the group": (as_open_folder(0o770), "mode 0770"),
    "another user's": (as_foreign_folder, "belongs to user 65534"),
    "in a folder where anyone can replace it": (below_open_parent, "world-writable"),
}


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize(("make", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_ours_alone_is_refused(make: Callable[[Path], None], reason: str, create: bool, state_dir: Path) -> None:
    """R20, C11, X2."""
    make(state_dir)
    before = support.tree(state_dir.parent)
    with pytest.raises(errors.Untrusted, match=reason) as caught:
        StateDir.open(state_dir, create=create)
    assert caught.value.exit_code == 6
    assert caught.value.hint
    assert str(caught.value.path) in {str(state_dir), str(state_dir.parent)}
    assert support.tree(state_dir.parent) == before
    assert not (state_dir.parent / "nowhere").exists()


@pytest.mark.parametrize("bits", [0o1777, 0o775, 0o755], ids=oct)
def test_a_parent_in_which_nobody_else_can_replace_it_will_do(bits: int, state_dir: Path) -> None:
    state_dir.parent.chmod(bits)
    StateDir.open(state_dir).close()
    assert mode(state_dir.parent) == bits


def test_the_doctor_tightens_what_is_ours(state_dir: Path) -> None:
    """R20."""
    as_open_folder(0o755)(state_dir)
    StateDir.open(state_dir, create=False, tighten=True).close()
    assert mode(state_dir) == 0o700


def test_the_doctor_leaves_another_users_folder_and_a_link_alone(state_dir: Path) -> None:
    as_link(state_dir)
    (state_dir.parent / "real").chmod(0o755)
    with pytest.raises(errors.Untrusted):
        StateDir.open(state_dir, tighten=True)
    assert mode(state_dir.parent / "real") == 0o755


def test_none_is_made_for_a_reader(state_dir: Path) -> None:
    """C2."""
    with pytest.raises(errors.NotFound, match="no fleet here yet") as caught:
        StateDir.open(state_dir, create=False)
    assert caught.value.exit_code == 3
    assert not state_dir.exists()
    StateDir.open(state_dir).close()
    reader = StateDir.open(state_dir, create=False)
    assert reader.listing("instances") == []
    with pytest.raises(FileNotFoundError):
        reader.folder("instances")
    assert list(state_dir.iterdir()) == []
    reader.close()


def test_its_parent_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(errors.State, match="its parent folder does not exist"):
        StateDir.open(tmp_path / "no" / "such" / NAME)
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("inner", ["instances", "coordination_queue/quarantine"])
def test_a_link_inside_is_not_followed(inner: str, state: StateDir, tmp_path: Path) -> None:
    """X2."""
    (tmp_path / "real").mkdir(mode=0o700)
    outer = (state.path / inner).parent
    if outer != state.path:
        state.folder(outer.name)
    (state.path / inner).symlink_to(tmp_path / "real")
    with pytest.raises(errors.Untrusted):
        state.folder(inner)
    assert list((tmp_path / "real").iterdir()) == []


def test_closing_leaves_no_descriptor(state_dir: Path) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    state = StateDir.open(state_dir)
    state.folder("coordination_queue/quarantine")
    shutil.rmtree(state_dir)
    state.reopen()
    state.folder("instances")
    state.close()
    state.close()
    assert sorted(os.listdir("/proc/self/fd")) == before


# git does not see it


@pytest.mark.parametrize(
    "make",
    [
        at_the_root_of_a_repository,
        inside_a_repository,
        in_a_linked_worktree,
        in_a_submodule,
        in_a_repository_with_its_git_folder_elsewhere,
    ],
)
def test_git_does_not_see_it(
    make: Callable[[Path], tuple[Path, Path]], top: Path, monkeypatch: pytest.MonkeyPatch, umask_of_users: None
) -> None:
    """T5."""
    here, expected = make(top)
    monkeypatch.chdir(here)
    for _ in range(3):
        state = StateDir.open()
        assert state.path == expected / NAME
        (state.path / "file").touch()
        assert git(expected, "status", "--porcelain", "--untracked-files=all", "--", NAME) == ""
        state.close()
        shutil.rmtree(state.path)
    exclude = expected / git(expected, "rev-parse", "--git-path", "info/exclude").strip()
    assert exclude.read_text().splitlines().count(f"/{NAME}/") == 1, "once, however often it is made"


@pytest.fixture
def umask_of_users() -> Iterator[None]:
    with umask(0o022):
        yield


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, f"/{NAME}/\n"),
        ("", f"/{NAME}/\n"),
        ("*.log\n", f"*.log\n/{NAME}/\n"),
        ("*.log", f"*.log\n/{NAME}/\n"),
        (f"/{NAME}/", f"/{NAME}/"),
        (f"a\n/{NAME}/\nb\n", f"a\n/{NAME}/\nb\n"),
    ],
)
def test_what_was_excluded_stays_excluded(before: str | None, after: str, top: Path) -> None:
    exclude = repository(top / "main") / ".git" / "info" / "exclude"
    shutil.rmtree(exclude.parent)
    if before is not None:
        exclude.parent.mkdir()
        exclude.write_text(before)
    StateDir.open(top / "main" / NAME).close()
    assert exclude.read_text() == after


def test_a_folder_of_another_name_is_not_excluded(top: Path) -> None:
    exclude = repository(top / "main") / ".git" / "info" / "exclude"
    before = exclude.read_text()
    StateDir.open(top / "main" / "fleet").close()
    assert exclude.read_text() == before


# It goes while it is open


def rename_away(state: StateDir) -> None:
    state.path.rename(state.path.with_name("away"))


def remove(state: StateDir) -> None:
    shutil.rmtree(state.path)


def replace_by_another(state: StateDir) -> None:
    rename_away(state)
    state.path.mkdir(0o700)


def replace_by_a_link(state: StateDir) -> None:
    rename_away(state)
    state.path.symlink_to("away")


def remove_a_folder(state: StateDir) -> None:
    shutil.rmtree(state.path / "instances")


def replace_a_folder(state: StateDir) -> None:
    remove_a_folder(state)
    (state.path / "instances").mkdir(0o700)


def rename_an_inner_folder(state: StateDir) -> None:
    (state.path / "coordination_queue" / "tmp").rename(state.path / "tmp")


@pytest.mark.parametrize(
    "change",
    [rename_away, remove, replace_by_another, remove_a_folder, replace_a_folder, rename_an_inner_folder],
)
def test_a_replaced_directory_is_noticed_and_moved_into(change: Callable[[StateDir], None], state: StateDir) -> None:
    """R1, I16."""
    state.folder("instances")
    state.folder("coordination_queue/tmp")
    assert state.is_current()
    old = state.fd
    change(state)
    assert not state.is_current()
    state.reopen()
    assert state.is_current()
    for name in ("instances", "coordination_queue/tmp"):
        os.close(files.create("file", dir_fd=state.folder(name)))
        assert (state.path / name / "file").exists()
    assert state.is_current()
    os.fstat(old)  # another thread may be using it this instant


def test_a_link_in_its_place_is_noticed_and_refused(state: StateDir) -> None:
    """X2."""
    replace_by_a_link(state)
    assert not state.is_current()
    with pytest.raises(errors.Untrusted):
        state.reopen()


def test_a_reader_does_not_make_it_anew(state: StateDir) -> None:
    reader = StateDir.open(state.path, create=False)
    remove(state)
    assert not reader.is_current()
    with pytest.raises(errors.NotFound):
        reader.reopen()
    reader.close()


def test_a_renamed_directory_is_still_the_one_that_was_opened(state: StateDir) -> None:
    """X2."""
    fd = state.folder("instances")
    replace_by_another(state)
    os.close(files.create("file", dir_fd=fd))
    assert (state.path.with_name("away") / "instances" / "file").exists()
    assert not (state.path / "instances").exists()


# What the doctor says


def plant_oddities(state: StateDir, target: Path) -> dict[str, str]:
    """Something of each kind. Returns the subject and code of each finding."""
    target.write_text("precious")
    target.chmod(0o644)
    for name in ("instances", "claims", "coordination_queue/quarantine", "quarantine"):
        state.folder(name)
    (state.path / "instances").chmod(0o755)
    (state.path / "open").write_text("x")
    (state.path / "open").chmod(0o644)
    (state.path / "claims" / "link").symlink_to(target)
    os.mkfifo(state.path / "claims" / "pipe", 0o600)
    with socket.socket(socket.AF_UNIX) as planted:
        here = os.getcwd()
        os.chdir(state.path)
        try:
            planted.bind("socket")
        finally:
            os.chdir(here)
    (state.path / "fine").touch(0o600)
    (state.path / "quarantine" / "set-aside").symlink_to(target)
    (state.path / "worktrees" / "a1b2c3d4").mkdir(parents=True)
    (state.path / "worktrees").chmod(0o700)
    (state.path / "worktrees" / "a1b2c3d4" / "code.py").touch(0o644)
    (state.path / "worktrees" / "a1b2c3d4" / "link").symlink_to("code.py")
    return {
        "claims/link": "not-regular",
        "claims/pipe": "not-regular",
        "instances": "mode-too-open",
        "open": "mode-too-open",
        "socket": "not-regular",
    }


def test_looking_names_what_is_odd_and_changes_nothing(state: StateDir, tmp_path: Path) -> None:
    """I22, R17, R20."""
    planted = plant_oddities(state, tmp_path / "target")
    before = support.tree(tmp_path)
    found = layout.check(state, stamp=7)
    assert {finding.subject: finding.code for finding in found} == planted
    assert len(found) == len(planted)
    assert not any(finding.fixed for finding in found)
    assert support.tree(tmp_path) == before


def test_mending_mends_all_of_it_and_touches_no_target(state: StateDir, tmp_path: Path) -> None:
    """I22, C13."""
    planted = plant_oddities(state, tmp_path / "target")
    target = support.tree(tmp_path)["target"]
    people = support.tree(state.path / "worktrees")
    found = layout.check(state, stamp=7, fix=True)
    assert {finding.subject: finding.code for finding in found if finding.fixed} == planted
    assert support.tree(tmp_path)["target"] == target
    assert support.tree(state.path / "worktrees") == people
    assert mode(state.path / "instances") == 0o700
    assert mode(state.path / "open") == 0o600
    assert sorted(path.name for path in (state.path / "quarantine").iterdir()) == ["link.7", "pipe.7", "set-aside", "socket.7"]
    assert layout.check(state, stamp=8, fix=True) == []


def test_setting_aside_loses_nothing(state: StateDir, tmp_path: Path) -> None:
    """I22. Two of one name, seen in the same instant."""
    for name in ("instances", "claims", "locks"):
        state.folder(name)
        (state.path / name / "same").symlink_to(tmp_path / f"target-of-{name}")
    layout.check(state, stamp=7, fix=True)
    kept = {os.readlink(path) for path in (state.path / "quarantine").iterdir()}
    assert kept == {str(tmp_path / f"target-of-{name}") for name in ("instances", "claims", "locks")}


def test_a_hard_link_to_a_file_of_the_user_is_not_tightened(state: StateDir, tmp_path: Path) -> None:
    """R17."""
    (tmp_path / "target").write_text("precious")
    (tmp_path / "target").chmod(0o644)
    os.link(tmp_path / "target", state.path / "planted")
    (finding,) = layout.check(state, stamp=7, fix=True)
    assert (finding.subject, finding.code, finding.fixed) == ("planted", "mode-too-open", False)
    assert mode(tmp_path / "target") == 0o644


def test_another_users_file_is_named_and_left(state: StateDir) -> None:
    """R20."""
    need_root()
    (state.path / "theirs").touch(0o600)
    os.chown(state.path / "theirs", 65534, 65534)
    (finding,) = layout.check(state, stamp=7, fix=True)
    assert (finding.subject, finding.code, finding.fixed) == ("theirs", "foreign-owner", False)
    assert (state.path / "theirs").stat().st_uid == 65534


def test_an_open_key_is_left_to_its_own_check(state: StateDir) -> None:
    """S4. What others could read has to be replaced, not hidden."""
    (state.path / "secret").touch(0o644)
    (state.path / "secret").chmod(0o644)
    (finding,) = layout.check(state, stamp=7, fix=True)
    assert (finding.subject, finding.fixed) == ("secret", False)
    assert mode(state.path / "secret") == 0o644
