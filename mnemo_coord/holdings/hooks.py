"""Hooks: the guard of commits, put where git looks for it, and taken away without a trace.

::

    <hooks>/pre-commit                     a few lines of shell; the second is by which it is known, with a sum of the rest
    <hooks>/pre-commit.before-mnemosyne    what was there before, as it was; it runs first. Further ones end in -2, -3 …
    <hooks>/pre-commit.mnemosyne-new       half written: a crash left it, and the next one writes over it

``<hooks>`` is what git says: ``core.hooksPath``, else ``hooks/`` of the folder that all worktrees of a repository share. What
was there gets a second name first, then ours takes its place in one rename: at no instant is there no hook. By hand, move what
was there before back over ours.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import count, takewhile
from pathlib import Path
from typing import Final

from mnemo_coord import errors
from mnemo_coord.disk import files, locks
from mnemo_coord.holdings.git import Git
from mnemo_coord.holdings.hook_script import MARK, Ours, parse, render

__all__ = ["Hook", "HookState", "Place", "install", "look", "place_of", "uninstall"]

_HOOK: Final = "pre-commit"
_KEPT: Final = f"{_HOOK}.before-mnemosyne"
_NEW: Final = f"{_HOOK}.mnemosyne-new"
_MODE: Final = 0o755
_LIMIT: Final = 64 * 1024
"""Bytes: ours has a few hundred; what is longer is somebody else's."""
_TIMEOUT: Final = 10.0
"""Seconds for git, and for who installs at the same time."""


class HookState(StrEnum):
    """Whose the hook is."""

    INSTALLED = "installed"
    """Ours."""
    CHANGED = "changed"
    """Ours, and somebody has changed it since."""
    FOREIGN = "foreign"
    """Somebody else's."""
    NONE = "none"
    """There is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hook:
    """The hook of a repository, as it is now."""

    path: str
    state: HookState
    runs: bool
    """Whether git runs it: it is there and executable."""
    before: str | None
    """What was there before, and runs before it."""
    changed: bool = False
    """Whether that was done just now."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where git looks for the hooks of a repository."""

    folder: Path
    outside: bool
    """Whether it lies outside of the repository: it is that of other repositories too."""


# Where


def place_of(start: str | os.PathLike[str]) -> Place:
    """Where git looks for the hooks of the repository around a folder. Nothing need be there.

    Raises:
        errors.NotFound: there is no repository.
        errors.Config: nobody commits there, as in a bare repository; or ``core.hooksPath`` is empty.
        errors.Command: git failed.
        errors.TimedOut: git took too long.
    """
    git = Git(start, timeout=_TIMEOUT)
    root = _root(git)
    common = Path(git.run("rev-parse", "--path-format=absolute", "--git-common-dir").removesuffix("\n"))
    configured = _configured(git)
    # Relative is to where hooks are started: the root of the worktree.
    folder = common / "hooks" if configured is None else root / configured
    real = Path(os.path.realpath(folder))
    homes = [root, common, *([common.parent] if common.name == ".git" else [])]
    return Place(folder=folder, outside=not any(real.is_relative_to(os.path.realpath(home)) for home in homes))


def _root(git: Git) -> Path:
    try:
        return git.root
    except errors.NotFound:
        if not git.succeeds("rev-parse", "--git-dir"):
            raise
    what = f"{git.folder}: nobody commits in a bare repository, or inside of .git"
    raise errors.Config(what, hint="run it in a worktree of the repository", key="hooks")


def _configured(git: Git) -> str | None:
    """What is configured as core.hooksPath, but for what `Git` itself says on its command line."""
    fields = git.run("config", "--type=path", "--show-scope", "-z", "--get-all", "core.hooksPath").split("\0")
    found = [value for scope, value in zip(fields[::2], fields[1::2], strict=False) if scope != "command"]
    if found and not found[-1]:
        raise errors.Config("core.hooksPath is empty", hint="`git config --show-origin core.hooksPath`", key="core.hooksPath")
    return found[-1] if found else None


# Doing


def look(place: Place) -> Hook:
    """What is there. Changes nothing."""
    try:
        with files.opened(_open(place.folder)) as fd:
            return _hook(place, fd)
    except (FileNotFoundError, NotADirectoryError):
        return Hook(path=str(place.folder / _HOOK), state=HookState.NONE, runs=False, before=None)


def install(place: Place, command: str, state_dir: str | None = None) -> Hook:
    """Puts the guard there; what is there already runs before it. All or nothing, and the second time nothing.

    Args:
        place: where.
        command: the path of the program ``mnemosyne``; where that is gone, the one in PATH is taken.
        state_dir: which fleet; by default that of the repository in which something is committed.

    Raises:
        errors.Conflict: somebody has changed our hook, or what should be the folder is none.
        errors.TimedOut: somebody else is about it.
        OSError: it cannot be written there.
    """
    made = _make(place.folder)
    try:
        with _alone(place.folder) as fd:
            changed = _install(place, fd, made, command, state_dir)
            return replace(_hook(place, fd), changed=changed)
    except BaseException:
        _unmake(place.folder, made)
        raise


def _install(place: Place, fd: int, made: int, command: str, state_dir: str | None) -> bool:
    data, mode = _content(fd)
    ours = parse(data)
    _refuse_changed(place, data, ours)
    if ours:
        text = render(ours.before, ours.folders, command, state_dir)
        if (data, mode) != (text, _MODE):
            _write(fd, text)
        return (data, mode) != (text, _MODE)
    before = _keep(fd) if _exists(fd, _HOOK) else ""
    try:
        _write(fd, render(before, made, command, state_dir))
    except BaseException:
        if before:
            _let_go(fd, before)
        raise
    return True


def uninstall(place: Place) -> Hook:
    """Takes the guard away and puts back what was there before. Idempotent; what is not ours stays.

    Raises:
        errors.Conflict: somebody has changed our hook, or put theirs in its place, while what was there before is kept.
        errors.TimedOut: somebody else is about it.
        OSError: it cannot be done there.
    """
    if not place.folder.is_dir():
        return look(place)
    with _alone(place.folder) as fd:
        data, _ = _content(fd)
        ours = parse(data)
        _refuse_changed(place, data, ours)
        if ours is None:
            _refuse_kept(place, fd)
            return _hook(place, fd)
        if ours.before and _exists(fd, ours.before):
            os.rename(ours.before, _HOOK, src_dir_fd=fd, dst_dir_fd=fd)
        else:
            os.unlink(_HOOK, dir_fd=fd)
        files.remove(_NEW, dir_fd=fd)
        found = replace(_hook(place, fd), changed=True)
    _unmake(place.folder, ours.folders)
    return found


def _refuse_changed(place: Place, data: bytes, ours: Ours | None) -> None:
    if ours is None and MARK in data:
        what = f"{place.folder / _HOOK}: was installed by mnemosyne, and somebody has changed it since"
        raise errors.Conflict(what, hint=f"move it away; what was there before it is named in it, or is {_KEPT}")


def _refuse_kept(place: Place, fd: int) -> None:
    if _exists(fd, _KEPT):
        what = f"{place.folder / _HOOK}: is not the one that mnemosyne installed"
        raise errors.Conflict(what, hint=f"what was there before is kept as {_KEPT}: put it back, or remove it")


def _keep(fd: int) -> str:
    """Gives what is there a second name, and returns that."""
    for name in (_KEPT if number == 1 else f"{_KEPT}-{number}" for number in count(1)):
        if _same(fd, name):
            return name  # a crash was between this and our taking its place
        try:
            os.link(_HOOK, name, src_dir_fd=fd, dst_dir_fd=fd, follow_symlinks=False)
        except FileExistsError:
            continue
        except OSError:  # no file system for second names, or another user's file
            if _exists(fd, name):
                continue
            os.rename(_HOOK, name, src_dir_fd=fd, dst_dir_fd=fd)
        return name
    raise AssertionError  # never: there are names enough


def _let_go(fd: int, kept: str) -> None:
    """Takes back `_keep`."""
    if _exists(fd, _HOOK):
        files.remove(kept, dir_fd=fd)
    else:
        os.rename(kept, _HOOK, src_dir_fd=fd, dst_dir_fd=fd)


def _write(fd: int, text: bytes) -> None:
    files.publish(_HOOK, text, dir_fd=fd, tmp_name=_NEW, tmp_fd=fd, durable=True, mode=_MODE)


# The folder


def _hook(place: Place, fd: int) -> Hook:
    data, _ = _content(fd)
    ours = parse(data)
    state = HookState.INSTALLED if ours else HookState.CHANGED if MARK in data else HookState.FOREIGN
    return Hook(
        path=str(place.folder / _HOOK),
        state=state if _exists(fd, _HOOK) else HookState.NONE,
        runs=os.access(_HOOK, os.X_OK, dir_fd=fd),
        before=str(place.folder / ours.before) if ours and ours.before and _exists(fd, ours.before) else None,
    )


def _content(fd: int) -> tuple[bytes, int]:
    """What stands in the hook, and its mode; nothing where it is none of ours already by its kind."""
    try:
        hook = os.open(_HOOK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=fd)
    except OSError:
        return b"", 0
    with files.opened(hook):
        status = os.fstat(hook)
        fits = stat.S_ISREG(status.st_mode) and status.st_size <= _LIMIT
        return (files.read_at_most(hook, _LIMIT) if fits else b""), stat.S_IMODE(status.st_mode)


def _exists(fd: int, name: str) -> bool:
    return os.access(name, os.F_OK, dir_fd=fd, follow_symlinks=False)


def _same(fd: int, name: str) -> bool:
    with suppress(FileNotFoundError):
        one, other = (os.stat(which, dir_fd=fd, follow_symlinks=False) for which in (name, _HOOK))
        return os.path.samestat(one, other)
    return False


def _open(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


@contextmanager
def _alone(folder: Path) -> Iterator[int]:
    """The open folder, while nobody else installs or removes there."""
    held = locks.Descriptor(_open(folder))
    try:
        if not locks.take_descriptor(held.fd, _TIMEOUT):
            raise errors.TimedOut(f"{folder}: somebody else is about it", hint="try again", timeout=_TIMEOUT)
        yield held.fd
    finally:
        held.close()


def _make(folder: Path) -> int:
    """Makes the folder, and says how many were missing."""
    missing = list(takewhile(lambda one: not one.exists(), (folder, *folder.parents)))
    try:
        os.makedirs(folder, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        hint = "`git config --show-origin core.hooksPath` says where that comes from"
        raise errors.Conflict(f"{folder}: is not a folder", hint=hint, path=str(folder)) from None
    return len(missing)


def _unmake(folder: Path, made: int) -> None:
    """Takes the folders away again that were made, if nothing else is in them."""
    with suppress(OSError):
        for one in (folder, *folder.parents)[:made]:
            one.rmdir()
