"""The schema: the tables of the shared database, as a list of steps from one version to the next.

``application_id`` says that the file is ours, ``user_version`` how many steps it has had. A step is never changed. ::

    memories    one row each; seq is the order of writing, and no name: ids are
    tags        (memory, tag)
    links       (source, target, kind), with a strength from 0 to 1
    vectors     an embedding for each memory that has one: 32-bit floats, little-endian, of length 1
    words       the text in which is searched, as FTS5 keeps it; rowid is seq (`search.indexed`)
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from mnemo_coord import errors

__all__ = ["APPLICATION", "MIGRATIONS", "VERSION", "check"]

APPLICATION: Final = 0x4D4E454D
"""``MNEM``."""

_FIRST: Final = (
    """CREATE TABLE memories (
        seq INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        content TEXT NOT NULL,
        namespace TEXT NOT NULL,
        importance INTEGER NOT NULL CHECK (importance BETWEEN 1 AND 10),
        context TEXT NOT NULL,
        author_id TEXT,
        author_name TEXT,
        created_at TEXT NOT NULL
    ) STRICT""",
    "CREATE INDEX memories_by_namespace ON memories (namespace, seq)",
    """CREATE TABLE tags (
        memory INTEGER NOT NULL REFERENCES memories (seq) ON DELETE CASCADE,
        tag TEXT NOT NULL,
        PRIMARY KEY (memory, tag)
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX tags_by_name ON tags (tag, memory)",
    """CREATE TABLE links (
        source INTEGER NOT NULL REFERENCES memories (seq) ON DELETE CASCADE,
        target INTEGER NOT NULL REFERENCES memories (seq) ON DELETE CASCADE,
        kind TEXT NOT NULL,
        strength REAL NOT NULL CHECK (strength BETWEEN 0 AND 1),
        PRIMARY KEY (source, target, kind)
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX links_by_target ON links (target)",
    """CREATE TABLE vectors (
        memory INTEGER PRIMARY KEY REFERENCES memories (seq) ON DELETE CASCADE,
        dimension INTEGER NOT NULL,
        vector BLOB NOT NULL
    ) STRICT""",
    'CREATE VIRTUAL TABLE words USING fts5 (text, tokenize = "unicode61 remove_diacritics 2")',
)

MIGRATIONS: Final = (_FIRST,)
"""The statements that lead to version 1, 2 and so on."""
VERSION: Final = len(MIGRATIONS)


def check(path: Path, application: int, version: int, *, empty: bool) -> None:
    """Refuses a file that is not for this version of this program.

    Raises:
        errors.State: it is another application's, or newer.
    """
    if application == 0 and version == 0 and empty:
        return
    if application != APPLICATION:
        hint = "give another path with --db-path or MNEMOSYNE_DB_PATH"
        raise _refusal(path, "is the database of another application; nothing was changed", hint, foreign=True)
    if version > VERSION:
        what = f"has schema version {version}, and this program knows up to {VERSION}; nothing was changed"
        raise _refusal(path, what, "use the newer version of mnemosyne that wrote it", foreign=False)


def _refusal(path: Path, reason: str, hint: str, *, foreign: bool) -> errors.State:
    return errors.State(f"{path}: {reason}", hint=hint, path=str(path), reason=reason, foreign=foreign)
