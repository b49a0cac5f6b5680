"""A SQLite table in WAL mode, looked at every millisecond."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

name = "SQLite table, polled at 1 ms"


def available() -> str:
    return ""


def _open(place: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(place / "queue.db", timeout=30, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    return connection


def prepare(place: Path) -> None:
    _open(place).execute("CREATE TABLE queue (id INTEGER PRIMARY KEY, data BLOB)")


def sender(place: Path, number: int) -> Callable[[bytes], None]:
    connection = _open(place)
    return lambda data: connection.execute("INSERT INTO queue (data) VALUES (?)", (data,)) and None


def receiver(place: Path) -> Iterator[bytes]:
    connection = _open(place)
    yield b""
    while True:
        rows = connection.execute("SELECT id, data FROM queue ORDER BY id LIMIT 256").fetchall()
        if not rows:
            time.sleep(0.001)
            continue
        connection.execute("DELETE FROM queue WHERE id <= ?", (rows[-1][0],))
        yield from (data for _, data in rows)
