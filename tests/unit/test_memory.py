"""Memories by themselves: where the database is, namespaces, what a question becomes, what is stored, found and refused."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import struct
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mnemo_coord import Memories, Memory, errors
from mnemo_coord.memory import engine, place, schema, search, vectors
from mnemo_coord.memory.engine import Engine, inspect
from mnemo_coord.memory.namespace import check_namespace

HOSTILE = {
    "quotes": "it's \"quoted\" 'twice' `and` --; DROP TABLE memories;",
    "NUL": "before\0after",
    "operators": 'alpha OR beta AND NOT "gamma" NEAR(delta, 2) ^epsilon col:zeta theta* {words}:x',
    "escapes": "red \x1b[31m bell \x07 title \x1b]0;gone\x07",
    "right to left": "abc \u202egnp.exe\u202c \u2066isolated\u2069 שלום",
    "combining": "cafe\u0301 Zalgo\u0315\u031b\u0340",
    "emoji": "ship it 🚀 \U0001f469\u200d\U0001f4bb",
    "no spaces": "会議は火曜日です、テスト環境で",
    "thai": "ประชุมวันอังคาร",
    "lines": "one\r\ntwo\u2028three\x85four",
    "percent": "100% of a_b LIKE '%'",
}


@pytest.fixture
def memories(tmp_path: Path) -> Iterator[Memories]:
    with Memories.open(tmp_path / "m.db", name="tester") as opened:
        yield opened


# Where


USER = "/data/mnemosyne/mnemosyne.db"


@pytest.mark.parametrize(
    ("given", "environ", "path", "source"),
    [
        (None, {}, USER, "default"),
        ("", {}, USER, "default"),
        ("a.db", {}, "/here/a.db", "flag"),
        ("/a.db", {"MNEMOSYNE_DB_PATH": "b.db", "DATABASE_URL": "c.db"}, "/a.db", "flag"),
        (None, {"MNEMOSYNE_DB_PATH": "b.db", "DATABASE_URL": "c.db"}, "/here/b.db", "MNEMOSYNE_DB_PATH"),
        ("b.db", {"MNEMOSYNE_DB_PATH": "b.db"}, "/here/b.db", "MNEMOSYNE_DB_PATH"),
        (None, {"MNEMOSYNE_DB_PATH": ""}, USER, "default"),
        (None, {"DATABASE_URL": "dev.db"}, "/here/dev.db", "DATABASE_URL"),
        (None, {"DATABASE_URL": "sqlite:///dev.db"}, "/here/dev.db", "DATABASE_URL"),
        (None, {"DATABASE_URL": "sqlite:////abs/dev.db?timeout=5"}, "/abs/dev.db", "DATABASE_URL"),
        (None, {"DATABASE_URL": "sqlite+aiosqlite:///x/dev.db"}, "/here/x/dev.db", "DATABASE_URL"),
        ("sqlite:////abs/dev.db", {}, "/abs/dev.db", "flag"),
        (None, {"DATABASE_URL": "postgresql://me@db/x"}, USER, "default"),
        (None, {"DATABASE_URL": "https://db.example/x"}, USER, "default"),
        (None, {"DATABASE_URL": "sqlite://"}, USER, "default"),
        (None, {"DATABASE_URL": "sqlite:///:memory:"}, USER, "default"),
        (None, {"DATABASE_URL": ":memory:"}, USER, "default"),
        (None, {"XDG_DATA_HOME": "/xdg"}, "/xdg/mnemosyne/mnemosyne.db", "default"),
        (None, {"MNEMOSYNE_DATA_DIR": "/own"}, "/own/mnemosyne.db", "default"),
    ],
)
def test_which_database(given: str | None, environ: dict[str, str], path: str, source: str) -> None:
    found = place.locate(given, {"XDG_DATA_HOME": "/data", **environ}, Path("/nowhere/.mnemosyne"), Path("/here"))
    assert (str(found.path), found.source) == (path, source)


def test_the_state_directory_has_its_own_if_it_has_one(tmp_path: Path) -> None:
    environ = {"XDG_DATA_HOME": str(tmp_path), "DATABASE_URL": "postgresql://x"}
    assert place.locate(None, environ, tmp_path, tmp_path).source == "default"
    (tmp_path / "memory.db").touch()
    found = place.locate(None, environ, tmp_path, tmp_path)
    assert (found.path, found.source, found.passed_over) == (tmp_path / "memory.db", "state directory", "postgresql")
    assert place.locate(None, {"DATABASE_URL": "dev.db"}, tmp_path, tmp_path).source == "DATABASE_URL"


@pytest.mark.parametrize(
    ("given", "environ"),
    [
        (None, {"DATABASE_URL": "libsql://db.example"}),
        (None, {"MNEMOSYNE_DB_PATH": "libsql://db.example"}),
        ("https://db.example", {}),
        ("postgresql://db.example", {}),
        (":memory:", {}),
        ("a\0b", {}),
        ("folder/", {}),
    ],
)
def test_what_is_no_file_is_refused(given: str | None, environ: dict[str, str]) -> None:
    with pytest.raises(errors.Config) as caught:
        place.locate(given, environ, None, Path("/here"))
    assert caught.value.hint


def test_the_place_is_that_of_the_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    with Memories.open("dev.db") as opened:
        monkeypatch.chdir(tmp_path)
        opened.store("x")
    assert (tmp_path / "a" / "dev.db").exists()


# Namespaces, values


@pytest.mark.parametrize("text", ["global", "project:a", "project:My.app_2-x", "session:app:2026-11-29.1"])
def test_namespaces(text: str) -> None:
    assert check_namespace(text) == text


@pytest.mark.parametrize(
    "text",
    ["", "Global", "project", "project:", "project:a b", "project:a:b", "session:a", "session:a:", "x:y", "global\n", None],
)
def test_what_is_no_namespace(text: Any) -> None:
    with pytest.raises(errors.Config) as caught:
        check_namespace(text)
    assert caught.value.key == "namespace"


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("content", {"content": ""}),
        ("content", {"content": " \n"}),
        ("content", {"content": "x" * 65_537}),
        ("content", {"content": "ü" * 32_769}),
        ("content", {"content": "\ud800"}),
        ("content", {"content": 7}),
        ("importance", {"importance": 0}),
        ("importance", {"importance": 11}),
        ("importance", {"importance": True}),
        ("importance", {"importance": 5.0}),
        ("tags", {"tags": ["a", ""]}),
        ("tags", {"tags": [" a"]}),
        ("tags", {"tags": ["a\x1fb"]}),
        ("tags", {"tags": ["x" * 65]}),
        ("tags", {"tags": [str(number) for number in range(33)]}),
        ("tags", {"tags": "abc"}),
        ("context", {"context": "x" * 4097}),
        ("id", {"memory_id": "../x"}),
        ("embedding", {"embedding": []}),
        ("embedding", {"embedding": [0.0, 0.0]}),
        ("embedding", {"embedding": [float("nan")]}),
        ("embedding", {"embedding": [float("inf"), 1.0]}),
        ("embedding", {"embedding": ["x"]}),
        ("embedding", {"embedding": [1.0] * 4097}),
    ],
)
def test_what_cannot_be_stored(key: str, options: dict[str, Any], memories: Memories) -> None:
    with pytest.raises(errors.Config) as caught:
        memories.store(**{"content": "x", **options})
    assert caught.value.key == key
    assert not memories.exists(), "it is refused before anything is made"


# Storing and finding


def test_a_memory_is_what_was_stored(memories: Memories) -> None:
    stored = memories.store("The sky is blue", namespace="project:p", importance=7, tags=["b", "a", "b"], context="looked up")
    assert memories.get(stored.id) == stored
    assert (stored.tags, stored.importance, stored.author_name, stored.author_id) == (("a", "b"), 7, "tester", None)
    assert memories.recall("sky") == memories.recall("LOOKED") == [stored]
    assert (memories.count(), memories.count("project:p"), memories.count("global")) == (1, 1, 0)
    with pytest.raises(errors.NotFound):
        memories.get("0123456789abcdef")


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_is_stored_and_found(text: str, memories: Memories) -> None:
    memories.store("something else")
    stored = memories.store(text, context=text)
    assert memories.get(stored.id).content == text
    assert stored in memories.recall(text), "by the whole of it"
    for word in text.split():
        assert stored in memories.recall(word), word
    assert stored in memories.recall(f"{text} unheard-of")


@pytest.mark.parametrize(
    "query",
    ['"', '""', "*", "a*", "OR", "a OR", "NOT a", "NEAR(", "NEAR(a b, 2)", "words:a", "^a", "a AND", "(", "-a", "'", "a\0b", "{a b}:c", "+", ";", "\\"],
)  # fmt: skip
def test_operators_are_words(query: str, memories: Memories) -> None:
    memories.store("plain")
    assert memories.recall(query) == []
    found = memories.store(f"x {query} y")
    assert memories.recall(query) == [found]


@pytest.mark.parametrize(
    ("text", "words", "whole"),
    [
        ("deploy the API", ('"deploy"*', '"the"*', '"API"*'), ""),
        ("go go", ('"go"',), ""),
        ('say "hi" OR x:y*', ('"say"*', '"hi"', '"OR"', '"x"', '"y"'), ""),
        ("日本語 API", ('"日 本 語"', '"API"*'), ""),
        ("API設計", ('"API 設 計"',), ""),
        (" 🚀 ", (), "🚀"),
        ("a\0b", ('"a"', '"b"'), ""),
        ("foo_bar", ('"foo"*', '"bar"*'), ""),
        ("ＡＰＩ ﬁn e\u0301e", ('"API"*', '"fin"*', '"ée"'), ""),  # noqa: RUF001
    ],
)
def test_what_a_question_becomes(text: str, words: tuple[str, ...], whole: str) -> None:
    asked = search.question(text)
    assert (asked.words, asked.text) == (words, whole)


@pytest.mark.parametrize("text", ["", "  ", "x" * 4097, "\ud800"])
def test_what_is_no_question(text: str, memories: Memories) -> None:
    with pytest.raises(errors.Config):
        memories.recall(text)


def test_many_words_are_no_fault(memories: Memories) -> None:
    stored = memories.store("w5")
    assert memories.recall(" ".join(f"w{number}" for number in range(500))) == [stored]


def test_all_words_come_before_any_and_importance_weighs(memories: Memories) -> None:
    both = memories.store("red fox")
    memories.store("red")
    assert memories.recall("red fox") == [both]
    assert len(memories.recall("red wolf")) == 2
    low, high = memories.store("green", importance=1), memories.store("green", importance=10)
    assert memories.recall("green") == [high, low]


def test_filters_apply_before_the_limit(memories: Memories) -> None:
    old = memories.store("needle", namespace="project:a", tags=["x", "y"], importance=9)
    for number in range(30):
        memories.store("needle", tags=["x"], importance=2 + number % 3)
    assert memories.recall("needle", namespace="project:a", limit=1) == [old]
    assert memories.recall("needle", tags=["x", "y"], limit=1) == [old]
    assert memories.recall("needle", min_importance=9, limit=1) == [old]
    assert memories.recall(namespace="project:a", limit=1) == [old]
    assert memories.recall("needle", author="nobody") == []
    assert len(memories.recall("needle", author="tester", limit=7)) == 7
    for limit in (0, 1001, True, "5"):
        with pytest.raises(errors.Config):
            memories.recall(limit=limit)  # type: ignore[arg-type]


def test_words_are_found_without_their_accents_and_by_their_beginning(memories: Memories) -> None:
    stored = memories.store("Déploiement à Zürich")
    for query in ("deploiement", "DÉPLOI", "zurich"):
        assert memories.recall(query) == [stored]
    assert memories.recall("loiement") == []


def test_a_change_and_an_end(memories: Memories) -> None:
    stored = memories.store("old words", tags=["a"])
    changed = memories.change(stored.id, lambda memory: replace(memory, content="fresh", importance=9, tags=("b",), id="other"))
    assert memories.get(stored.id) == changed == replace(stored, content="fresh", importance=9, tags=("b",))
    assert memories.recall("old") == []
    assert memories.recall("fresh", tags=["b"]) == [changed]
    with pytest.raises(errors.Config):
        memories.change(stored.id, lambda memory: replace(memory, importance=11))
    with pytest.raises(ZeroDivisionError):
        memories.change(stored.id, lambda memory: replace(memory, importance=1 // 0))
    with pytest.raises(errors.Conflict):
        memories.change(stored.id, lambda memory: memories.store("inside") and memory)
    assert memories.get(stored.id) == changed
    other = memories.store("other")
    with pytest.raises(errors.NotFound):
        memories.forget(other.id, "0123456789abcdef")
    assert memories.count() == 2, "all or none"
    assert memories.forget(stored.id, other.id, stored.id) == 2
    assert (memories.count(), memories.recall("fresh"), memories.forget()) == (0, [], 0)


def test_stored_twice_under_one_id_is_one(memories: Memories) -> None:
    one = memories.store("x", memory_id="mine")
    assert memories.store("x", memory_id="mine") == one
    with pytest.raises(errors.Conflict):
        memories.store("y", memory_id="mine")
    assert memories.count() == 1


def test_links(memories: Memories) -> None:
    a, b, c = (memories.store(text).id for text in "abc")
    memories.link(a, b, strength=0.25)
    memories.link(c, a, "caused")
    assert memories.strengthen(a, b, by=0.5).strength == 0.75
    assert memories.strengthen(a, b, by=5).strength == 1.0
    assert memories.strengthen(b, a).strength == 0.1
    ends = [(link.source, link.target, link.kind) for link in memories.links(a)]
    assert ends == [*sorted([(a, b, "related"), (c, a, "caused")]), (b, a, "related")]
    assert (memories.unlink(a, b), memories.unlink(a, b)) == (True, False)
    for wrong in ({"target": a}, {"kind": ""}, {"kind": "a\x1b"}, {"strength": 1.1}, {"strength": float("nan")}):
        with pytest.raises(errors.Config):
            memories.link(**{"source": a, "target": b, **wrong})
    with pytest.raises(errors.NotFound):
        memories.link(a, "0123456789abcdef")
    memories.forget(a)
    assert memories.links(b) == []


def test_what_is_near(memories: Memories) -> None:
    north = memories.store("north", embedding=[0, 2.0], namespace="project:a")
    east = memories.store("east", embedding=[3, 0])
    memories.store("three dimensions", embedding=[1, 1, 1])
    memories.store("none")
    found = memories.similar([1, 1e-9])
    assert [(memory.id, round(near, 6)) for memory, near in found] == [(east.id, 1.0), (north.id, 0.0)]
    assert [memory for memory, _ in memories.similar([1, 0], namespace="project:a")] == [north]
    assert memories.similar([-1, 0], limit=1)[0][1] == 0.0
    assert vectors.encoded([3, 4]) == struct.pack("<2f", 0.6, 0.8)


def test_more_vectors_than_can_be_looked_at_are_no_answer(memories: Memories, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "SCAN_LIMIT", 2)
    for _ in range(3):
        memories.store("x", embedding=[1.0])
    memories.store("y", embedding=[1.0], namespace="project:a")
    with pytest.raises(errors.Config) as caught:
        memories.similar([1.0])
    assert caught.value.hint
    assert len(memories.similar([1.0], namespace="project:a")) == 1


# In and out


def test_what_is_exported_can_be_imported(memories: Memories, tmp_path: Path) -> None:
    kept = [memories.store(text, tags=["t"], context="c") for text in HOSTILE.values()]
    vector = memories.store("vector", embedding=[1, 2, 3])
    inside = memories.store("inside", namespace="project:p")
    memories.link(kept[0].id, vector.id, "led to", strength=0.5)
    lines: list[str] = []
    assert memories.export(lines.append) == len(kept) + 3 == len(lines)
    assert all(line.isascii() and "\n" not in line for line in lines)
    with Memories.open(tmp_path / "other.db") as other:
        done = other.import_lines([*lines, "", "  \n"])
        assert (done.memories, done.links, done.present, done.bad) == (len(kept) + 2, 1, 0, ())
        again = other.import_lines(lines)
        assert (again.memories, again.present) == (0, len(kept) + 2)
        out: list[str] = []
        other.export(out.append)
        assert out == lines, "nothing is different, nothing is there twice"
        assert other.similar([1, 2, 3])[0][0] == vector
        assert other.recall("火曜日") == [kept[list(HOSTILE).index("no spaces")]]
    only: list[str] = []
    assert memories.export(only.append, namespace="project:p") == 1
    assert json.loads(only[0])["memory"]["id"] == inside.id


GOOD = '{"memory":{"id":"a","content":"good","created_at":"2026-01-01T00:00:00Z"}}'
BAD = [
    "{",
    "[]",
    '{"memory":[]}',
    '{"other":{}}',
    '{"memory":{"id":"b","content":"x"}}',
    GOOD.replace("good", ""),
    GOOD.replace('"good"', '"x","mood":1'),
    GOOD.replace('"good"', '"x","tags":"abc"'),
    GOOD.replace('"good"', '"x","importance":true'),
    GOOD.replace('"good"', '"\\ud800"'),
    GOOD.replace('"good"', '"x","embedding":[]'),
    GOOD.replace("good", "not the same"),
    '{"link":{"source":"a","target":"b","kind":"k","strength":1}}',
    '{"link":{"source":"a","target":"b"}}',
    "[" * 100_000,
]


@pytest.mark.parametrize("line", BAD, ids=range(len(BAD)))
def test_a_bad_line_is_named_and_nothing_is_stored(line: str, memories: Memories) -> None:
    with pytest.raises(errors.CoordinationError) as caught:
        memories.import_lines([GOOD, "", line])
    assert caught.value.line == 3
    assert str(caught.value).startswith("line 3: ")
    assert memories.count() == 0
    done = memories.import_lines([GOOD, "", line], skip_bad=True)
    assert (done.memories, [bad.line for bad in done.bad]) == (1, [3])


def test_a_backup_is_a_new_file(memories: Memories, tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound):
        memories.backup(tmp_path / "b.db")
    stored = memories.store("x")
    made = memories.backup(tmp_path / "b.db")
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    before = made.read_bytes()
    with pytest.raises(errors.Conflict):
        memories.backup(made)
    assert made.read_bytes() == before
    with pytest.raises(errors.State):
        memories.backup(tmp_path / "none" / "b.db")
    with Memories.open(made) as copy:
        assert copy.recall() == [stored]


# The file


def test_files_have_mode_0600_whatever_the_umask(memories: Memories, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        memories.store("x")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir() if path.is_file()}
    assert modes == {"m.db": 0o600, "m.db-wal": 0o600, "m.db-shm": 0o600}


def test_the_folder_of_the_user_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "a" / "b"))
    with Memories.open(state_dir=tmp_path / "none") as opened:
        assert opened.recall() == []
        assert not (tmp_path / "a").exists(), "looking makes nothing"
        opened.store("x")
    assert stat.S_IMODE((tmp_path / "a" / "b" / "mnemosyne").stat().st_mode) == 0o700


def plant(kind: str, path: Path) -> None:
    match kind:
        case "link":
            (path.parent / "real").touch()
            path.symlink_to(path.parent / "real")
        case "fifo":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "hard link":
            path.touch(0o600)
            os.link(path, path.parent / "second")
        case "mode":
            path.touch(0o600)
            path.chmod(0o620)
        case "wal":
            path.touch(0o600)
            path.with_name(f"{path.name}-wal").symlink_to("/dev/null")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["link", "fifo", "folder", "hard link", "mode", "wal"])
def test_what_is_planted_is_refused(kind: str, memories: Memories, tmp_path: Path) -> None:
    plant(kind, tmp_path / "m.db")
    for act in (lambda: memories.store("x"), memories.recall):
        with pytest.raises(errors.Untrusted) as caught:
            act()
        assert caught.value.hint


def test_a_folder_that_everybody_can_write_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with Memories.open(tmp_path / "open" / "m.db") as opened, pytest.raises(errors.Untrusted):
        opened.store("x")


def spoil(kind: str, path: Path) -> type[errors.State]:
    if kind == "no database":
        path.write_bytes(b"not a database at all, but long enough to be looked at" * 20)
        return errors.Damaged
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode = WAL" if kind.endswith("wal") else "PRAGMA journal_mode = DELETE")
        connection.execute("CREATE TABLE theirs (a)")
        if kind.startswith("newer"):
            connection.execute(f"PRAGMA application_id = {schema.APPLICATION}")
            connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    connection.close()
    return errors.State


@pytest.mark.parametrize("kind", ["no database", "foreign", "foreign wal", "newer", "newer wal"])
def test_what_is_not_for_us_stays_as_it_is(kind: str, memories: Memories, tmp_path: Path) -> None:
    expected = spoil(kind, tmp_path / "m.db")
    (tmp_path / "m.db").chmod(0o600)
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.iterdir() if path.is_file()}
    for act in (
        lambda: memories.store("x"),
        memories.recall,
        lambda: memories.link("a", "b"),
        lambda: memories.backup(tmp_path / "b"),
    ):
        with pytest.raises(expected) as caught:
            act()
        assert type(caught.value) is expected
        assert caught.value.hint
        assert "sqlite" not in str(caught.value)
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.iterdir() if path.is_file()} == before


def test_a_truncated_database_is_told_as_one(memories: Memories, tmp_path: Path) -> None:
    for number in range(200):
        memories.store(f"{number} " + "x" * 2000)
    memories.close()
    path = tmp_path / "m.db"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(errors.Damaged) as caught:
        memories.recall("x", limit=1000)
    assert "doctor" in caught.value.hint


def test_an_older_file_is_brought_up_to_date(memories: Memories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = memories.store("old")
    memories.close()
    monkeypatch.setattr(
        schema, "MIGRATIONS", (*schema.MIGRATIONS, ("CREATE TABLE more (a) STRICT".replace("(a)", "(a TEXT)"),))
    )
    monkeypatch.setattr(schema, "VERSION", 2)
    assert memories.recall() == [stored]
    assert inspect(tmp_path / "m.db") == 2
    memories.close()
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, ("CREATE TABLE even_more (a TEXT) STRICT", "no SQL")))
    monkeypatch.setattr(schema, "VERSION", 3)
    with pytest.raises(errors.State):
        memories.store("x")
    assert inspect(tmp_path / "m.db") == 2, "a step is made whole or not at all"


def test_a_file_that_was_removed_is_made_again(memories: Memories, tmp_path: Path) -> None:
    memories.store("lost with its file")
    for path in tmp_path.glob("m.db*"):
        path.unlink()
    stored = memories.store("kept")
    with Memories.open(tmp_path / "m.db") as other:
        assert other.recall() == [stored]


def test_a_database_that_stays_locked_is_a_timeout(tmp_path: Path) -> None:
    waits = []
    one = Engine(lambda: place.Place(path=tmp_path / "m.db", source="flag"), timeout=0.5)
    one.on_wait(waits.append)
    one.write(lambda run: None)
    with sqlite3.connect(tmp_path / "m.db", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(errors.TimedOut) as caught:
            one.write(lambda run: None)
        assert "locked" not in str(caught.value)
        assert one.read(lambda run: run("SELECT 1")) == [(1,)], "who reads waits for nobody"
        other.execute("ROLLBACK")
    other.close()
    one.write(lambda run: None)
    one.close()
    assert [wait.done for wait in waits] == [False]
    assert waits[0].tries > 1
    assert 0.4 < waits[0].seconds < 10


def test_whoever_waits_gets_its_turn(tmp_path: Path) -> None:
    waits = []
    one = Engine(lambda: place.Place(path=tmp_path / "m.db", source="flag"))
    one.on_wait(waits.append)
    one.write(lambda run: None)
    other = sqlite3.connect(tmp_path / "m.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    ends = threading.Timer(0.6, lambda: other.execute("ROLLBACK"))
    ends.start()
    one.write(lambda run: None)
    ends.join()
    other.close()
    one.close()
    assert [wait.done for wait in waits] == [True]


def test_threads_share_it(memories: Memories) -> None:
    counter = memories.store("counter", importance=1)
    failures = []

    def work() -> None:
        try:
            for _ in range(3):
                memories.change(counter.id, lambda memory: replace(memory, importance=memory.importance + 1))
                memories.recall("counter")
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert memories.get(counter.id).importance == 10


def test_a_forked_child_opens_it_anew(memories: Memories) -> None:
    stored = memories.store("of the parent")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            works = memories.recall("parent") == [stored] and memories.store("of the child")
            code = 0 if works and len(engine._abandoned) == 1 else 2  # the parent's connection is not used, nor closed
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(memories.recall("child")) == 1
    assert isinstance(stored, Memory)
