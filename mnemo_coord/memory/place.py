"""Where the shared database lies: which of the places that could be meant applies, and whether the file there may be used.

::

    1.  the path given: ``--db-path``, or the setting ``db_path``
    2.  ``MNEMOSYNE_DB_PATH``
    3.  ``DATABASE_URL``: ``sqlite:///relative``, ``sqlite:////absolute`` or a plain path; all else is the application's
    4.  ``memory.db`` in the state directory, if it is there
    5.  ``mnemosyne.db`` in the data folder of this user (`disk.data_dir`)

The file has mode 0600 and is made by us, empty, before SQLite opens it; SQLite gives the files beside it (``-wal``, ``-shm``)
the same mode. It is never opened here: closing a descriptor of it would drop the locks that SQLite holds for this process
(https://sqlite.org/howtocorrupt.html, 2.2).
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mnemo_coord import errors
from mnemo_coord.disk import files
from mnemo_coord.disk.data_dir import data_dir
from mnemo_coord.disk.state_dir import MEMORY

__all__ = ["SIDE_FILES", "Place", "finder", "locate", "make", "problem_of", "verify"]

_OF_USER: Final = "mnemosyne.db"
SIDE_FILES: Final = ("-wal", "-shm")
_SERVERS: Final = frozenset({"libsql", "http", "https", "ws", "wss"})
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9.-]*)(?:\+[A-Za-z0-9_]+)?://(.*)", re.DOTALL)
_VARIABLE: Final = "MNEMOSYNE_DB_PATH"


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where the database is or would be."""

    path: Path
    source: str
    """What says so: ``flag``, the name of a variable, ``state directory`` or ``default``."""
    passed_over: str = ""
    """The scheme of a ``DATABASE_URL`` that is not for us."""


def locate(given: str | None, environ: Mapping[str, str], state_dir: Path | None, here: Path) -> Place:
    """The place that applies. Touches nothing but to see whether the state directory has a database.

    Args:
        given: what a flag or a setting says; None or empty where nothing does.
        environ: the variables.
        state_dir: the state directory, whether it exists or not.
        here: what relative paths are relative to.

    Raises:
        errors.Config: a URL of a server, or no path.
    """
    variable = environ.get(_VARIABLE)
    for text, source in ((None if given == variable else given, "flag"), (variable, _VARIABLE)):
        if text:
            return Place(path=_absolute(_path_of(text, source) or text, here, source), source=source)
    url = environ.get("DATABASE_URL", "")
    named = _path_of(url, "DATABASE_URL")
    if named:
        return Place(path=_absolute(named, here, "DATABASE_URL"), source="DATABASE_URL")
    passed_over = url.partition(":")[0] if url else ""
    if state_dir is not None and os.path.lexists(state_dir / MEMORY):
        return Place(path=state_dir / MEMORY, source="state directory", passed_over=passed_over)
    return Place(path=data_dir(environ) / _OF_USER, source="default", passed_over=passed_over)


def _path_of(text: str, source: str) -> str | None:
    """The path that a text names; None where it is empty or another application's.

    Raises:
        errors.Config: it is the URL of a database server of our kind, which is not supported.
    """
    found = _SCHEME.fullmatch(text)
    if found is None:
        return text if text and not text.startswith((":memory:", "file:")) else None
    scheme, rest = found[1].lower(), found[2].partition("?")[0]
    if scheme in _SERVERS and (scheme == "libsql" or source != "DATABASE_URL"):
        what = f"{source} names a database server ({scheme}://), and only files are supported"
        raise errors.Config(what, hint="give the path of a file; docs/adr/0028 says why", key="db_path")
    if scheme not in {"sqlite", "sqlite3"}:
        return None
    return rest[1:] if rest.startswith("/") and rest[1:] not in {"", ":memory:"} else None


def _absolute(text: str, here: Path, source: str) -> Path:
    if "\0" in text or text.endswith("/") or _SCHEME.fullmatch(text) or text.startswith((":memory:", "file:")):
        raise errors.Config(f"{source}: {text!r} is no path of a file", hint="such as dev.db", key="db_path")
    path = here / os.path.expanduser(text)
    return Path(os.path.realpath(path.parent)) / path.name


def finder(given: str | None, state_dir: Path | None) -> Callable[[], Place]:
    """Fixes the surroundings of now, and returns the function that finds the place in them.

    Whoever opens the database later may have changed the current directory by then.
    """
    environ = dict(os.environ)
    try:
        here = Path.cwd()
    except FileNotFoundError:  # it is gone: an absolute path needs none
        here = Path("/")
    return lambda: locate(given, environ, state_dir, here)


def problem_of(path: Path, *, modes: bool = True) -> str:
    """Why the file at a path, or one beside it, must not be used; empty where it may, or is missing."""
    for each in (path, *(path.with_name(path.name + suffix) for suffix in SIDE_FILES)):
        with suppress(FileNotFoundError):
            what = _oddity(os.stat(each, follow_symlinks=False), modes=modes)
            if what:
                return f"{each.name} {what}" if each != path else what
    return ""


def _oddity(status: os.stat_result, *, modes: bool) -> str:
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file"
    if status.st_uid != os.geteuid():
        return f"belongs to user {status.st_uid}, not to us"
    if status.st_nlink > 1:
        return "has a second hard link"
    if modes and status.st_mode & 0o022:
        return f"has mode {stat.S_IMODE(status.st_mode):04o}: other users can change it"
    return ""


def verify(path: Path) -> bool:
    """Whether there is a database file at a path; False where there is nothing.

    Raises:
        errors.Untrusted: what is there must not be used.
        errors.State: it cannot be looked at.
    """
    _refuse_open_folder(path.parent)
    problem = problem_of(path)
    if problem:
        hint = "`mnemosyne doctor --fix` tightens modes; look at everything else by hand"
        raise errors.Untrusted.at(path, problem, hint=hint)
    return os.path.lexists(path)


def _refuse_open_folder(folder: Path) -> None:
    with suppress(FileNotFoundError):
        mode = folder.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            what = "anyone can replace what is in it (world-writable without the sticky bit)"
            raise errors.Untrusted.at(folder, what, hint=f"chmod o-w {folder}, or give another place with --db-path")


def make(path: Path) -> bool:
    """Makes an empty file of mode 0600, and the folder of the user's data around it; False where there is something already.

    Raises:
        errors.State: the folder is missing, or it cannot be made.
    """
    if path.parent == data_dir():
        path.parent.parent.mkdir(parents=True, exist_ok=True)
        os.close(files.make_dir(str(path.parent)))
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise errors.State.at(path, f"its folder: {(error.strerror or '').lower()}", hint="make the folder first") from None
    # RACE: of several that make it at once, one does. Closing it here would drop the locks of a connection that another thread
    # has opened by then: whoever opens one holds the same lock (`engine`).
    with files.opened(folder), suppress(FileExistsError):
        os.close(files.create(path.name, dir_fd=folder))
        return True
    return False
