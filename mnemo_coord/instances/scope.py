"""A scope: the name under which a program stores what it has, so that two instances on one disk never share a file.

The name comes from a variable, else from a configuration file; else, where that is switched on, it is derived from the working
directory, the same at each start. Without a name everything lies exactly where it lies without us: scoping is added, nothing is
moved. A name is taken as it is or refused, never cleaned: two names that are cleaned to one would share their files.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from mnemo_coord import errors
from mnemo_coord.instances.document import load
from mnemo_coord.instances.environment import given
from mnemo_coord.instances.ledger import data_dir
from mnemo_coord.instances.project import Project, ScopeRules, find
from mnemo_coord.members.identity import is_id

__all__ = ["Scope", "Source", "auto_name", "resolve", "scope", "variable_near", "warning"]

_log = logging.getLogger("mnemo_coord.scope")

_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]", re.ASCII)
_ON: Final = {"1", "true", "yes", "on"}
_BESIDE: Final = ("", ".lock", "-journal", "-wal", "-shm")
"""What a store is called, its owner lock, and what SQLite puts beside it."""


class Source(StrEnum):
    """Where a name came from."""

    VARIABLE = "variable"
    CONFIG = "config"
    AUTO = "auto"
    NONE = "none"


@dataclass(frozen=True, kw_only=True, slots=True)
class Scope:
    """The name that applies, and where each store lies. Nothing of it is made."""

    name: str | None
    """None where nobody has given one: then everything lies where it always lay."""
    source: Source
    """Where it came from: ``variable``, ``config``, ``auto`` or ``none``."""
    root: str
    """The folder that all stores lie under; with a name, its own."""
    stores: dict[str, str]
    """The path of each, by its name in ``mnemosyne.yaml``."""


@errors.translated
def scope(folder: str | os.PathLike[str] | None = None, environ: Mapping[str, str] | None = None) -> Scope:
    """Under which name a program stores what it has, and where, by the ``mnemosyne.yaml`` of its project.

    Without a name, and where something is stored already, that is logged as a WARNING: once, when a process first asks for that
    place. What it has stored itself meanwhile does not count.

    Args:
        folder: where the program works, which a derived name depends on; by default the current folder.
        environ: the variables; by default those of the process.

    Raises:
        errors.NotFound: neither the folder nor one above has a ``mnemosyne.yaml``.
        errors.Config: that file is not valid, or the name could leave the root, or hit a store or a folder that all share.
        errors.State: a file, or the current folder, cannot be read.
    """
    here = Path(os.path.realpath(os.getcwd() if folder is None else folder))
    project = find(here)
    found = resolve(project, given(os.environ if environ is None else environ), here)
    loud = None if found.root in _looked_at else warning(project, found)
    _looked_at.add(found.root)
    if loud:
        _log.warning("%s", loud)
    return found


_looked_at: Final[set[str]] = set()


def variable_near(path: str | os.PathLike[str]) -> str:
    """The variable that tells instances apart, of the project around a file, else around the current folder, else ours."""
    # Whoever asks has something else to say: what is wrong with a project is told by those who need it.
    wrong = (errors.CoordinationError, OSError, ValueError)
    with suppress(*wrong):
        return find(os.path.dirname(os.path.realpath(path))).scope.variable
    with suppress(*wrong):
        return find().scope.variable
    return ScopeRules().variable


def auto_name(folder: Path) -> str:
    """The name that is derived from a working directory: its own, and six digits of a hash of the whole path."""
    resolved = os.path.realpath(folder)
    digits = hashlib.sha1(resolved.encode(errors="surrogateescape"), usedforsecurity=False).hexdigest()[:6]
    return f"{_UNSAFE.sub('_', os.path.basename(resolved) or 'root')}-{digits}"


def resolve(project: Project, environ: Mapping[str, str], folder: Path) -> Scope:
    """The scope that applies in a folder.

    Raises:
        errors.Config: the name could leave the root, or hit a store or a folder that all share.
    """
    root = _root(project, environ)
    name, source = _named(project, environ, folder)
    if name is not None:
        _check(project, name, source)
    place = root / name if name else root
    return Scope(
        name=name,
        source=source,
        root=str(place),
        stores={store: str(place / path) for store, path in project.stores.items()},
    )


def _root(project: Project, environ: Mapping[str, str]) -> Path:
    if not project.scope.root:
        return data_dir(environ) / "stores" / project.name
    root = os.path.expanduser(project.scope.root)
    return Path(os.path.abspath(project.root / root))


def _named(project: Project, environ: Mapping[str, str], folder: Path) -> tuple[str | None, Source]:
    named = environ.get(project.scope.variable)
    # `mnemosyne run` without a name tells its program the id of this start: no name under which anything is found again.
    if named and not (project.scope.variable == ScopeRules().variable and is_id(named)):
        return named, Source.VARIABLE
    configured = _configured(project)
    if configured:
        return configured, Source.CONFIG
    if environ.get(project.scope.auto, "").strip().lower() in _ON:
        return auto_name(folder), Source.AUTO
    return None, Source.NONE


def _configured(project: Project) -> str | None:
    file, _, key = project.scope.config.partition(":")
    if not key or not (project.root / file).is_file():
        return None
    return load(project.root / file).value(key, str, "") or None


def _check(project: Project, name: str, source: Source) -> None:
    shared = {path.partition("/")[0] + suffix for path in project.stores.values() for suffix in _BESIDE}
    if _NAME.fullmatch(name) is None or not name.strip("."):
        why, hint = "is not a name", "1 to 128 of A-Z a-z 0-9 . _ -, and not only dots"
    elif name in shared:
        why, hint = "is what a store is called, or a file beside it, that everybody shares", "choose another name"
    else:
        return
    where = project.scope.variable if source is Source.VARIABLE else project.scope.config
    raise errors.Config(f"{where}: {name!r} {why}", hint=hint, key=where)


def warning(project: Project, found: Scope) -> str | None:
    """What to say loudly to who starts without a name where something is stored already; None where all is well."""
    if found.name is not None or not _holds_something(project, found):
        return None
    return (
        f"unscoped, and {found.root} is not empty: another instance that is started like this shares its files. "
        f"Give each a name ({project.scope.variable}=NAME), or let it be derived ({project.scope.auto}=1)"
    )


def _holds_something(project: Project, found: Scope) -> bool:
    """Whether anything lies there, also what is no store; where the project itself lies there, only stores count."""
    if project.root.is_relative_to(found.root):
        return any(os.path.lexists(path) for path in found.stores.values())
    try:
        return bool(os.listdir(found.root))
    except FileNotFoundError:
        return False
    except OSError:
        return True  # it is there, and is not ours to look into
