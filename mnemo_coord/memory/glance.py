"""A glance at the database: how much is in it and what was stored last, for people who look at a whole fleet."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from mnemo_coord import errors
from mnemo_coord.memory import rows
from mnemo_coord.memory.engine import Engine, Run
from mnemo_coord.memory.memory import Memory, MemoryGlance
from mnemo_coord.memory.search import Filters, statements

__all__ = ["Watcher"]

_RECENT: Final = 8
_CONTENT: Final = 200
"""Characters of a content that are shown."""


class Watcher:
    """Looks at one database again and again; reads it only when somebody has changed it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._seen: tuple[Any, MemoryGlance] | None = None

    def look(self) -> MemoryGlance | None:
        """What is there; None where there is no database, or none that can be read, which is the doctor's to tell."""
        try:
            if not self._engine.exists():
                return None
            version = self._engine.version()
            if self._seen is None or self._seen[0] != version:
                self._seen = (version, self._engine.read(self._glance))
        except (errors.CoordinationError, OSError):
            return None
        return self._seen[1]

    def _glance(self, run: Run) -> MemoryGlance:
        memories, links = run("SELECT (SELECT count(*) FROM memories), (SELECT count(*) FROM links)")[0]
        recent = rows.first(run, statements(None, Filters(), _RECENT))
        return MemoryGlance(
            path=str(self._engine.path), memories=memories, links=links, recent=tuple(_shortened(memory) for memory in recent)
        )


def _shortened(memory: Memory) -> Memory:
    short = f"{memory.content[:_CONTENT]}…" if len(memory.content) > _CONTENT else memory.content
    return replace(memory, content=short, context="")
