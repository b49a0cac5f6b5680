"""Git, asked by its own command: what a repository is and what its worktrees hold is for git to say.

Each call has a time limit, a session of its own that is ended as a whole, no terminal to ask anything on, and an environment
in which nothing points to another repository. Hooks of the repository do not run: they are somebody's code.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Final

from mnemo_coord import errors
from mnemo_coord.settings import SECRET_VARIABLE

__all__ = ["Git", "check_branch"]

_TIMEOUT: Final = 120.0
"""Seconds: a checkout of a large repository on a slow disk takes one minute."""
_OLDEST: Final = (2, 36)
"""The first git whose ``worktree list`` knows ``-z``."""
_BRANCH_LIMIT: Final = 244
"""Bytes of the name of a branch: it is the name of a file, to which git adds ``.lock`` and more."""
_ELSEWHERE: Final = re.compile(
    r"GIT_(DIR|WORK_TREE|INDEX_FILE|COMMON_DIR|OBJECT_DIRECTORY|ALTERNATE_.*|NAMESPACE|PREFIX|CONFIG.*|TRACE.*)"
)
_NAMED_TO_HOOKS: Final = (
    "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES",
)  # fmt: skip
_CALM: Final = {"GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "GIT_EDITOR": "true", "LC_ALL": "C"}


class Git:
    """The repository around one folder."""

    def __init__(self, folder: str | os.PathLike[str], *, timeout: float = _TIMEOUT, executable: str = "git") -> None:
        self.folder = Path(folder)
        self._timeout = timeout
        self._executable = executable
        self._named: dict[str, str] = {}
        self._child: subprocess.Popen[bytes] | None = None
        self._ended = False

    @classmethod
    def of_hook(cls, folder: str | os.PathLike[str], *, timeout: float = _TIMEOUT) -> Git:
        """The repository that git names to a hook in its environment, with the index of this very commit.

        Where nothing is named it is the one around the folder, as ever.
        """
        git = cls(folder, timeout=timeout)
        git._named = {name: os.environ[name] for name in _NAMED_TO_HOOKS if name in os.environ}
        return git

    def run(self, *args: str, index: str | None = None, said: str | None = None) -> str:
        """What git prints. ``index`` is another index file than the worktree's own; ``said`` is what git reads.

        Raises:
            errors.Command: git cannot be started, or failed; the message is its own.
            errors.TimedOut: it took too long; it was ended with all that it had started.
        """
        return self._call(args, index, said)[1]

    def succeeds(self, *args: str) -> bool:
        """Whether git exits with 0.

        Raises:
            errors.Command: git cannot be started, or was ended by a signal.
            errors.TimedOut: it took too long.
        """
        try:
            self._call(args, None, None)
        except errors.Command as error:
            if error.returncode is None or error.returncode < 0:
                raise
            return False
        return True

    def end(self) -> None:
        """Ends the git that another thread waits for, with all that it had started, and lets no other begin."""
        self._ended = True
        child = self._child
        if child is not None and child.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)

    def _call(self, args: tuple[str, ...], index: str | None, said: str | None) -> tuple[int, str]:
        argv = [self._executable, "-c", "core.hooksPath=/dev/null", "-c", "advice.detachedHead=false", *args]
        environment = _environment(os.environ) | self._named | ({"GIT_INDEX_FILE": index} if index else {})
        try:
            child = subprocess.Popen(  # noqa: S603  # a list of arguments, no shell
                argv,
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL if said is None else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            what = f"{error.filename or self._executable}: {(error.strerror or str(error)).lower()}"
            raise errors.Command(f"git cannot be started: {what}", hint="install git", argv=argv, returncode=None) from None
        # RACE: whoever ends us looks for the child after saying so, we look whether it was said after naming the child.
        self._child = child
        if self._ended:
            self.end()
        try:
            return self._outcome(child, args, argv, None if said is None else said.encode(errors="surrogateescape"))
        finally:
            self._child = None

    def _outcome(
        self, child: subprocess.Popen[bytes], args: tuple[str, ...], argv: list[str], said: bytes | None
    ) -> tuple[int, str]:
        try:
            out, err = child.communicate(said, timeout=self._timeout)
        except BaseException as error:
            _end(child)
            if isinstance(error, subprocess.TimeoutExpired):
                what = f"git {args[0]} did not end within {self._timeout:g} s"
                raise errors.TimedOut(what, hint="it was ended; look what holds it up", timeout=self._timeout) from None
            raise
        if child.returncode == 0:
            return 0, out.decode(errors="surrogateescape")
        raise errors.Command(f"git {args[0]}: {_said(err, child.returncode)}", hint="", argv=argv, returncode=child.returncode)

    @cached_property
    def root(self) -> Path:
        """The root of the worktree around the folder.

        Raises:
            errors.NotFound: there is no repository, or no worktree of one (a bare repository, the inside of ``.git``).
            errors.Command: git is missing, too old, or refuses.
        """
        self._check_version()
        try:
            found = self.run("rev-parse", "--path-format=absolute", "--show-toplevel").rstrip("\n")
        except errors.Command as error:
            if error.returncode is None or "dubious ownership" in error.message:
                raise
            what = f"{self.folder}: not inside a worktree of a git repository"
            raise errors.NotFound(what, hint="`git init` makes a repository", path=str(self.folder)) from None
        return Path(found)

    def _check_version(self) -> None:
        text = self.run("version")
        found = re.search(r"(\d+)\.(\d+)", text)
        if not found or (int(found[1]), int(found[2])) < _OLDEST:
            needed = ".".join(map(str, _OLDEST))
            raise errors.Command(f"git {needed} or later is needed, this is {text.strip()!r}", argv=["git"], returncode=None)

    def head(self) -> str | None:
        """The commit that is checked out; None before the first one."""
        try:
            return self.run("rev-parse", "--verify", "--quiet", "HEAD^{commit}").strip()
        except errors.Command as error:
            if error.returncode != 1:
                raise
            return None

    def branch_at(self, name: str) -> str | None:
        """The commit that a local branch points to; None where there is no such branch."""
        try:
            return self.run("rev-parse", "--verify", "--quiet", f"refs/heads/{name}^{{commit}}").strip()
        except errors.Command as error:
            if error.returncode != 1:
                raise
            return None


def _environment(surroundings: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in surroundings.items() if not _ELSEWHERE.fullmatch(name) and name != SECRET_VARIABLE}
    return kept | _CALM


def _end(child: subprocess.Popen[bytes]) -> None:
    """Ends git and all that it started: they are a session of their own, and its leader is not waited for yet."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.communicate()


def _said(err: bytes, returncode: int) -> str:
    lines = [line for line in err.decode(errors="replace").splitlines() if line.strip()]
    said = next((line for line in lines if line.startswith(("fatal:", "error:"))), lines[-1] if lines else "")
    ended = f"ended by signal {-returncode}" if returncode < 0 else f"failed with exit code {returncode}"
    return said.removeprefix("fatal: ").removeprefix("error: ") or ended


def check_branch(git: Git, name: str) -> str:
    """Returns the name of a branch if git would take it for one.

    Raises:
        errors.Config: it would not.
    """
    fits = isinstance(name, str) and 0 < len(name.encode(errors="replace")) <= _BRANCH_LIMIT
    fits = fits and not name.startswith("-") and name.isprintable() and name not in {"HEAD", "@"}
    # Not with --branch: that takes what stands for a branch, such as @{-1}, too.
    if not fits or not git.succeeds("check-ref-format", f"refs/heads/{name}"):
        raise errors.Config(f"{name!r} is not the name of a branch", hint="see git-check-ref-format(1)", key="branch")
    return name
