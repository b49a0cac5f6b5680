"""The state directory: where it is, who may use it, and what lies in it.

::

    .mnemosyne/                    0700, ours; everything in it 0700 or 0600
    ├── secret                     64 hex digits: the fleet's key (signing)
    ├── process_registry.json      who has registered (members.registry)
    ├── history.jsonl              who came, left and died (members.history)
    ├── instances/                 <id>.lock, .beat, .token, .traffic (members.identity, heartbeat, token; messages.traffic)
    ├── coordination_queue/        mailboxes, tmp/, quarantine/, dead_letter/ (messages.mailbox)
    ├── claims/                    <hex>.lock, <hex>.json (holdings.claims)
    ├── branch_registry.json       who works on which branch, for people (holdings.branch_view)
    ├── branches/                  <id>.json: the assignments of an instance (holdings.branches)
    ├── edits/                     <id>.json: the files that an instance is changing (holdings.edits)
    ├── reports/                   <id>.state: what they say of themselves (members.reports)
    ├── memory.db                  the memories, if this fleet has a database of its own (memory.place)
    ├── locks/                     registry.lock, reaper.lock, doctor.lock: permanent, empty (locks)
    ├── worktrees/                 <id>/, <id>.json: git worktrees of instances (holdings.worktrees)
    └── quarantine/                damaged records, set aside under <name>.<time>

It is found, in this order: the path given; ``MNEMOSYNE_DIR``; in a git repository ``.mnemosyne`` at the root of its main
worktree, so that every linked worktree shares one fleet; the nearest ancestor that has one; the current directory.

It is opened once and everything inside is reached through the open folder, so renaming it away or putting a link in its
place cannot redirect what a running process does. The process notices at its next heartbeat (`StateDir.is_current`).
"""

from __future__ import annotations

import logging
import os
import re
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mnemo_coord import errors
from mnemo_coord.disk import files
from mnemo_coord.disk.handles import Handles

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "BRANCHES",
    "CLAIMS",
    "EDITS",
    "INSTANCES",
    "LOCKS",
    "MEMORY",
    "NAME",
    "QUARANTINE",
    "QUEUE",
    "REPORTS",
    "WORKTREES",
    "StateDir",
    "in_linked_worktree",
    "locate",
]

_log = logging.getLogger(__name__)

NAME: Final = ".mnemosyne"
INSTANCES: Final = "instances"
QUEUE: Final = "coordination_queue"
BRANCHES: Final = "branches"
CLAIMS: Final = "claims"
EDITS: Final = "edits"
LOCKS: Final = "locks"
MEMORY: Final = "memory.db"
REPORTS: Final = "reports"
WORKTREES: Final = "worktrees"
QUARANTINE: Final = "quarantine"

_EXCLUDE_LINE: Final = f"/{NAME}/"


def locate(explicit: str | os.PathLike[str] | None = None, environ: Mapping[str, str] | None = None) -> Path:
    """Where the state directory is or would be. Touches nothing.

    Raises:
        errors.State: the current directory is gone and none was named.
    """
    surroundings = os.environ if environ is None else environ
    named = explicit or surroundings.get("MNEMOSYNE_DIR")
    try:
        if named:
            path = Path(os.path.expanduser(named)).absolute()
            return Path(os.path.realpath(path.parent)) / path.name
        here = Path.cwd()
    except FileNotFoundError:
        raise errors.State.at(".", "the current directory is gone", hint="change to one that exists, or give --dir") from None
    repository = main_worktree(here)
    if repository:
        return repository / NAME
    for folder in (here, *here.parents):
        if os.path.lexists(folder / NAME):
            return folder / NAME
    return here / NAME


def in_linked_worktree(start: Path | None = None) -> bool:
    """Whether a folder, by default the current one, is inside a linked worktree of a git repository."""
    here = Path.cwd() if start is None else start
    for folder in (here, *here.parents):
        if os.path.exists(folder / ".git"):
            return main_worktree(folder) not in {folder, None} and os.path.isfile(folder / ".git")
    return False


def main_worktree(start: Path) -> Path | None:
    """The root of the main worktree of the git repository around ``start``, or None outside of one.

    Read off the files, as gitrepository-layout(5) gives them, because asking git would cost a process at every start. A
    bare repository has no main worktree: its linked worktrees share the folder that holds the repository.
    """
    for folder in (start, *start.parents):
        marker = folder / ".git"
        # Not pathlib's: they raise where a folder may not be entered, and what cannot be seen is no repository of ours.
        if os.path.isdir(marker):
            return folder
        if os.path.isfile(marker):
            return _main_of_linked(folder, marker)
    return None


def _main_of_linked(folder: Path, marker: Path) -> Path:
    try:
        first, _, target = marker.read_text(errors="surrogateescape")[:4096].partition(":")
        admin = (folder / target.strip()).resolve()
        if first != "gitdir" or not (admin / "commondir").is_file():
            return folder  # a submodule, or a worktree made with --separate-git-dir: its root is its own
        common = (admin / (admin / "commondir").read_text()[:4096].strip()).resolve()
    except (OSError, ValueError):
        return folder
    if common.name == ".git":
        return common.parent
    return _configured_worktree(common) or common.parent


def _configured_worktree(common: Path) -> Path | None:
    """Where a submodule's git folder, which lies in that of its superproject, says that its work tree is."""
    with suppress(OSError, ValueError):
        found = re.search(r"^\s*worktree\s*=\s*(.+?)\s*$", (common / "config").read_text()[:65536], re.MULTILINE)
        return (common / found[1]).resolve() if found else None
    return None


class StateDir:
    """An open, verified state directory. Use `StateDir.open`."""

    def __init__(self, path: Path, fd: int, *, writable: bool) -> None:
        self.path = path
        self.fd = fd
        self.writable = writable
        self._folders: dict[str, int] = {}
        self._handles = Handles(fd)

    @classmethod
    def open(cls, path: str | os.PathLike[str] | None = None, *, create: bool = True, tighten: bool = False) -> StateDir:
        """Opens the state directory that applies here, making it first if ``create``.

        ``tighten`` takes away the rights of others where the folder is ours; only the doctor asks for that.

        Raises:
            errors.NotFound: there is none and ``create`` is false.
            errors.Untrusted: it is not ours, a link, or open to others.
            errors.State: it cannot be made or opened.
        """
        where = locate(path)
        _refuse_open_parent(where.parent)
        if tighten:
            _tighten(where)
        try:
            fd = cls._open_root(where, create=create)
        except FileNotFoundError:
            raise _missing(where, create=create) from None
        except OSError as error:
            raise errors.State.at(where, (error.strerror or str(error)).lower(), hint="give another place with --dir") from None
        return cls(where, fd, writable=create)

    @staticmethod
    def _open_root(where: Path, *, create: bool) -> int:
        try:
            if not create:
                return files.open_dir(str(where))
            existed = os.path.lexists(where)
            fd = files.make_dir(str(where))
        except errors.Untrusted as error:
            raise errors.Untrusted.at(where, error.reason, hint=error.hint) from None
        if not existed:
            _exclude_from_git(where)
        return fd

    def folder(self, name: str) -> int:
        """The open sub-folder ``name``, such as ``instances``; made when missing, if opened for writing.

        Raises:
            FileNotFoundError: it is missing and may not be made.
        """
        fd = self._folders.get(name)
        if fd is None:
            outer, _, inner = name.rpartition("/")
            dir_fd = self.folder(outer) if outer else self.fd
            fd = files.make_dir(inner, dir_fd=dir_fd) if self.writable else files.open_dir(inner, dir_fd=dir_fd)
            fd = self._keep(name, fd)
        return fd

    def _keep(self, name: str, fd: int) -> int:
        # RACE: two threads open the same folder: the first wins, the second closes its own.
        kept = self._folders.setdefault(name, fd)
        if kept != fd:
            os.close(fd)
        else:
            self._handles.keep(fd)
        return kept

    def listing(self, name: str) -> list[str]:
        """The names in a sub-folder, sorted; none when the folder is missing."""
        try:
            return sorted(os.listdir(self.folder(name)))
        except FileNotFoundError:
            return []

    def is_current(self) -> bool:
        """Whether the path still leads to the folder that is open here."""
        try:
            at_path, mine = os.stat(self.path, follow_symlinks=False), os.fstat(self.fd)
        except OSError:
            return False
        return (at_path.st_dev, at_path.st_ino) == (mine.st_dev, mine.st_ino) and self._folders_current()

    def _folders_current(self) -> bool:
        return all(self._same(name, fd) for name, fd in tuple(self._folders.items()))

    def _same(self, name: str, fd: int) -> bool:
        try:
            at_name, mine = os.stat(name, dir_fd=self.fd, follow_symlinks=False), os.fstat(fd)
        except OSError:
            return False
        return (at_name.st_dev, at_name.st_ino) == (mine.st_dev, mine.st_ino)

    def reopen(self) -> None:
        """Opens the folder at the same path again, making it where it is gone: a live instance moves back in.

        The old descriptors stay open until `close`: another thread may be using them this instant.
        """
        fresh = StateDir.open(self.path, create=self.writable)
        self.fd, self._folders = self._handles.keep(fresh.fd), {}

    def set_aside(self, name: str, *, dir_fd: int, stamp: int) -> str:
        """Renames a damaged file into ``quarantine/`` and returns its new name. Never follows, never deletes."""
        kept_as = f"{name}.{stamp}"
        while os.access(kept_as, os.F_OK, dir_fd=self.folder(QUARANTINE), follow_symlinks=False):
            kept_as += "+"
        os.rename(name, kept_as, src_dir_fd=dir_fd, dst_dir_fd=self.folder(QUARANTINE))
        return kept_as

    def close(self) -> None:
        """Closes every descriptor. Idempotent."""
        self._handles.close()
        self._folders, self.fd = {}, -1


def _missing(where: Path, *, create: bool) -> errors.CoordinationError:
    if create:
        return errors.State.at(where, "cannot be made: its parent folder does not exist")
    return errors.NotFound(
        f"{where}: there is no fleet here yet", hint="`mnemosyne serve` starts one; --dir names another place", path=str(where)
    )


def _refuse_open_parent(parent: Path) -> None:
    try:
        mode = parent.stat().st_mode
    except OSError:
        return
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise errors.Untrusted.at(
            parent,
            "anyone can replace what is in it (world-writable without the sticky bit)",
            hint=f"chmod o-w {parent}, or give another place with --dir",
        )


def _tighten(where: Path) -> None:
    with suppress(OSError):
        fd = os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with files.opened(fd):
            if os.fstat(fd).st_uid == os.geteuid() and os.fstat(fd).st_mode & 0o077:
                os.fchmod(fd, files.DIR_MODE)
                _log.warning("Tightened %s to mode 0700", where)


def _exclude_from_git(where: Path) -> None:
    """Keeps git from seeing the state directory: one line in ``.git/info/exclude``. Not worth failing for."""
    git = where.parent / ".git"
    if where.name != NAME:
        return
    with suppress(OSError, ValueError):
        if git.is_file():
            git = (where.parent / git.read_text(errors="surrogateescape")[:4096].partition(":")[2].strip()).resolve()
        if not git.is_dir():
            return
        (git / "info").mkdir(exist_ok=True)
        exclude = git / "info" / "exclude"
        text = exclude.read_text() if exclude.is_file() else ""
        if _EXCLUDE_LINE not in text.splitlines():
            lead = "" if not text or text.endswith("\n") else "\n"
            with exclude.open("a") as stream:
                stream.write(f"{lead}{_EXCLUDE_LINE}\n")
