"""The database as a whole: opening it, copying it, taking everything out and putting it in, and what is told of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Self

from mnemo_coord import errors
from mnemo_coord.disk.clock import Clock, SystemClock
from mnemo_coord.disk.state_dir import locate as locate_state_dir
from mnemo_coord.events import Broadcaster, EventKind
from mnemo_coord.memory.engine import Engine
from mnemo_coord.memory.memory import Author
from mnemo_coord.memory.patience import Wait
from mnemo_coord.memory.place import Place, finder
from mnemo_coord.settings import Settings, resolve

if TYPE_CHECKING:
    from pathlib import Path

    from mnemo_coord.memory.glance import Watcher
    from mnemo_coord.memory.memory import MemoryGlance
    from mnemo_coord.memory.transfer import Imported

__all__ = ["Database"]


class Database:
    """One database and who writes to it; what is in it is the part of `memories.Memories`."""

    def __init__(self, engine: Engine, clock: Clock, author: Author | None = None, events: Broadcaster | None = None) -> None:
        self._engine = engine
        self._clock = clock
        self._author = author or Author()
        self._events = events if author is not None and author.id is not None else None
        self._watcher: Watcher | None = None

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        state_dir: str | os.PathLike[str] | None = None,
        name: str | None = None,
        settings: Settings | None = None,
    ) -> Self:
        """The database for a program that is no instance. Close it when done, best as a ``with`` block.

        Args:
            path: the file; by default the one that applies here.
            state_dir: the state directory whose ``memory.db`` applies, if it has one; by default that of here.
            name: who writes, for others to see.
            settings: defaults to those of the environment.

        Raises:
            errors.Config: a setting is not valid, or names no file.
        """
        chosen = settings or resolve()
        given = os.fspath(path) if path is not None else chosen.db_path
        found = finder(given, locate_state_dir(state_dir))
        found()
        return cls(Engine(found, timeout=chosen.db_timeout, durable=chosen.durable), SystemClock(), Author(name=name))

    def written_by(self, instance_id: str, name: str | None, events: Broadcaster) -> Self:
        """The same database, written to by an instance, which publishes what it does."""
        mine = type(self)(self._engine, self._clock, Author(id=instance_id, name=name), events)
        self._engine.on_wait(mine._waited)  # noqa: SLF001  # it is one of us
        return mine

    @property
    def path(self) -> Path:
        """The file of the database, whether it exists or not."""
        return self._engine.path

    @property
    def place(self) -> Place:
        """The same, with what says so."""
        return self._engine.place

    def exists(self) -> bool:
        """Whether there is a database. Opens nothing."""
        return self._engine.exists()

    @errors.translated
    def backup(self, target: str | os.PathLike[str]) -> Path:
        """Copies the database, as it is at one moment, into a new file of mode 0600, while others write. Returns its path.

        Raises:
            errors.Conflict: there is something at that path already; it stays as it is.
            errors.NotFound: there is no database.
            errors.State: the copy cannot be written; nothing is left of it.
        """
        from mnemo_coord.memory.backup import backup

        return backup(self._engine, target)

    @errors.translated
    def export(self, write: Callable[[str], object], *, namespace: str | None = None) -> int:
        """Hands every memory and every link to ``write``, each as one line of JSON, oldest first. Returns how many lines.

        All of it is one state of the database. Raises as `recall` does.
        """
        from mnemo_coord.memory.transfer import export

        return export(self._engine, write, namespace) if self.exists() else 0

    @errors.translated
    def import_lines(self, lines: Iterable[str], *, skip_bad: bool = False) -> Imported:
        """Stores what `export` wrote, under the same ids: all of it, or nothing. What is there already is left as it is.

        Args:
            lines: one JSON object each; empty ones are passed over.
            skip_bad: leave out what is not valid, instead of storing nothing.

        Raises:
            errors.Config: a line is not valid; ``line`` is its number, from 1.
            errors.Conflict: another memory has an id; ``line`` likewise.
            errors.CoordinationError: as `store` does.
        """
        from mnemo_coord.memory.transfer import import_lines

        return import_lines(self._engine, lines, skip_bad=skip_bad)

    @errors.translated
    def glance(self) -> MemoryGlance | None:
        """How much there is, and what was stored last; None where there is no database, or none that can be read."""
        if self._watcher is None:
            from mnemo_coord.memory.glance import Watcher

            self._watcher = Watcher(self._engine)
        return self._watcher.look()

    def close(self) -> None:
        """Closes the file. Idempotent; used again, it opens again."""
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # What is told

    def _tell(self, kind: EventKind, **about: Any) -> None:
        if self._events is not None:
            self._events.publish(kind, self._author.id or "", **about)

    def _waited(self, wait: Wait) -> None:
        self._tell(EventKind.MEMORY_WAITED, seconds=wait.seconds, tries=wait.tries, done=wait.done)
