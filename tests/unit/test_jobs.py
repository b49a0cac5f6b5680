"""What is decided of jobs: which is started next, what becomes of one whose try has ended or was lost. Pure, so tables."""

from __future__ import annotations

import json
import select
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnemo_coord import errors
from mnemo_coord.supervise import backlog as backlog_module
from mnemo_coord.supervise import jobs, legacy, orders
from mnemo_coord.supervise.backlog import Backlog, decode, encode, parse_exit
from mnemo_coord.supervise.bell import Bell, ring
from mnemo_coord.supervise.inventory import Entry, Kind, find
from mnemo_coord.supervise.jobs import Asked, Job, JobStatus, Queue, Trace, choose, delay, settle, shown, stopped, trimmed
from mnemo_coord.supervise.tree import Process

NOW, AT = 1000.0, "2026-01-01T00:00:00.000Z"
RUNS, LOST, UNBEGUN = Trace(runs=True), Trace(runs=False), Trace(runs=False, begun=False)


def ended(code: int) -> Trace:
    return Trace(runs=False, code=code)


def job(name: str = "j1", **more: Any) -> Job:
    return Job(**{"id": name, "argv": ("true",), "folder": "/", **more})


def running(**more: Any) -> Job:
    return job(**{"status": JobStatus.RUNNING, "tries": 1, "start_id": "s", "pid": 7, "start_time": 9, **more})


# Which is next


def queued(*priorities: int, **more: Any) -> Queue:
    found = [job(f"j{number}", priority=priority, number=number) for number, priority in enumerate(priorities, 1)]
    return Queue(jobs=tuple(found), **more)


def test_the_highest_priority_is_next_and_of_one_priority_the_first() -> None:
    assert [one.id for one in choose(queued(5, 10, 5, 1, 10), 9, NOW)] == ["j2", "j5", "j1", "j3", "j4"]


@given(
    st.lists(st.tuples(st.integers(1, 10), st.sampled_from(JobStatus), st.floats(900, 1100)), max_size=20), st.integers(1, 10)
)
def test_no_more_run_than_may_and_none_waits_that_need_not(found: list[tuple[int, JobStatus, float]], limit: int) -> None:
    all_of_them = tuple(
        job(f"j{number}", number=number, priority=priority, status=status, retry_at=at)
        for number, (priority, status, at) in enumerate(found)
    )
    queue = Queue(jobs=all_of_them)
    chosen = choose(queue, limit, NOW)
    before = sum(one.status in {JobStatus.RUNNING, JobStatus.ORPHANED} for one in all_of_them)
    ready = [one for one in all_of_them if one.status is JobStatus.PENDING and delay(one, NOW) == 0]
    assert len(chosen) == min(max(0, limit - before), len(ready))
    order = sorted(ready, key=lambda one: (-one.priority, one.number))
    assert chosen == order[: len(chosen)]
    assert choose(replace(queue, paused=True), limit, NOW) == []


def test_a_clock_that_is_set_back_keeps_nobody_waiting() -> None:
    assert [delay(job(retry_at=at), NOW) for at in (0, 999, 1000, 1030, 5000)] == [0, 0, 0, 30, 0]


# What becomes of one

SETTLED = {
    # what it was, its trace, whether its runner looks: what it is, its tries
    "runs on for its runner": (running(), RUNS, True, JobStatus.RUNNING, 1),
    "runs on without one": (running(), RUNS, False, JobStatus.ORPHANED, 1),
    "an orphan runs on": (running(status=JobStatus.ORPHANED), RUNS, False, JobStatus.ORPHANED, 1),
    "an orphan is adopted": (running(status=JobStatus.ORPHANED, asked=Asked.ADOPT), RUNS, False, JobStatus.RUNNING, 1),
    "asked to end, runs still": (running(asked=Asked.CANCEL), RUNS, False, JobStatus.ORPHANED, 1),
    "done": (running(), ended(0), True, JobStatus.DONE, 1),
    "done after a crash": (running(), ended(0), False, JobStatus.DONE, 1),
    "failed": (running(), ended(3), True, JobStatus.FAILED, 1),
    "failed after a crash": (running(), ended(3), False, JobStatus.FAILED, 1),
    "failed, tried again": (running(retries=1), ended(-9), True, JobStatus.PENDING, 1),
    "failed for the last time": (running(retries=1, tries=2), ended(3), True, JobStatus.FAILED, 2),
    "its shepherd was killed": (running(), LOST, True, JobStatus.FAILED, 1),
    "lost in a crash": (running(), LOST, False, JobStatus.PENDING, 1),
    "lost in a crash, as often as it may": (running(tries=9), LOST, False, JobStatus.PENDING, 9),
    "never begun": (running(), UNBEGUN, False, JobStatus.PENDING, 0),
    "cancelled": (running(asked=Asked.CANCEL, retries=5), ended(-15), True, JobStatus.CANCELLED, 1),
    "cancelled, and was done": (running(asked=Asked.CANCEL), ended(0), True, JobStatus.CANCELLED, 1),
    "cancelled in a crash": (running(asked=Asked.CANCEL), LOST, False, JobStatus.CANCELLED, 1),
    "cleaned": (running(asked=Asked.RETURN), ended(-15), False, JobStatus.PENDING, 1),
    "adopted, then done": (running(asked=Asked.ADOPT), ended(0), False, JobStatus.DONE, 1),
}


@pytest.mark.parametrize(("was", "trace", "runner", "status", "tries"), SETTLED.values(), ids=SETTLED)
def test_what_becomes_of_a_try(was: Job, trace: Trace, runner: bool, status: JobStatus, tries: int) -> None:
    after = settle(was, trace, NOW, AT, runner=runner)
    assert (after.status, after.tries) == (status, tries)
    if not after.status.counts:
        assert (after.pid, after.asked) == (None, Asked.NOTHING)
    assert (after.ended_at == AT) == after.status.is_final
    if trace.code == 0 and status is JobStatus.DONE:
        assert after.exit_code == 0


def test_a_pause_that_grows_before_each_further_try() -> None:
    waits = [settle(running(retries=50, tries=tries), ended(1), NOW, AT).retry_at - NOW for tries in (1, 2, 3, 4, 5, 6, 7, 40)]
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30]


def test_what_is_ended_with_its_runner_has_lost_no_try() -> None:
    assert stopped(running(), ended(-15), NOW, AT).tries == 0
    assert stopped(running(), ended(-15), NOW, AT).status is JobStatus.PENDING
    assert stopped(running(tries=3), LOST, NOW, AT).tries == 2
    assert stopped(running(), ended(0), NOW, AT).status is JobStatus.DONE, "it was faster"
    assert stopped(running(asked=Asked.CANCEL), ended(-15), NOW, AT).status is JobStatus.CANCELLED


def test_only_the_last_that_have_ended_are_kept() -> None:
    finished = [job(f"d{n}", status=JobStatus.DONE, ended_at=f"t{n:04}", number=n) for n in range(jobs.FINISHED_KEPT + 3)]
    queue, gone = trimmed(Queue(jobs=(job("p"), *reversed(finished), running(id="r"))))
    assert [one.id for one in gone] == ["d0", "d1", "d2"]
    assert {"p", "r"} <= {one.id for one in queue.jobs}
    assert len(queue.jobs) == jobs.FINISHED_KEPT + 2


def test_people_see_what_runs_first() -> None:
    found = [job("p5"), job("p9", priority=9), running(id="r"), job("d", status=JobStatus.DONE, ended_at="t")]
    assert [one.id for one in shown(found)] == ["r", "p9", "p5", "d"]


# On disk

TEXT = st.text(max_size=20) | st.sampled_from(["\udcff", "\x1b[31m", "a\nb"])


@given(
    st.builds(
        Job,
        id=st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z"),
        argv=st.lists(TEXT, min_size=1).map(tuple),
        folder=TEXT,
        title=TEXT,
        env=st.dictionaries(TEXT, TEXT, max_size=3),
        exit_code=st.none() | st.integers(-64, 255),
        pid=st.none() | st.integers(1, 9999),
    ),
    st.booleans(),
)
def test_a_queue_is_read_as_it_was_written(one: Job, paused: bool) -> None:
    queue = Queue(jobs=(one,), paused=paused, number=3, bell="@x", imported="y")
    assert decode(encode(queue)) == queue
    body = json.loads(encode(queue))
    body["jobs"][0]["colour"] = "unknown"
    assert decode(json.dumps(body).encode()) == queue


@pytest.mark.parametrize(
    "change",
    [
        {"id": "../x"},
        {"id": ""},
        {"id": "a\n"},
        {"argv": []},
        {"argv": [1]},
        {"argv": "true"},
        {"env": {"A": 1}},
        {"status": "sleeping"},
        {"tries": "1"},
        {"tries": True},
        {"pid": "1"},
        {"title": None},
        {"retry_at": "soon"},
    ],
    ids=str,
)
def test_what_is_no_job_is_not_read(change: dict[str, Any]) -> None:
    body = json.loads(encode(Queue(jobs=(job(),))))
    body["jobs"][0] |= change
    if change == {"argv": "true"}:
        assert decode(json.dumps(body).encode()).jobs[0].argv == tuple("true"), "a text is a list of letters: never ours"
        return
    with pytest.raises((ValueError, TypeError, KeyError)):
        decode(json.dumps(body).encode())


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"version": 2}', b'{"version": 1}', b"\xff"])
def test_a_damaged_queue_is_told_and_left_as_it_is(data: bytes, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "jobs.json").write_bytes(data)
    backlog = Backlog("dev", tmp_path)
    for act in (backlog.read, lambda: orders.add(backlog, orders.Wish(argv=["true"], folder="/"))):
        with pytest.raises(errors.Damaged, match=r"jobs\.json: is damaged"):
            act()
    assert (tmp_path / "jobs.json").read_bytes() == data


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"s 0\n", ended(0)),
        (b"s -15\n", ended(-15)),
        (b"s -\n", UNBEGUN),
        (b"s 127 no: such file\n", Trace(runs=False, code=127, text="no: such file")),
        (b"other 0\n", LOST),
        (b"s", LOST),
        (b"s zero\n", LOST),
        (b"", LOST),
        (b"\xff\x00", LOST),
    ],
)
def test_what_a_shepherd_writes(data: bytes, expected: Trace) -> None:
    assert parse_exit(data, "s") == expected


@pytest.mark.parametrize(
    "wish",
    [
        {"argv": []},
        {"argv": [""]},
        {"priority": 0},
        {"priority": 11},
        {"retries": -1},
        {"retries": 101},
        {"title": "x" * 201},
        {"env": {"A=B": ""}},
        {"env": {"": "x"}},
        {"argv": ["x" * 40_000]},
    ],
    ids=lambda wish: str(wish)[:40],
)
def test_what_is_wished_wrongly(wish: dict[str, Any]) -> None:
    with pytest.raises(errors.Config):
        orders.Wish(**{"argv": ["true"], "folder": "/", **wish}).check()


def test_a_queue_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o700)
    backlog = Backlog("dev", tmp_path)
    monkeypatch.setattr(orders, "UNFINISHED", 2)
    wish = orders.Wish(argv=["true"], folder="/")
    orders.add(backlog, wish)
    orders.add(backlog, wish)
    with pytest.raises(errors.Conflict, match="2 jobs that are not done"):
        orders.add(backlog, wish)
    monkeypatch.setattr(orders, "UNFINISHED", 1000)
    monkeypatch.setattr(backlog_module, "_LIMIT", 100_000)
    with pytest.raises(errors.Conflict, match="larger than"):
        for _ in range(5):
            orders.add(backlog, orders.Wish(argv=["x" * 30_000], folder="/"))
    assert len(backlog.read().jobs) == 5, "what was there before is there still"


def test_a_bell_is_heard_and_one_that_nobody_waits_for_is_no_error() -> None:
    bell = Bell.open()
    ring(bell.name)
    assert select.select([bell], [], [], 5)[0]
    bell.hush()
    assert not select.select([bell], [], [], 0)[0]
    bell.close()
    for name in (bell.name, "", "x" * 500):
        ring(name)


# What is meant by a word


def process(pid: int, parent: int = 1) -> Process:
    return Process(pid=pid, start_time=1, parent=parent, session=pid, is_zombie=False, command="x")


def entry(instance: str, kind: Kind, name: str, *pids: int, shepherd: int | None = None) -> Entry:
    found = tuple(process(pid) for pid in pids)
    return Entry(
        instance=instance, kind=kind, name=name, state="running", pid=pids[0], since=AT, command="x", processes=found,
        shepherd=shepherd,
    )  # fmt: skip


OWN = [
    entry("a", Kind.SERVICE, "web", 10, 11),
    entry("a", Kind.JOB, "j1", 21, 20, 22, shepherd=20),
    entry("a", Kind.JOB, "77", 30),
]
OTHERS = [entry("b", Kind.SERVICE, "web", 40), entry("b", Kind.SERVICE, "api", 41), entry("b", Kind.JOB, "j2", 50)]


@pytest.mark.parametrize(
    ("word", "name", "one"),
    [
        ("web", "web", None),
        ("10", "web", None),
        ("11", "web", 11),
        ("j1", "j1", None),
        ("20", "j1", None),
        ("21", "j1", None),
        ("22", "j1", 22),
        ("77", "77", None),
    ],
)
def test_what_is_meant_of_ones_own(word: str, name: str, one: int | None) -> None:
    target = find(word, OWN, OTHERS)
    assert (target.entry.name, target.process.pid if target.process else None) == (name, one)


@pytest.mark.parametrize("word", ["40", "50", "j2"])
def test_what_is_anothers_is_refused_by_name(word: str) -> None:
    with pytest.raises(errors.Conflict, match="of the instance 'b'"):
        find(word, OWN, OTHERS)


@pytest.mark.parametrize("word", ["1", "0", "-1", "99", "api", "nothing", "", "٢١", "21 "])
def test_what_is_nobodys_is_not_found(word: str) -> None:
    with pytest.raises(errors.NotFound):
        find(word, OWN, OTHERS)


# Murmuration

ENTRY: dict[str, Any] = {
    "id": "q-1",
    "process": {
        "script_name": "build",
        "title": "Build",
        "args": ["--fast"],
        "env_vars": {"A": "1"},
        "name": "b",
        "priority": 7,
    },
    "status": "pending",
    "priority": 8,
    "queuedAt": "2025-07-31T10:03:10.898Z",
    "startedAt": None,
    "completedAt": None,
    "retryCount": 1,
    "maxRetries": 3,
}


def document(*entries: Any, version: object = "1.0.0") -> bytes:
    return json.dumps({"version": version, "entries": entries}).encode()


def test_an_entry_of_murmuration_is_a_job() -> None:
    (found,) = legacy.entries(document(ENTRY), "/shop")
    assert found == job(
        "q-1", argv=("npm", "run", "build", "--", "--fast"), folder="/shop", title="Build", priority=8, number=1,
        env={"A": "1"}, retries=3, tries=1, added_at="2025-07-31T10:03:10.898Z",
    )  # fmt: skip
    (found,) = legacy.entries(document(ENTRY), "/shop", ("make", "-s"))
    assert found.argv == ("make", "-s", "build", "--fast")


def test_order_counts_and_ends_are_kept() -> None:
    later = ENTRY | {"id": "late", "queuedAt": 1_800_000_000_000, "status": "running", "retryCount": 2}
    done = ENTRY | {
        "id": "done",
        "queuedAt": "2025-01-01T00:00:00Z",
        "status": "completed",
        "completedAt": "2025-01-02T00:00:00Z",
    }
    least = {"id": "least", "process": {"script_name": "x"}, "status": "pending", "queuedAt": "2025-08-01T00:00:00Z"}
    found = legacy.entries(document(later, ENTRY, done, least), "/")
    assert [(one.id, one.number, one.status, one.tries) for one in found] == [
        ("done", 1, "done", 2),
        ("q-1", 2, "pending", 1),
        ("least", 3, "pending", 0),
        ("late", 4, "pending", 2),
    ]
    assert (found[2].argv, found[2].priority, found[2].retries, found[2].title) == (("npm", "run", "x"), 5, 0, "x")


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"[]", b"null", b"[" * 100_000, document(1), document({}), document(ENTRY, ENTRY), document(version=None),
        document(ENTRY | {"id": "../x"}), document(ENTRY | {"status": "odd"}), document(ENTRY | {"priority": 11}),
        document(ENTRY | {"retryCount": -1}), document(ENTRY | {"maxRetries": "3"}), document(ENTRY | {"process": {}}),
        document(ENTRY | {"process": {"script_name": "x", "args": "a"}}),
        document(ENTRY | {"process": {"script_name": "x", "env_vars": {"A": []}}}),
        json.dumps({"version": "1.0.0"}).encode(),
    ],
)  # fmt: skip
def test_what_is_no_queue_of_murmuration(data: bytes, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "queue-state.json.corrupt-1").write_text("an older one")
    file = tmp_path / "queue-state.json"
    file.write_bytes(data)
    with pytest.raises(errors.Damaged, match="is damaged"):
        legacy.migrate(file, Backlog("a", tmp_path), tmp_path)
    assert not file.exists()
    assert (tmp_path / "queue-state.json.corrupt-1").read_text() == "an older one"
    assert (tmp_path / "queue-state.json.corrupt-2").read_bytes() == data
    assert Backlog("a", tmp_path).read() == Queue()


def test_another_version_is_left_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    file = tmp_path / "queue-state.json"
    file.write_bytes(document(ENTRY, version="2.0.0"))
    with pytest.raises(errors.State, match=r"version '2\.0\.0'"):
        legacy.migrate(file, Backlog("a", tmp_path), tmp_path)
    assert file.exists()


class Killed(Exception):
    """Somebody ends us here."""


@pytest.mark.parametrize("step", range(1, 5))
def test_a_migration_that_was_killed_is_gone_on_with_and_nothing_is_there_twice(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before and after each of its four steps: claim, entries, backup, note that it is done."""
    tmp_path.chmod(0o700)
    (tmp_path / "other").mkdir(mode=0o700)
    file, mine, other = tmp_path / "queue-state.json", Backlog("a", tmp_path), Backlog("b", tmp_path / "other")
    file.write_bytes(document(ENTRY, ENTRY | {"id": "q-2"}))
    steps = 0

    def counted(act: Any) -> Any:
        def killed(*args: Any, **more: Any) -> Any:
            nonlocal steps
            steps += callable(args[0]) or args[0].startswith(file.name)  # the queue's own file is renamed, too
            if steps == step:
                raise Killed
            return act(*args, **more)

        return killed

    with monkeypatch.context() as patch:
        patch.setattr(legacy.os, "rename", counted(legacy.os.rename))
        patch.setattr(mine, "change", counted(mine.change))
        with pytest.raises(Killed):
            legacy.migrate(file, mine, tmp_path)
    if step > 1:
        with pytest.raises((errors.Conflict, errors.NotFound)):
            legacy.migrate(file, other, tmp_path)
        assert other.read() == Queue()
    if step == 3:  # it is in the queue already: what was done of it meanwhile is not there again
        mine.change(lambda queue: replace(queue, jobs=queue.jobs[:1]))
    if step < 4:
        legacy.migrate(file, mine, tmp_path)
    assert [one.id for one in mine.read().jobs] == (["q-1"] if step == 3 else ["q-1", "q-2"])
    assert sorted(path.name for path in tmp_path.glob("queue-state*")) == ["queue-state.json.migrated"]
    with pytest.raises(errors.NotFound, match="was migrated already"):
        legacy.migrate(file, mine, tmp_path)
