"""A scope: the name under which a program stores what it has, so that two instances on one disk never share a file.

The name comes from a variable, else from a configuration file; else, where that is switched on, it is derived from the working
directory, the same at each start. Without a name everything lies exactly where it lies without us: scoping is added, nothing is
moved. A name is taken as it is or refused, never cleaned: two names that are cleaned to one would share their files.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from mnemo_coord import errors
from mnemo_coord.instances.document import load
from mnemo_coord.instances.ledger import data_dir
from mnemo_coord.instances.project import Project

__all__ = ["Scope", "Source", "auto_name", "resolve", "warning"]

_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]", re.ASCII)
_ON: Final = {"1", "true", "yes", "on"}


class Source(StrEnum):
    """Where a name came from."""

    VARIABLE = "variable"
    CONFIG = "config"
    AUTO = "auto"
    NONE = "none"


@dataclass(frozen=True, kw_only=True, slots=True)
class Scope:
    """The name that applies, and where each store lies."""

    name: str | None
    source: Source
    root: str
    """What all stores lie under; with a name, its folder."""
    stores: dict[str, str]


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
    if environ.get(project.scope.variable):
        return environ[project.scope.variable], Source.VARIABLE
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
    shared = {path.partition("/")[0] for path in project.stores.values()}
    if _NAME.fullmatch(name) is None or not name.strip("."):
        why, hint = "is not a name", "1 to 128 of A-Z a-z 0-9 . _ -, and not only dots"
    elif name in shared:
        why, hint = "is what a store is called that everybody shares", "choose another name"
    else:
        return
    where = project.scope.variable if source is Source.VARIABLE else project.scope.config
    raise errors.Config(f"{where}: {name!r} {why}", hint=hint, key=where)


def warning(project: Project, scope: Scope) -> str | None:
    """What to say loudly to who starts without a name where something is stored already; None where all is well."""
    if scope.name is not None or not any(os.path.lexists(path) for path in scope.stores.values()):
        return None
    return (
        f"unscoped, and {scope.root} is not empty: another instance that is started like this shares its files. "
        f"Give each a name ({project.scope.variable}=NAME), or let it be derived ({project.scope.auto}=1)"
    )
