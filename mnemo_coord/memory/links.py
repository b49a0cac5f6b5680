"""Links: what one memory has to do with another, and how much.

A link has a direction, a kind and a strength from 0 to 1. There is at most one of each kind between two memories in one
direction; it ends with either of them. Every change is one exclusive transaction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from mnemo_coord import errors
from mnemo_coord.display import printable
from mnemo_coord.memory import rows
from mnemo_coord.memory.engine import Run
from mnemo_coord.memory.memory import check_id

__all__ = ["RELATED", "MemoryLink", "add", "checked", "of", "put", "remove"]

RELATED: Final = "related"
_KIND_LIMIT: Final = 64
_COLUMNS: Final = "a.id, b.id, links.kind, links.strength"
_JOINED: Final = "links JOIN memories AS a ON a.seq = links.source JOIN memories AS b ON b.seq = links.target"
_IDS: Final = "source = (SELECT seq FROM memories WHERE id = ?) AND target = (SELECT seq FROM memories WHERE id = ?)"


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryLink:
    """What one memory has to do with another."""

    source: str
    """The id of a memory."""
    target: str
    """The id of another."""
    kind: str
    """How, such as ``related``."""
    strength: float
    """From 0 to 1."""


def checked(source: str, target: str, kind: str, strength: float) -> MemoryLink:
    """The link of these members.

    Raises:
        errors.Config: one of them is not valid, or both ends are one memory.
    """
    if check_id(source) == check_id(target):
        raise errors.Config("a memory is not linked to itself", key="target")
    if not isinstance(kind, str) or not 0 < len(kind) <= _KIND_LIMIT or printable(kind) != kind or kind != kind.strip():
        raise errors.Config(f"{kind!r} is no kind of link: 1 to {_KIND_LIMIT} characters that can be seen", key="kind")
    if type(strength) not in {int, float} or not math.isfinite(strength) or not 0 <= strength <= 1:
        raise errors.Config(f"strength is a number from 0 to 1, not {strength!r}", key="strength")
    return MemoryLink(source=source, target=target, kind=kind, strength=float(strength))


def put(run: Run, link: MemoryLink) -> MemoryLink:
    """Writes a link, in place of the one that was there.

    Raises:
        errors.NotFound: one end does not exist.
    """
    for end in (link.source, link.target):
        rows.get(run, end)
    run(
        "INSERT INTO links (source, target, kind, strength) SELECT a.seq, b.seq, ?, ? FROM memories AS a, memories AS b"
        " WHERE a.id = ? AND b.id = ? ON CONFLICT (source, target, kind) DO UPDATE SET strength = excluded.strength",
        (link.kind, link.strength, link.source, link.target),
    )
    return link


def add(run: Run, link: MemoryLink, by: float) -> MemoryLink:
    """Adds to the strength of a link, which begins at 0.

    Raises:
        errors.NotFound: one end does not exist.
        errors.Config: ``by`` is no number.
    """
    if type(by) not in {int, float} or not math.isfinite(by):
        raise errors.Config(f"strength grows by a number, not by {by!r}", key="by")
    present = run(f"SELECT strength FROM links WHERE {_IDS} AND kind = ?", (link.source, link.target, link.kind))  # noqa: S608
    before = float(present[0][0]) if present else 0.0
    return put(run, replace(link, strength=min(1.0, max(0.0, before + by))))


def remove(run: Run, link: MemoryLink) -> bool:
    """Removes a link. Returns whether there was one."""
    run(f"DELETE FROM links WHERE {_IDS} AND kind = ?", (link.source, link.target, link.kind))  # noqa: S608
    return bool(run("SELECT changes()")[0][0])


def of(run: Run, memory_id: str | None) -> list[MemoryLink]:
    """The links from and to a memory, the strongest first; those of all where none is named."""
    where = "" if memory_id is None else "WHERE a.id = ? OR b.id = ?"
    values = () if memory_id is None else (memory_id, memory_id)
    ask = f"SELECT {_COLUMNS} FROM {_JOINED} {where} ORDER BY links.strength DESC, a.id, b.id, links.kind"  # noqa: S608
    return [MemoryLink(source=a, target=b, kind=kind, strength=strength) for a, b, kind, strength in run(ask, values)]
