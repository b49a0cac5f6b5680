"""Trust: whether a person lets what a project's file says run, in this very state of the file.

::

    <data>/trusted.json    {"version":1,"trusted":[{"repository":…,"path":…,"digest":…,"at":…}]}  (a ledger)

A file that came with a repository is somebody else's text. Reading it runs nothing; its commands, and its values for variables
that decide what other programs run, count only after `trust` (the idea is direnv's). Trust is for one repository, all of its
worktrees, and one SHA-256 of the file: whatever changes in it is asked for anew.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mnemo_coord import errors
from mnemo_coord.disk.clock import SystemClock, rfc3339
from mnemo_coord.disk.state_dir import main_worktree
from mnemo_coord.instances.ledger import Ledger, data_dir
from mnemo_coord.instances.project import FILE, Project

__all__ = ["Trust", "powerful", "strong"]

_POWERFUL: Final = re.compile(
    r"PATH|HOME|SHELL|IFS|ENV|BASH_ENV|PROMPT_COMMAND|PS[0-4]|TMPDIR|EDITOR|VISUAL|PAGER|BROWSER|COMSPEC"
    r"|LD_.*|DYLD_.*|GCONV_PATH|PYTHON.*|NODE_OPTIONS|NODE_PATH|PERL.*|RUBY.*|GEM_.*|_?JAVA_.*|JDK_.*|LUA_.*|PHP.*"
    r"|GIT_.*|SSH_.*|.*_ASKPASS|SUDO_.*|XDG_.*|.*_PROXY|.*_proxy|.*_CA_BUNDLE|SSL_.*|MNEMOSYNE_.*"
)
"""Variables by which one program makes another run something, or talk to somebody."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Record:
    repository: str
    path: str
    digest: str
    at: str

    def is_of(self, project: Project) -> bool:
        return (self.repository, self.path) == _place(project)


def powerful(project: Project) -> tuple[str, ...]:
    """The variables that a project's file sets and that decide what other programs run."""
    services = [service.variable for service in project.services]
    names = [project.variable, *services, *(value.variable for value in project.environment)]
    return tuple(name for name in strong(names) if name != "MNEMOSYNE_SLOT")


def strong(names: Iterable[str]) -> tuple[str, ...]:
    """Those of some variables that decide what other programs run."""
    return tuple(name for name in names if _POWERFUL.fullmatch(name))


class Trust:
    """What this user lets run."""

    def __init__(self, folder: Path | None = None) -> None:
        where = data_dir() if folder is None else folder
        self._ledger = Ledger("trusted", _record, "every project is then asked for anew", where)

    def holds(self, project: Project) -> bool:
        """Whether this project's file is trusted as it is now.

        Raises:
            errors.State: what is trusted cannot be read, or is damaged.
        """
        return any(one.is_of(project) and one.digest == project.digest for one in self._ledger.all())

    def require(self, project: Project, what: str) -> None:
        """Makes sure that it is trusted. ``what`` says what does not happen otherwise.

        Raises:
            errors.Conflict: it is not.
        """
        if not self.holds(project):
            raise errors.Conflict(
                f"{project.root / FILE} is not trusted as it is now: {what}",
                hint="read it, then `mnemosyne trust`",
                path=str(project.root / FILE),
            )

    def give(self, project: Project) -> None:
        """Lets run what this project's file says, as it was read."""
        repository, path = _place(project)
        fresh = _Record(repository=repository, path=path, digest=project.digest, at=rfc3339(SystemClock().wall_ns()))
        with self._ledger.changing() as trusted:
            trusted[:] = [*(one for one in trusted if not one.is_of(project)), fresh]

    def take_back(self, project: Project) -> None:
        """Lets run nothing of it any more."""
        with self._ledger.changing() as trusted:
            trusted[:] = [one for one in trusted if not one.is_of(project)]


def _place(project: Project) -> tuple[str, str]:
    """The repository that a project is in, the same for all its worktrees, and where in it; outside of one its own folder."""
    for folder in (project.root, *project.root.parents):
        if os.path.lexists(folder / ".git"):
            return str(main_worktree(folder) or folder), str(project.root.relative_to(folder))
    return str(project.root), "."


def _record(body: Any) -> _Record:
    if not isinstance(body, dict) or any(type(body.get(name)) is not str for name in _Record.__slots__):
        raise ValueError("not a record of trust")
    return _Record(**{name: body[name] for name in _Record.__slots__})
