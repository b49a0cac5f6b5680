"""The workspace of an instance: the folder that has everything which is its own.

::

    <workspace>/                0700
    ├── .env                    0600: what a person sets, and a part that we write, between two comment lines
    ├── .instance.made          there where the folder was made by us: only such a folder is ever removed by `rm --workspace`
    ├── .instance.lock          held while somebody starts or stops the instance (supervise.tenure)
    ├── .instance.pid           who runs it, for people; .instance.json for us (supervise.tenure)
    └── logs/                   0700: what its services print

Of ``.env`` only the lines between the two comments are ours, and are written anew when ports change. Every other byte is the
person's. Who renames over a file that an editor is about to save could lose what was typed: it is read again just before.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mnemo_coord import errors
from mnemo_coord.disk import files, locks, vanishing
from mnemo_coord.instances import dotenv

if TYPE_CHECKING:
    from mnemo_coord.instances.named import Named
    from mnemo_coord.instances.project import Project

__all__ = ["BEGIN", "END", "Workspace", "make", "variables"]

BEGIN: Final = "# >>> mnemosyne >>> written by it; ports are changed in instances.yaml"
END: Final = "# <<< mnemosyne <<<"
_OPENS, _CLOSES = b"# >>> mnemosyne >>>", b"# <<< mnemosyne <<<"
_GREETING: Final = "# Yours: API_KEY=…, or `source FILE` for what instances share. Ports and the like stand below.\n"
_ENV, _MADE, _LOGS = ".env", ".instance.made", "logs"
_PLAIN: Final = re.compile(r"[A-Za-z0-9_./:@%+,~-]+", re.ASCII)
_TRIES: Final = 5
_PATIENCE: Final = 10.0
"""Seconds for which another of us who writes the same one is waited for."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """A workspace by its path, links resolved. It need not be there."""

    path: Path

    @property
    def env(self) -> Path:
        """What a person sets for it, and its ports."""
        return self.path / _ENV

    @property
    def lock(self) -> Path:
        """Held by a kernel lock while somebody starts or stops the instance."""
        return self.path / ".instance.lock"

    @property
    def pid(self) -> Path:
        """Process number and start time of who runs it."""
        return self.path / ".instance.pid"

    @property
    def logs(self) -> Path:
        """What its services print."""
        return self.path / _LOGS

    @property
    def made(self) -> bool:
        """Whether the folder was made by us."""
        try:
            return stat.S_ISREG(os.lstat(self.path / _MADE).st_mode)
        except OSError:
            return False

    def ensure(self) -> bool:
        """Makes the folder, mode 0700, where it is missing. Returns whether it was.

        Raises:
            errors.Untrusted: it is no folder, another user's, or others can reach it and we have not made it.
            errors.State: it cannot be made.
        """
        try:
            if not self.path.parent.exists():
                _make_parents(self.path.parent)
            fresh = not os.path.lexists(self.path)
            with files.opened(self._opened()) as fd:
                if fresh:
                    # RACE: two make it: the loser finds the mark there.
                    with suppress(FileExistsError):
                        os.close(files.create(_MADE, dir_fd=fd))
        except OSError as error:
            raise errors.State.at(self.path, (error.strerror or str(error)).lower()) from None
        return fresh

    def unmake(self) -> None:
        """Removes a folder that `ensure` has made and nobody has used."""
        with suppress(OSError):
            if sorted(os.listdir(self.path)) == [_MADE]:
                os.unlink(self.path / _MADE)
                os.rmdir(self.path)

    def values(self, environ: Mapping[str, str]) -> dict[str, str]:
        """What its ``.env`` sets; nothing where there is none. ``environ`` is what ``${…}`` in it may stand for.

        Raises:
            errors.Untrusted: it is not a file of ours alone.
            errors.Config: see `mnemo_coord.instances.dotenv.read`.
            errors.State: it cannot be read.
        """
        if not os.path.lexists(self.env):
            return {}
        with files.opened(self._opened()) as folder:
            _read(folder, self)
        return dotenv.read(self.env, environ)

    def _opened(self) -> int:
        """The folder, open. What others can reach although we made it is theirs no more."""
        try:
            return files.make_dir(str(self.path))
        except errors.Untrusted as error:
            if self.made and _tightened(self.path):
                return files.open_dir(str(self.path))
            raise errors.Untrusted.at(self.path, error.reason, hint=f"chmod 700 {self.path}, if it is yours") from None


def _make_parents(path: Path) -> None:
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        # RACE: somebody else makes it: it is there, then.
        with suppress(FileExistsError):
            os.mkdir(folder, files.DIR_MODE)


def _tightened(path: Path) -> bool:
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode) or status.st_uid != os.geteuid():
        return False
    os.chmod(path, files.DIR_MODE if stat.S_ISDIR(status.st_mode) else files.FILE_MODE)
    return True


def variables(named: Named, project: Project) -> dict[str, str]:
    """What an instance is told of itself: its name unless it is the default one, its workspace, its ports."""
    name = {} if named.is_default else {"MNEMOSYNE_INSTANCE": named.name}
    ports = {service.variable: str(named.ports[service.name]) for service in project.services if service.name in named.ports}
    return {**name, "MNEMOSYNE_WORKSPACE": str(named.workspace), **ports}


def make(named: Named, project: Project) -> Workspace:
    """Makes what is missing in a workspace, and brings our part of its ``.env`` up to date. Everything else stays.

    Raises:
        errors.Untrusted: the folder, ``logs`` or ``.env`` is a link, another user's, or open to others.
        errors.Config: the two comment lines around our part of ``.env`` are not there in this order, once.
        errors.Conflict: somebody else keeps changing ``.env``.
        errors.State: it cannot be written.
    """
    workspace = Workspace(named.workspace)
    workspace.ensure()
    part = [BEGIN, *(f"{name}={_quoted(value)}" for name, value in variables(named, project).items()), END]
    text = "".join(f"{line}\n" for line in part).encode()
    try:
        with files.opened(workspace._opened()) as folder:  # noqa: SLF001  # one room
            if not locks.take_descriptor(folder, _PATIENCE):
                raise errors.Conflict(f"{workspace.env}: another process is writing it", hint="try again", holder=None)
            vanishing.sweep(folder, _ENV)
            _make_logs(folder, workspace)
            for _ in range(_TRIES):
                before = _read(folder, workspace)
                if _write(folder, before, _replaced(before, text, workspace.env)):
                    return workspace
    except errors.CoordinationError:
        raise
    except OSError as error:
        raise errors.State.at(workspace.path, (error.strerror or str(error)).lower()) from None
    raise errors.Conflict(f"{workspace.env}: somebody else keeps changing it", hint="try again", holder=None)


def _make_logs(folder: int, workspace: Workspace) -> None:
    try:
        os.close(files.make_dir(_LOGS, dir_fd=folder))
    except errors.Untrusted as error:
        if not (workspace.made and _tightened(workspace.logs)):
            hint = f"chmod 700 {workspace.logs}, if it is yours"
            raise errors.Untrusted.at(workspace.logs, error.reason, hint=hint) from None


def _read(folder: int, workspace: Workspace) -> bytes | None:
    """The whole ``.env``; None where there is none."""
    path = workspace.env
    try:
        with files.opened(files.open_regular(_ENV, dir_fd=folder)) as fd:
            problem = files.ownership_problem(os.fstat(fd))
            if problem and workspace.made:
                os.fchmod(fd, files.FILE_MODE)
            elif problem:
                raise errors.Untrusted.at(path, problem, hint=f"it may hold keys: chmod 600 {path}")
            data = files.read_at_most(fd, dotenv.LIMIT + 1)
    except FileNotFoundError:
        return None
    except errors.Untrusted as error:
        hint = error.hint if "chmod" in error.hint else f"put a plain file at {path}; `source FILE` in it includes another"
        raise errors.Untrusted.at(path, error.reason, hint=hint) from None
    except OSError as error:
        raise errors.State.at(path, (error.strerror or str(error)).lower()) from None
    if len(data) > dotenv.LIMIT:
        raise errors.Config(f"{path}: is larger than {dotenv.LIMIT} bytes", hint="`source FILE` includes another", key="")
    return data


def _replaced(before: bytes | None, part: bytes, path: Path) -> bytes:
    """The text with our part in it anew, at its end where it had none."""
    if before is None:
        return _GREETING.encode() + b"\n" + part
    lines = before.splitlines(keepends=True)
    opens = [place for place, line in enumerate(lines) if line.startswith(_OPENS)]
    closes = [place for place, line in enumerate(lines) if line.startswith(_CLOSES)]
    if not opens and not closes:
        return before + (b"" if not before or before.endswith(b"\n") else b"\n") + part
    if len(opens) != 1 or len(closes) != 1 or closes[0] < opens[0]:
        line = (opens or closes)[-1] + 1
        what = f"{path}:{line}: the lines `{_OPENS.decode()}` and `{_CLOSES.decode()}` have to be there once, in this order"
        raise errors.Config(what, hint="remove them and what is between: it is written anew", key="")
    return b"".join([*lines[: opens[0]], part, *lines[closes[0] + 1 :]])


def _write(folder: int, before: bytes | None, after: bytes) -> bool:
    """Writes the file, whole or not at all. False where somebody has changed it meanwhile; nothing is touched then."""
    if after == before:
        return True
    tmp = f"{_ENV}.{os.getpid()}.tmp"
    files.write_new(tmp, after, dir_fd=folder, durable=True)
    try:
        if before is None:
            os.link(tmp, _ENV, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        elif files.read_bounded(_ENV, dotenv.LIMIT, dir_fd=folder) == before:
            os.rename(tmp, _ENV, src_dir_fd=folder, dst_dir_fd=folder)
        else:
            return False
    except (FileExistsError, FileNotFoundError, errors.Damaged):
        return False
    finally:
        files.remove(tmp, dir_fd=folder)
    return True


def _quoted(text: str) -> str:
    """A value as both a shell and python-dotenv read it."""
    if _PLAIN.fullmatch(text):
        return text
    if "'" not in text and "\\" not in text:
        return f"'{text}'"
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'
