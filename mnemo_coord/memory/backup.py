"""A backup: the database as it is at one moment, in one file, made while others go on writing."""

from __future__ import annotations

import os
from pathlib import Path

from mnemo_coord import errors
from mnemo_coord.disk import files
from mnemo_coord.memory import place
from mnemo_coord.memory.engine import Engine

__all__ = ["backup"]


def backup(engine: Engine, target: str | os.PathLike[str]) -> Path:
    """Copies the database into a new file, which is on the disk when this returns.

    Raises:
        errors.Conflict: there is something at that path already.
        errors.NotFound: there is no database.
        errors.State: the copy cannot be written; nothing is left of it.
    """
    path = Path(os.path.abspath(os.path.expanduser(target)))
    if not engine.exists():
        raise errors.NotFound(f"{engine.path}: there is no database yet", hint="`mnemosyne remember` makes it")
    if not place.make(path):
        raise errors.Conflict(
            f"{path}: there is a file already", hint="give another path; nothing is written over", path=str(path)
        )
    try:
        engine.copy_to(str(path))
        _sync(path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def _sync(path: Path) -> None:
    for each in (path, path.parent):
        with files.opened(os.open(each, os.O_RDONLY | os.O_CLOEXEC)) as fd:
            os.fsync(fd)
