"""Worktrees: all or nothing when they are made, and never taken away with work in them."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import support
from support import git

from mnemo_coord import Coordinator, Fleet, Settings, errors
from mnemo_coord.disk.clock import SystemClock
from mnemo_coord.holdings.risks import Risk
from mnemo_coord.members.identity import ProcessIdentity
from mnemo_coord.members.registration import Registration

FAST = Settings(heartbeat_interval=0.2, poll_interval=0.1)


@pytest.fixture
def root(state_dir: Path) -> Path:
    """A repository with one commit; the fleet's state directory is in it."""
    folder = state_dir.parent
    git(folder, "init", "-q", "-b", "main")
    (folder / "a").write_text("a\n")
    (folder / ".gitignore").write_text(".env\nbuild/\n")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    return folder.resolve()


@pytest.fixture
def fleet(state_dir: Path, root: Path) -> Fleet:
    return Fleet.open(state_dir)


def nobody(instance_id: str = "0123abcd") -> Registration:
    """The registration of an instance that is gone."""
    process = ProcessIdentity.own(SystemClock())
    gone = subprocess.Popen(["true"])
    gone.wait()
    fields = {name: getattr(process, name) for name in ProcessIdentity._fields}
    return Registration(
        instance_id=instance_id, name=None, roles=(), registered_at="2026-01-01T00:00:00Z", seq=1, api_port=None, api_host=None,
        branch=None, worktree_path=None, lock=(1, 1), process=ProcessIdentity(**{**fields, "pid": gone.pid, "pidfd_inode": 1}),
    )  # fmt: skip


def listed(root: Path) -> list[str]:
    return [
        line.removeprefix("worktree ")
        for line in git(root, "worktree", "list", "--porcelain").splitlines()
        if line.startswith("worktree ")
    ]


def branches(root: Path) -> set[str]:
    return set(git(root, "branch", "--format=%(refname:short)").split())


def is_clean(root: Path) -> bool:
    fsck = subprocess.run(["git", "fsck", "--no-dangling"], cwd=root, capture_output=True, text=True, check=False)
    return fsck.returncode == 0 and listed(root) == [str(root)] and not list((root / ".git" / "worktrees").glob("*"))


# Made


def test_a_life_with_a_worktree(state_dir: Path, root: Path) -> None:
    with support.Serve(state_dir, "--name", "planner", "--worktree") as served:
        path = root / ".mnemosyne" / "worktrees" / served.instance_id
        assert (path / "a").read_text() == "a\n"
        assert os.readlink(f"/proc/{served.pid}/cwd") == str(path), "it works there"
        (shown,) = support.run("--dir", state_dir, "list", "--json").json
        assert (shown["worktree_path"], shown["branch"]) == (str(path), f"mnemosyne/{served.instance_id}")
        assert support.run("list", "--json", cwd=path).json[0]["instance_id"] == served.instance_id, (
            "one fleet for all worktrees"
        )
        assert ".mnemosyne" not in git(root, "status", "--porcelain"), "git does not see the state directory"
        refused = support.run("--dir", state_dir, "worktree", "remove", served.instance_id, "--yes")
        assert refused.returncode == 4
        assert "owned" in refused.stderr
        assert support.run("--dir", state_dir, "doctor", "--fix").returncode == 0
        assert path.exists()
        assert served.stop() == 0
    assert is_clean(root)
    assert branches(root) == {"main"}
    assert os.listdir(state_dir / "worktrees") == []


def test_work_keeps_it_and_is_there_afterwards(state_dir: Path, root: Path) -> None:
    with Coordinator(state_dir, settings=FAST) as me:
        path = Path(me.open_worktree("feature/orders").path)
        (path / "a").write_text("changed\n")
        mine = me.instance_id
    assert (path / "a").read_text() == "changed\n"
    found = support.run("--dir", state_dir, "doctor", "--json")
    assert found.returncode == 1
    assert [(finding["code"], "dirty" in finding["message"]) for finding in found.json["findings"]] == [
        ("worktree-abandoned", True)
    ]
    assert support.run("--dir", state_dir, "worktree", "remove", mine, "--yes").returncode == 4
    assert support.run("--dir", state_dir, "worktree", "remove", mine, "--even-if", "dirty", "--yes").returncode == 0
    assert not path.exists()


def test_a_branch_of_ones_choice(fleet: Fleet, root: Path) -> None:
    git(root, "branch", "there")
    one = fleet.worktrees.add(nobody("00000001"), branch="there")
    assert (one.branch, one.complete, one.risks) == ("there", True, ())
    with pytest.raises(errors.Conflict, match="checked out at"):
        fleet.worktrees.add(nobody("00000002"), branch="there")
    with pytest.raises(errors.Conflict, match="checked out at"):
        fleet.worktrees.add(nobody("00000002"), branch="main")
    with pytest.raises(errors.Conflict, match="already"):
        fleet.worktrees.add(nobody("00000001"), branch="another")
    fleet.worktrees.remove("00000001")
    assert branches(root) == {"main", "there"}, "a person's branch stays"
    git(root, "tag", "v1")
    assert fleet.worktrees.add(nobody("00000003"), branch="new", base="v1").branch == "new"
    fleet.worktrees.remove("00000003")
    assert branches(root) == {"main", "there"}
    assert is_clean(root)


@pytest.mark.parametrize(
    ("branch", "base", "error"),
    [
        ("a b", "HEAD", errors.Config),
        ("-b", "HEAD", errors.Config),
        ("x", "none", errors.NotFound),
        ("x", "--all", errors.NotFound),
    ],
)
def test_what_is_refused_leaves_nothing(branch: str, base: str, error: type[Exception], fleet: Fleet, root: Path) -> None:
    with pytest.raises(error):
        fleet.worktrees.add(nobody(), branch=branch, base=base)
    assert is_clean(root)
    assert branches(root) == {"main"}
    assert not (root / ".mnemosyne" / "worktrees").exists() or os.listdir(root / ".mnemosyne" / "worktrees") == []


def test_no_repository_bare_and_unborn(tmp_path: Path) -> None:
    """W9."""
    for what, argv in (("none", None), ("bare", ["git", "init", "-q", "--bare", "."]), ("unborn", ["git", "init", "-q", "."])):
        folder = tmp_path / what
        folder.mkdir()
        if argv:
            subprocess.run(argv, cwd=folder, check=True)
        with Fleet.open(folder / ".mnemosyne") as fleet, pytest.raises(errors.NotFound):
            fleet.worktrees.add(nobody())
        done = support.run("serve", "--worktree", cwd=folder, env={"MNEMOSYNE_DIR": str(folder / ".mnemosyne")})
        assert done.returncode == 3
        assert len([line for line in done.stderr.splitlines() if line.startswith("mnemosyne: ")]) == 1
        assert "Traceback" not in done.stderr


def test_sixteen_at_once(state_dir: Path, root: Path) -> None:
    """W2."""
    upstream = root.parent / "upstream.git"
    subprocess.run(["git", "clone", "-q", "--bare", str(root), str(upstream)], check=True)
    git(root, "remote", "add", "origin", str(upstream))
    git(root, "fetch", "-q")
    git(root, "branch", "-q", "-u", "origin/main")
    members = [Coordinator(state_dir, settings=FAST) for _ in range(16)]
    for member in members:
        member.register()
    failures: list[BaseException] = []

    def add(member: Coordinator) -> None:
        try:
            member.open_worktree(base="origin/main")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=add, args=[member]) for member in members]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(listed(root)) == 17
    for member in members:
        member.unregister()
    assert is_clean(root)
    assert branches(root) == {"main"}


def test_eight_for_one_branch(fleet: Fleet, root: Path) -> None:
    """W1."""
    outcomes: list[str] = []

    def add(number: int) -> None:
        try:
            with Fleet.open(root / ".mnemosyne") as own:
                own.worktrees.add(nobody(f"{number:08x}"), branch="wanted")
            outcomes.append("won")
        except errors.Conflict as error:
            outcomes.append(str(error.holder))

    threads = [threading.Thread(target=add, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (path,) = [path for path in listed(root) if path != str(root)]
    assert sorted(outcomes) == sorted(["won"] + [path] * 7)


def test_ignored_files_that_a_checkout_needs(fleet: Fleet, root: Path) -> None:
    (root / ".worktreeinclude").write_text(".env\nbuild/cache/\na\nnot-ignored\n.mnemosyne\n")
    (root / ".env").write_text("KEY=1")
    (root / ".env").chmod(0o600)
    (root / "not-ignored").write_text("x")
    (root / "build" / "cache").mkdir(parents=True)
    (root / "build" / "cache" / "x").write_text("cached")
    (root / "build" / "other").write_text("not listed")
    (root / "build" / "cache" / "link").symlink_to("/etc/passwd")
    path = Path(fleet.worktrees.add(nobody()).path)
    assert (path / ".env").read_text() == "KEY=1"
    assert (path / ".env").stat().st_mode & 0o777 == 0o600
    assert (path / "build" / "cache" / "x").read_text() == "cached"
    assert (path / "build" / "cache" / "link").is_symlink(), "a link stays one"
    assert not (path / "build" / "other").exists()
    assert not (path / "not-ignored").exists()
    assert not (path / ".mnemosyne").exists()
    fleet.worktrees.remove("0123abcd")
    assert (root / ".env").exists()
    assert listed(root) == [str(root)]


# Taken away


def _dirty(path: Path) -> None:
    (path / "a").write_text("precious\n")


def _staged(path: Path) -> None:
    (path / "b").write_text("precious\n")
    git(path, "add", "b")


def _untracked(path: Path) -> None:
    (path / "b").write_text("precious\n")


def _unpushed(path: Path) -> None:
    git(path, "commit", "-q", "--allow-empty", "-m", "precious")


def _detached(path: Path) -> None:
    git(path, "checkout", "-q", "--detach")
    git(path, "commit", "-q", "--allow-empty", "-m", "precious")


def _busy(path: Path) -> None:
    (Path(git(path, "rev-parse", "--path-format=absolute", "--git-path", "MERGE_HEAD").strip())).write_text(
        git(path, "rev-parse", "HEAD")
    )


def _locked(path: Path) -> None:
    git(path, "worktree", "unlock", str(path))
    git(path, "worktree", "lock", "--reason", "on a stick", str(path))


@pytest.mark.parametrize(
    ("harm", "risk"),
    [(_dirty, Risk.DIRTY), (_staged, Risk.DIRTY), (_untracked, Risk.UNTRACKED), (_unpushed, Risk.UNPUSHED), (_detached, Risk.DETACHED), (_busy, Risk.BUSY), (_locked, Risk.LOCKED)],
)  # fmt: skip
def test_what_would_be_lost_keeps_it(harm, risk: Risk, fleet: Fleet, state_dir: Path, root: Path) -> None:
    path = Path(fleet.worktrees.add(nobody()).path)
    harm(path)
    before = {name: (path / name).read_bytes() for name in os.listdir(path) if (path / name).is_file()}
    assert [worktree.risks for worktree in fleet.worktrees.all()] == [(risk,)]
    with pytest.raises(errors.Conflict, match=risk) as refused:
        fleet.worktrees.remove("0123abcd")
    assert refused.value.risks == [str(risk)]
    fixed = support.run("--dir", state_dir, "doctor", "--fix", "--json")
    assert fixed.returncode == 1
    (finding,) = fixed.json["findings"]
    assert (finding["code"], finding["fixed"]) == ("worktree-abandoned", False)
    assert risk in finding["message"]
    assert support.run("--dir", state_dir, "worktree", "prune", "--yes", "--json").json[0]["outcome"] == "kept"
    planned = support.run("--dir", state_dir, "worktree", "remove", "0123abcd", "--even-if", risk)
    assert planned.returncode == 1
    assert {name: (path / name).read_bytes() for name in before} == before
    done = support.run("--dir", state_dir, "worktree", "remove", "0123abcd", "--even-if", risk, "--yes", "--json")
    assert done.returncode == 0, done.stderr
    assert not path.exists()
    if risk in {Risk.DIRTY, Risk.UNTRACKED}:
        git(root, "apply", done.json["patch"])
        assert "precious" in (root / ("a" if harm is _dirty else "b")).read_text()
    if risk is Risk.UNPUSHED:
        assert "precious" in git(root, "log", "-1", "--format=%s", "mnemosyne/0123abcd"), "the branch keeps the commit"
    assert listed(root) == [str(root)]


def test_looking_changes_nothing(fleet: Fleet, state_dir: Path, root: Path) -> None:
    """I22."""
    path = Path(fleet.worktrees.add(nobody()).path)
    _dirty(path)
    os.utime(path / ".gitignore")  # git would refresh its index at this

    def everything() -> dict[str, tuple[int, bytes]]:
        found = [one for one in root.rglob("*") if one.is_file() and not one.is_symlink()]
        return {str(one): (one.stat().st_mtime_ns, one.read_bytes()) for one in found}

    before = everything()
    assert support.run("--dir", state_dir, "doctor").returncode == 1
    assert support.run("--dir", state_dir, "worktree", "list").returncode == 0
    assert support.run("--dir", state_dir, "worktree", "prune").returncode == 0
    assert everything() == before


def test_owned_is_never_accepted(state_dir: Path, root: Path) -> None:
    with Coordinator(state_dir, settings=FAST) as me:
        path = Path(me.open_worktree().path)
        with pytest.raises(errors.Conflict, match="owned"):
            me.fleet.worktrees.remove(me.instance_id, accept=set(Risk))
        shutil.rmtree(state_dir / "instances")  # nothing says any more that it lives, but that its process runs
        with pytest.raises(errors.Conflict, match="owned"):
            me.fleet.worktrees.remove(me.instance_id, accept=set(Risk))
        assert path.exists()


def test_a_worktree_that_is_gone_moved_or_not_ours(fleet: Fleet, state_dir: Path, root: Path) -> None:
    """W5, W6."""
    shutil.rmtree(fleet.worktrees.add(nobody("00000001")).path)
    person = root.parent / "by-hand"
    git(root, "worktree", "add", "-q", "-b", "person", str(person))
    shutil.rmtree(person)
    (state_dir / "worktrees" / "0000000f").mkdir()
    looked = support.run("--dir", state_dir, "doctor", "--json")
    assert {finding["code"] for finding in looked.json["findings"]} == {"worktree-gone", "worktree-unknown"}
    fixed = support.run("--dir", state_dir, "doctor", "--fix", "--json")
    assert {finding["code"]: finding["fixed"] for finding in fixed.json["findings"]} == {
        "worktree-gone": True,
        "worktree-unknown": False,
    }
    assert listed(root) == [str(root), str(person)], "a person's entry is for that person"
    assert (state_dir / "worktrees" / "0000000f").exists()
    assert support.run("--dir", state_dir, "doctor").returncode == 0


@pytest.mark.parametrize("after", [0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12])
def test_killed_while_it_is_made(after: float, state_dir: Path, root: Path) -> None:
    """W3: with git, at any moment; the doctor names it, cleans it, and a retry works."""
    for number in range(200):
        (root / f"file-{number}").write_text("x" * 2000)
    git(root, "add", ".")
    git(root, "commit", "-qm", "many")
    code = """
    import os, sys, time
    from mnemo_coord import Coordinator
    me = Coordinator(sys.argv[1])
    me.register()
    print("registered", me.instance_id, flush=True)
    me.open_worktree("wanted")
    print("made", flush=True)
    time.sleep(60)
    """
    with support.python(code, state_dir.parent.parent / "out", state_dir) as child:
        mine = child.wait_for("registered").split()[1]
        time.sleep(after)  # the moment is the point
        for victim in support.descendants(child.pid):
            with suppress(psutil.NoSuchProcess):
                victim.kill()
        child.kill()
    fixed = support.run("--dir", state_dir, "doctor", "--fix")
    assert fixed.returncode == 0, (fixed.stdout, fixed.stderr)
    assert support.run("--dir", state_dir, "doctor").returncode == 0
    assert is_clean(root)
    assert branches(root) == {"main"}, mine
    with Coordinator(state_dir, settings=FAST) as me:
        assert me.open_worktree("wanted").complete


def test_a_full_disk_takes_back_what_was_begun(state_dir: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W15: a checkout that cannot be written to its end, here because a filter of the repository fails."""
    (root / ".gitattributes").write_text("a filter=broken\n")
    git(root, "add", ".")
    git(root, "commit", "-qm", "filter")
    git(root, "config", "filter.broken.smudge", "false")
    git(root, "config", "filter.broken.required", "true")
    with Coordinator(state_dir, settings=FAST) as me:
        with pytest.raises(errors.Command):
            me.open_worktree()
        assert is_clean(root)
        assert branches(root) == {"main"}
        assert os.listdir(state_dir / "worktrees") == []


def test_parallel_worktrees_random_kills_and_a_doctor(state_dir: Path, root: Path) -> None:
    """No live worktree touched, no uncommitted byte lost, and git finds nothing wrong."""
    chosen = random.Random(os.environ.get("PYTEST_RANDOMLY_SEED"))
    served = [support.Serve(state_dir, "--worktree") for _ in range(16)]
    try:
        places = {one.instance_id: state_dir / "worktrees" / one.instance_id for one in served}
        for one in served[::2]:
            (places[one.instance_id] / "work").write_text(one.instance_id)
        killed = chosen.sample(served, 8)
        doctors = [
            subprocess.Popen(
                [support.MNEMOSYNE, "--dir", str(state_dir), "doctor", "--fix"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for _ in range(2)
        ]
        for one in killed:
            time.sleep(chosen.random() / 5)
            one.kill()
        for doctor in doctors:
            doctor.wait(60)
        assert support.run("--dir", state_dir, "doctor", "--fix").returncode in {0, 1}
        for number, one in enumerate(served):
            place = places[one.instance_id]
            works = number % 2 == 0
            if one in killed:
                assert place.exists() is works, "what is clean goes, what is not stays"
            else:
                assert place.exists()
            if works:
                assert (place / "work").read_text() == one.instance_id
        fsck = subprocess.run(["git", "fsck"], cwd=root, capture_output=True, text=True, check=False)
        assert (fsck.returncode, [line for line in fsck.stdout.splitlines() if "dangling" not in line]) == (0, [])
        expected = [places[one.instance_id] for number, one in enumerate(served) if one not in killed or number % 2 == 0]
        assert sorted(listed(root)) == sorted(map(str, [root, *(place.resolve() for place in expected)]))
    finally:
        for one in served:
            one.__exit__()


def test_a_linked_worktree_is_reason_enough(state_dir: Path, root: Path) -> None:
    """As the seed says."""
    linked = root.parent / "linked"
    git(root, "worktree", "add", "-q", "-b", "linked", str(linked))
    argv = [support.MNEMOSYNE, "serve"]
    with support.Child(argv, root.parent / "logs", cwd=linked) as served:
        line = served.wait_for("works in")
        assert str(root / ".mnemosyne" / "worktrees") in line
        assert served.stop() == 0
    with support.Child([*argv, "--worktree=false"], root.parent / "logs", cwd=linked) as served:
        served.wait_for("is in the fleet at")
        assert "works in" not in served.log
        assert served.stop(signal.SIGINT) == 0
    assert sorted(listed(root)) == sorted([str(root), str(linked)])


def test_commands_speak_json(state_dir: Path, root: Path) -> None:
    with support.Serve(state_dir, "--name", "planner") as served:
        run = lambda *args: support.run("--dir", state_dir, "worktree", *args, "--json")  # noqa: E731
        made = run("add", "--for", "planner")
        assert made.returncode == 0, made.stderr
        assert json.loads(made.stdout)["branch"] == f"mnemosyne/{served.instance_id}"
        assert run("add", "--for", "planner").returncode == 4
        assert run("add", "--for", "nobody").returncode == 3
        assert run("add").returncode == 2
        assert [one["risks"] for one in run("list").json] == [["owned"]]
        assert run("prune", "--yes").json == [{"instance_id": served.instance_id, "outcome": "kept", "reason": "owned"}]
        assert run("remove", "0123abcd", "--yes").returncode == 3
        assert run("remove", served.instance_id, "--even-if", "owned", "--yes").returncode == 2
        assert support.run("--dir", state_dir, "list", "--json").json[0]["worktree_path"].endswith(served.instance_id)
        served.kill()
    assert run("prune").json[0]["outcome"] == "would be removed"
    assert run("prune", "--yes").json[0]["outcome"] == "removed"
    assert run("list").json == []
