"""The rows of a memory: how one is written to, found in, and changed in the tables. Each runs inside a transaction."""

from __future__ import annotations

from typing import Any

from mnemo_coord import errors
from mnemo_coord.memory.engine import Run
from mnemo_coord.memory.memory import COLUMNS, Memory, check_id, from_row
from mnemo_coord.memory.search import indexed

__all__ = ["find", "first", "forget", "get", "insert", "rewrite", "same", "unknown"]


def find(run: Run, memory_id: str) -> Memory | None:
    """The memory of this id, or None."""
    rows = run(f"SELECT {COLUMNS} FROM memories WHERE id = ?", (check_id(memory_id),))  # noqa: S608  # our own words
    return from_row(rows[0]) if rows else None


def get(run: Run, memory_id: str) -> Memory:
    """The memory of this id.

    Raises:
        errors.NotFound: there is none.
    """
    found = find(run, memory_id)
    if found is None:
        raise unknown(memory_id)
    return found


def unknown(memory_id: str) -> errors.NotFound:
    """The error for an id that no memory has."""
    hint = "`mnemosyne recall` shows what is there"
    return errors.NotFound(f"there is no memory {check_id(memory_id)!r}", hint=hint, id=memory_id)


def first(run: Run, asks: list[tuple[str, list[Any]]]) -> list[Memory]:
    """The memories of the first question that finds any."""
    for statement, values in asks:
        rows = run(statement, values)
        if rows:
            return [from_row(row) for row in rows]
    return []


def insert(run: Run, memory: Memory) -> None:
    """Writes a memory that is not there yet."""
    inserted = run(
        "INSERT INTO memories (id, content, namespace, importance, context, author_id, author_name, created_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING seq",
        (
            memory.id,
            memory.content,
            memory.namespace,
            memory.importance,
            memory.context,
            memory.author_id,
            memory.author_name,
            memory.created_at,
        ),
    )
    _index(run, int(inserted[0][0]), memory)


def rewrite(run: Run, memory: Memory) -> None:
    """Writes a memory over the one of the same id."""
    sequence = int(run("SELECT seq FROM memories WHERE id = ?", (memory.id,))[0][0])
    run(
        "UPDATE memories SET content = ?, namespace = ?, importance = ?, context = ? WHERE seq = ?",
        (memory.content, memory.namespace, memory.importance, memory.context, sequence),
    )
    run("DELETE FROM tags WHERE memory = ?", (sequence,))
    run("DELETE FROM words WHERE rowid = ?", (sequence,))
    _index(run, sequence, memory)


def _index(run: Run, sequence: int, memory: Memory) -> None:
    text = indexed(f"{memory.content}\n{memory.context}" if memory.context else memory.content)
    run("INSERT INTO words (rowid, text) VALUES (?, ?)", (sequence, text))
    for tag in memory.tags:
        run("INSERT INTO tags (memory, tag) VALUES (?, ?)", (sequence, tag))


def forget(run: Run, memory_id: str) -> None:
    """Removes a memory, with its tags, links and vector.

    Raises:
        errors.NotFound: there is none.
    """
    get(run, memory_id)
    run("DELETE FROM words WHERE rowid = (SELECT seq FROM memories WHERE id = ?)", (memory_id,))
    run("DELETE FROM memories WHERE id = ?", (memory_id,))


def same(present: Memory, wanted: Memory) -> bool:
    """Whether two say the same, whoever wrote them and when."""
    return all(
        getattr(present, name) == getattr(wanted, name) for name in ("content", "namespace", "importance", "tags", "context")
    )
