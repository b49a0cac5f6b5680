"""The dashboard: what it makes of an overview and of events, as tables; and the screen, driven by a scripted source."""

from __future__ import annotations

import asyncio
import queue
import subprocess
import sys
import threading
import types
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice
from typing import Any

import pytest
import support

from mnemo_coord.client import Frame
from mnemo_coord.dash import attention, filters, following, journal, main, reading, rows, sentences, summary, view, wording
from mnemo_coord.errors import Config, State

AT = "2026-11-24T21:40:00.123Z"
HOSTILE = "[red]x[/red] \x1b[31m \u202egnp.exe"
ESCAPED = r"[red]x[/red] \x1b[31m \u202egnp.exe"


def instance(number: int, **more: Any) -> dict[str, Any]:
    return {
        "instance_id": f"{number:08x}",
        "name": f"worker-{number}",
        "roles": ["reviewer"],
        "pid": 4711,
        "status": "alive",
        "api_url": f"http://127.0.0.1:{3000 + number}",
        "heartbeat_age": 0.7,
        "branch": "main",
        "report": None,
    } | more


def report(state: str, text: str = "") -> dict[str, Any]:
    return {"state": state, "text": text, "at": AT}


def finding(**more: Any) -> dict[str, Any]:
    return {
        "code": "x-odd",
        "severity": "error",
        "subject": "a file",
        "message": "it is odd",
        "hint": "look",
        "fixed": False,
    } | more


def work(number: int, branch: str = "main", **more: Any) -> dict[str, Any]:
    said = {"intent": "write", "mode": "coordinated", "files": ["src/**"], "since": "2026-11-24T21:30:00.123Z"}
    return {"branch": branch, "instance_id": f"{number:08x}"} | said | more


def conflict(one: int, other: int, **more: Any) -> dict[str, Any]:
    said = {"branch": "main", "severity": "error", "reason": "it may", "files": ["a", "b"], "kind": "assignment"}
    return {"instance_id": f"{one:08x}", "other": f"{other:08x}"} | said | more


def overview(*instances: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"at": AT, "instance_id": None, "instances": list(instances), "usage": {}, "mailboxes": [], "findings": []} | more


def event(kind: str, number: int = 1, **data: Any) -> dict[str, Any]:
    return {"id": 1, "kind": kind, "at": AT, "instance_id": f"{number:08x}", "data": data}


# What is read


@pytest.mark.parametrize(
    ("value", "text", "number"),
    [
        ("plain", "plain", None),
        (HOSTILE, ESCAPED, None),
        ("a\nb", r"a\x0ab", None),
        ("x" * 301, "x" * 299 + "…", None),
        (None, "", None),
        (7, "", 7.0),
        (True, "", None),
        (float("nan"), "", None),
        (float("inf"), "", None),
        (10**400, "", None),
        ([], "", None),
        ({}, "", None),
    ],
)
def test_strangers_values_are_read_as_something_that_can_be_shown(value: Any, text: str, number: float | None) -> None:
    assert reading.text(value) == text
    assert reading.number(value) == number


def test_ages_grow_between_snapshots_and_nothing_else_does() -> None:
    before = overview(instance(1), instance(2, heartbeat_age=None), mailboxes=[{"address": "x", "waiting": 1, "oldest": 58.0}])
    after = reading.aged(before, 3.0)
    assert [one["heartbeat_age"] for one in after["instances"]] == [3.7, None]
    assert after["mailboxes"] == [{"address": "x", "waiting": 1, "oldest": 61.0}]
    assert before["instances"][0]["heartbeat_age"] == 0.7
    assert [item.sign for item in attention.attention(after)] == ["mailbox"], "what was in time is late by now"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, "-"), (-1, "0s"), (0.7, "0s"), (59.9, "59s"), (60, "1m"), (3599, "59m"), (7200, "2h"), (259_200, "3d"), ("1", "-")],
)
def test_ages(seconds: Any, shown: str) -> None:
    assert wording.age(seconds) == shown


@pytest.mark.parametrize(("at", "parts"), [(AT, 3), ("2026-11-24T21:40:00+01:00", 3)])
def test_times_of_day(at: str, parts: int) -> None:
    assert [part.isdigit() for part in wording.time_of_day(at).split(":")] == [True] * parts


@pytest.mark.parametrize("at", [None, 7, "", "yesterday", "0001-01-01T00:00:00Z\x1b"])
def test_no_time_of_day(at: Any) -> None:
    assert wording.time_of_day(at) == "--:--:--"


# What needs attention


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (overview(), []),
        ({}, []),
        ({"instances": None, "findings": "x", "mailboxes": [1]}, []),
        (overview(instance(1), instance(2, status="paused"), instance(3, status="foreign")), []),
        (overview(instance(1, report=report("working", "x")), instance(2, report=report("idle"))), []),
        (
            overview(instance(1, status="dead", heartbeat_age=75)),
            [("dead", "bad", "worker-1 (00000001): its last heartbeat was 1m ago", "")],
        ),
        (
            overview(instance(1, status="stalled", name=None, heartbeat_age=None)),
            [("stalled", "warn", "00000001: no heartbeat is known", "")],
        ),
        (
            overview(instance(1, status="untrusted")),
            [("untrusted", "bad", "worker-1 (00000001): its entry is not signed with this fleet's key", "")],
        ),
        (
            overview(instance(1, report=report("stuck", "a password"))),
            [("stuck", "bad", "worker-1 (00000001): a password", "")],
        ),
        (
            overview(instance(1, report=report("waiting"))),
            [("waiting", "warn", "worker-1 (00000001): it does not say why", "")],
        ),
        (overview(findings=[finding(severity="notice"), finding(fixed=True)]), []),
        (overview(findings=[finding()]), [("error", "bad", "a file: it is odd", "look")]),
        (overview(findings=[finding(severity="warning", subject="")]), [("warning", "warn", "it is odd", "look")]),
        (
            overview(instance(1, status="dead"), findings=[finding(code="instance-dead", subject="00000001", message="gone")]),
            [("dead", "bad", "worker-1 (00000001): gone", "look")],
        ),
        (
            overview(dead_lettered=2, refused=1),
            [
                ("messages", "warn", "2 messages were dead-lettered", "`mnemosyne queue show` says which and why"),
                ("messages", "warn", "1 message was refused", "`mnemosyne queue show` says which and why"),
            ],
        ),
        (
            overview(
                mailboxes=[{"address": "@r", "waiting": 3, "oldest": 60.0}, {"address": "x", "waiting": 0, "oldest": None}]
            ),
            [],
        ),
        (
            overview(
                instance(1), instance(2), conflicts=[conflict(1, 2, reason="00000002 may"), conflict(1, 2, severity="warning")]
            ),
            [
                (
                    "conflict",
                    "warn",
                    "worker-1 (00000001) and worker-2 (00000002) are in each other's way on main: worker-2 may: a, b",
                    "`mnemosyne branch conflicts`",
                )
            ],
        ),
        (
            overview(conflicts=[conflict(1, 2, severity="block", reason="", files=None), conflict(1, 2, kind="edits")]),
            [
                (
                    "conflict",
                    "bad",
                    f"00000001 and 00000002 {what}",
                    "`mnemosyne branch conflicts`",
                )
                for what in ("are in each other's way on main", "change the same files on main: it may: a, b")
            ],
        ),
        (
            overview(mailboxes=[{"address": "@r", "waiting": 3, "oldest": 125.0}]),
            [("mailbox", "warn", "@r: 3 messages wait, the oldest for 2m", "")],
        ),
    ],
)
def test_what_needs_attention(seen: dict[str, Any], expected: list[tuple[str, str, str, str]]) -> None:
    assert attention.attention(seen) == expected


def test_a_dead_agents_last_words_ask_for_nothing_more() -> None:
    found = attention.attention(overview(instance(1, status="dead", report=report("stuck", "a password"))))
    assert [item.sign for item in found] == ["dead"]


def test_the_worst_comes_first() -> None:
    found = attention.attention(
        overview(
            instance(1, status="stalled"), instance(2, status="dead"), instance(3, report=report("stuck")), findings=[finding()]
        )
    )
    assert [item.sign for item in found] == ["stuck", "dead", "error", "stalled"]


# What happened


@pytest.mark.parametrize(
    ("happened", "sentence"),
    [
        (event("instance_registered", name="planner", pid=4711), "planner (00000001) joined, pid 4711"),
        (event("instance_registered", 9, name=None, pid=None), "00000009 joined"),
        (event("instance_stalled", name="planner"), "planner (00000001) stalled: its heartbeat is late"),
        (event("instance_recovered", name="planner"), "planner (00000001) recovered: it beats again"),
        (event("instance_died"), "worker-1 (00000001) died"),
        (event("instance_left", name="planner"), "planner (00000001) left"),
        (event("message_sent", message_type="task", from_agent="00000001", to="00000002"), "worker-1 sent task to worker-2"),
        (event("message_sent", message_type="task", from_agent="ci", to=None), "ci sent task to everybody"),
        (
            event("message_received", message_type="task", from_agent="ci", to="@r", delivery=1),
            "worker-1 received task from ci",
        ),
        (
            event("message_received", message_type="task", from_agent="ci", delivery=2),
            "worker-1 received task from ci (delivery 2)",
        ),
        (event("message_acknowledged", message_type="task", from_agent="00000002"), "worker-1 acknowledged task from worker-2"),
        (event("message_dead_lettered", file="f.json", reason="too often"), "A message was dead-lettered: too often (f.json)"),
        (event("message_quarantined", file="f.json", reason="not signed"), "A message was refused: not signed (f.json)"),
        (
            event("port_taken", port=3001, url="http://127.0.0.1:3001"),
            "worker-1 (00000001) took port 3001 (http://127.0.0.1:3001)",
        ),
        (event("finding_found", subject="p", message="it is odd", hint="look"), "Found: p: it is odd (look)"),
        (event("finding_fixed", subject="p", message="it is odd", hint="look"), "Fixed: p: it is odd"),
        (event("agent_state", state="stuck", text="a password"), "worker-1 (00000001) is stuck: a password"),
        (event("agent_state", state="idle", text=""), "worker-1 (00000001) is idle"),
        (
            event("lamp_lit", branch="main", count=2, deep={"a": 1}),
            "lamp_lit: worker-1 (00000001): branch main, count 2",
        ),
        (
            event("branch_joined", branch="main", intent="full", mode="isolated", files=[], epoch=1),
            "worker-1 (00000001) works on main (full, alone)",
        ),
        (
            event("branch_joined", branch=HOSTILE, intent="write", mode="coordinated", files=["a", "b", HOSTILE, "d", "e"]),
            f"worker-1 (00000001) works on {ESCAPED} (write, coordinated): a, b, {ESCAPED[:31]}…, and 2 more",
        ),
        (event("branch_joined", intent="read", mode="isolated", files="x"), "worker-1 (00000001) works on a branch (read)"),
        (event("branch_released", branch="main", epoch=1), "worker-1 (00000001) no longer works on main"),
        (event("memory_stored", id="x", namespace="global"), "worker-1 (00000001) remembered something (global)"),
        (event("memory_recalled", namespace=None, found=2, ids=[]), "worker-1 (00000001) recalled 2 memories"),
        (event("memory_recalled", namespace=HOSTILE, found=0), f"worker-1 (00000001) recalled 0 memories in {ESCAPED}"),
        (event("memory_waited", seconds=0.5, tries=3, done=True), "worker-1 (00000001) waited 0.5 s for the shared database"),
        (
            event("memory_waited", seconds=30.1, tries=9, done=False),
            "worker-1 (00000001) waited 30.1 s for the shared database, in vain",
        ),
        (
            event("edits_collided", other="00000002", branch="main", severity="error", files=["a", "b"]),
            "worker-1 (00000001) and worker-2 are changing the same files: a, b",
        ),
        (event("agent_state", state="working", text=HOSTILE), f"worker-1 (00000001) is working: {ESCAPED}"),
        ({}, "something"),
        ({"kind": 7, "data": []}, "something"),
        ({"kind": "message_sent"}, "somebody sent a message to everybody"),
    ],
)
def test_one_plain_sentence_a_kind(happened: dict[str, Any], sentence: str) -> None:
    assert sentences.told(happened, {"00000001": "worker-1", "00000002": "worker-2"}).text == sentence


def test_every_kind_that_there_is_has_its_sentence() -> None:
    from mnemo_coord.events import EventKind

    assert [kind for kind in EventKind if sentences.told(event(kind), {}).text.startswith(f"{kind}: ")] == []


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"missed": 17}, "17 events were missed"),
        ({"missed": 1}, "1 event was missed"),
        ({"missed": None}, "Some events were missed"),
    ],
)
def test_what_was_missed_is_said(data: dict[str, Any], sentence: str) -> None:
    assert sentences.missed(data, "21:40:00").text == sentence


# What stands in the tables


def test_an_instances_row() -> None:
    seen = overview(
        instance(1, status="stalled", heartbeat_age=9.4, report=report("stuck", "a password")),
        usage={"00000001": {"cpu_percent": 1.6, "rss": 43_000_000}},
        mailboxes=[
            {"address": "00000001", "waiting": 2},
            {"address": "worker-1", "waiting": 3},
            {"address": "@reviewer", "waiting": 9},
        ],
    )
    (cells,) = rows.instances(seen).values()
    assert [cell.text for cell in cells] == [
        "stalled", "worker-1", "00000001", "9s", "stuck: a password", "2%", "43M", "3001", "main", "5",
    ]  # fmt: skip


def test_an_instance_of_which_nothing_is_known() -> None:
    seen = {
        "instances": [{"instance_id": "x", "api_url": "http://[", "report": "x"}, {"instance_id": None}, 7],
        "usage": {"x": None},
    }
    assert [[cell.text for cell in cells] for cells in rows.instances(seen).values()] == [
        ["?", "-", "x", "-", "-", "-", "-", "-", "-", "0"]
    ]


def test_mailboxes_and_findings() -> None:
    seen = overview(
        instance(1),
        mailboxes=[{"address": "00000001", "waiting": 1, "claimed": 0, "expired": None, "oldest": 61.0}],
        findings=[finding(fixed=True), finding(message=HOSTILE)],
    )
    assert [[cell.text for cell in cells] for cells in rows.mailboxes(seen).values()] == [
        ["00000001", "worker-1", "1", "0", "-", "1m late"]
    ]
    assert [[cell.text for cell in cells] for cells in rows.findings(seen).values()] == [
        ["error, fixed", "a file", "it is odd", "look", "x-odd"],
        ["error", "a file", ESCAPED, "look", "x-odd"],
    ]


def test_branches() -> None:
    seen = overview(
        instance(1),
        branches=[
            work(1, files=["a", "b", "c", "d", HOSTILE]),
            work(2, HOSTILE, intent=HOSTILE, mode="isolated", files=None, since="x"),
            work(1, "docs", intent="read", mode="isolated", files=[], since="2026-11-24T21:31:00.123Z"),
            {},
        ],
        conflicts=[conflict(2, 1, severity="warning"), conflict(3, 1, severity="warning"), conflict(4, 1)],
    )
    assert [[cell.text for cell in cells] for cells in rows.branches(seen).values()] == [
        ["main", "worker-1", "write, coordinated", "10m", "00000002, 00000003", "a, b, c, and 2 more"],
        [f"{ESCAPED[:31]}…", "00000002", f"{ESCAPED[:19]}…, alone", "-", "-", "-"],
        ["docs", "worker-1", "read", "9m", "-", "-"],
        ["-", "somebody", "?, ?", "-", "-", "-"],
    ]
    assert rows.branches({"branches": "x"}) == {}


def test_memories() -> None:
    one = {"id": "a", "content": HOSTILE, "namespace": "global", "author_name": None, "author_id": "00000001", "importance": 7}
    seen = overview(memory={"path": "m.db", "memories": 12, "links": 0, "recent": [one, {"id": 7}, "x"]})
    assert [[cell.text for cell in cells] for cells in rows.memories(seen).values()] == [
        [ESCAPED, "global", "00000001", "7"],
        ["-", "-", "-", "-"],
    ]
    assert rows.memories_there_are(seen) == 12
    assert (rows.memories(overview()), rows.memories({"memory": None}), rows.memories_there_are({"memory": "x"})) == ({}, {}, 0)


@pytest.mark.parametrize(
    ("branches", "shown"),
    [
        ([], "main"),
        ([work(2, "other")], "main"),
        ([work(1, "other")], "other (write, coordinated)"),
        ([work(1, "other", intent="full", mode="isolated")], "other (full, alone)"),
        (
            [work(1, "other", intent="read", mode="isolated", since="2026"), work(1, "x" * 30)],
            f"{'x' * 23}… (write, coordinated) +1",
        ),
    ],
)
def test_an_instances_branch_is_what_it_joined_last(branches: list[dict[str, Any]], shown: str) -> None:
    assert rows.instances(overview(instance(1), branches=branches))["00000001"][8].text == shown


def test_the_counts_by_status_from_well_to_ill() -> None:
    seen = overview(instance(1, status="dead"), instance(2), instance(3, status="odd"), instance(4))
    assert [cell.text for cell in summary.counts(seen)] == ["4 instances", "2 alive", "1 dead", "1 odd"]
    assert [cell.text for cell in summary.counts({})] == ["nobody is here"]


@pytest.mark.parametrize(
    ("now", "shown"),
    [
        (following.Connection(following.Phase.LIVE), "live"),
        (following.Connection(following.Phase.CONNECTING), "connecting"),
        (following.Connection(following.Phase.CONNECTING, "refused"), "reconnecting: refused"),
        (following.Connection(following.Phase.WAITING, "refused", 101.5), "reconnecting in 2 s: refused"),
        (following.Connection(following.Phase.WAITING, "refused", 99.0), "reconnecting in 1 s: refused"),
    ],
)
def test_how_it_stands_with_the_source(now: following.Connection, shown: str) -> None:
    assert summary.connection(now, 100.0).text == shown


# What is filtered


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("", {1, 2}),
        ("00000002", {2}),
        ("WORKER-1", {1}),
        ("password STUCK", {2}),
        ("dead", {1}),
        ("reviewer", {1, 2}),
        ("orders", {2}),
        ("nobody", set()),
    ],
)
def test_words_choose_instances(words: str, shown: set[int]) -> None:
    seen = overview(
        instance(1, status="dead"), instance(2, report=report("stuck", "a Password")), branches=[work(2, "new/Orders")]
    )
    assert filters.Filter(words=words).instances(seen) == {f"{number:08x}" for number in shown}


@pytest.mark.parametrize(
    ("wanted", "shown"),
    [
        ({}, "01234"),
        ({"kind": "instance_died"}, "14"),
        ({"instance": "00000002"}, "0234"),
        ({"instance": "00000002", "kind": "message_sent"}, "024"),
        ({"words": "planner"}, "34"),
        ({"words": "message_sent"}, "024"),
        ({"words": "sent task"}, "024"),
    ],
)
def test_what_chooses_events(wanted: dict[str, str], shown: str) -> None:
    """What was missed is always shown."""
    known = {"00000002": "worker-2"}
    entries = [
        sentences.told(event("message_sent", message_type="task", from_agent="00000002", to="x"), known),
        sentences.told(event("instance_died"), known),
        sentences.told(event("message_sent", message_type="task", from_agent="ci", to="worker-2"), known),
        sentences.told(event("instance_left", 2, name="planner"), known),
        sentences.missed({}, ""),
    ]
    assert "".join(str(place) for place, entry in enumerate(entries) if filters.Filter(**wanted).passes(entry)) == shown


def test_cycling_goes_through_all_and_back_to_none() -> None:
    assert [filters.after(one, ["a", "b"]) for one in ("", "a", "b", "gone")] == ["a", "b", "", "a"]
    assert filters.after("a", []) == ""


def test_a_paused_log_keeps_its_picture_and_goes_on_keeping() -> None:
    kept = journal.Journal(3)
    told = [sentences.told(event(f"kind_{number}"), {}) for number in range(5)]
    for entry in told[:2]:
        kept.add(entry)
    kept.toggle()
    for entry in told[2:]:
        kept.add(entry)
    assert (kept.shown(filters.Filter()), kept.held) == (told[:2], 3)
    kept.toggle()
    assert (kept.shown(filters.Filter()), kept.held, kept.kinds()) == (told[2:], 0, ["kind_2", "kind_3", "kind_4"])


def test_what_happened_before_is_recalled_once() -> None:
    shown = view.View()
    fact = {"at": "2026-11-24T21:40:00.123Z", "kind": "instance_died", "instance_id": "a1b2c3d4", "name": "builder", "pid": 7}
    for _ in range(2):
        shown.hear(Frame("snapshot", overview(instance(1), past=[fact, {"kind": 7}, "odd"])))
    entries = shown.journal.shown(filters.Filter())
    assert (entries[0].text, len(entries)) == ("builder (a1b2c3d4) died", 2)


def test_ages_stand_still_while_nobody_would_say_that_they_changed() -> None:
    now = 100.0
    shown = view.View(lambda: now)
    shown.hear(following.Connection(following.Phase.LIVE))
    shown.hear(Frame("snapshot", overview(instance(1, heartbeat_age=1.0))))
    now = 102.0
    assert shown.overview()["instances"][0]["heartbeat_age"] == 3.0
    shown.hear(following.Connection(following.Phase.WAITING, "refused", 110.0))
    now = 150.0
    shown.hear(following.Connection(following.Phase.CONNECTING, "refused"))
    assert shown.overview()["instances"][0]["heartbeat_age"] == 3.0


# Following


class Script:
    """A source that says what the test tells it to, and raises what it is told to raise."""

    def __init__(self, *said: Frame | Exception, title: str = "http://127.0.0.1:3000") -> None:
        self.title = title
        self.attempts = 0
        self._said: queue.Queue[Frame | Exception] = queue.Queue()
        self._closed = threading.Event()
        self.say(*said)

    def say(self, *said: Frame | Exception) -> None:
        for one in said:
            self._said.put(one)

    def follow(self) -> Iterator[Frame]:
        self.attempts += 1
        while not self._closed.is_set():
            try:
                one = self._said.get(timeout=0.02)
            except queue.Empty:
                continue
            if isinstance(one, Exception):
                raise one
            yield one

    def close(self) -> None:
        self._closed.set()


def test_the_waits_double_up_to_five_seconds() -> None:
    assert list(islice(following.delays(), 6)) == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]


def test_what_the_follower_says_and_in_which_order() -> None:
    script = Script(Frame("gap"), State("it is gone", hint="look"), ValueError(HOSTILE))
    follower = following.Follower(script)
    follower.start()
    came: list[Any] = []
    support.wait_until(lambda: came.extend(follower.take()) or len(came) >= 6)
    follower.stop()
    assert follower.join(10)
    shown = [one.kind if isinstance(one, Frame) else f"{one.phase} {one.reason}".strip() for one in came]
    assert shown[:6] == [
        "connecting",
        "live",
        "gap",
        "waiting it is gone (look)",
        "connecting it is gone (look)",
        f"waiting ValueError: {ESCAPED}",
    ]


def test_a_flood_is_held_back_and_can_be_left() -> None:
    class Flood(Script):
        sent = 0

        def follow(self) -> Iterator[Frame]:
            while not self._closed.is_set():
                self.sent += 1
                yield Frame("event", event("instance_died"))

    flood = Flood()
    follower = following.Follower(flood)
    follower.start()
    support.wait_until(lambda: flood.sent >= 999)
    assert flood.sent <= 1000, "the rest waits where it comes from"
    follower.stop()
    assert follower.join(10)


# The command


def test_version_and_help_load_nothing_heavy() -> None:
    heavy = {"textual", "rich", "orjson", "psutil", "cryptography", "mnemo_coord.client"}
    for argument in ("--version", "--help"):
        code = f"import sys; from mnemo_coord.dash.main import main; main([{argument!r}]); print(sorted({heavy} & sys.modules.keys()))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "[]"
        assert "mnemosyne-dash" in done.stdout


def test_it_needs_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main([]) == 2
    assert capsys.readouterr().err == "mnemosyne-dash: stdout is not a terminal (`mnemosyne list` prints who is here)\n"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every stream were a terminal."""
    monkeypatch.setattr(main, "_elsewhere", lambda: "")


@pytest.mark.usefixtures("terminal")
def test_it_needs_textual(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "textual" or name == "mnemo_coord.dash.app"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "textual", None)
    assert main.main([]) == 2
    assert capsys.readouterr().err == "the dashboard needs textual (pip install 'mnemo-coord[dash]')\n"


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (State("it is gone", hint="look"), 6, "mnemosyne-dash: it is gone (look)\n"),
        (Config("not a URL: \x1b"), 2, "mnemosyne-dash: not a URL: \\x1b\n"),
        (KeyboardInterrupt(), 0, ""),
    ],
)
def test_what_goes_wrong_is_one_line(
    error: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("textual")

    def refuse(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(main, "_source", refuse)
    assert main.main(["--api", "x"]) == code
    assert capsys.readouterr().err.lstrip() == said, "click ends the line in which ^C was echoed"


def test_a_wrong_flag_is_two(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--wrong"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(("api", "made"), [("http://h:1", ("api", "http://h:1", "/d")), (None, ("directory", "/d"))])
def test_which_source_it_is(api: str | None, made: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    client = types.ModuleType("mnemo_coord.client")
    client.ApiSource = lambda *given: ("api", *given)  # type: ignore[attr-defined]
    client.DirectorySource = lambda *given: ("directory", *given)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mnemo_coord.client", client)
    assert main._source(api, "/d") == made


# The screen


class Screen:
    """The running dashboard, and how a test looks at it."""

    def __init__(self, app: Any, pilot: Any, script: Script) -> None:
        self.app, self.pilot, self.script = app, pilot, script

    @property
    def text(self) -> str:
        strips = self.app.screen._compositor.render_strips()
        return "\n".join("".join(segment.text for segment in strip) for strip in strips)

    @property
    def table(self) -> Any:
        return self.app.query_one("#instances")

    @property
    def log(self) -> str:
        return "\n".join(strip.text for strip in self.app.query_one("#events").lines)

    async def until(self, condition: Callable[[], Any], what: str = "") -> None:
        for _ in range(600):
            if condition():
                return
            await self.pilot.pause(0.02)
        raise AssertionError(f"{what or 'it never happened'}; on the screen:\n{self.text}")

    async def shows(self, *words: str) -> None:
        for word in words:
            await self.until(lambda word=word: word in self.text, f"{word!r} was never shown")

    async def hides(self, word: str) -> None:
        await self.until(lambda: word not in self.text, f"{word!r} stayed")

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause()


SIZES = [(80, 24), (120, 40), (200, 60)]


def dash(test: Callable[[Screen], Awaitable[None]], *said: Frame | Exception, size: tuple[int, int] = (80, 24)) -> None:
    """Runs the test against a dashboard that was told this, and sees to it that nothing goes on afterwards."""
    pytest.importorskip("textual")
    from mnemo_coord.dash.app import Dashboard

    script = Script(*said)
    app = Dashboard(script)

    async def run() -> None:
        async with app.run_test(size=size) as pilot:
            await test(Screen(app, pilot, script))

    asyncio.run(run())
    assert app.follower.join(10), "the thread that follows ends with the screen"


def snapshot(*instances: dict[str, Any], **more: Any) -> Frame:
    return Frame("snapshot", overview(*instances, **more))


def happened(kind: str, number: int = 1, **data: Any) -> Frame:
    return Frame("event", event(kind, number, **data))


TWO = snapshot(instance(1), instance(2, status="stalled"), instance_id="00000001")


@pytest.mark.parametrize("size", SIZES)
def test_it_shows_the_fleet(size: tuple[int, int]) -> None:
    async def test(screen: Screen) -> None:
        await screen.shows("http://127.0.0.1:3000", "worker-1 (00000001)", "live", "2 instances  1 alive  1 stalled")
        await screen.shows("Needs attention (1)", "stalled   worker-2 (00000002): its last heartbeat was")
        await screen.shows("Instances 2", "alive    worker-1  00000001", "worker-2 (00000002) left", "q Quit", "? Help")

    dash(test, TWO, happened("instance_left", 2), size=size)


@pytest.mark.parametrize("size", SIZES)
def test_nobody_is_here(size: tuple[int, int]) -> None:
    async def test(screen: Screen) -> None:
        await screen.shows("nobody is here", "All is well", "Instances 0")
        await screen.press("down", "enter", "i", "k", "2", "3")

    dash(test, snapshot(), size=size)


@pytest.mark.parametrize("size", SIZES)
def test_two_hundred(size: tuple[int, int]) -> None:
    async def test(screen: Screen) -> None:
        await screen.shows("200 instances", "Instances 200")
        await screen.press("ctrl+end")
        await screen.shows("worker-199")
        await screen.press("slash", *"worker-57")
        await screen.shows("Instances 1 of 200")
        await screen.press("escape")
        await screen.until(lambda: screen.table.row_count == 200)
        assert [str(row[2]) for row in map(screen.table.get_row_at, range(200))] == [f"{number:08x}" for number in range(200)]

    dash(test, snapshot(*map(instance, range(200))), size=size)


def test_the_filter_chooses_instances_and_events() -> None:
    async def test(screen: Screen) -> None:
        await screen.until(lambda: screen.log.count("\n") == 1)
        await screen.press("slash", *"WORKER-2")
        await screen.until(lambda: screen.table.row_count == 1)
        await screen.shows("with WORKER-2")
        assert "worker-2" in screen.log
        assert "worker-1" not in screen.log
        screen.script.say(happened("instance_left", 1), happened("instance_left", 2))
        await screen.until(lambda: "worker-2 (00000002) left" in screen.log)
        assert "worker-1" not in screen.log, "what comes later is filtered too"
        await screen.press("enter", "down")
        await screen.shows("with WORKER-2")
        await screen.press("escape")
        await screen.until(lambda: screen.table.row_count == 2 and "worker-1 (00000001) left" in screen.log)
        await screen.hides("with WORKER-2")

    dash(test, TWO, happened("instance_died", 1), happened("instance_died", 2))


def test_letters_typed_into_the_filter_are_no_commands() -> None:
    async def test(screen: Screen) -> None:
        await screen.shows("worker-1")
        await screen.press("slash", *"qikp?")
        await screen.shows("with qikp?", "Instances 0 of 2")
        assert screen.app.is_running

    dash(test, TWO)


def test_the_kind_and_the_instance_are_chosen() -> None:
    async def test(screen: Screen) -> None:
        await screen.until(lambda: screen.log.count("\n") == 2)
        await screen.press("k")
        await screen.shows("Events only instance_died")
        assert screen.log.count("\n") == 1
        await screen.press("i", "i")
        await screen.shows("Events of worker-2 (00000002), only instance_died")
        assert "worker-2 (00000002) died" in screen.log
        assert "\n" not in screen.log
        await screen.press("escape")
        await screen.until(lambda: screen.log.count("\n") == 2)
        await screen.press("down", "enter")
        await screen.shows("Events of worker-2 (00000002)")
        assert screen.log.count("\n") == 0
        await screen.press("enter")
        await screen.until(lambda: screen.log.count("\n") == 2)

    dash(test, TWO, happened("instance_died", 1), happened("instance_died", 2), happened("instance_left", 1))


def test_the_chosen_row_stays_chosen_and_cells_change_in_place() -> None:
    async def test(screen: Screen) -> None:
        await screen.until(lambda: screen.table.row_count == 3)
        await screen.press("down", "down")
        assert screen.table.chosen == "00000003"
        screen.script.say(snapshot(instance(5), instance(3, status="dead"), instance(2, name="renamed-to-something")))
        await screen.until(lambda: screen.table.chosen == "00000003" and screen.table.cursor_row == 1)
        await screen.shows("dead    worker-3", "renamed-to-something  00000002")
        assert [str(row[2]) for row in map(screen.table.get_row_at, range(3))] == ["00000005", "00000003", "00000002"]
        screen.script.say(snapshot(instance(5)))
        await screen.until(lambda: screen.table.row_count == 1 and screen.table.chosen == "00000005")

    dash(test, snapshot(*map(instance, (1, 2, 3))))


def test_beats_age_between_snapshots() -> None:
    async def test(screen: Screen) -> None:
        for age in ("10s", "11s"):
            await screen.until(lambda age=age: screen.table.row_count and str(screen.table.get_row_at(0)[3]) == age)

    dash(test, snapshot(instance(1, heartbeat_age=10.0)))


def test_it_connects_again() -> None:
    async def test(screen: Screen) -> None:
        await screen.shows("live", "worker-1")
        screen.script.say(State("connection refused", hint="is it there?"))
        await screen.shows("connection refused (is it there?)", "worker-1")
        screen.script.say(snapshot(instance(7)))
        await screen.shows("live", "worker-7")
        await screen.hides("reconnecting")
        assert screen.script.attempts == 2

    dash(test, TWO)


def test_what_cannot_be_reached_at_first_is_tried_again() -> None:
    async def test(screen: Screen) -> None:
        await screen.shows("Nothing has been heard yet", "refused")
        screen.script.say(TWO)
        await screen.shows("worker-1", "live")
        assert screen.script.attempts == 2

    dash(test, State("refused"))


def test_the_log_can_be_paused() -> None:
    async def test(screen: Screen) -> None:
        await screen.until(lambda: "worker-1 (00000001) died" in screen.log)
        await screen.press("p")
        screen.script.say(happened("instance_left", 2), Frame("gap", {"missed": 3}))
        await screen.shows("Events (paused, 2 more)")
        assert "left" not in screen.log
        await screen.press("p")
        await screen.until(lambda: "left" in screen.log and "3 events were missed" in screen.log)
        await screen.hides("paused, ")

    dash(test, TWO, happened("instance_died", 1))


def test_the_log_keeps_the_newest_five_hundred() -> None:
    async def test(screen: Screen) -> None:
        await screen.until(lambda: "worker-1 (00000001) is working: 1199" in screen.log)
        assert screen.log.count("\n") == journal.LIMIT - 1
        assert ": 699" not in screen.log
        await screen.shows(": 1199")

    dash(test, TWO, *(happened("agent_state", state="working", text=str(number)) for number in range(1200)))


@pytest.mark.parametrize("size", SIZES)
def test_hostile_text_is_shown_and_never_obeyed(size: tuple[int, int]) -> None:
    async def test(screen: Screen) -> None:
        await screen.shows(r"\x1b[31m", r"\u202e", "[red]")
        for key in ("enter", "k", "2", "3", "4", "slash", "[", "r", "enter"):
            await screen.press(key)
            assert not {"\x1b", "\u202e"} & set(screen.text)
        assert ESCAPED in " ".join(screen.log.split()), "however its line is broken"

    mad = {
        "instance_id": "[red]x[/red]",
        "name": HOSTILE,
        "status": "[bold]",
        "branch": HOSTILE,
        "api_url": HOSTILE,
        "report": report("stuck", HOSTILE),
    }
    dash(
        test,
        snapshot(
            mad,
            instance_id="[red]x[/red]",
            findings=[finding(message=HOSTILE, subject=HOSTILE, severity="[/]", hint="[/]", code="[b]")],
            mailboxes=[{"address": "[/]", "waiting": 1, "oldest": 99.0}],
            branches=[work(1, HOSTILE, instance_id="[red]x[/red]", intent=HOSTILE, mode="[/]", files=[HOSTILE], since=HOSTILE)],
            conflicts=[conflict(1, 2, branch=HOSTILE, reason=HOSTILE, files=[HOSTILE], instance_id="[red]x[/red]")],
        ),
        Frame("event", {"kind": "[/oops]", "instance_id": "[red]x[/red]", "data": {"[/]": HOSTILE}}),
        size=size,
    )


def test_hostile_titles_and_reasons() -> None:
    async def test(screen: Screen) -> None:
        await screen.shows("reconnecting", ESCAPED)

    dash(test, State(HOSTILE))


@pytest.mark.parametrize("key", ["question_mark", "escape", "q"])
def test_help_says_what_the_keys_do(key: str) -> None:
    async def test(screen: Screen) -> None:
        await screen.shows("worker-1")
        await screen.press("question_mark")
        await screen.shows("pause the event log", "quit")
        await screen.press(key)
        await screen.hides("pause the event log")
        assert screen.app.is_running

    dash(test, TWO)


@pytest.mark.parametrize("keys", [["q"], ["ctrl+c"], ["slash", "x", "ctrl+c"], ["question_mark", "ctrl+c"]])
def test_it_ends(keys: list[str]) -> None:
    async def test(screen: Screen) -> None:
        await screen.shows("worker-1")
        await screen.pilot.press(*keys)
        await screen.until(lambda: screen.app._exit)
        assert screen.app.return_code == 0

    dash(test, TWO)


def test_tab_moves_the_focus_and_numbers_choose_the_table() -> None:
    async def test(screen: Screen) -> None:
        await screen.shows("worker-1")
        seen = set()
        for _ in range(5):
            seen.add(screen.app.focused.id)
            await screen.press("tab")
        assert {"instances", "events", "attention"} <= seen
        await screen.press("2")
        await screen.shows("@reviewer")
        await screen.press("3")
        await screen.shows("it is odd")
        assert screen.app.focused.id == "findings"
        await screen.press("4")
        await screen.shows("Branches 1", "write, coordinated  10m  -         src/**")
        assert screen.app.focused.id == "branches"

    mailboxes, findings = [{"address": "@reviewer", "waiting": 1}], [finding(severity="notice")]
    dash(test, snapshot(instance(1), mailboxes=mailboxes, findings=findings, branches=[work(1)]))


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    async def test(screen: Screen) -> None:
        await screen.shows("dead    worker-1")
        assert any(type(one).__name__ == "Monochrome" for one in screen.app._filters)

    dash(test, snapshot(instance(1, status="dead")))
