"""The shared database under many processes: nothing is lost, nobody sees a lock, a kill costs only what was not acknowledged."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from contextlib import ExitStack
from pathlib import Path

import pytest
import support
from schemas import validate

from mnemo_coord import Coordinator, Memories, Memory, Settings, errors
from mnemo_coord.memory import checks
from mnemo_coord.memory.engine import inspect, integrity
from mnemo_coord.memory.place import Place

FAST = Settings(heartbeat_interval=0.2, poll_interval=0.2)
WRITERS = 8
EACH = 100

WRITER = """
    import sys
    from mnemo_coord import Memories
    with Memories.open(sys.argv[1], name=sys.argv[2]) as memories:
        for number in range(int(sys.argv[3])):
            print("stored", memories.store(f"{sys.argv[2]} wrote {number}", tags=["load"]).id, flush=True)
"""


ENDLESS = WRITER.replace("range(int(sys.argv[3]))", "__import__('itertools').count()")


def stored(children: list[support.Child]) -> list[str]:
    """The ids that they have said are stored; a line that a kill cut off says nothing."""
    whole = [printed[: printed.rfind("\n") + 1] for printed in [child.printed for child in children]]
    return [line.split()[1] for text in whole for line in text.splitlines()]


def kept(memories: Memories) -> list[Memory]:
    """All that there are, oldest first."""
    lines: list[str] = []
    memories.export(lines.append)
    return [Memory(**json.loads(line)["memory"]) for line in lines]


def test_eight_writers_lose_nothing_and_see_no_lock(tmp_path: Path) -> None:
    """They make the file at once, too."""
    with ExitStack() as stack:
        children = [
            stack.enter_context(support.python(WRITER, tmp_path / f"w{number}", tmp_path / "m.db", f"w{number}", EACH))
            for number in range(WRITERS)
        ]
        for child in children:
            assert child.wait(90) == 0, child.log
            assert child.log == ""
    ids = stored(children)
    assert len(set(ids)) == WRITERS * EACH
    with Memories.open(tmp_path / "m.db") as memories:
        assert {memory.id for memory in kept(memories)} == set(ids)
        for number in range(WRITERS):
            assert len(memories.recall("wrote", author=f"w{number}", limit=1000)) == EACH
    assert integrity(tmp_path / "m.db") == []


@pytest.mark.parametrize("after", [1, 40, 150, 400])
def test_a_killed_writer_loses_only_what_it_had_not_acknowledged(after: int, tmp_path: Path) -> None:
    with ExitStack() as stack:
        children = [
            stack.enter_context(support.python(ENDLESS, tmp_path / f"w{number}", tmp_path / "m.db", f"w{number}"))
            for number in range(2)
        ]
        support.wait_until(lambda: all(len(stored([child])) >= after for child in children), 90)
        for child in children:
            os.kill(child.pid, signal.SIGKILL)
        for child in children:
            assert child.wait() == -signal.SIGKILL
    acknowledged = set(stored(children))
    with Memories.open(tmp_path / "m.db") as memories:
        found = {memory.id for memory in kept(memories)}
        assert acknowledged <= found
        assert len(found - acknowledged) <= len(children), "what was stored and not yet said, one each"
        indexed = memories.recall("wrote", limit=1000)
        assert len(indexed) == min(1000, len(found)), "each is in the index, or not there at all"
        memories.store("life goes on")
    assert integrity(tmp_path / "m.db") == []


COUNTER = """
    import sys
    from dataclasses import replace
    from mnemo_coord import Memories
    _, path, a, b = sys.argv
    with Memories.open(path) as memories:
        for _ in range(20):
            memories.change(a, lambda memory: replace(memory, content=str(int(memory.content) + 1)))
            memories.strengthen(a, b, by=1 / 128)
"""


def test_updates_at_once_are_not_lost(tmp_path: Path) -> None:
    """A counter and a link that six processes read, change and write back."""
    with Memories.open(tmp_path / "m.db") as memories:
        a, b = memories.store("0").id, memories.store("b").id
        with ExitStack() as stack:
            children = [
                stack.enter_context(support.python(COUNTER, tmp_path / f"c{number}", tmp_path / "m.db", a, b))
                for number in range(6)
            ]
            for child in children:
                assert child.wait(90) == 0, child.log
        assert memories.get(a).content == "120"
        assert memories.links(a)[0].strength == 120 / 128


def test_a_backup_while_others_write_is_one_state(tmp_path: Path) -> None:
    with ExitStack() as stack:
        children = [
            stack.enter_context(support.python(ENDLESS, tmp_path / f"w{number}", tmp_path / "m.db", f"w{number}"))
            for number in range(2)
        ]
        for number in range(3):
            wanted = len(stored(children)) + 10
            support.wait_until(lambda wanted=wanted: len(stored(children)) > wanted, 60)
            before = set(stored(children))
            with Memories.open(tmp_path / "m.db") as memories:
                copy = memories.backup(tmp_path / f"copy-{number}.db")
            assert integrity(copy) == []
            with Memories.open(copy) as memories:
                there = kept(memories)
            assert before <= {memory.id for memory in there}
            for writer in ("w0", "w1"):  # of each writer the first so many, without a gap
                numbers = [int(memory.content.split()[-1]) for memory in there if memory.author_name == writer]
                assert numbers == list(range(len(numbers)))
        assert all(child.process.poll() is None for child in children), "they were at it all the time"
        for child in children:
            child.kill()


HOLDER = """
    import sqlite3, sys, time
    connection = sqlite3.connect(sys.argv[1], isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    print("has it", flush=True)
    time.sleep(120)
"""


def test_a_lock_that_is_kept_is_one_line_and_exit_5(tmp_path: Path, state_dir: Path) -> None:
    database = tmp_path / "m.db"
    with Coordinator(state_dir, settings=Settings(db_path=str(database), db_timeout=0.5)) as me:
        me.memory.store("x")
        events: list[object] = []
        me.on_event(lambda event: events.append((event.kind, event.data.get("done"))))
        with support.python(HOLDER, tmp_path / "holder", database) as holder:
            holder.wait_for("has it")
            env = {"MNEMOSYNE_DB_TIMEOUT": "0.5", "MNEMOSYNE_DB_PATH": str(database)}
            refused = support.run("--dir", state_dir, "remember", "-c", "y", env=env)
            assert refused.returncode == 5
            assert len(refused.stderr.splitlines()) == 1
            assert "database is locked" not in refused.stderr
            assert "MNEMOSYNE_DB_TIMEOUT" in refused.stderr
            assert support.run("--dir", state_dir, "recall", env=env).returncode == 0, "who reads does not wait"
            with pytest.raises(errors.TimedOut):
                me.memory.store("z")
        me.memory.store("freed by its death")
        assert ("memory_waited", False) in events
        assert me.memory.count() == 2


# The command line


HOSTILE = 'it\'s "x" OR NEAR( \x1b[31m \u202eabc col:y* שלום'


def test_the_command_line(state_dir: Path, tmp_path: Path) -> None:
    def run(*args: object, **more: object) -> support.Cli:
        return support.run("--dir", state_dir, *args, cwd=tmp_path, **more)  # type: ignore[arg-type]

    assert run("recall", "-q", "x").returncode == 1
    assert run("recall", "--json").json == []
    assert run("forget", "0123456789abcdef", "--json").json["error"]["code"] == "not-found"
    assert not list(tmp_path.rglob("*.db")), "looking makes nothing"
    made = run(
        "remember",
        "-c",
        HOSTILE,
        "-n",
        "project:p",
        "--importance",
        9,
        "--tag",
        "t",
        "--context",
        "c",
        "--from",
        "me",
        "--json",
    )
    validate(made.json, "memory")
    assert (made.json["content"], made.json["author_name"], made.json["importance"]) == (HOSTILE, "me", 9)
    other = run("remember", "-c", "-", input="from stdin\n").stdout.strip()
    shown = run("recall", "-q", HOSTILE)
    assert "\x1b" not in shown.stdout
    assert "\u202e" not in shown.stdout
    assert r"\x1b[31m \u202eabc" in shown.stdout
    found = run("recall", "-q", "stdin", "--json")
    validate(found.json, "memories")
    assert [memory["content"] for memory in found.json] == ["from stdin"]
    for args in (["--tag", "t"], ["-n", "project:p"], ["--min-importance", 9], ["--author", "me"]):
        assert [memory["id"] for memory in run("recall", "--limit", 1, *args, "--json").json] == [made.json["id"]]
    assert len(run("memories", "list", "--json").json) == 2
    place = run("memories", "--json").json
    validate(place, "memories-place")
    assert (place["memories"], place["source"]) == (2, "default")
    link = run("memories", "link", made.json["id"], other, "--kind", "k", "--strength", 0.5, "--json")
    validate(link.json, "link")
    assert run("memories", "link", other, "0123456789abcdef").returncode == 3
    validate(run("memories", "links", other, "--json").json, "links")
    lines = run("memories", "export").stdout
    assert len(lines.splitlines()) == 3
    for line in lines.splitlines():
        validate(json.loads(line), "memories-line")
    done = run("memories", "import", "--db-path", "new.db", "--json", input=lines)
    validate(done.json, "import")
    assert (done.json["memories"], done.json["links"]) == (2, 1)
    bad = run("memories", "import", "--db-path", "new.db", input=f"{lines}nonsense\n")
    assert (bad.returncode, "line 4" in bad.stderr) == (2, True)
    assert run("memories", "import", "--db-path", "new.db", "--skip-bad", input=f"{lines}nonsense\n").returncode == 1
    assert run("memories", "export", "--db-path", "new.db").stdout == lines
    copy = run("memories", "backup", "b.db", "--json")
    validate(copy.json, "backup")
    assert run("memories", "backup", "b.db").returncode == 4
    validate(run("forget", other, "--json").json, "forget")
    assert run("forget", other).returncode == 3
    assert run("remember", "-c", "").returncode == 2
    assert run("remember", "-c", "x", "-n", "mine").returncode == 2
    assert run("recall", "-q", "x", env={"DATABASE_URL": "libsql://db.example"}).returncode == 2


def test_instances_share_what_they_know(state_dir: Path) -> None:
    events: list[tuple[str, str, dict[str, object]]] = []
    with Coordinator(state_dir, name="one", settings=FAST) as one, Coordinator(state_dir, name="two", settings=FAST) as two:
        one.on_event(lambda event: events.append((event.kind, event.instance_id, event.data)))
        kept = one.memory.store("a secret of the trade", namespace="project:p")
        assert (kept.author_id, kept.author_name) == (one.instance_id, "one")
        assert two.memory.recall("trade", author=one.instance_id) == [kept]
        assert one.memory.recall("trade") == one.fleet.memory.recall("trade") == [kept]
        support.wait_until(lambda: len(events) >= 2)
        mine = [event for event in events if event[0].startswith("memory")]
        assert mine == [
            ("memory_stored", one.instance_id, {"id": kept.id, "namespace": "project:p"}),
            ("memory_recalled", one.instance_id, {"namespace": None, "found": 1, "ids": [kept.id]}),
        ]
        path = one.memory.path
    assert [each.name for each in path.parent.iterdir()] == [path.name], "the last one to leave closes it, and the log goes"
    assert inspect(path) == 1


def test_the_mirror_for_asyncio(state_dir: Path) -> None:
    import asyncio

    from mnemo_coord import aio
    from mnemo_coord.memory.awaited import AsyncMemories

    async def talk() -> None:
        async with aio.Coordinator(state_dir, settings=FAST) as me:
            a = await me.memory.store("one", tags=["x"])
            b = await me.memory.store("two", embedding=[1.0])
            assert await me.memory.recall("one") == [a]
            await me.memory.link(a.id, b.id, "k", strength=0.5)
            assert (await me.memory.links(a.id))[0].kind == "k"
            assert (await me.memory.similar([2.0]))[0][0] == b
            assert await me.memory.forget(a.id) == 1

    asyncio.run(talk())
    offered = {name for kind in Memories.__mro__ for name in vars(kind) if not name.startswith("_")}
    kept_back = {"open", "written_by", "path", "place", "exists", "close"}
    assert {name for name in vars(AsyncMemories) if not name.startswith("_")} == offered - kept_back


def test_an_old_program_leaves_a_newer_database_alone(tmp_path: Path) -> None:
    with Memories.open(tmp_path / "m.db") as memories:
        memories.store("x")
    connection = sqlite3.connect(tmp_path / "m.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = {path.name: path.read_bytes() for path in tmp_path.glob("m.db*")}
    for args in (["remember", "-c", "y"], ["recall"], ["memories", "backup", str(tmp_path / "b")], ["memories", "export"]):
        done = support.run(*args, "--db-path", tmp_path / "m.db")
        assert done.returncode == 6
        assert "99" in done.stderr
    assert {path.name: path.read_bytes() for path in tmp_path.glob("m.db*")} == before


# The doctor


def codes(done: support.Cli) -> dict[str, bool]:
    validate(done.json, "doctor")
    return {finding["code"]: finding["fixed"] for finding in done.json["findings"]}


def test_the_doctor_looks_at_the_database(tmp_path: Path) -> None:
    database = tmp_path / "m.db"

    def doctor(*args: object) -> support.Cli:
        return support.run("--dir", tmp_path / "none", "doctor", "--db-path", database, "--json", *args)

    assert codes(doctor()) == {}
    with Memories.open(database) as memories:
        for number in range(40):
            memories.store(f"{number} " + "x" * 3000)
        assert codes(doctor()) == {}, "also while it is open"
    database.chmod(0o644)
    before = support.tree(tmp_path)
    loose = doctor()
    assert (codes(loose), loose.returncode) == ({"memory-mode": False}, 1)
    assert support.tree(tmp_path) == before, "looking changes nothing"
    assert codes(doctor("--fix")) == {"memory-mode": True}
    assert database.stat().st_mode & 0o777 == 0o600
    content = database.read_bytes()
    database.write_bytes(content[: 4096 * 3] + b"spoiled!" * 512 + content[4096 * 4 :])
    spoiled = database.read_bytes()
    assert codes(doctor("--fix")) == {"memory-damaged": False}
    assert database.read_bytes() == spoiled, "never repaired, never removed"
    database.write_bytes(b"no database " * 100)
    assert codes(doctor("--fix")) == {"memory-damaged": False}
    database.unlink()
    database.symlink_to("/dev/null")
    assert codes(doctor("--fix")) == {"memory-untrusted": False}
    database.unlink()
    with sqlite3.connect(database) as theirs:
        theirs.execute("CREATE TABLE theirs (a)")
    theirs.close()
    database.chmod(0o644)
    foreign = doctor("--fix")
    assert (codes(foreign), foreign.returncode) == ({"memory-foreign": False}, 0)
    assert database.stat().st_mode & 0o777 == 0o644, "it is not ours"
    with sqlite3.connect(database) as newer:
        newer.execute("PRAGMA application_id = 1296975181")
        newer.execute("PRAGMA user_version = 99")
    newer.close()
    assert codes(doctor("--fix")) == {"memory-unusable": False}
    unsupported = support.run("--dir", tmp_path / "none", "doctor", "--json", env={"DATABASE_URL": "libsql://x"})
    assert codes(unsupported) == {"memory-unsupported": False}


def test_the_doctor_brings_in_a_long_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "LOG_LIMIT", 10_000)
    found = Place(path=tmp_path / "m.db", source="flag")
    with Memories.open(found.path) as memories:
        memories.store("x" * 20_000)
        log = tmp_path / "m.db-wal"
        assert [(one.code, one.fixed) for one in checks.check(lambda: found, tmp_path)] == [("memory-log", False)]
        assert log.stat().st_size > 10_000
        assert [(one.code, one.fixed) for one in checks.check(lambda: found, tmp_path, fix=True)] == [("memory-log", True)]
        assert log.stat().st_size == 0
        assert memories.count() == 1


def test_the_fleets_own_database_is_known_to_the_doctor(state_dir: Path) -> None:
    with support.Serve(state_dir) as one:
        assert support.run("--dir", state_dir, "remember", "--db-path", state_dir / "memory.db", "-c", "ours").returncode == 0
        assert support.run("--dir", state_dir, "recall", "-q", "ours").returncode == 0, "from then on it applies"
        shown = {item["name"]: item for item in support.run("--dir", state_dir, "config", "show", "--json").json}
        assert (shown["database"]["value"], shown["database"]["source"]) == (str(state_dir / "memory.db"), "state directory")
        (state_dir / "memory.db").chmod(0o640)
        assert codes(support.run("--dir", state_dir, "doctor", "--fix", "--json")) == {"memory-mode": True}
        assert codes(support.run("--dir", state_dir, "doctor", "--json")) == {}
        assert one.stop() == 0
