"""Branches: who works on which one, decided under one lock and held by the life of its holder.

::

    branches/<id>.json          sealed: the assignments of one instance; the original
    branch_registry.json        all of them by branch, for people and other programs; nothing is decided by it
    claims/branch-<hex>.lock    its length is the epoch of the branch (holdings.claims)

Whoever joins, switches or gives back does so under ``locks/branch.lock``: reads the originals, decides (`occupancy`), replaces
its own. What an instance has it holds as long as it lives, by the kernel's word (`members.liveness`): an assignment of a dead
one counts for nothing from that instant, and the reaper removes it. Time does not end it, people are only reminded. The
registry is written anew at each change and by the doctor, from the originals and from what git says is checked out; by hand,
it may be deleted. An original that is not signed by this fleet is ignored (`branch_findings`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final

from mnemo_coord import errors
from mnemo_coord.disk import files, locks, records
from mnemo_coord.disk.clock import Clock, rfc3339
from mnemo_coord.disk.files import CrashPoint
from mnemo_coord.disk.signing import Purpose, Signer
from mnemo_coord.disk.state_dir import BRANCHES, StateDir
from mnemo_coord.holdings import branch_view, edits
from mnemo_coord.holdings.assignments import Assignment, read, read_all
from mnemo_coord.holdings.branch_view import BranchState
from mnemo_coord.holdings.checkout import git_folder
from mnemo_coord.holdings.claims import ClaimKind, Claims
from mnemo_coord.holdings.edit_collisions import all_collisions, shown
from mnemo_coord.holdings.git import Git, check_branch
from mnemo_coord.holdings.occupancy import BranchConflict, Decision, conflict, decide
from mnemo_coord.holdings.risks import listing

__all__ = ["Branches"]

_GIT_TIMEOUT: Final = 10.0
"""Seconds: others wait for the lock meanwhile."""
_MOST: Final = 16
"""Branches that one instance may be on."""
_CLAIM_BYTES: Final = 100


class Branches:
    """The branches of one fleet."""

    def __init__(
        self,
        claims: Claims,
        clock: Clock,
        lives: Callable[[str], bool],
        *,
        critical: Sequence[str],
        reminder: float,
        patience: float,
    ) -> None:
        """``reminder`` is in seconds, as is ``patience``, for which the lock is waited for."""
        self.state: StateDir = claims.state
        self.signer: Signer = claims.signer
        self._claims = claims
        self._clock = clock
        self.lives = lives
        self.critical = tuple(critical)
        self._reminder = reminder
        self._patience = patience
        self._repository: str | None = None

    def _git(self) -> Git:
        return Git(self.state.path.parent, timeout=_GIT_TIMEOUT)

    # Joining and leaving

    def join(self, wish: Assignment, *, bypass: bool = False, switch: bool = False) -> tuple[Assignment, Decision]:
        """Takes what is wished for, in place of what the instance has of that branch; with ``switch``, of any branch.

        All or nothing: when it is refused, everything is as it was.

        Raises:
            errors.Conflict: others are in the way; ``decision`` says who, and what could be done instead.
            errors.Config: that is no name of a branch, or one that differs from another's only in the case of its letters
                where the file system does not tell them apart.
            errors.NotFound: the instance is gone.
            errors.Command: git is missing.
        """
        git = self._git()
        check_branch(git, wish.branch)
        commit = self._commit(git, wish.branch)
        with locks.hold(self.state, "branch", self._patience):
            if not self.lives(wish.instance_id):
                raise errors.NotFound(f"{wish.instance_id} is gone", hint="`mnemosyne list` shows who is alive")
            held = self.assignments()
            self._refuse_twin(git, wish.branch, held)
            decision = decide(wish, held, self.critical, bypass=bypass)
            if not decision.admitted:
                raise _refusal(wish, decision)
            own = [one for one in held if one.instance_id == wish.instance_id]
            kept = [] if switch else [one for one in own if one.branch != wish.branch]
            if len(kept) >= _MOST:
                raise errors.Conflict(
                    f"{wish.instance_id} is on {len(kept)} branches", hint="release one", holder=wish.instance_id
                )
            # Whoever was admitted to the old one stays admitted, as long as it is the same branch.
            admits = next((one.admits for one in own if one.branch == wish.branch), ())
            bypassed = bypass and not decide(wish, held, self.critical).admitted
            taken = self._granted(wish, commit, admits, bypassed=bypassed)
            self._write(wish.instance_id, [*kept, taken])
            files.crash_point(CrashPoint.BRANCH_JOINED)
            self._publish(git)
        return taken, decision

    def _granted(self, wish: Assignment, commit: str | None, admits: tuple[str, ...], *, bypassed: bool) -> Assignment:
        return replace(
            wish,
            epoch=self._raise_epoch(wish),
            since=rfc3339(self._clock.wall_ns()),
            commit=commit,
            admits=admits,
            bypassed=bypassed,
            due_ns=self._clock.age_ns() + int(self._reminder * 1e9),
            boot_id=self._clock.boot_id,
        )

    def _raise_epoch(self, wish: Assignment) -> int:
        with self._claims.take(ClaimKind.BRANCH, _claim_name(wish.branch), wish.instance_id, timeout=self._patience) as claim:
            return claim.epoch

    def _commit(self, git: Git, branch: str) -> str | None:
        try:
            return git.branch_at(branch)
        except errors.Command as error:
            if error.returncode is None:
                raise
            return None  # not in a repository

    def _refuse_twin(self, git: Git, branch: str, held: Iterable[Assignment]) -> None:
        """Two names that differ in the case of their letters are one file on some file systems, and git then mixes them up."""
        if git.run("config", "--bool", "--default", "false", "--get", "core.ignorecase").strip() != "true":
            return
        for other in sorted({*_names(git), *(one.branch for one in held)} - {branch}):
            if other.casefold() == branch.casefold():
                what = f"{branch!r} and {other!r} are the same file on this file system"
                raise errors.Config(what, hint=f"use {other!r}, or another name", key="branch")

    def release(self, instance_id: str, branch: str | None = None) -> list[Assignment]:
        """Gives back what an instance has of a branch, or of all, and returns it.

        Raises:
            errors.NotFound: it has nothing of it.
        """
        with locks.hold(self.state, "branch", self._patience):
            own = read(self.state, self.signer, instance_id)
            given = [one for one in own if branch in {None, one.branch}]
            if not given:
                what = "any branch" if branch is None else f"the branch {branch!r}"
                raise errors.NotFound(f"{instance_id} does not work on {what}", hint="`mnemosyne branch status` shows who does")
            kept = [one for one in own if one not in given]
            self._write(instance_id, kept)
            if not kept:  # emptied first: who watches the folder is told of what is written, not of what is gone
                files.remove(f"{instance_id}.json", dir_fd=self.state.folder(BRANCHES))
            self._publish(self._git())
        return given

    def admit(self, holder: str, branch: str, newcomer: str) -> Assignment:
        """Notes that a holder consents to a newcomer, who may join from then on.

        Raises:
            errors.NotFound: the holder has nothing of that branch.
        """
        with locks.hold(self.state, "branch", self._patience):
            own = read(self.state, self.signer, holder)
            held = next((one for one in own if one.branch == branch), None)
            if held is None:
                raise errors.NotFound(f"{holder} does not work on the branch {branch!r}", hint="there is nothing to consent to")
            consenting = replace(held, admits=tuple(dict.fromkeys((*held.admits, newcomer))))
            self._write(holder, [consenting if one is held else one for one in own])
            self._publish(self._git())
        return consenting

    def release_of(self, instance_id: str) -> None:
        """Removes what an instance had: it has left, or is dead. Idempotent."""
        name = f"{instance_id}.json"
        if name not in self.state.listing(BRANCHES):
            return
        self._write(instance_id, [])
        files.remove(name, dir_fd=self.state.folder(BRANCHES))
        # The view is for people, and the doctor mends it: nobody's leaving waits for another's lock.
        with suppress(errors.CoordinationError, OSError), locks.hold(self.state, "branch", 1.0):
            self._publish(None)

    def _write(self, instance_id: str, assignments: Sequence[Assignment]) -> None:
        body = {"instance_id": instance_id, "assignments": [one.to_body() for one in assignments]}
        folder, name = self.state.folder(BRANCHES), f"{instance_id}.json"
        files.replace(name, records.seal(body, self.signer, Purpose.BRANCH), dir_fd=folder, writer=str(os.getpid()))
        files.ring(name, dir_fd=folder)

    # Looking

    def assignments(self) -> list[Assignment]:
        """Every assignment of an instance that lives, by branch and epoch."""
        found = read_all(self.state, self.signer)
        living = (one for instance_id, some in found.items() if some and self.lives(instance_id) for one in some)
        return sorted(living, key=lambda one: (one.branch, one.epoch))

    def of(self, instance_id: str) -> list[Assignment]:
        """What an instance works on."""
        return read(self.state, self.signer, instance_id)

    def states(self, *, every: bool = False) -> list[BranchState]:
        """The branches on which somebody works; with ``every`` also those that are merely checked out somewhere."""
        return self._states(self._git(), every=every)

    def _states(self, git: Git | None, *, every: bool = False) -> list[BranchState]:
        held: dict[str, list[Assignment]] = {}
        for one in self.assignments():
            held.setdefault(one.branch, []).append(one)
        existing, where = _in_git(git) if git else (None, {})
        return [
            BranchState(
                branch=branch,
                exists=None if existing is None else branch in existing,
                worktree=where.get(branch),
                assignments=tuple(held.get(branch, ())),
            )
            for branch in sorted({*held, *(where if every else ())})
        ]

    def conflicts(self, held: list[Assignment] | None = None) -> list[BranchConflict]:
        """What is between instances that are on one branch now: warnings, and what was consented to or bypassed.

        And the files that two of them are changing. ``held`` is what `assignments` has just returned, where that is at hand.
        """
        held = self.assignments() if held is None else held
        pairs = ((later, earlier) for index, later in enumerate(held) for earlier in held[:index])
        found = (conflict(later, earlier, self.critical) for later, earlier in pairs if later.branch == earlier.branch)
        return [*(one for one in found if one is not None), *self._collisions(held)]

    def _collisions(self, held: list[Assignment]) -> list[BranchConflict]:
        said = edits.read_all(self.state, self.signer)
        living = {instance_id: one for instance_id, one in said.items() if one.files and self.lives(instance_id)}
        return [shown(one) for one in all_collisions(living, self.by_repository(held), self.critical)] if living else []

    def by_repository(self, held: Sequence[Assignment]) -> dict[str, Sequence[Assignment]]:
        """The assignments under the git folder of the repository whose branches they are of."""
        if self._repository is None and held:
            self._repository = git_folder(self.state.path.parent)
        return {self._repository: held} if self._repository else {}

    def obstacles(self, wish: Assignment) -> tuple[BranchConflict, ...]:
        """Who would keep a wish from being granted now."""
        decision = decide(wish, self.assignments(), self.critical)
        return () if decision.admitted else decision.conflicts

    def is_overdue(self, one: Assignment) -> bool:
        """Whether people may be reminded of an assignment."""
        return one.boot_id == self._clock.boot_id and one.due_ns is not None and self._clock.age_ns() > one.due_ns

    # The view

    def _publish(self, git: Git | None) -> None:
        data = branch_view.encode(self._states(git, every=True))
        files.replace(branch_view.NAME, data, dir_fd=self.state.fd, writer=str(os.getpid()))

    def is_view_current(self) -> bool:
        """Whether ``branch_registry.json`` says who works where. One that is missing does when nobody does."""
        expected = {state.branch: state.assignments for state in self._states(None) if state.assignments}
        try:
            return branch_view.read(self.state) == expected
        except FileNotFoundError:
            return not expected
        except (errors.State, ValueError):
            return False

    def rebuild(self) -> None:
        """Writes ``branch_registry.json`` anew; what lies there and is no file of ours is set aside."""
        with locks.hold(self.state, "branch", self._patience):
            try:
                branch_view.read(self.state)
            except FileNotFoundError:
                pass
            except (errors.State, ValueError):
                self.state.set_aside(branch_view.NAME, dir_fd=self.state.fd, stamp=self._clock.wall_ns())
            self._publish(self._git())

    def set_aside(self, name: str) -> None:
        """Renames an original that is not ours into ``quarantine/``."""
        self.state.set_aside(name, dir_fd=self.state.folder(BRANCHES), stamp=self._clock.wall_ns())


def _claim_name(branch: str) -> str:
    """The name of the claim that counts a branch's epochs: names of branches may be longer than names of claims."""
    if len(branch.encode()) <= _CLAIM_BYTES:
        return branch
    return f"sha256-{hashlib.sha256(branch.encode()).hexdigest()}"


def _refusal(wish: Assignment, decision: Decision) -> errors.Conflict:
    reasons = "; ".join(dict.fromkeys(found.reason for found in decision.conflicts))
    hint = "; or ".join(suggestion.text for suggestion in decision.suggestions)
    first = decision.conflicts[0]
    return errors.Conflict(
        f"the branch {wish.branch!r} is not free ({first.severity}): {reasons}",
        hint=hint,
        holder=first.other,
        severity=str(first.severity),
        conflicts=decision.conflicts,
        suggestions=decision.suggestions,
    )


def _names(git: Git) -> set[str]:
    refs = git.run("for-each-ref", "--format=%(refname)", "refs/heads")
    return {ref.removeprefix("refs/heads/") for ref in refs.split()}


def _in_git(git: Git) -> tuple[set[str] | None, dict[str, str]]:
    """The branches that there are, None where no repository is, and where some of them are checked out."""
    try:
        return _names(git), {found.branch: path for path, found in listing(git).items() if found.branch}
    except errors.CoordinationError:
        return None, {}
