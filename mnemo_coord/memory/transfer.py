r"""Transfer: the memories as lines of JSON, for other programs, other machines and people with an editor.

::

    {"memory":{"id":"…","content":"…","namespace":"global","importance":5,"tags":[],"context":"","author_id":null,…}}
    {"link":{"source":"…","target":"…","kind":"related","strength":1.0}}

Memories come first, in the order in which they were written; a memory with an embedding has it as a member ``embedding``. Ids
are kept, so what is imported twice is there once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any, Final

from mnemo_coord import errors
from mnemo_coord.display import json_line
from mnemo_coord.memory import links, rows, vectors
from mnemo_coord.memory.engine import Engine, Run
from mnemo_coord.memory.memory import COLUMNS, DEFAULT_IMPORTANCE, Memory, checked, from_row
from mnemo_coord.memory.namespace import GLOBAL
from mnemo_coord.memory.search import Filters

__all__ = ["BadLine", "Imported", "export", "import_lines", "parse"]

_BATCH: Final = 500
_LINE_LIMIT: Final = 1024 * 1024
"""Characters: a content of 64 KiB in escapes, and the longest embedding."""
_DEFAULTS: Final[dict[str, Any]] = {
    "namespace": GLOBAL,
    "importance": DEFAULT_IMPORTANCE,
    "tags": (),
    "context": "",
    "author_id": None,
    "author_name": None,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class BadLine:
    """A line that was left out."""

    line: int
    """From 1."""
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Imported:
    """What became of what was imported."""

    memories: int
    """How many are new."""
    links: int
    """How many were written."""
    present: int
    """How many memories were there already."""
    bad: tuple[BadLine, ...]
    """What was left out."""


Item = tuple[int, Memory | links.MemoryLink, bytes | None]
"""The number of a line, what it says, and the embedding."""


def export(engine: Engine, write: Callable[[str], object], namespace: str | None) -> int:
    """Hands out the lines of everything, or of one namespace and the links inside it, from one state of the database."""
    where, values = Filters(namespace=namespace).where()
    Filters(namespace=namespace).check()

    def look(run: Run) -> int:
        count, last, inside = 0, 0, set()
        while True:
            ask = (
                f"SELECT {COLUMNS}, vector, memories.seq FROM memories LEFT JOIN vectors ON memory = memories.seq"  # noqa: S608
                f" WHERE {where} AND memories.seq > ? ORDER BY memories.seq LIMIT {_BATCH}"
            )
            batch = run(ask, [*values, last])
            for row in batch:
                memory = from_row(row)
                inside.add(memory.id)
                write(json_line({"memory": _with_embedding(memory, row[-2])}))
                count, last = count + 1, row[-1]
            if len(batch) < _BATCH:
                break
        for link in links.of(run, None):
            if link.source in inside and link.target in inside:
                write(json_line({"link": link}))
                count += 1
        return count

    return engine.read(look)


def _with_embedding(memory: Memory, vector: bytes | None) -> Any:
    if vector is None:
        return memory
    members = {field.name: getattr(memory, field.name) for field in fields(Memory)}
    return {**members, "embedding": list(vectors.decoded(vector))}


def import_lines(engine: Engine, lines: Iterable[str], *, skip_bad: bool) -> Imported:
    """Stores what lines say, in one transaction.

    Raises:
        errors.Config: a line is not valid, and bad ones are not left out; ``line`` is its number.
        errors.Conflict: an id belongs to another memory, likewise.
    """
    items: list[Item] = []
    bad: list[BadLine] = []
    for number, text in enumerate(lines, 1):
        if text.strip():
            with _noting(number, bad, skip_bad):
                items.append((number, *parse(text)))

    def write(run: Run) -> Imported:
        left_out = list(bad)
        counts = {"memories": 0, "links": 0, "present": 0}
        for number, item, vector in items:
            with _noting(number, left_out, skip_bad):
                counts[_put(run, item, vector)] += 1
        return Imported(**counts, bad=tuple(left_out))

    return engine.write(write, exclusive=True)


class _noting:  # noqa: N801  # used as a function
    """Gives an error the number of its line, or notes it and goes on."""

    def __init__(self, number: int, bad: list[BadLine], skip: bool) -> None:
        self._number, self._bad, self._skip = number, bad, skip

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        if not isinstance(error, (errors.Config, errors.Conflict, errors.NotFound)):
            return False
        if self._skip:
            self._bad.append(BadLine(line=self._number, reason=error.message))
            return True
        hint = "nothing was imported; --skip-bad leaves such lines out"
        raise type(error)(f"line {self._number}: {error.message}", hint=hint, line=self._number) from error


def _put(run: Run, item: Memory | links.MemoryLink, vector: bytes | None) -> str:
    if isinstance(item, links.MemoryLink):
        links.put(run, item)
        return "links"
    present = rows.find(run, item.id)
    if present is not None and not rows.same(present, item):
        raise errors.Conflict(f"another memory has the id {item.id!r}", id=item.id)
    if present is not None:
        return "present"
    rows.insert(run, item)
    if vector is not None:
        vectors.put(run, item.id, vector)
    return "memories"


def parse(text: str) -> tuple[Memory | links.MemoryLink, bytes | None]:
    """What one line says, and the embedding of a memory that has one.

    Raises:
        errors.Config: it is no such line.
    """
    try:
        value = json.loads(text) if len(text) <= _LINE_LIMIT else None
    except (ValueError, RecursionError):
        raise errors.Config("is not JSON") from None
    if not isinstance(value, dict) or len(value) != 1 or not isinstance(next(iter(value.values())), dict):
        raise errors.Config('is not {"memory": {…}} or {"link": {…}}')
    kind, members = next(iter(value.items()))
    if kind == "link":
        _members(members, {"source", "target", "kind", "strength"}, set())
        return links.checked(**members), None
    if kind != "memory":
        raise errors.Config(f"says what a {kind!r} is, and only memory and link are known")
    embedding = members.pop("embedding", None)
    _members(members, {"id", "content", "created_at"}, set(_DEFAULTS))
    tags = members.get("tags", [])
    if not isinstance(tags, list):
        raise errors.Config("tags are a list", key="tags")
    memory = checked(Memory(**{**_DEFAULTS, **members, "tags": tuple(tags)}))
    return memory, None if embedding is None else vectors.encoded(embedding)


def _members(given: dict[str, Any], needed: set[str], allowed: set[str]) -> None:
    missing, unknown = needed - given.keys(), given.keys() - needed - allowed
    if missing or unknown:
        what = [f"{', '.join(sorted(missing))} missing"] if missing else []
        what += [f"{', '.join(sorted(unknown))} unknown"] if unknown else []
        raise errors.Config("; ".join(what))
