"""Risks: what would be lost, or whom it would hurt, if a worktree were removed; and what git lists of each.

All of it is git's own word. What git ignores is not counted: it is what a build makes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from mnemo_coord.holdings.git import Git

__all__ = ["Listed", "Risk", "entry_codes", "listing", "lock_reason", "parsed", "risks_of"]

_UNDER_WAY: Final = ("rebase-merge", "rebase-apply", "MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD", "BISECT_LOG")


class Risk(StrEnum):
    """What would be lost, or whom it would hurt, if a worktree were removed."""

    OWNED = "owned"
    """Its instance lives, or is not proved dead. There is no flag against this one."""
    DIRTY = "dirty"
    """Tracked files have changes that are not committed."""
    UNTRACKED = "untracked"
    """Files that git neither tracks nor ignores."""
    UNPUSHED = "unpushed"
    """Its branch has commits that no other branch, tag or remote has."""
    DETACHED = "detached"
    """No branch is checked out, and its commits are on none."""
    BUSY = "busy"
    """A merge, rebase, cherry-pick, revert or bisect is under way."""
    LOCKED = "locked"
    """Somebody locked it with `git worktree lock`."""


@dataclass(frozen=True, slots=True)
class Listed:
    """What `git worktree list` says of one."""

    path: str
    head: str | None = None
    branch: str | None = None
    locked: str | None = None
    """Why it is locked; None where it is not."""


def lock_reason(instance_id: str) -> str:
    """What stands in git's lock of the worktree of an instance."""
    return f"mnemosyne: instance {instance_id}"


def listing(git: Git) -> dict[str, Listed]:
    """Every worktree of a repository, by its path.

    Raises:
        errors.Command: git failed.
        errors.TimedOut: git took too long.
    """
    return {listed.path: listed for listed in parsed(git.run("worktree", "list", "--porcelain", "-z"))}


def parsed(text: str) -> Iterator[Listed]:
    """The entries of `git worktree list --porcelain -z`: lines that end in NUL, an empty one after each entry."""
    for entry in text.split("\0\0"):
        words = dict(line.partition(" ")[::2] for line in entry.split("\0") if line)
        if "worktree" in words:
            head, branch = words.get("HEAD", ""), words.get("branch")
            yield Listed(
                path=words["worktree"],
                head=head if head.strip("0") else None,
                branch=branch.removeprefix("refs/heads/") if branch else None,
                locked=words.get("locked"),
            )


def risks_of(git: Git, instance_id: str, listed: Listed) -> Iterator[Risk]:
    """What would be lost with a worktree that is there; ``git`` is that of its folder."""
    codes = entry_codes(git.run("status", "--porcelain=v1", "-z", "--untracked-files=all"))
    if any(code != "??" for code in codes):
        yield Risk.DIRTY
    if "??" in codes:
        yield Risk.UNTRACKED
    if _own_commits(git, listed.branch):
        yield Risk.UNPUSHED if listed.branch else Risk.DETACHED
    paths = git.run("rev-parse", "--path-format=absolute", *(word for name in _UNDER_WAY for word in ("--git-path", name)))
    if any(os.path.lexists(path) for path in paths.splitlines()):
        yield Risk.BUSY
    if listed.locked is not None and listed.locked != lock_reason(instance_id):
        yield Risk.LOCKED


def _own_commits(git: Git, branch: str | None) -> int:
    """How many commits are on no other branch, tag or remote."""
    but_its_own = [f"--exclude={branch}"] if branch else []
    return int(git.run("rev-list", "--count", "HEAD", "--not", *but_its_own, "--branches", "--remotes", "--tags"))


def entry_codes(status: str) -> list[str]:
    """The codes in the output of `git status --porcelain -z`; of a rename the old name follows as a field of its own."""
    fields, codes = iter(status.split("\0")), []
    for field in fields:
        if field:
            codes.append(field[:2])
            if field[0] in "RC":
                next(fields, None)
    return codes
