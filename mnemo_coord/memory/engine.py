"""The engine: the one place that knows SQLite. It runs transactions, waits its turn, and turns what goes wrong into our errors.

It takes and gives rows of plain values, so that another engine could stand in its place. Write-ahead logging lets any number
read while one writes. Whoever writes takes the lock at the start (``BEGIN IMMEDIATE``): a transaction that began by reading
and then found somebody else's change would have to be thrown away. Waiting for the lock is SQLite's own for a moment, and then
tries with growing, random pauses, up to a total time.

What is in the file is known before anything is written to it: a newer schema and another application's file stay as they are.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from mnemo_coord import errors
from mnemo_coord.memory import place, schema
from mnemo_coord.memory.patience import BusyError, Patience, Wait

__all__ = ["Engine", "Run", "inspect", "integrity"]

_T = TypeVar("_T")

Run = Callable[..., list[tuple[Any, ...]]]
"""Runs one statement, with its values, and returns all its rows."""

_SLICE: Final = 0.25
"""Seconds that SQLite waits by itself for a lock. Longer would make other threads of this process wait, too."""
_BUSY: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})
_BROKEN: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_REASONS: Final = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_IOERR: "it cannot be read or written",
    sqlite3.SQLITE_READONLY: "it cannot be written",
    sqlite3.SQLITE_CANTOPEN: "it, or a file beside it, cannot be opened",
    sqlite3.SQLITE_PERM: "access is denied",
}
_OPENING: Final = threading.Lock()
_abandoned: list[sqlite3.Connection] = []
"""Connections that a forked child has from its parent. SQLite forbids to use them there, and closing them is a use."""


@dataclass(slots=True)
class _Slot:
    """One connection, used by one thread at a time."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    connection: sqlite3.Connection | None = None
    file: tuple[int, int] = (0, 0)
    at_work: bool = False


class Engine:
    """One database. Opened when it is first used; thread-safe; in a forked child it opens anew.

    Args:
        find: says where the file is.
        timeout: seconds that a transaction tries to get its turn.
        durable: whether what is written survives a power cut, and not only the death of the process.
        create: whether to make the file where there is none.
    """

    def __init__(
        self,
        find: Callable[[], place.Place],
        *,
        timeout: float = 30.0,
        durable: bool = False,
        create: bool = True,
    ) -> None:
        self._find = find
        self._timeout = timeout
        self._durable = durable
        self._create = create
        self._patience = Patience(timeout, lambda: str(self.path))
        self._pid = os.getpid()
        self._place: place.Place | None = None
        self._reading, self._writing = _Slot(), _Slot()

    @property
    def place(self) -> place.Place:
        """Where the database is or would be.

        Raises:
            errors.Config: see `place.locate`.
        """
        if self._place is None:
            self._place = self._find()
        return self._place

    @property
    def path(self) -> Path:
        """The database file."""
        return self.place.path

    def on_wait(self, told: Callable[[Wait], None]) -> None:
        """Has ``told`` called for each transaction that had to try again."""
        self._patience.told = told

    def exists(self) -> bool:
        """Whether there is a file. Opens nothing."""
        return os.path.lexists(self.path)

    def read(self, work: Callable[[Run], _T]) -> _T:
        """What ``work`` returns when it has looked at one state of the database.

        Raises:
            errors.NotFound: there is no database, and none is to be made.
            errors.State: it cannot be used; `errors.Damaged` where it is no database, `errors.Untrusted` where it must not be.
            errors.TimedOut: it stayed locked.
        """
        return self._patience.until_done(lambda: self._transaction(self._reading, "BEGIN", work))

    def write(self, work: Callable[[Run], _T], *, exclusive: bool = False) -> _T:
        """The same for ``work`` that changes something: all of it or nothing. It may be called again, if somebody was faster.

        What has returned survives the death of this process. Raises as `read` does.
        """
        begin = "BEGIN EXCLUSIVE" if exclusive else "BEGIN IMMEDIATE"
        return self._patience.until_done(lambda: self._transaction(self._writing, begin, work))

    def copy_to(self, target: str) -> None:
        """Copies the database, as it is at one moment, into a new file, while others go on reading and writing it.

        Raises:
            errors.CoordinationError: as `read` does.
        """

        def copy() -> None:
            with self._connected(self._reading) as connection:
                connection.execute("VACUUM INTO ?", (target,))

        self._patience.until_done(copy)

    def checkpoint(self) -> bool:
        """Brings what is in the log into the database and empties the log; False where somebody still reads it."""

        def empty() -> bool:
            with self._connected(self._writing) as connection:
                return not connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]

        return self._patience.until_done(empty)

    def version(self) -> int:
        """Another number whenever somebody has changed the database since this engine last looked."""

        def look() -> int:
            with self._connected(self._reading) as connection:
                return int(connection.execute("PRAGMA data_version").fetchone()[0])

        return self._patience.until_done(look)

    def close(self) -> None:
        """Closes the file. Idempotent; used again, it opens again."""
        if self._pid != os.getpid():
            return
        for slot in (self._reading, self._writing):
            with slot.lock:
                _close(slot)

    # One transaction

    def _transaction(self, slot: _Slot, begin: str, work: Callable[[Run], _T]) -> _T:
        with self._connected(slot) as connection:

            def run(statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
                return connection.execute(statement, values).fetchall()

            connection.execute(begin)
            try:
                found = work(run)
                connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # SQLite has rolled back by itself after some errors
                    connection.execute("ROLLBACK")
                raise
            return found

    @contextmanager
    def _connected(self, slot: _Slot) -> Iterator[sqlite3.Connection]:
        slot = self._own(slot)
        with slot.lock:
            if slot.at_work:
                raise errors.Conflict("a transaction is open in this thread", hint="use what it was given, or end it first")
            slot.at_work = True
            try:
                yield self._connection(slot)
            except sqlite3.Error as error:
                raise _translated(error, self.path) from error
            finally:
                slot.at_work = False

    def _own(self, slot: _Slot) -> _Slot:
        """The slot in this process: a forked child has none of its parent's."""
        if self._pid == os.getpid():
            return slot
        _abandoned.extend(each.connection for each in (self._reading, self._writing) if each.connection is not None)
        was_reading = slot is self._reading
        self._pid, self._reading, self._writing = os.getpid(), _Slot(), _Slot()
        return self._reading if was_reading else self._writing

    def _connection(self, slot: _Slot) -> sqlite3.Connection:
        if slot.connection is not None and slot.file == _identity(self.path):
            return slot.connection
        _close(slot)  # it was removed or replaced: what would be written now would be in no file
        self._ready()
        slot.file = _identity(self.path)
        slot.connection = _connect(self.path, "rw", self._timeout)
        slot.connection.execute(f"PRAGMA synchronous = {'FULL' if self._durable else 'NORMAL'}")
        slot.connection.execute("PRAGMA foreign_keys = ON")
        if slot is self._writing and slot.connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            slot.connection.execute("PRAGMA journal_mode = WAL")  # whoever made the file died in between
        return slot.connection

    def _ready(self) -> None:
        """Sees to it that there is a database of ours with the schema of this version."""
        path = self.path
        if not place.verify(path):
            if not self._create:
                raise errors.NotFound(f"{path}: there is no database yet", hint="`mnemosyne remember` makes it", path=str(path))
            with _OPENING:
                place.make(path)
        if inspect(path, self._timeout) < schema.VERSION:
            connection = _connect(path, "rw", self._timeout)
            try:
                _migrate(connection)
            finally:
                connection.close()


def _identity(path: Path) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return (0, 0)
    return status.st_dev, status.st_ino


def _close(slot: _Slot) -> None:
    connection, slot.connection, slot.file = slot.connection, None, (0, 0)
    if connection is not None:
        with suppress(sqlite3.Error):
            connection.close()


def _connect(path: Path, mode: str, timeout: float) -> sqlite3.Connection:
    with _OPENING:
        return sqlite3.connect(
            f"{path.as_uri()}?mode={mode}",
            uri=True,
            timeout=min(_SLICE, timeout),
            isolation_level=None,
            check_same_thread=False,
        )


def _translated(error: sqlite3.Error, path: Path) -> Exception:
    """The error of ours for one of SQLite's; the one that asks for another try where the database was busy."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in _BUSY:
        return BusyError()
    if code in _BROKEN:
        what = "is not a database" if code == sqlite3.SQLITE_NOTADB else "is damaged"
        return errors.Damaged.at(path, what, hint="put a backup in its place; the doctor never removes a database")
    reason = _REASONS.get(code, str(error) or type(error).__name__)
    return errors.State.at(path, reason, hint="check permissions and free space; `mnemosyne doctor` looks at the database")


# What is in the file


@contextmanager
def _looking(path: Path, timeout: float) -> Iterator[sqlite3.Connection]:
    """A connection that changes nothing, not even the files beside the database."""
    # Without a log nobody has it open: even opening for reading would make one. RACE: who opens it meanwhile may change what
    # is being read; what is looked for here does not change back and forth.
    still = not os.path.lexists(path.with_name(f"{path.name}-wal"))
    connection = None
    try:
        connection = _connect(path, "ro&immutable=1" if still else "ro", timeout)
        yield connection
    except sqlite3.Error as error:
        raise _translated(error, path) from error
    finally:
        if connection is not None:
            connection.close()


def inspect(path: Path, timeout: float = _SLICE) -> int:
    """The version of the schema in a file; 0 where it is empty. Changes nothing.

    Raises:
        errors.Damaged: it is no database.
        errors.State: it is another application's, or of a newer version.
    """
    with _looking(path, timeout) as connection:
        application, version, tables = connection.execute(
            "SELECT (SELECT application_id FROM pragma_application_id), (SELECT user_version FROM pragma_user_version),"
            " (SELECT count(*) FROM sqlite_schema)"
        ).fetchone()
    schema.check(path, application, version, empty=not tables)
    return int(version)


def integrity(path: Path, timeout: float = _SLICE) -> list[str]:
    """What SQLite finds wrong in a file, at most twenty lines; nothing where all is well. Changes nothing.

    Raises:
        errors.State: it cannot be looked at.
    """
    with _looking(path, timeout) as connection:
        found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(20)")]
        found += [
            f"a row of {row[0]} refers to nothing" for row in connection.execute("PRAGMA foreign_key_check").fetchmany(20)
        ]
    return [line for line in found if line != "ok"]


def _migrate(connection: sqlite3.Connection) -> None:
    """Brings a file up to date, one version in one transaction, whoever else does the same at once."""
    for version, statements in enumerate(schema.MIGRATIONS, 1):
        connection.execute("BEGIN EXCLUSIVE")
        try:
            if connection.execute("PRAGMA user_version").fetchone()[0] < version:
                for statement in statements:
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {schema.APPLICATION}")
                connection.execute(f"PRAGMA user_version = {version}")
            connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA wal_checkpoint")  # the version has to be in the file itself, where others look first
