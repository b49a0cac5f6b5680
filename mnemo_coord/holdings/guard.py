"""Guard: which files of a commit are held by somebody else. What git commits, who holds what, and the decision between them.

A branch that is held alone is held with every file; one that is shared, with the files that its holder named. Whoever was let
in beside a holder, by consent or past it, commits what its own globs mean, and so does a holder beside whom another was let in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mnemo_coord import errors
from mnemo_coord.disk.state_dir import BRANCHES
from mnemo_coord.holdings.assignments import Assignment, Mode, read_strictly
from mnemo_coord.holdings.globs import matches
from mnemo_coord.members.identity import is_id

if TYPE_CHECKING:
    from mnemo_coord.disk.signing import Signer
    from mnemo_coord.disk.state_dir import StateDir
    from mnemo_coord.holdings.git import Git

__all__ = ["Refusal", "checked_out", "held", "refusals", "staged"]

_DIFF: Final = (
    "diff", "--cached", "--name-only", "-z", "--no-renames",
    # What people configure for their eyes would hide files, or change their names.
    "--no-relative", "--no-ext-diff", "--ignore-submodules=none", "-O/dev/null",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """One file that is held by one other instance."""

    path: str
    """From the root of the repository."""
    instance_id: str
    """Who holds it."""
    reason: str


def refusals(paths: Iterable[str], branch: str, committer: str | None, assignments: Iterable[Assignment]) -> list[Refusal]:
    """What keeps files from being committed to a branch by an instance; ``committer`` is None for anybody else."""
    here = [one for one in assignments if one.branch == branch]
    own = next((one for one in here if one.instance_id == committer), None)
    others = [one for one in here if one is not own and one.writes]
    return [
        Refusal(path=path, instance_id=other.instance_id, reason=reason)
        for path in paths
        for other in others
        if (reason := _reason(path, other)) and not (own and _let_in(own, other) and _meant(own, path))
    ]


def _reason(path: str, held: Assignment) -> str | None:
    if held.mode is Mode.ISOLATED:
        return "has the branch to itself"
    glob = _meant(held, path)
    return f"may change {glob}" if glob else None


def _let_in(own: Assignment, other: Assignment) -> bool:
    """Whether one of the two came although the other was there: neither keeps the other from what it named."""
    return own.bypassed or other.bypassed or own.instance_id in other.admits or other.instance_id in own.admits


def _meant(held: Assignment, path: str) -> str | None:
    """The first glob of what an instance may change that means a file."""
    return next((glob for glob in held.writes if _means(glob, path)), None)


def _means(glob: str, path: str) -> bool:
    try:
        return glob == "**" or matches(glob, path)
    except RecursionError:  # a thousand folders deep
        return True


def held(state: StateDir, signer: Signer, branch: str, lives: Callable[[str], bool]) -> tuple[list[Assignment], list[str]]:
    """What is held of a branch by who lives; and who lives and has a record that cannot be read.

    Raises:
        OSError: it cannot be told who holds anything.
        errors.State: the same.
    """
    found, unread = [], []
    for owner in (name.removesuffix(".json") for name in state.listing(BRANCHES) if name.endswith(".json")):
        try:
            own = [one for one in read_strictly(state, signer, owner) if one.branch == branch] if is_id(owner) else []
        except FileNotFoundError:
            continue  # it has left since
        except (OSError, errors.State, ValueError):
            unread += [owner] if lives(owner) else []
            continue
        found += own if own and lives(owner) else []
    return found, unread


def checked_out(git: Git) -> str | None:
    """The branch that a commit would be made on; None where there is none, or no repository.

    Raises:
        errors.CoordinationError: git is missing, fails, or takes too long.
    """
    try:
        # Not with --short: beside a tag of the same name that says heads/main.
        ref = git.run("symbolic-ref", "--quiet", "HEAD").removesuffix("\n")
    except errors.Command as error:
        if error.returncode == 1 or "not a git repository" in error.message:
            return None
        raise
    return ref.removeprefix("refs/heads/") if ref.startswith("refs/heads/") else None


def staged(git: Git) -> list[str]:
    """The files that a commit would change; of a renamed one both names.

    Raises:
        errors.CoordinationError: git is missing, fails, or takes too long.
    """
    return [path for path in git.run(*_DIFF).split("\0") if path]
