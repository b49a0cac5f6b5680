"""The memories: what all instances of a user, or of a fleet, know together. Storing, finding, changing and forgetting.

Every change is one transaction that has taken the lock before it reads (`engine`), so that two who change the same memory at
once do so one after the other, and neither change is lost. What has returned is stored.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

from mnemo_coord import errors
from mnemo_coord.disk.clock import rfc3339
from mnemo_coord.events import EventKind
from mnemo_coord.memory import links, rows, search, vectors
from mnemo_coord.memory.database import Database
from mnemo_coord.memory.engine import Run
from mnemo_coord.memory.memory import DEFAULT_IMPORTANCE, Memory, checked
from mnemo_coord.memory.namespace import GLOBAL

__all__ = ["Memories"]

DEFAULT_LIMIT: Final = 20
_TOLD: Final = 20
"""Ids in an event."""


class Memories(Database):
    """The shared database of memories. Use `Memories.open`, ``me.memory`` or ``fleet.memory``; thread-safe.

    The database is opened, and made where there is none, when it is first written to.
    """

    # Storing

    @errors.translated
    def store(
        self,
        content: str,
        *,
        namespace: str = GLOBAL,
        importance: int = DEFAULT_IMPORTANCE,
        tags: Iterable[str] = (),
        context: str = "",
        embedding: Sequence[float] | None = None,
        memory_id: str | None = None,
    ) -> Memory:
        """Remembers something.

        Args:
            content: any text of at most 64 KiB in UTF-8.
            namespace: ``global``, ``project:NAME`` or ``session:PROJECT:ID``.
            importance: from 1 to 10; weighs when it is searched for.
            tags: at most 32, of at most 64 characters.
            context: where it comes from, or when it holds; at most 4 KiB.
            embedding: numbers that a model made of it, for `similar`.
            memory_id: its id, for who wants to be able to store it again: what is stored twice under one id is one memory.

        Raises:
            errors.Config: one of them is not valid.
            errors.Conflict: another memory has this ``memory_id``.
            errors.TimedOut: the database stayed locked; nothing was stored.
            errors.State: the database cannot be used.
        """
        memory = checked(
            Memory(
                id=os.urandom(8).hex() if memory_id is None else memory_id,
                content=content,
                namespace=namespace,
                importance=importance,
                tags=tuple(tags) if not isinstance(tags, str) else tags,  # type: ignore[arg-type]  # refused by name
                context=context,
                author_id=self._author.id,
                author_name=self._author.name,
                created_at=rfc3339(self._clock.wall_ns()),
            )
        )
        vector = None if embedding is None else vectors.encoded(embedding)

        def write(run: Run) -> Memory:
            present = None if memory_id is None else rows.find(run, memory_id)
            if present is not None:
                return _the_same(present, memory)
            rows.insert(run, memory)
            if vector is not None:
                vectors.put(run, memory.id, vector)
            return memory

        stored = self._engine.write(write)
        if stored is memory:
            self._tell(EventKind.MEMORY_STORED, id=memory.id, namespace=memory.namespace)
        return stored

    @errors.translated
    def change(self, memory_id: str, change: Callable[[Memory], Memory]) -> Memory:
        """Changes a memory: ``change`` gets it as it is and returns it as it is to be, and nobody else changes it meanwhile.

        It may be called more than once. What it returns keeps its id, its author and the time at which it was written.

        Raises:
            errors.NotFound: there is no such memory.
            errors.Config: what it returns is not valid.
            errors.CoordinationError: as `store` does.
        """

        def write(run: Run) -> Memory:
            before = rows.get(run, memory_id)
            wanted = checked(change(before))
            after = replace(
                wanted, id=before.id, author_id=before.author_id, author_name=before.author_name, created_at=before.created_at
            )
            if after != before:
                rows.rewrite(run, after)
            return after

        return self._engine.write(write)

    @errors.translated
    def forget(self, *memory_ids: str) -> int:
        """Removes memories, with their links: all of them, or none where one does not exist. Returns how many.

        Raises:
            errors.NotFound: naming the first that does not exist; nothing was removed.
            errors.CoordinationError: as `store` does.
        """
        wanted = list(dict.fromkeys(memory_ids))
        if wanted and not self.exists():
            raise rows.unknown(wanted[0])

        def write(run: Run) -> int:
            for memory_id in wanted:
                rows.forget(run, memory_id)
            return len(wanted)

        return self._engine.write(write) if wanted else 0

    # Finding

    @errors.translated
    def get(self, memory_id: str) -> Memory:
        """One memory.

        Raises:
            errors.NotFound: there is none of this id.
            errors.CoordinationError: as `store` does.
        """
        if not self.exists():
            raise rows.unknown(memory_id)
        return self._engine.read(lambda run: rows.get(run, memory_id))

    @errors.translated
    def recall(
        self,
        query: str | None = None,
        *,
        namespace: str | None = None,
        tags: Iterable[str] = (),
        min_importance: int = 1,
        author: str | None = None,
        limit: int = DEFAULT_LIMIT,
    ) -> list[Memory]:
        """What is known about something, the best first; without a query the newest first.

        Memories with all the words are found, and where there are none, those with any of them.

        Args:
            query: free text; nothing in it has a special meaning.
            namespace: only in this one.
            tags: only with all of these.
            min_importance: only of at least this one.
            author: only of this one, by id or name.
            limit: how many at most, up to 1,000. Everything else applies before it.

        Raises:
            errors.Config: one of them is not valid.
            errors.CoordinationError: as `store` does.
        """
        filters = search.Filters(namespace=namespace, tags=tuple(tags), min_importance=min_importance, author=author)
        asks = search.statements(None if query is None else search.question(query), filters, limit)
        found = self._engine.read(lambda run: rows.first(run, asks)) if self.exists() else []
        ids = [memory.id for memory in found[:_TOLD]]
        self._tell(EventKind.MEMORY_RECALLED, namespace=namespace, found=len(found), ids=ids)
        return found

    @errors.translated
    def similar(
        self,
        embedding: Sequence[float],
        *,
        namespace: str | None = None,
        tags: Iterable[str] = (),
        min_importance: int = 1,
        author: str | None = None,
        limit: int = DEFAULT_LIMIT,
    ) -> list[tuple[Memory, float]]:
        """The memories whose embeddings are nearest to one, with how near: the cosine, from -1 to 1.

        Every embedding of the same length that passes the filters is looked at, at most 20,000.

        Raises:
            errors.Config: it is no embedding, or more than 20,000 pass the filters.
            errors.CoordinationError: as `store` does.
        """
        filters = search.Filters(namespace=namespace, tags=tuple(tags), min_importance=min_importance, author=author)
        vector = vectors.encoded(embedding)
        nearest = vectors.asks(vector, filters, limit)
        return self._engine.read(nearest) if self.exists() else []

    @errors.translated
    def count(self, namespace: str | None = None) -> int:
        """How many memories there are, or how many in one namespace.

        Raises:
            errors.CoordinationError: as `recall` does.
        """
        where, values = search.Filters(namespace=namespace).where()
        ask = f"SELECT count(*) FROM memories WHERE {where}"  # noqa: S608  # of our own words
        return int(self._engine.read(lambda run: run(ask, values))[0][0]) if self.exists() else 0

    # Links

    @errors.translated
    def link(self, source: str, target: str, kind: str = links.RELATED, *, strength: float = 1.0) -> links.MemoryLink:
        """Says that one memory has to do with another, or how much it does now.

        Args:
            source: the id of a memory.
            target: the id of another.
            kind: how, in 1 to 64 characters, such as ``caused``.
            strength: from 0 to 1.

        Raises:
            errors.NotFound: there is no such memory.
            errors.Config: kind or strength are not valid, or both are one memory.
            errors.CoordinationError: as `store` does.
        """
        wanted = links.checked(source, target, kind, strength)
        return self._engine.write(lambda run: links.put(run, wanted), exclusive=True)

    @errors.translated
    def strengthen(self, source: str, target: str, kind: str = links.RELATED, *, by: float = 0.1) -> links.MemoryLink:
        """Adds to the strength of a link, from 0 where there was none; it stays between 0 and 1. Raises as `link` does."""
        wanted = links.checked(source, target, kind, 0.0)
        return self._engine.write(lambda run: links.add(run, wanted, by), exclusive=True)

    @errors.translated
    def unlink(self, source: str, target: str, kind: str = links.RELATED) -> bool:
        """Removes a link. Returns whether there was one. Raises as `store` does."""
        wanted = links.checked(source, target, kind, 0.0)
        return self._engine.write(lambda run: links.remove(run, wanted), exclusive=True)

    @errors.translated
    def links(self, memory_id: str) -> list[links.MemoryLink]:
        """The links from and to a memory, the strongest first.

        Raises:
            errors.NotFound: there is no such memory.
            errors.CoordinationError: as `store` does.
        """
        if not self.exists():
            raise rows.unknown(memory_id)
        return self._engine.read(lambda run: (rows.get(run, memory_id), links.of(run, memory_id))[1])


def _the_same(present: Memory, wanted: Memory) -> Memory:
    if not rows.same(present, wanted):
        raise errors.Conflict(f"another memory has the id {wanted.id!r}", hint="leave the id out", id=wanted.id)
    return present
