"""`mnemosyne jobs`, `ps` and `kill`: real runners, real jobs, real kills; each job once, and nothing left of any."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import psutil
import pytest
import referencing
import support

from mnemo_coord.supervise import orders
from mnemo_coord.supervise.backlog import Backlog
from mnemo_coord.supervise.inventory import Entry, inventory
from mnemo_coord.supervise.jobs import Job, JobStatus

PENDING, RUNNING, ORPHANED = JobStatus.PENDING, JobStatus.RUNNING, JobStatus.ORPHANED
DONE, FAILED, CANCELLED = JobStatus.DONE, JobStatus.FAILED, JobStatus.CANCELLED


SCHEMAS = {
    "jobs add": "job", "jobs cancel": "job", "jobs list": "jobs", "jobs adopt": "jobs-orphans", "jobs clean": "jobs-orphans",
    "jobs pause": "jobs-paused", "jobs resume": "jobs-paused", "jobs migrate": "jobs-migrated", "ps": "ps", "kill": "kill",
}  # fmt: skip


def validate(document: Any, name: str) -> None:
    folder = support.REPOSITORY / "docs" / "reference" / "schemas"
    schemas = {path.name: json.loads(path.read_text()) for path in folder.glob("job*.json")}
    schemas |= {path: json.loads((folder / path).read_text()) for path in ("ps.json", "kill.json")}
    registry = referencing.Registry().with_resources(
        [(file, referencing.Resource.from_contents(schema)) for file, schema in schemas.items()]
    )
    jsonschema.Draft202012Validator(schemas[f"{name}.json"], registry=registry).validate(document)


class Place:
    """A project whose default instance has a queue, and what that leaves in the process table."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.workspace = folder.parent / "home"
        self.backlog = Backlog("default", self.workspace)
        self.mark = str(folder)
        self.counter = folder / "counter"

    def write(self, more: str = "") -> None:
        (self.folder / "mnemosyne.yaml").write_text(f"project: shop\nhome: {self.workspace}\n{more}")

    def run(self, *args: object, **options: Any) -> support.Cli:
        """Runs a command. What it says with --json is what its schema says."""
        done = support.run(*args, cwd=self.folder, timeout=60, **options)
        if "--json" in args and done.returncode == 0:
            schema = SCHEMAS.get(" ".join(map(str, args[:2]))) or SCHEMAS.get(str(args[0]))
            if schema:
                validate(done.json, schema)
        return done

    def add(self, script: str, **wish: Any) -> str:
        """A job that is a line of shell. It is added as `mnemosyne jobs add` does it, without its half a second."""
        return orders.add(self.backlog, orders.Wish(argv=["sh", "-c", script], folder=str(self.folder), **wish)).id

    def runner(self, *args: object) -> support.Child:
        child = support.Child([support.MNEMOSYNE, "jobs", "run", *map(str, args)], self.folder.parent / "logs", cwd=self.folder)
        try:
            child.wait_for("works its queue")
        except BaseException:
            child.kill()
            raise
        return child

    def job(self, job_id: str) -> Job:
        return orders.found(orders.view(self.backlog), self.backlog, job_id)

    def is_now(self, job_id: str, *status: JobStatus) -> Job:
        """Waits until it is."""
        support.wait_until(lambda: self.job(job_id).status in status, 30, f"{job_id} {status}: {self.job(job_id)}")
        return self.job(job_id)

    def counted(self) -> list[str]:
        return self.counter.read_text().split() if self.counter.exists() else []

    def left(self) -> list[psutil.Process]:
        """Every process that came of this project."""
        everybody = psutil.process_iter(["environ"])
        return [one for one in everybody if (one.info["environ"] or {}).get("PLACE") == self.mark and one.pid != os.getpid()]

    def assert_nothing_is_left(self) -> None:
        support.wait_until(lambda: not self.left(), what=f"left: {self.left()}")
        assert sleeping(self.mark) == []


def sleeping(mark: str) -> list[int]:
    """Processes that have the mark among their words: also those that have cleared their environment."""
    return [
        one.pid
        for one in psutil.process_iter(["cmdline"])
        if mark in (one.info["cmdline"] or []) and one.status() != psutil.STATUS_ZOMBIE
    ]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    folder = tmp_path / "shop"
    folder.mkdir()
    found = Place(folder)
    monkeypatch.setenv("MNEMOSYNE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    monkeypatch.setenv("PLACE", found.mark)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    found.write("jobs: {limit: 3, grace: 1}\n")
    found.workspace.mkdir(mode=0o700)
    yield found
    for one in found.left():
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    for pid in sleeping(found.mark):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def gated(gate: Path) -> str:
    """Waits for a file."""
    return f"until [ -e {gate} ]; do sleep 0.02; done"


# Working a queue


def test_what_is_added_is_run_and_its_result_is_told(place: Place) -> None:
    done = place.run("jobs", "add", "--title", "greet", "--env", "WHO=world", "--", "sh", "-c", "echo hello $WHO >&2")
    assert done.returncode == 0, done.stderr
    assert "nobody works the queue of default: `mnemosyne jobs run default` does" in done.stderr
    job_id = done.stdout.strip()
    (listed,) = place.run("jobs", "list", "--json").json["jobs"]
    assert (listed["id"], listed["instance"], listed["status"], listed["title"]) == (job_id, "default", "pending", "greet")
    with place.runner() as one:
        one.wait_for(f"default/{job_id}: done")
        said = place.run("logs", "default", job_id).stdout
        assert re.fullmatch(rf"\S+Z default/{job_id} \| hello world\n", said), said
        listed = place.run("jobs", "list", "--json").json
        assert listed["runner"] == one.pid
        assert (listed["jobs"][0]["status"], listed["jobs"][0]["exit_code"]) == ("done", 0)
        assert one.stop(signal.SIGINT) == 0
    assert not (place.workspace / "jobs.json").exists(), "nothing is left to do"
    assert not (place.workspace / "jobs").exists()
    assert place.run("jobs", "list", "--json").json["jobs"] == []
    place.assert_nothing_is_left()


def test_priority_then_order_one_after_the_other(place: Place) -> None:
    for priority in (5, 1, 10, 5, 10, 1):
        place.add(f"echo {priority}.$MNEMOSYNE_JOB >> {place.counter}", priority=priority)
    wanted = [
        f"{job.priority}.{job.id}" for job in sorted(place.backlog.read().jobs, key=lambda job: (-job.priority, job.number))
    ]
    with place.runner("--limit", 1, "--drain") as one:
        assert one.wait() == 0
    assert place.counted() == wanted


def test_never_more_than_may_and_no_less(place: Place) -> None:
    """Each waits until three run, so that fewer at a time would never end; a fourth would be seen."""
    for _ in range(9):
        place.add(f"echo + >> {place.counter}; until [ $(grep -c + {place.counter}) -ge 3 ]; do sleep 0.02; done; sleep 0.1; "
                  f"echo - >> {place.counter}")  # fmt: skip
    with place.runner("--drain", "--json") as one:
        assert one.wait(60) == 0, one.log
        assert json.loads(one.printed) == {"instance": "default", "done": 9, "failed": 0, "cancelled": 0}
        validate(json.loads(one.printed), "jobs-run")
    now = most = 0
    for word in place.counted():
        now += 1 if word == "+" else -1
        most = max(most, now)
    assert (now, most) == (0, 3)


def test_a_job_counts_until_the_last_of_its_tree_has_ended(place: Place) -> None:
    """One that leaves the session, clears its environment and loses its parents, and does not heed SIGTERM, is a part of it."""
    deaf = f'trap "" TERM; echo + >> {place.counter}; sleep 0.4; echo - >> {place.counter}; while :; do sleep 0.1; done'
    away = f"setsid env -i PATH=$PATH sh -c '{deaf}' {place.mark} > /dev/null 2>&1 &"
    place.add(f"{away} until [ -s {place.counter} ]; do sleep 0.02; done; exit 0")
    place.add(f"echo next >> {place.counter}")
    with place.runner("--limit", 1, "--drain") as one:
        assert one.wait() == 0
    assert place.counted() == ["+", "-", "next"]
    place.assert_nothing_is_left()


def test_retries_and_what_drain_says(place: Place) -> None:
    flaky = place.add(f"echo flaky >> {place.counter}; [ $(grep -c flaky {place.counter}) -ge 3 ]", retries=5)
    never = place.add(f"echo never >> {place.counter}; exit 3", retries=1)
    gone = orders.add(place.backlog, orders.Wish(argv=["/no/such/program"], folder=str(place.folder))).id
    nowhere = orders.add(place.backlog, orders.Wish(argv=["true"], folder="/no/such/folder")).id
    keep = place.add("exit 0", env={"X": "1"})
    with place.runner() as one:
        for job_id, status, tries in (
            (flaky, DONE, 3),
            (never, FAILED, 2),
            (gone, FAILED, 1),
            (nowhere, FAILED, 1),
            (keep, DONE, 1),
        ):
            assert place.is_now(job_id, DONE, FAILED).status is status
            assert place.job(job_id).tries == tries
        assert place.job(never).text == "has ended with exit code 3"
        assert place.job(gone).text == "/no/such/program: cannot be started: no such file or directory"
        assert "is no folder" in place.job(nowhere).text
        assert "has ended with exit code 3; tried again after 0.5 s" in one.log
        assert one.stop() == 0, "it was asked to end"
    assert Counter(place.counted()) == {"flaky": 3, "never": 2}
    place.add("exit 1")
    place.add("exit 0")
    with place.runner("--drain") as one:
        assert one.wait() == 7
        assert "default: 1 done, 1 failed, 0 cancelled" in one.log
    with place.runner("--drain") as one:
        assert one.wait() == 0, "there is nothing"


def test_a_job_that_is_added_begins_at_once(place: Place) -> None:
    """By the bell: the poll would find it after a second and a half, each time anew."""

    def latency() -> float:
        begun = time.time()
        job_id = place.add(f"date +%s.%N > {place.folder}/at")
        place.is_now(job_id, DONE)
        return float((place.folder / "at").read_text()) - begun

    with place.runner() as one:
        assert min(latency() for _ in range(4)) < 1.0
        assert one.stop() == 0


def test_one_runner_an_instance(place: Place) -> None:
    with place.runner() as one:
        second = place.run("jobs", "run", "--json")
        assert second.returncode == 4
        assert f"The queue of 'default' is worked by process {one.pid} already" in second.json["error"]["message"]
        assert one.stop() == 0


def test_paused_is_paused_until_it_is_resumed_whoever_runs_it(place: Place) -> None:
    assert place.run("jobs", "pause", "--json").json == {"instance": "default", "paused": True}
    job_id = place.add(f"echo ran >> {place.counter}")
    with place.runner("--drain") as one:
        one.wait_for("1 to do, 3 at once, paused")
        assert "and paused" in place.run("jobs", "list").stderr
        assert one.stop() == 0
    with place.runner("--drain") as one:
        one.wait_for("paused")
        assert (place.counted(), place.job(job_id).status) == ([], PENDING)
        assert place.run("jobs", "resume").returncode == 0
        assert one.wait() == 0
    assert place.counted() == ["ran"]


def test_cancelled_is_ended_and_not_tried_again(place: Place) -> None:
    runs = place.add("exec sleep 1000", retries=9)
    deaf = place.add(f"trap '' TERM; echo up >> {place.counter}; while :; do sleep 0.1; done")
    waits = place.add(f"echo never >> {place.counter}")
    with place.runner("--limit", 2) as one:
        place.is_now(runs, RUNNING)
        support.wait_until(place.counted)
        assert place.run("jobs", "cancel", waits, "--json").json["status"] == "cancelled"
        killed = place.run("kill", runs, "--json")
        assert killed.json["name"] == runs, killed.stdout
        assert len(killed.json["ended"]) == 2, "its shepherd and its command"
        assert place.job(runs).status is CANCELLED
        assert place.run("jobs", "cancel", deaf).returncode == 0
        assert [place.job(one).status for one in (runs, deaf, waits)] == [CANCELLED] * 3
        assert place.run("jobs", "cancel", waits).returncode == 0, "again"
        quick = place.add("exit 0")
        place.is_now(quick, DONE)
        assert place.run("jobs", "cancel", quick).returncode == 4
        assert place.run("jobs", "cancel", "nothing").returncode == 3
        assert one.stop() == 0
        assert "0 failed, 2 cancelled" in one.log
    assert place.counted() == ["up"]
    place.assert_nothing_is_left()


def test_ctrl_c_gives_the_jobs_back(place: Place) -> None:
    runs = place.add("exec sleep 1000")
    deaf = place.add(f"trap '' TERM; echo $$ >> {place.counter}; while :; do sleep 0.1; done")
    with place.runner() as one:
        place.is_now(runs, RUNNING)
        support.wait_until(place.counted)
        assert one.stop(signal.SIGINT, 20) == 0
    for job_id in (runs, deaf):
        assert (place.job(job_id).status, place.job(job_id).tries) == (PENDING, 0)
    place.assert_nothing_is_left()
    place.write("jobs: {grace: 600}\n")
    with place.runner() as one:
        support.wait_until(lambda: len(place.counted()) == 2)
        one.send_signal(signal.SIGTERM)
        support.wait_until(lambda: place.job(runs).pid is None or not psutil.pid_exists(place.job(runs).pid or 0))
        one.send_signal(signal.SIGINT)
        assert one.wait(20) == 0, "the second means: now"
    assert place.job(deaf).status is PENDING
    place.assert_nothing_is_left()


def test_what_a_job_inherits(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNEMOSYNE_SHARED_SECRET", "0123456789abcdef0123")
    (place.folder / "look.py").write_text(
        "import json, os\n"
        "fds = [fd for fd in map(int, os.listdir('/proc/self/fd')) if os.path.exists(f'/proc/self/fd/{fd}')]\n"
        "names = ('MNEMOSYNE_JOB', 'MNEMOSYNE_SHARED_SECRET', 'MNEMOSYNE_WORKSPACE', 'K')\n"
        "ignored = int(next(l.split()[1] for l in open('/proc/self/status') if l.startswith('SigIgn')), 16)\n"
        "print(json.dumps([fds, ignored & 0x7f_ff_ff_ff & ~(1 << 12 | 1 << 24), {n: os.environ.get(n) for n in names}, os.getcwd()]))\n"
    )
    (place.folder / "below").mkdir()
    argv = ["jobs", "add", "--env", "K=a=b", "--", "python", "../look.py"]
    job_id = support.run(*argv, cwd=place.folder / "below").stdout.strip()
    words = ["sh", "-c", f"trap '' HUP INT QUIT TERM PIPE; exec {support.MNEMOSYNE} jobs run --drain"]
    with support.Child(words, place.folder.parent / "logs", cwd=place.folder) as one:
        assert one.wait() == 0, one.log
    fds, ignored, variables, folder = json.loads(place.run("logs", "default", job_id, "--json").json["line"])
    assert (fds, ignored, folder) == ([0, 1, 2], 0, str(place.folder / "below"))
    assert variables == {
        "MNEMOSYNE_JOB": job_id,
        "MNEMOSYNE_SHARED_SECRET": None,
        "MNEMOSYNE_WORKSPACE": str(place.workspace),
        "K": "a=b",
    }


def test_nothing_in_a_title_or_an_output_steers_a_terminal(place: Place) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\r\n\u202e"
    job_id = place.run("jobs", "add", "--title", evil, "--retries", "1", "--", "printf", r"\033[2Jred\r\n").stdout.strip()
    shown = place.run("jobs", "list")
    assert [line for line in shown.stdout.splitlines() if job_id in line], "one line"
    assert place.run("jobs", "list", "--json").json["jobs"][0]["title"] == evil
    with place.runner("--drain") as one:
        assert one.wait() == 0
        for text in (shown.stdout, one.log, place.backlog.log(job_id).read_text()):
            assert not {"\x1b", "\x07", "\r", "\u202e"} & set(text), text


def test_what_is_asked_for_wrongly(place: Place) -> None:
    for words, code in (
        (["jobs", "add"], 2),
        (["jobs", "add", "--priority", "11", "--", "true"], 2),
        (["jobs", "add", "--env", "A", "--", "true"], 2),
        (["jobs", "add", "--name", "nobody", "--", "true"], 3),
        (["jobs", "adopt", "nothing"], 3),
        (["kill", "1"], 3),
    ):
        assert place.run(*words).returncode == code, words
    other = place.run("jobs", "list", env={"MNEMOSYNE_INSTANCE": "elsewhere"})
    assert (other.returncode, "MNEMOSYNE_INSTANCE is 'elsewhere'" in other.stderr) == (3, True)
    assert place.run("jobs", "list", env={"MNEMOSYNE_INSTANCE": "0123abcd"}).returncode == 0, "an id is nobody's name"


def test_a_workspace_that_came_with_a_checkout_runs_nothing_untrusted(place: Place) -> None:
    place.write("")
    (place.folder / "mnemosyne.yaml").write_text("project: shop\nhome: data\n")
    inside = Backlog("default", place.folder / "data")
    inside.workspace.mkdir(mode=0o700)
    orders.add(inside, orders.Wish(argv=["touch", "ran"], folder=str(place.folder)))
    refused = place.run("jobs", "run", "--drain")
    assert (refused.returncode, "mnemosyne trust" in refused.stderr) == (4, True), refused.stderr
    assert not (place.folder / "ran").exists()
    assert place.run("trust", "--yes").returncode == 0
    assert place.run("jobs", "run", "--drain").returncode == 0
    assert (place.folder / "ran").exists()


# Crashes


def test_orphans_count_are_never_doubled_and_are_adopted_or_cleaned(place: Place) -> None:
    gate = place.folder / "gate"
    script = f"echo $MNEMOSYNE_JOB >> {place.counter}; {gated(gate)}"
    first, second, third = (place.add(script) for _ in range(3))
    with place.runner("--limit", 3) as one:
        support.wait_until(lambda: len(place.counted()) == 3)
        one.kill()
    assert [place.job(job_id).status for job_id in (first, second, third)] == [ORPHANED] * 3
    assert {entry["state"] for entry in place.run("ps", "--json").json} == {"orphaned"}
    assert place.run("rm", "default").returncode == 2
    last = place.add(f"echo last >> {place.counter}")
    with place.runner("--limit", 3) as one:
        one.wait_for(f"default/{third}: orphaned")
        assert place.run("jobs", "adopt", first, "--json").json[0]["status"] == "running"
        dropped = place.run("jobs", "clean", second, "--drop", "--json").json
        assert [job["status"] for job in dropped] == ["cancelled"]
        place.is_now(last, DONE)  # there is room for it now
        cleaned = place.run("jobs", "clean", "--json").json
        assert [job["id"] for job in cleaned] == [third]
        support.wait_until(lambda: Counter(place.counted())[third] == 2)
        assert place.job(third).tries == 2
        gate.touch()
        assert [place.is_now(job_id, DONE).tries for job_id in (first, third)] == [1, 2]
        assert one.stop() == 0
    assert Counter(place.counted()) == {first: 1, second: 1, third: 2, "last": 1}
    place.assert_nothing_is_left()


def test_the_limit_counts_what_a_killed_runner_has_left(place: Place) -> None:
    gate = place.folder / "gate"
    runs = place.add(f"echo runs >> {place.counter}; {gated(gate)}; exit 5")
    waits = place.add(f"echo waits >> {place.counter}")
    with place.runner("--limit", 1) as one:
        support.wait_until(place.counted)
        one.kill()
    with place.runner("--limit", 1, "--drain") as one:
        one.wait_for(f"default/{runs}: orphaned")
        time.sleep(0.3)  # time in which it could do what it must not
        assert (place.counted(), place.job(waits).status) == (["runs"], PENDING)
        gate.touch()
        assert one.wait() == 7, "its result is known all the same"
        assert f"default/{runs}: failed: has ended with exit code 5" in one.log
    assert place.counted() == ["runs", "waits"]


def test_what_ended_while_nobody_looked_is_known(place: Place) -> None:
    gate = place.folder / "gate"
    started = f"echo x >> {place.counter}; {gated(gate)}"
    well, badly = place.add(started), place.add(f"{started}; exit 9")
    with place.runner() as one:
        support.wait_until(lambda: len(place.counted()) == 2)
        one.kill()
    gate.touch()
    assert place.is_now(well, DONE).exit_code == 0
    assert place.is_now(badly, FAILED).exit_code == 9
    with place.runner("--drain") as one:
        assert one.wait() == 7


def test_without_a_runner_adopting_waits_for_one_and_killing_does_not(place: Place) -> None:
    first, second = (place.add(f"echo x >> {place.counter}; exec sleep 1000") for _ in range(2))
    with place.runner() as one:
        support.wait_until(lambda: len(place.counted()) == 2)  # a job is recorded as running before its command is started
        one.kill()
    assert place.run("jobs", "adopt", first).returncode == 0
    pid = next(entry["pid"] for entry in place.run("ps", "--json").json if entry["name"] == second)
    assert place.run("kill", pid).returncode == 0
    assert place.job(second).status is CANCELLED
    with place.runner() as one:
        one.wait_for(f"default/{first}: running")
        assert one.stop() == 0
    assert (place.job(first).status, place.job(first).tries) == (PENDING, 0), "it was its own"
    place.assert_nothing_is_left()


def test_a_killed_tree_is_pending_again_with_its_try_counted(place: Place) -> None:
    job_id = place.add(f"echo x >> {place.counter}; exec sleep 1000")
    with place.runner() as one:
        support.wait_until(place.counted)
        one.kill()
        for process in place.left():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    place.assert_nothing_is_left()
    assert (place.job(job_id).status, place.job(job_id).tries) == (PENDING, 1)
    with place.runner():
        support.wait_until(lambda: len(place.counted()) == 2)
        assert place.job(job_id).tries == 2
        assert place.run("jobs", "cancel", job_id).returncode == 0


def test_a_shepherd_that_is_killed_is_a_try_that_failed(place: Place) -> None:
    job_id = place.add(f"echo $$ >> {place.counter}; exec sleep 1000")
    with place.runner() as one:
        support.wait_until(place.counted)
        os.kill(place.job(job_id).pid or 0, signal.SIGKILL)
        assert place.is_now(job_id, FAILED).text == "has ended with signal 9"
        assert not psutil.pid_exists(int(place.counted()[0])), "what it has left is ended"
        assert one.stop() == 0


@pytest.mark.parametrize("seed", range(3))
def test_rounds_of_kill_and_restore_each_job_once(seed: int, place: Place) -> None:
    """The runner is killed at random moments; sometimes all that runs is, too. A line of the counter is a try, and none is lost."""
    dice = random.Random(seed)
    wanted = [
        place.add(f"echo $MNEMOSYNE_JOB >> {place.counter}; sleep 0.{dice.randrange(3)}", priority=dice.randrange(1, 11))
        for _ in range(8)
    ]
    for _ in range(5):
        with place.runner("--adopt") as one:
            time.sleep(dice.random() * 0.4)  # the moment is what is tried
            one.kill()
            if dice.random() < 0.4:
                for process in place.left():
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
    with place.runner("--adopt") as one:
        found = [place.is_now(job_id, DONE, FAILED) for job_id in wanted]
        assert one.stop() == 0
    assert {job.status for job in found} == {DONE}
    assert Counter(place.counted()) == {job.id: job.tries for job in found}
    place.assert_nothing_is_left()


def test_what_cannot_be_recorded_does_not_begin(place: Place) -> None:
    """The runner may write no file, as on a full disk: nothing is started, and what was is once it may."""
    with place.runner() as one:
        _, hard = resource.prlimit(one.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(one.pid, resource.RLIMIT_FSIZE, (4000, hard))
        job_id = place.add(f"echo x >> {place.counter}", env={"LONG": "x" * 5000})
        one.wait_for("jobs.json: file too large")
        time.sleep(1)  # time in which it could do what it must not
        assert (place.counted(), place.job(job_id).status) == ([], PENDING)
        resource.prlimit(one.pid, resource.RLIMIT_FSIZE, (hard, hard))
        assert place.is_now(job_id, DONE).tries == 1
        assert one.log.count("file too large") == 1, "it is said once"
        assert one.stop() == 0
    assert place.counted() == ["x"]
    place.assert_nothing_is_left()


def test_that_nobody_reads_what_it_says_leaves_no_job_alone(place: Place) -> None:
    job_id = place.add("exec sleep 1000")
    argv = [support.MNEMOSYNE, "jobs", "run"]
    with subprocess.Popen(argv, cwd=place.folder, stderr=subprocess.PIPE, text=True) as one:
        assert one.stderr
        assert "works its queue" in one.stderr.readline()
        one.stderr.close()
        place.is_now(job_id, RUNNING)
        place.is_now(place.add("exit 0"), DONE)
        one.send_signal(signal.SIGTERM)
        assert one.wait(20) == 0
    assert place.job(job_id).status is PENDING
    place.assert_nothing_is_left()


def test_a_damaged_queue_stops_no_job_that_runs(place: Place) -> None:
    gate = place.folder / "gate"
    job_id = place.add(gated(gate))
    with place.runner() as one:
        place.is_now(job_id, RUNNING)
        text = (place.workspace / "jobs.json").read_text()
        (place.workspace / "jobs.json").write_text("{")
        one.wait_for("jobs.json: is damaged")
        assert place.run("jobs", "list", "--json").returncode == 6
        (place.workspace / "jobs.json").write_text(text)
        gate.touch()
        place.is_now(job_id, DONE)
        assert one.stop() == 0


# Services beside jobs


def test_a_service_that_is_killed_is_started_again_by_its_rules(place: Place, port_base: int) -> None:
    place.write(
        f"services:\n"
        f"  web: {{port: {port_base}, ready: none, command: sleep 1000}}\n"
        f"  deep: {{port: {port_base + 1}, ready: none, command: {json.dumps(['sh', '-c', 'sleep 1001 & wait; exec sleep 1002'])}}}\n"
    )
    assert place.run("trust", "--yes").returncode == 0
    job_id = place.add("exec sleep 1003")
    start = support.Child([support.MNEMOSYNE, "start"], place.folder.parent / "logs", cwd=place.folder)
    with start as launcher, place.runner() as runner:
        launcher.wait_for("default is ready")
        place.is_now(job_id, RUNNING)

        def now() -> dict[str, Entry]:
            return {entry.name: entry for entry in inventory("default", place.workspace)}

        support.wait_until(lambda: len(now()["deep"].pids) == 2)
        before = {entry["name"]: entry for entry in place.run("ps", "--json").json}
        assert set(before) == {"web", "deep", job_id}
        assert (before["web"]["command"], before["web"]["kind"], before["web"]["own"]) == ("sleep 1000", "service", True)
        assert (before[job_id]["command"], before[job_id]["kind"]) == ("sleep 1003", "job")
        killed = place.run("kill", "web", "--json")
        assert killed.json == {"instance": "default", "kind": "service", "name": "web", "ended": [before["web"]["pid"]]}
        assert support.wait_until(lambda: now().get("web")).pid != before["web"]["pid"]
        child = next(pid for pid in before["deep"]["processes"] if pid != before["deep"]["pid"])
        assert "goes on if it can" in place.run("kill", child).stderr
        support.wait_until(lambda: now()["deep"].command == "sleep 1002")
        assert now()["deep"].pid == before["deep"]["pid"], "only that one was ended"
        for pid in (launcher.pid, runner.pid, os.getpid()):
            assert place.run("kill", pid).returncode == 3
        assert runner.stop() == 0
        assert launcher.stop() == 0
    place.assert_nothing_is_left()


# Murmuration


def test_of_two_that_migrate_at_once_one_does(place: Place) -> None:
    for name in ("a", "b"):
        assert place.run("init", name).returncode == 0
    entries = [
        {"id": f"q-{number}", "process": {"script_name": "echo", "args": [str(number)]}, "status": status, "queuedAt": number}
        for number, status in enumerate(("running", "pending", "completed"))
    ]
    file = place.folder / "queue-state.json"
    file.write_text(json.dumps({"version": "1.0.0", "entries": entries}))
    text = file.read_bytes()
    both = [
        subprocess.Popen(
            [support.MNEMOSYNE, "jobs", "migrate", "--name", name, "--runner", "sh -x", str(file)],
            cwd=place.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("a", "b")
    ]
    said = [one.communicate(timeout=60)[1] for one in both]
    assert sorted(one.returncode for one in both) == [0, 3], said
    assert any("was migrated already" in one for one in said)
    assert not file.exists()
    assert (place.folder / "queue-state.json.migrated").read_bytes() == text
    found = {name: place.run("jobs", "list", name, "--json").json["jobs"] for name in ("a", "b")}
    winner = "a" if both[0].returncode == 0 else "b"
    assert {name: [job["id"] for job in jobs] for name, jobs in found.items() if jobs} == {winner: ["q-0", "q-1", "q-2"]}
    assert [job["status"] for job in found[winner]] == ["pending", "pending", "done"]
    assert found[winner][0]["command"] == ["sh", "-x", "echo", "0"]
    again = place.run("jobs", "migrate", "--name", winner, file)
    assert (again.returncode, "was migrated already" in again.stderr) == (3, True)
    file.write_text("{")
    assert place.run("jobs", "migrate", "--name", winner, file).returncode == 4, "that backup is not written over"
    other = place.folder / "other.json"
    other.write_text("{")
    corrupt = place.run("jobs", "migrate", "--name", winner, other, "--json")
    assert (corrupt.returncode, corrupt.json["error"]["code"]) == (6, "damaged")
    assert (place.folder / "other.json.corrupt-1").read_text() == "{"
