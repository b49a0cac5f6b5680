"""Whatever is planted anywhere in the state directory: every command ends, says what is wrong, and touches nothing outside.

Each case replaces one place of a used state directory by one kind of thing and runs every command on a fresh copy of it, in
one forked process: an interpreter for each would take ten minutes. A watchdog in that process shows where it hangs.
"""

from __future__ import annotations

import faulthandler
import io
import json
import logging
import os
import pickle
import random
import shutil
import signal
import socket
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import support
from unit.kernel import need_root

import mnemo_coord.aio
import mnemo_coord.client
import mnemo_coord.doctor
from mnemo_coord import Coordinator, Settings, errors
from mnemo_coord.cli import (
    completion,
    config,
    dashboard,
    doctor,
    events,
    instances,
    own,
    queue,
    receive,
    report,
    send,
    serve,
    worktree,
)
from mnemo_coord.cli.main import main
from mnemo_coord.holdings import ports, worktrees
from mnemo_coord.messages.address import Address

LOADED = (
    completion, config, dashboard, doctor, events, instances, own, queue, receive, report, send, serve, worktree, ports, worktrees,
    mnemo_coord.aio, mnemo_coord.client, mnemo_coord.doctor,
)  # fmt: skip
"""Loaded before the fork, so that loading them is not measured in each case."""

LIMIT = 2.0
"""Seconds in which every command has to end."""

COMMANDS = (
    ("list",),
    ("doctor",),
    ("doctor", "--fix"),
    ("send", "--to", "inbox", "Work"),
    ("send", "--all", "Work"),
    ("receive", "--as", "inbox"),
    ("receive", "--as", "inbox", "--peek"),
    ("events",),
    ("queue",),
    ("report", "idle", "--as", "planner"),
    ("dashboard",),
    ("worktree", "list"),
    ("branch", "status"),
    ("serve", "--name", "inbox"),
)
MANY_DOCUMENTS = {"receive", "serve"}
"""They print one JSON document a line."""

# The used state directory

DIES = """
import sys, time
from mnemo_coord import Coordinator
me = Coordinator(sys.argv[1], name="inbox")
me.register()
me.report("idle")
me.branches.join("main", "read")
taken = next(iter(me.receive(timeout=5)))
print("took", taken.file, me.instance_id, flush=True)
time.sleep(60)
"""


@dataclass(frozen=True)
class Used:
    """A state directory that somebody has left, and in which somebody died with a name and a message in hand."""

    path: Path
    dead: str
    taken: str

    @property
    def box(self) -> str:
        return f"coordination_queue/{Address('inbox').folder}"

    @property
    def waiting(self) -> str:
        (name,) = os.listdir(self.path / self.box / "new")
        return name


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Used:
    place = tmp_path_factory.mktemp("used")
    path = place / "fleet"
    with Coordinator(path, name="planner", settings=Settings(poll_interval=0.2)) as me:
        me.send("inbox", "Work", 1)
        with support.python(DIES, place / "dies", path) as child:
            _, taken, dead = child.wait_for("took").split()
            me.send("inbox", "Work", 2)
            me.claim("lamp")
            me.unregister()  # so that nobody reaps
            child.kill()
    return Used(path, dead, taken)


PLACES: dict[str, Callable[[Used], str]] = {
    "process_registry.json": lambda used: "process_registry.json",
    "secret": lambda used: "secret",
    "history.jsonl": lambda used: "history.jsonl",
    "registry.lock": lambda used: "locks/registry.lock",
    "reaper.lock": lambda used: "locks/reaper.lock",
    "doctor.lock": lambda used: "locks/doctor.lock",
    "a dead one's lock": lambda used: f"instances/{used.dead}.lock",
    "a dead one's beat": lambda used: f"instances/{used.dead}.beat",
    "nobody's lock": lambda used: "instances/0badcafe.lock",
    "nobody's beat": lambda used: "instances/0badcafe.beat",
    "instances": lambda used: "instances",
    "claims": lambda used: "claims",
    "locks": lambda used: "locks",
    "quarantine": lambda used: "quarantine",
    "coordination_queue": lambda used: "coordination_queue",
    "tmp": lambda used: "coordination_queue/tmp",
    "refused": lambda used: "coordination_queue/quarantine",
    "dead_letter": lambda used: "coordination_queue/dead_letter",
    "mailbox": lambda used: used.box,
    "new": lambda used: f"{used.box}/new",
    "claimed": lambda used: f"{used.box}/claimed",
    "bell": lambda used: f"{used.box}/bell",
    "bell/bell": lambda used: f"{used.box}/bell/bell",
    "message": lambda used: f"{used.box}/new/{used.waiting}",
    "claimed message": lambda used: f"{used.box}/claimed/{used.dead}.{used.taken}",
    "claim's lock": lambda used: f"claims/name-{b'inbox'.hex()}.lock",
    "reports": lambda used: "reports",
    "report": lambda used: f"reports/{used.dead}.state",
    "edits": lambda used: "edits",
    "edits' record": lambda used: f"edits/{used.dead}.json",
    "traffic": lambda used: f"instances/{used.dead}.traffic",
    "token": lambda used: f"instances/{used.dead}.token",
    "worktrees": lambda used: "worktrees",
    "worktree's record": lambda used: f"worktrees/{used.dead}.json",
    "branches": lambda used: "branches",
    "branch record": lambda used: f"branches/{used.dead}.json",
    "branch_registry.json": lambda used: "branch_registry.json",
    "claim's record": lambda used: f"claims/name-{b'inbox'.hex()}.json",
}

# What is planted


def _listening(path: Path, precious: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.open(path.parent, os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{here}/{path.name}")  # a path of a socket has 107 bytes at most
        os.close(here)


def _sparse(path: Path, precious: Path) -> None:
    path.touch(0o600)
    os.truncate(path, 2**40)


def _content(data: bytes) -> Callable[[Path, Path], None]:
    def plant(path: Path, precious: Path) -> None:
        path.write_bytes(data)
        path.chmod(0o600)

    return plant


KINDS: dict[str, Callable[[Path, Path], None]] = {
    "FIFO": lambda path, precious: os.mkfifo(path, 0o600),
    "symlink to a file": lambda path, precious: path.symlink_to(precious / "file"),
    "symlink to a folder": lambda path, precious: path.symlink_to(precious / "folder"),
    "dangling symlink": lambda path, precious: path.symlink_to(precious / "nowhere"),
    "symlink to itself": lambda path, precious: path.symlink_to(path.name),
    "folder": lambda path, precious: path.mkdir(0o700),
    "socket": _listening,
    "device": lambda path, precious: os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5)),  # /dev/zero never ends
    "hard link": lambda path, precious: os.link(precious / "file", path),
    "a terabyte that is one hole": _sparse,
    "4 KB of NUL": _content(b"\0" * 4096),
    "64 KB of noise": _content(random.Random(1).randbytes(65536)),
}


def replace(place: Path, kind: str, precious: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    place.parent.mkdir(mode=0o700, exist_ok=True)
    KINDS[kind](place, precious)


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A user's file and folder outside of the state directory, which nothing may change."""
    outside = tmp_path / "precious"
    (outside / "folder").mkdir(parents=True, mode=0o700)
    for path in (outside / "file", outside / "folder" / "inner.json"):
        path.write_text('{"version":1,"instances":{}}')
        path.chmod(0o600)
        os.utime(path, (1_000_000_000, 1_000_000_000))
    os.utime(outside / "folder", (1_000_000_000, 1_000_000_000))
    return outside


# The commands


@dataclass(frozen=True)
class Outcome:
    argv: list[str]
    code: int
    seconds: float
    out: str
    err: str

    @property
    def faults(self) -> list[str]:
        """What is wrong with how this command ended."""
        found = []
        if self.code not in range(7):
            found.append(f"exit code {self.code}")
        if self.seconds > LIMIT:
            found.append(f"took {self.seconds:.1f} s")
        if self.argv[:1] != ["doctor"] and "--json" not in self.argv and self.code and len(self.complaints) != 1:
            found.append("not one line that says why")
        if "Traceback" in self.err or "Exception ignored" in self.err or "unexpected " in self.err + self.out:
            found.append("an error that nobody expected")
        if "--json" in self.argv and not self._is_json():
            found.append("no JSON")
        return [f"{' '.join(self.argv)}: {fault}\n{self.out}{self.err}" for fault in found]

    @property
    def complaints(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("mnemosyne: ")]

    def _is_json(self) -> bool:
        lines = self.out.splitlines()
        try:
            for line in lines:
                json.loads(line)
        except ValueError:
            return False
        return len(lines) == 1 or self.argv[0] in MANY_DOCUMENTS


def end_serve(log: io.StringIO) -> None:
    """Sends TERM to this process once ``serve`` is in the fleet."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    while "is in the fleet at" not in log.getvalue():
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGTERM)


def run(argv: list[str], state_dir: Path, stacks: io.TextIOBase) -> Outcome:
    """Runs one command in this process, which ends if the command hangs."""
    sys.stdout, sys.stderr = out, err = io.StringIO(), io.StringIO()
    if argv[0] == "serve":
        threading.Thread(target=end_serve, args=(err,), daemon=True).start()
    faulthandler.dump_traceback_later(LIMIT, exit=True, file=stacks)
    start = time.monotonic()
    try:
        code = main(["--dir", str(state_dir), *argv])
    except BaseException:
        traceback.print_exc()
        code = 99
    faulthandler.cancel_dump_traceback_later()
    return Outcome(argv, code, time.monotonic() - start, out.getvalue(), err.getvalue())


def as_started_by_a_shell() -> None:
    """Undoes what pytest has done to this process."""
    warnings.simplefilter("ignore")
    logging.getLogger().handlers.clear()
    threading.excepthook, sys.unraisablehook = threading.__excepthook__, sys.__unraisablehook__
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


FORMS: tuple[list[str], ...] = ([], ["--json"])


def forms(place: str, kind: str, number: int) -> tuple[list[str], ...]:
    """One of the two, in turn, so that each command has both at each place and with each kind; both where nothing is planted."""
    if not kind:
        return FORMS
    turn = list(PLACES).index(place) + list(KINDS).index(kind) + number
    return (FORMS[turn % 2],)


def every_command(
    used: Used, place: str, kind: str, precious: Path, tmp_path: Path, stacks: io.TextIOBase
) -> Iterator[Outcome]:
    for number, command in enumerate(COMMANDS):
        for form in forms(place, kind, number):
            state_dir = tmp_path / f"{number}{''.join(form)}"
            shutil.copytree(used.path, state_dir, symlinks=True)
            if kind:
                replace(state_dir / PLACES[place](used), kind, precious)
            print("did not end in time:", *command, *form, file=stacks, flush=True)
            yield run([*command, *form], state_dir, stacks)
            shutil.rmtree(state_dir)


def attempt(used: Used, place: str, kind: str, precious: Path, tmp_path: Path) -> list[Outcome]:
    """Runs every command in one forked process."""
    outcomes, stacks = tmp_path / "outcomes", tmp_path / "stacks"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside the threads of pytest-xdist
        child = os.fork()
    if child == 0:
        with stacks.open("w") as told:
            try:
                as_started_by_a_shell()
                found = list(every_command(used, place, kind, precious, tmp_path, told))
                outcomes.write_bytes(pickle.dumps(found))
                os._exit(0)
            except BaseException:
                traceback.print_exc(file=told)
                told.flush()
            finally:
                os._exit(1)
    _, status = os.waitpid(child, 0)
    return pickle.loads(outcomes.read_bytes()) if status == 0 else [Outcome([], -1, 0, "", stacks.read_text())]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_no_command_hangs_on_anything_planted(place: str, kind: str, used: Used, precious: Path, tmp_path: Path) -> None:
    """S1, S2, I9, I27, R17, Q23. Tried again once: a machine that is busy with something else may take long, too."""
    if kind == "device":
        need_root()
    before = support.tree(precious)
    for number in range(2):
        (tmp_path / f"{number}").mkdir()
        outcomes = attempt(used, place, kind, precious, tmp_path / f"{number}")
        assert support.tree(precious) == before, "something outside of the state directory was changed"
        faults = [fault for outcome in outcomes for fault in outcome.faults]
        if not faults:
            return
    pytest.fail("\n".join(faults))


def test_each_command_does_its_work_where_nothing_is_planted(used: Used, precious: Path, tmp_path: Path) -> None:
    """So that the commands above meet what is planted, and not each other."""
    outcomes = attempt(used, "", "", precious, tmp_path)
    assert [fault for outcome in outcomes for fault in outcome.faults] == []
    assert [outcome.code for outcome in outcomes] == [0, 0, 1, 1] + [0] * 12 + [0, 0, 3, 3, 3, 3, 0, 0, 0, 0, 0, 0], outcomes


SAMPLE = [("process_registry.json", "FIFO"), ("bell", "symlink to a folder"), ("message", "device"), ("claim's lock", "socket")]


@pytest.mark.parametrize(("place", "kind"), SAMPLE)
def test_the_same_as_commands_of_their_own(place: str, kind: str, used: Used, precious: Path, tmp_path: Path) -> None:
    """The processes that the cases above stand for."""
    if kind == "device":
        need_root()
    before = support.tree(precious)
    for number, command in enumerate(COMMANDS):
        state_dir = tmp_path / str(number)
        shutil.copytree(used.path, state_dir, symlinks=True)
        replace(state_dir / PLACES[place](used), kind, precious)
        argv = [support.MNEMOSYNE, "--dir", str(state_dir), *command]
        with support.Child(argv, tmp_path / "children") as child:
            if command[0] == "serve":
                support.wait_until(lambda child=child: child.process.poll() is not None or "is in the fleet at" in child.log)
                child.send_signal(signal.SIGTERM)
            code = child.wait(6)
            assert Outcome(list(command), code, 0, child.printed, child.log).faults == []
    assert support.tree(precious) == before


# The doctor


@pytest.fixture
def planted(used: Used, precious: Path, tmp_path: Path) -> Callable[[str, str], Path]:
    """Makes a copy of the used state directory with something planted in it."""

    def make(place: str, kind: str) -> Path:
        state_dir = tmp_path / "fleet" / "planted"
        shutil.copytree(used.path, state_dir, symlinks=True)
        replace(state_dir / PLACES[place](used), kind, precious)
        return state_dir

    return make


def not_regular(state_dir: Path) -> list[str]:
    return [finding.subject for finding in mnemo_coord.doctor.examine(state_dir).findings if finding.code == "not-regular"]


@pytest.mark.parametrize("place", PLACES)
def test_the_doctor_sets_aside_what_it_says_that_it_would(place: str, planted: Callable[[str, str], Path]) -> None:
    """R17, C13. The hint of the finding promises it."""
    state_dir = planted(place, "FIFO")
    assert len(not_regular(state_dir)) == 1
    mnemo_coord.doctor.examine(state_dir, fix=True)
    assert not_regular(state_dir) == []


@pytest.mark.parametrize("place", ["a dead one's beat", "nobody's beat", "claim's record"])
def test_what_cannot_be_mended_does_not_end_the_doctor(place: str, planted: Callable[[str, str], Path]) -> None:
    """I9. It is one finding among others."""
    report = mnemo_coord.doctor.examine(planted(place, "folder"), fix=True)
    assert report.status is not mnemo_coord.doctor.Status.HEALTHY


@pytest.mark.parametrize("kind", ["folder", "hard link"])
@pytest.mark.parametrize("place", ["registry.lock", "claim's lock"])
def test_the_doctor_names_what_keeps_an_instance_from_starting(
    place: str, kind: str, used: Used, planted: Callable[[str, str], Path]
) -> None:
    """I27. Looking is enough to find it."""
    state_dir = planted(place, kind)
    with pytest.raises(errors.Untrusted):
        Coordinator(state_dir, name="inbox").register()
    name = PLACES[place](used).rpartition("/")[2]
    found = mnemo_coord.doctor.examine(state_dir).findings
    assert [finding for finding in found if name in f"{finding.subject} {finding.message}" and finding.code != "claim-stale"]
