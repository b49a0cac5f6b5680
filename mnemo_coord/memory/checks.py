"""What the doctor looks at in a database: whose it is, its modes, its version, its log, and whether it is whole.

Without ``fix`` nothing is changed. With it, modes are tightened and a long log is brought in. No database is ever removed, set
aside or repaired: what is in it cannot be made again, and a backup is a person's decision.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from mnemo_coord import errors
from mnemo_coord.disk import files
from mnemo_coord.disk.state_dir import MEMORY
from mnemo_coord.findings import Finding, Severity
from mnemo_coord.memory import place, schema
from mnemo_coord.memory.engine import Engine, inspect, integrity

__all__ = ["LOG_LIMIT", "check"]

LOG_LIMIT: Final = 64 * 1024 * 1024
"""Bytes of a log that is too long: SQLite brings it in at 4 MiB, unless somebody reads for a long time."""


def check(find: Callable[[], place.Place], state_dir: Path, *, fix: bool = False, thorough: bool = True) -> list[Finding]:
    """What is wrong with the database that applies, and with that of the state directory; ``thorough`` reads all of it."""
    paths = [state_dir / MEMORY]
    found = []
    try:
        paths.insert(0, find().path)
    except errors.Config as error:
        named = error.message.partition(" ")[0]
        found.append(
            Finding(code="memory-unsupported", severity=Severity.ERROR, subject=named, message=error.message, hint=error.hint)
        )
    for path in dict.fromkeys(paths):
        if os.path.lexists(path):
            found += _database(path, fix=fix, thorough=thorough)
    return found


def _database(path: Path, *, fix: bool, thorough: bool) -> list[Finding]:
    problem = place.problem_of(path, modes=False)
    if problem:
        hint = "look at it by hand; --db-path gives another place"
        return [Finding(code="memory-untrusted", severity=Severity.ERROR, subject=str(path), message=problem, hint=hint)]
    try:
        version = inspect(path)
    except errors.CoordinationError as error:
        return [_refused(path, error)]  # its modes are not ours to change
    found = [_tightened(each) if fix else each for each in _modes(path)]
    if 0 < version < schema.VERSION:
        message = f"has schema version {version} of {schema.VERSION}"
        hint = "the next change brings it up to date"
        found.append(Finding(code="memory-outdated", severity=Severity.NOTICE, subject=str(path), message=message, hint=hint))
    return [*found, *(_content(path) if thorough else []), *_log(path, fix=fix)]


def _refused(path: Path, error: errors.CoordinationError) -> Finding:
    reason = str(error.data.get("reason", error.message))
    if isinstance(error, errors.Damaged):
        return _damaged(path, reason)
    if error.data.get("foreign") is True:
        return Finding(code="memory-foreign", severity=Severity.NOTICE, subject=str(path), message=reason, hint=error.hint)
    return Finding(code="memory-unusable", severity=Severity.ERROR, subject=str(path), message=reason, hint=error.hint)


def _modes(path: Path) -> Iterator[Finding]:
    for each in (path, *(path.with_name(path.name + suffix) for suffix in place.SIDE_FILES)):
        with suppress(FileNotFoundError):
            status = os.stat(each, follow_symlinks=False)
            ours = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and status.st_nlink == 1
            if ours and status.st_mode & 0o077:
                message = f"has mode {stat.S_IMODE(status.st_mode):04o}"
                hint = "`mnemosyne doctor --fix` takes away the rights of others"
                yield Finding(code="memory-mode", severity=Severity.ERROR, subject=str(each), message=message, hint=hint)


def _tightened(finding: Finding) -> Finding:
    # By its name: closing a descriptor of the file would drop the locks that SQLite holds for this process.
    return finding.mended_by(partial(os.chmod, finding.subject, files.FILE_MODE))


def _content(path: Path) -> list[Finding]:
    try:
        lines = integrity(path)
    except errors.CoordinationError as error:
        return [_refused(path, error)]
    return [_damaged(path, "; ".join(lines[:3]))] if lines else []


def _damaged(path: Path, message: str) -> Finding:
    hint = "stop who uses it, keep a copy, and put a backup in its place; nothing here removes it"
    return Finding(code="memory-damaged", severity=Severity.ERROR, subject=str(path), message=message, hint=hint)


def _log(path: Path, *, fix: bool) -> list[Finding]:
    log = path.with_name(f"{path.name}-wal")
    try:
        size = log.stat().st_size
    except FileNotFoundError:
        return []
    if size <= LOG_LIMIT:
        return []
    message = f"has {size // (1024 * 1024)} MiB, which makes reading slow"
    hint = "`mnemosyne doctor --fix` brings it in, once nobody has been reading for long"
    finding = Finding(code="memory-log", severity=Severity.WARNING, subject=str(log), message=message, hint=hint)
    return [_brought_in(finding, path) if fix else finding]


def _brought_in(finding: Finding, path: Path) -> Finding:
    engine = Engine(lambda: place.Place(path=path, source="doctor"), timeout=5.0, create=False)
    try:
        return finding.mended() if engine.checkpoint() else finding
    except errors.CoordinationError:
        return finding
    finally:
        engine.close()
