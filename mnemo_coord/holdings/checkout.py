"""A checkout, by git's own word: which of its files are being changed, and which of its folders are worth watching.

What is ignored is in neither, by ``.gitignore``, ``info/exclude`` or ``core.excludesFile``. Paths are relative to the root of
the checkout; bytes that are no UTF-8 stand in them as lone surrogates, as `os.fsdecode` has it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from mnemo_coord import errors
from mnemo_coord.holdings.git import Git

__all__ = ["MOST_FOLDERS", "Checkout", "TooManyFolders", "changed_paths", "folders_around", "git_folder"]

MOST_FOLDERS: Final = 2000
"""Folders of one checkout that are watched; of the kernel's 65,536 and more for each user."""
_FIRST_TIMEOUT: Final = 3.0
_TIMEOUT: Final = 30.0
"""Seconds: until git is given up, while somebody waits for it, and in the background."""
_BRANCH: Final = "refs/heads/"


class TooManyFolders(OSError):
    """There are more than are watched."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkout:
    """One checkout of a repository. Its methods ask git, and raise `errors.Command` or `errors.TimedOut` where that fails."""

    root: str
    """Absolute."""
    git_dir: str
    """Where its HEAD and index are."""
    repository: str
    """The folder that all checkouts of the repository share."""
    git: Git

    @classmethod
    def around(cls, folder: str | os.PathLike[str]) -> Self:
        """The checkout around a folder.

        Raises:
            errors.NotFound: there is none.
            errors.Command: git is missing, too old, or refuses.
            errors.TimedOut: it took too long.
        """
        root = str(Git(folder, timeout=_FIRST_TIMEOUT).root)
        asked = Git(root, timeout=_FIRST_TIMEOUT)
        git_dir = asked.run("rev-parse", "--absolute-git-dir").removesuffix("\n")
        return cls(root=root, git_dir=git_dir, repository=_common(asked), git=Git(root, timeout=_TIMEOUT))

    def changed(self) -> list[str]:
        """The files that differ from the last commit, and those that git neither tracks nor ignores; sorted."""
        status = self.git.run("status", "--porcelain=v1", "-z", "--untracked-files=all", "--no-renames")
        return changed_paths(status)

    def branch(self) -> str | None:
        """What is checked out; None where no branch is."""
        try:
            return self.git.run("symbolic-ref", "--quiet", "HEAD").removesuffix("\n").removeprefix(_BRANCH)
        except errors.Command as error:
            if error.returncode != 1:
                raise
            return None

    def folders(self) -> set[str]:
        """The folders in which a file could begin to be changed, relative, the root as "".

        Those that hold files which git tracks or does not ignore, and empty ones, in which such may be made any moment.

        Raises:
            TooManyFolders: there are more than `MOST_FOLDERS`.
        """
        known = folders_around(_fields(self.git.run("ls-files", "-z", "--cached", "--others", "--exclude-standard")))
        found = _bounded(known)
        listed = _fields(self.git.run("ls-files", "-z", "--others", "--directory", "--exclude-standard"))
        level = {name.rstrip("/") for name in listed if name.endswith("/")}
        while level:
            found = _bounded(found | level)
            level = self._not_ignored({inner for folder in level for inner in self._inside(folder)})
        return found

    def _inside(self, folder: str) -> list[str]:
        """The folders in one; none in another repository, which is none of ours."""
        try:
            with os.scandir(os.path.join(self.root, folder)) as entries:
                names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:
            return []
        return [] if ".git" in names else [f"{folder}/{name}" for name in names]

    def _not_ignored(self, folders: set[str]) -> set[str]:
        if not folders:
            return set()
        asked = "".join(f"{folder}/\0" for folder in folders)
        try:
            ignored = _fields(self.git.run("check-ignore", "-z", "--stdin", said=asked))
        except errors.Command as error:
            if error.returncode != 1:  # 1: none is
                raise
            return folders
        return folders - {name.rstrip("/") for name in ignored}

    def end(self) -> None:
        """Ends the git that is running for it, if any, and lets no other begin."""
        self.git.end()


def changed_paths(status: str) -> list[str]:
    """The files in the output of `git status --porcelain=v1 -z --no-renames`, sorted. Not folders: they are repositories."""
    return sorted({field[3:] for field in status.split("\0") if len(field) > 3 and not field.endswith("/")})


def folders_around(paths: Iterable[str]) -> set[str]:
    """The folders that hold some files, with those around them up to the root, which is ""."""
    found = {""}
    for path in paths:
        folder = path.rstrip("/").rpartition("/")[0]
        while folder not in found:
            found.add(folder)
            folder = folder.rpartition("/")[0]
    return found


def git_folder(start: Path) -> str | None:
    """The folder that all checkouts of the repository around a folder share; None outside of one.

    Read off the files, as gitrepository-layout(5) gives them: whoever asks must not wait for a git that hangs.
    """
    for folder in (start, *start.parents):
        marker = folder / ".git"
        if os.path.isdir(marker):
            return os.path.realpath(marker)
        with suppress(OSError, ValueError):
            admin = folder / marker.read_text(errors="surrogateescape")[:4096].partition(":")[2].strip()
            common = admin / "commondir"
            return os.path.realpath(admin / common.read_text(errors="surrogateescape").strip() if common.is_file() else admin)
    return None


def _common(git: Git) -> str:
    return os.path.realpath(git.run("rev-parse", "--path-format=absolute", "--git-common-dir").removesuffix("\n"))


def _fields(text: str) -> list[str]:
    return [field for field in text.split("\0") if field]


def _bounded(folders: set[str]) -> set[str]:
    if len(folders) > MOST_FOLDERS:
        raise TooManyFolders(f"more than {MOST_FOLDERS:,} folders")
    return folders
