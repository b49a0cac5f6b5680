"""The layout: what belongs where in a state directory, and what lies there instead.

Whatever is found is put right by a change of mode, or set aside by a rename: nothing is followed, opened for writing or
deleted, and what a link leads to stays as it is.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from mnemo_coord.disk import files
from mnemo_coord.disk.state_dir import LOCKS, MEMORY, QUARANTINE, QUEUE, StateDir
from mnemo_coord.findings import Finding, Severity

__all__ = ["check", "make_way"]

_FOLDERS: Final = re.compile(
    rf"instances|branches|claims|edits|locks|reports|quarantine|worktrees|{QUEUE}(/tmp|/quarantine|/dead_letter|/[^/]+(/new|/claimed|/bell)?)?"
)
_FILES: Final = re.compile(
    rf"secret|(process|branch)_registry\.json|history(\.1)?\.jsonl|(instances|branches|claims|edits|locks|reports)/[^/]+|worktrees/[0-9a-f]{{8}}\.json"
    rf"|{QUEUE}/[^/]+/(bell/bell|acknowledged(\.1)?)"
)
_NOT_OURS: Final = (f"{QUARANTINE}/", f"{QUEUE}/{QUARANTINE}/", f"{QUEUE}/dead_letter/")
"""What lies there was set aside as it was: it is not looked at."""
_WORK: Final = re.compile(rf"worktrees/(?![0-9a-f]{{8}}\.json$).*|{re.escape(MEMORY)}(-\w+)?")
"""People's work: beside the records of worktrees nothing there is looked at. Nor is the database, which must not be opened by
anything but SQLite (`memory.place`); its own room looks at it."""


def make_way(state: StateDir, *, stamp: int) -> None:
    """Renames what keeps a doctor from beginning: what lies where its lock, and what it sets aside, have to be."""
    for name in (LOCKS, QUARANTINE):
        if _is_in_the_way(name, state.fd, folder=True):
            with suppress(FileNotFoundError):
                os.rename(name, f"{name}.{stamp}", src_dir_fd=state.fd, dst_dir_fd=state.fd)
    if _is_in_the_way("doctor.lock", state.folder(LOCKS), folder=False):
        with suppress(FileNotFoundError):
            state.set_aside("doctor.lock", dir_fd=state.folder(LOCKS), stamp=stamp)


def _is_in_the_way(name: str, dir_fd: int, *, folder: bool) -> bool:
    """Whether something lies there that is not the folder, or the file of one name, that belongs there."""
    try:
        status = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except OSError:
        return False
    return not (stat.S_ISDIR(status.st_mode) if folder else stat.S_ISREG(status.st_mode) and status.st_nlink == 1)


def check(state: StateDir, *, stamp: int, fix: bool = False) -> list[Finding]:
    """Owner, mode and kind of everything in the state directory."""
    found = []
    for finding, dir_fd, name in _odd_entries(state):
        found.append(_mend(state, finding, dir_fd, name, stamp) if fix else finding)
    return found


def _odd_entries(state: StateDir) -> Iterator[tuple[Finding, int, str]]:
    for place, dir_fd in _walk(state.fd, ""):
        for name in sorted(os.listdir(dir_fd)):
            if _WORK.fullmatch(f"{place}{name}"):
                continue
            with suppress(FileNotFoundError):
                status = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
                finding = _oddity(f"{place}{name}", status)
                if finding:
                    yield finding, dir_fd, name


def _walk(fd: int, place: str, depth: int = 4) -> Iterator[tuple[str, int]]:
    yield place, fd
    if not depth:
        return
    with os.scandir(fd) as entries:
        folders = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    for name in folders:
        if f"{place}{name}/" in _NOT_OURS or _WORK.fullmatch(f"{place}{name}"):
            continue
        try:
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        except OSError:
            continue
        with files.opened(inner):
            yield from _walk(inner, f"{place}{name}/", depth - 1)


def _oddity(subject: str, status: os.stat_result) -> Finding | None:
    odd = _what_is_odd(subject, status)
    if odd is None:
        return None
    severity, code, message, hint = odd
    return Finding(code=code, severity=severity, subject=subject, message=message, hint=hint)


def _what_is_odd(subject: str, status: os.stat_result) -> tuple[Severity, str, str, str] | None:
    """Severity, code, message and hint, or None. What is worse comes first."""
    is_folder, is_file = stat.S_ISDIR(status.st_mode), stat.S_ISREG(status.st_mode)
    aside = "`mnemosyne doctor --fix` sets it aside"
    if status.st_uid != os.geteuid():
        owner = f"belongs to user {status.st_uid}"
        return (Severity.ERROR, "foreign-owner", owner, "find out who put it there, then remove it")
    if not is_folder and not is_file:
        return (Severity.ERROR, "not-regular", "is a link, pipe, socket or device", f"nothing of ours is; {aside}")
    if (is_folder and _FILES.fullmatch(subject)) or (is_file and _FOLDERS.fullmatch(subject)):
        what = "is a folder where a file belongs" if is_folder else "is a file where a folder belongs"
        return (Severity.ERROR, "misplaced", what, aside)
    if is_file and status.st_nlink > 1 and _FILES.fullmatch(subject):
        what = "has a second hard link: it is somebody else's file, or ours under another name"
        return (Severity.ERROR, "second-link", what, aside)
    if status.st_mode & 0o077:
        mode = f"has mode {stat.S_IMODE(status.st_mode):04o}"
        return (Severity.ERROR, "mode-too-open", mode, "`mnemosyne doctor --fix` takes away the rights of others")
    return None


def _mend(state: StateDir, finding: Finding, dir_fd: int, name: str, stamp: int) -> Finding:
    if finding.code in {"not-regular", "misplaced", "second-link"}:
        # Renamed as it is: what a link points to is never touched.
        return finding.mended_by(lambda: state.set_aside(name, dir_fd=dir_fd, stamp=stamp))
    # The key is left to its own room: what others could read has to be replaced, not hidden.
    if finding.code != "mode-too-open" or name == "secret":
        return finding
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd)
    with files.opened(fd):
        status = os.fstat(fd)
        if status.st_uid != os.geteuid() or (stat.S_ISREG(status.st_mode) and status.st_nlink > 1):
            return finding
        return finding.mended_by(lambda: os.fchmod(fd, files.DIR_MODE if stat.S_ISDIR(status.st_mode) else files.FILE_MODE))
