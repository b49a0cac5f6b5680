"""The shared database: writes by eight processes at once against plain sqlite3, and recall over a hundred thousand memories."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.measure import Worker, folder, p50_p99, percentile, table, timed
from mnemo_coord import Memories
from mnemo_coord.memory.schema import MIGRATIONS

WRITERS = 8
TEXT = "writer {} found out number {}: the deployment of the service waits for the migration of the orders table"


def _ours(place: Path, number: int) -> Callable[[str], object]:
    memories = Memories.open(place / "m.db", name=f"w{number}")
    return memories.store


def _by_hand(place: Path, number: int) -> Callable[[str], object]:
    """The same rows, by whoever knows SQLite well: WAL, 30 s of patience, the lock at the start."""
    connection = sqlite3.connect(place / "m.db", timeout=30, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")

    def store(text: str) -> None:
        connection.execute("BEGIN IMMEDIATE")
        row = (os.urandom(8).hex(), text, "global", 5, "", None, f"w{number}", "2026-01-01T00:00:00.000Z")
        insert = "INSERT INTO memories (id, content, namespace, importance, context, author_id, author_name, created_at)"
        done = connection.execute(f"{insert} VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        connection.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (done.lastrowid, text))
        connection.execute("COMMIT")

    return store


def _as_it_comes(place: Path, number: int) -> Callable[[str], object]:
    """The same rows with the defaults of the module: a rollback journal, five seconds of patience."""
    connection = sqlite3.connect(place / "m.db")

    def store(text: str) -> None:
        with connection:
            row = (os.urandom(8).hex(), text, "global", 5, "", None, f"w{number}", "2026-01-01T00:00:00.000Z")
            insert = "INSERT INTO memories (id, content, namespace, importance, context, author_id, author_name, created_at)"
            done = connection.execute(f"{insert} VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
            connection.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (done.lastrowid, text))

    return store


WAYS = {"mnemo_coord": _ours, "plain sqlite3, by hand": _by_hand, "plain sqlite3, defaults": _as_it_comes}


def _write(pipe: Any, way: str, place: Path, number: int, seconds: float) -> None:
    store = WAYS[way](place, number)
    pipe.send("ready")
    pipe.recv()
    took, failed, end = [], 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        try:
            store(TEXT.format(number, len(took)))
        except Exception:
            failed += 1
        else:
            took.append(time.perf_counter() - start)
    pipe.send((took, failed))


def _race(way: str, seconds: float) -> tuple[float, list[float], int, int]:
    """Writes a second, how long each took, how many failed, and how many acknowledged ones are not there."""
    with folder() as place:
        if way == "mnemo_coord":
            with Memories.open(place / "m.db") as memories:
                memories.forget(memories.store("the file exists, as it does for the others").id)
        else:
            with sqlite3.connect(place / "m.db") as connection:
                for statement in MIGRATIONS[0]:
                    connection.execute(statement)
            connection.close()
        workers = [Worker(_write, way, place, number, seconds) for number in range(WRITERS)]
        for worker in workers:
            worker.get()
        for worker in workers:
            worker.put("go")
        results = [worker.get(seconds + 120) for worker in workers]
        for worker in workers:
            worker.end()
        connection = sqlite3.connect(place / "m.db")
        there = connection.execute("SELECT count(*) FROM memories").fetchone()[0]
        connection.close()
    took = [each for times, _ in results for each in times]
    return len(took) / seconds, took, sum(failed for _, failed in results), len(took) - there


def run(*, quick: bool) -> None:
    seconds, rounds = (0.5, 1) if quick else (4.0, 3)
    races: dict[str, list[tuple[float, list[float], int, int]]] = {way: [] for way in WAYS}
    for _ in range(rounds):  # taking turns, so that a busy minute is everybody's
        for way in WAYS:
            races[way].append(_race(way, seconds))
    rows = [("", "writes/s", "of by hand", "p50 / p99", "slowest", "failed", "lost")]
    base = statistics.median(rate for rate, *_ in races["plain sqlite3, by hand"])
    for way, some in races.items():
        rate = statistics.median(rate for rate, *_ in some)
        took = [each for _, times, _, _ in some for each in times]
        failed, lost = sum(one[2] for one in some), sum(one[3] for one in some)
        rows.append((way, f"{rate:,.0f}", f"{rate / base:.2f}", p50_p99(took), f"{max(took):.1f} s", str(failed), str(lost)))
    table(f"Memories: {WRITERS} processes that write at once, {rounds} x {seconds:g} s", rows)
    _recall(quick=quick)


WORDS = [f"word{number}" for number in range(5000)]


def _lines(count: int) -> Iterator[str]:
    drawn = random.Random(1)
    for number in range(count):
        # Few words are in nearly everything and most in little, as in what people write.
        text = " ".join(WORDS[int(len(WORDS) * drawn.random() ** 3)] for _ in range(20))
        memory = {"id": f"{number:016x}", "content": f"{text} needle{number}", "importance": 1 + number % 10}
        memory |= {"namespace": f"project:p{number % 50}", "tags": [f"t{number % 20}"], "created_at": "2026-01-01T00:00:00Z"}
        yield json.dumps({"memory": memory})


def _recall(*, quick: bool) -> None:
    count, times = (2000, 20) if quick else (100_000, 200)
    drawn = random.Random(2)
    with folder() as place, Memories.open(place / "m.db") as memories:
        start = time.perf_counter()
        memories.import_lines(_lines(count))
        took = time.perf_counter() - start
        asks: dict[str, Callable[[], object]] = {
            "a rare word": lambda: memories.recall(f"needle{drawn.randrange(count)}"),
            "two words of middle frequency": lambda: memories.recall(
                f"word{drawn.randrange(200, 400)} word{drawn.randrange(200, 400)}"
            ),
            "the most frequent word": lambda: memories.recall("word0"),
            "the same, in one namespace": lambda: memories.recall("word0", namespace="project:p7"),
            "the newest with a tag": lambda: memories.recall(tags=["t3"]),
            "the newest": memories.recall,
        }
        rows = [("recall of 20 for", "p50 / p99")]
        rows += [(what, p50_p99(timed(ask, times))) for what, ask in asks.items()]
        size = (place / "m.db").stat().st_size
    rows.append((f"stored by one import in {took:.1f} s", f"{size / 1e6:.0f} MB"))
    table(f"Memories: recall over {count:,}", rows)
    _similar(500 if quick else 20_000)


def _similar(count: int) -> None:
    drawn = random.Random(3)
    vector = lambda: [drawn.gauss(0, 1) for _ in range(384)]  # noqa: E731
    with folder() as place, Memories.open(place / "m.db") as memories:
        start = "2026-01-01T00:00:00Z"
        lines = (
            json.dumps({"memory": {"id": str(number), "content": "x", "created_at": start, "embedding": vector()}})
            for number in range(count)
        )
        memories.import_lines(lines)
        took = timed(lambda: memories.similar(vector()), 5)
    table(f"Memories: the nearest of {count:,} embeddings of 384 numbers", [("p50", f"{percentile(took, 0.5):.2f} s")])
