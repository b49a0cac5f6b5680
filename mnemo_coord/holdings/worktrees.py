"""Worktrees: a place of its own for each instance, made by git and never taken away with work in it.

::

    worktrees/<id>                the git worktree of one instance
    worktrees/<id>.json           sealed: what was made for it, and by which process; first as a journal, with ``made`` false
    worktrees/<id>.<time>.patch   what was saved before a worktree with changes was removed on request

All of it is done under ``locks/worktree.lock``: two that add at once make git fail half way. Git's own lock keeps `git
worktree prune` away; its reason names the instance. A worktree is removed when its instance leaves or is proved dead, and
only when nothing would be lost: see `Risk`. A branch is removed with it if it was made for it and has no commit of its own.
By hand, use git; what is left of ours, the doctor finds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mnemo_coord import errors
from mnemo_coord.disk import copies, files, locks, records
from mnemo_coord.disk.signing import Purpose, Signer
from mnemo_coord.disk.state_dir import WORKTREES, StateDir
from mnemo_coord.findings import Finding, Severity
from mnemo_coord.holdings.git import Git, check_branch
from mnemo_coord.holdings.made import Made, made_for, made_for_all
from mnemo_coord.holdings.risks import Listed, Risk, listing, lock_reason, risks_of
from mnemo_coord.members.identity import is_id
from mnemo_coord.members.liveness import ProcessState, observe

if TYPE_CHECKING:
    from mnemo_coord.disk.clock import Clock
    from mnemo_coord.members.registration import Registration

__all__ = ["INCLUDE", "Worktree", "Worktrees", "check"]

INCLUDE: Final = ".worktreeinclude"
"""At the root of the repository: patterns, as in .gitignore, of ignored files that a checkout needs. They are copied."""
_LOCK_TIMEOUT: Final = 120.0
"""Seconds: sixteen that add at once wait for each other's checkouts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Worktree:
    """A worktree that was made for an instance, as it is now."""

    instance_id: str
    path: str
    branch: str | None
    """What is checked out there; None where nothing is, or it cannot be told."""
    head: str | None
    exists: bool
    """Whether the folder is there."""
    complete: bool
    """Whether it was made to the end."""
    risks: tuple[Risk, ...]
    """What keeps it from being removed."""


class Worktrees:
    """The worktrees of one fleet."""

    def __init__(self, state: StateDir, signer: Signer, clock: Clock, lives: Callable[[str], bool]) -> None:
        self.state = state
        self.signer = signer
        self._clock = clock
        self._lives = lives

    # Making

    def add(
        self, owner: Registration, *, branch: str | None = None, base: str = "HEAD", start: str | os.PathLike[str] | None = None
    ) -> Worktree:
        """Makes the worktree of an instance, all or nothing.

        Args:
            owner: whose it is.
            branch: what to check out there; made where there is none. By default a new one, ``mnemosyne/<id>``.
            base: where a new branch begins.
            start: a folder in the repository; by default the one that holds the state directory.

        Raises:
            errors.Conflict: it has one already, or the branch is checked out elsewhere.
            errors.NotFound: there is no repository, no such ``base``, or no commit yet.
            errors.Config: that is no name of a branch.
            errors.Command: git failed; everything is as it was.
            errors.TimedOut: git, or others who add, took too long.
        """
        git = Git(Git(self.state.path.parent if start is None else start).root)
        name = check_branch(git, branch or f"mnemosyne/{owner.instance_id}")
        with locks.hold(self.state, "worktree", _LOCK_TIMEOUT):
            made = self._plan(git, owner, name, base)
            self._note(made)
            try:
                self._check_out(git, made)
            except BaseException:
                self._undo(git, made)
                raise
            made = replace(made, made=True)
            self._note(made)
        return self._worktree(made, listing(git).get(made.path))

    def _plan(self, git: Git, owner: Registration, name: str, base: str) -> Made:
        instance_id = owner.instance_id
        path = str(self.state.path / WORKTREES / instance_id)
        if made_for(self.state, self.signer, instance_id) or os.path.lexists(path):
            raise errors.Conflict(f"{path}: {instance_id} has a worktree already", path=path)
        holder = next((listed for listed in listing(git).values() if listed.branch == name), None)
        if holder:
            what = f"the branch {name!r} is checked out at {holder.path}"
            raise errors.Conflict(what, hint="take another branch, or leave it there", holder=holder.path)
        at = git.branch_at(name)
        try:
            begins = at or git.run("rev-parse", "--verify", "--quiet", "--end-of-options", f"{base}^{{commit}}").strip()
        except errors.Command as error:
            if error.returncode != 1:
                raise
            hint = "commit something first" if base == "HEAD" else "see `git branch --all`"
            raise errors.NotFound(f"there is no commit {base!r} to begin at", hint=hint) from None
        return Made(
            instance_id=instance_id,
            path=path,
            repository=str(git.folder),
            branch=name,
            base=begins,
            created_branch=at is None,
            made=False,
            process=owner.process,
        )

    def _check_out(self, git: Git, made: Made) -> None:
        # --no-track: writing the upstream into the one config file is what makes parallel adds fail.
        new = ["--no-track", "-b", made.branch, made.path, made.base]
        which = new if made.created_branch else [made.path, made.branch]
        reason = lock_reason(made.instance_id)
        git.run("worktree", "add", "--quiet", "--lock", "--reason", reason, *which)
        self._seed(git, made)

    def _seed(self, git: Git, made: Made) -> None:
        """Copies the ignored files that a checkout needs."""
        if not (git.folder / INCLUDE).is_file():
            return
        wanted = set(_named(git.run("ls-files", "-z", "--others", "--ignored", f"--exclude-from={INCLUDE}")))
        ignored = set(_named(git.run("ls-files", "-z", "--others", "--ignored", "--exclude-standard")))
        own = f"{self.state.path.name}/"
        for name in sorted(wanted & ignored):
            if not name.startswith(own):
                copies.copy(git.folder / name, Path(made.path) / name)

    def _undo(self, git: Git, made: Made) -> None:
        """Takes back what was begun: also what git left half made. Idempotent."""
        with suppress(errors.CoordinationError):
            if made.path in listing(git) or os.path.lexists(made.path):
                git.run("worktree", "remove", "--force", "--force", made.path)
        self._drop_branch(git, made)
        self._forget(made.instance_id)

    def _drop_branch(self, git: Git, made: Made) -> None:
        """Removes a branch that was made for a worktree and has no commit of its own."""
        with suppress(errors.CoordinationError):
            if made.created_branch and git.branch_at(made.branch) == made.base:
                git.run("branch", "--quiet", "--delete", "--force", "--end-of-options", made.branch)

    def _note(self, made: Made) -> None:
        sealed = records.seal({**asdict(made), "process": made.process.to_body()}, self.signer, Purpose.WORKTREE)
        files.replace(f"{made.instance_id}.json", sealed, dir_fd=self.state.folder(WORKTREES), writer=str(os.getpid()))

    def _forget(self, instance_id: str) -> None:
        with suppress(FileNotFoundError):
            files.remove(f"{instance_id}.json", dir_fd=self.state.folder(WORKTREES))

    # Looking

    def all(self) -> list[Worktree]:
        """Every worktree that was made for an instance, with what keeps it from being removed.

        Raises:
            errors.CoordinationError: git is missing, or took too long.
        """
        found = []
        for made in made_for_all(self.state, self.signer):
            listed = listing(Git(made.repository)) if os.path.isdir(made.repository) else {}
            found.append(self._worktree(made, listed.get(made.path)))
        return found

    def _worktree(self, made: Made, listed: Listed | None) -> Worktree:
        exists = os.path.isdir(made.path)
        runs = observe(made.process, thorough=False) is ProcessState.SAME
        owned = (Risk.OWNED,) if runs or self._lives(made.instance_id) else ()
        risks = (*owned, *risks_of(Git(made.path), made.instance_id, listed)) if exists and listed and made.made else owned
        return Worktree(
            instance_id=made.instance_id,
            path=made.path,
            branch=listed.branch if listed else None,
            head=listed.head if listed else None,
            exists=exists,
            complete=made.made,
            risks=risks,
        )

    # Removing

    def remove(self, instance_id: str, *, accept: Collection[Risk] = (), leaving: bool = False) -> Path | None:
        """Removes the worktree of an instance, and a branch that was made for it and has no commit of its own.

        Args:
            instance_id: whose it is.
            accept: risks that are taken. What is not committed is saved as a patch first.
            leaving: said by the instance itself, which lives.

        Returns:
            The patch; None where nothing had to be saved.

        Raises:
            errors.NotFound: it has none.
            errors.Conflict: something would be lost; ``risks`` says what.
            errors.Command: git failed.
        """
        with locks.hold(self.state, "worktree", _LOCK_TIMEOUT):
            made = made_for(self.state, self.signer, instance_id)
            if made is None:
                raise errors.NotFound(f"{instance_id} has no worktree", hint="`mnemosyne worktree list` shows them")
            git = Git(made.repository)
            worktree = self._worktree(made, listing(git).get(made.path))
            taken = {*accept, *({Risk.OWNED} if leaving else set())} - (set() if leaving else {Risk.OWNED})
            left = [risk for risk in worktree.risks if risk not in taken]
            if left:
                raise _refusal(made, left)
            patch = self._save(made) if {Risk.DIRTY, Risk.UNTRACKED} & set(worktree.risks) else None
            self._take_away(git, made, worktree)
            return patch

    def disown(self, instance_id: str) -> None:
        """Notes that an instance that leaves has left its worktree behind, although its process may go on."""
        with locks.hold(self.state, "worktree", _LOCK_TIMEOUT):
            made = made_for(self.state, self.signer, instance_id)
            if made is not None:
                self._note(replace(made, process=made.process._replace(pid_namespace=0)))  # one that nobody can see into

    def _take_away(self, git: Git, made: Made, worktree: Worktree) -> None:
        if not (worktree.exists and worktree.complete and worktree.head):
            self._undo(git, made)
            return
        with suppress(errors.Command):  # somebody has unlocked it
            git.run("worktree", "unlock", made.path)
        # RACE: without --force git looks itself whether it is clean: what was written since our look stays.
        forced = ["--force"] if set(worktree.risks) - {Risk.OWNED, Risk.LOCKED} else []
        git.run("worktree", "remove", *forced, made.path)
        self._drop_branch(git, made)
        self._forget(made.instance_id)

    def _save(self, made: Made) -> Path:
        """Everything that is not committed, tracked or not, as a patch against the commit that is checked out."""
        git, stamp = Git(made.path), self._clock.wall_ns()
        index, name = f"{made.path}.{stamp}.index", f"{made.instance_id}.{stamp}.patch"
        try:
            git.run("add", "--all", "--", ".", index=index)
            text = git.run("diff", "--cached", "--binary", "HEAD", index=index)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(index)
        with files.opened(files.create(name, dir_fd=self.state.folder(WORKTREES))) as fd:
            files.write_all(fd, text.encode(errors="surrogateescape"))
        return self.state.path / WORKTREES / name


def _named(text: str) -> list[str]:
    return [name for name in text.split("\0") if name]


def _refusal(made: Made, risks: list[Risk]) -> errors.Conflict:
    accepted = " ".join(f"--even-if {risk}" for risk in risks)
    hint = f"`mnemosyne worktree remove {made.instance_id} {accepted} --yes` saves a patch and removes it all the same"
    if Risk.OWNED in risks:
        hint = "its instance lives, or is not proved dead"
    return errors.Conflict(f"{made.path} is kept: {', '.join(risks)}", hint=hint, risks=[str(risk) for risk in risks])


def check(worktrees: Worktrees, *, fix: bool = False) -> list[Finding]:
    """Worktrees of instances that are gone; mended are those from which nothing would be lost."""
    made = made_for_all(worktrees.state, worktrees.signer)  # without a record git need not be there
    found = [_left(worktree) for worktree in worktrees.all() if Risk.OWNED not in worktree.risks] if made else []
    known = {one.instance_id for one in made}
    names = worktrees.state.listing(WORKTREES)
    found += [_unknown(name) for name in names if is_id(name) and name not in known]
    return [_mend(worktrees, finding) if fix else finding for finding in found]


def _left(worktree: Worktree) -> Finding:
    severity, code, what = _LEFT[worktree.complete, worktree.exists or not worktree.complete]
    kept = f"; it is kept, for it is {' and '.join(worktree.risks)}" if worktree.risks else ""
    accepted = " ".join(f"--even-if {risk}" for risk in worktree.risks)
    hint = f"look at it; `mnemosyne worktree remove {worktree.instance_id} {accepted} --yes` saves a patch and removes it"
    return Finding(
        code=code,
        severity=severity,
        subject=f"{WORKTREES}/{worktree.instance_id}",
        message=what + kept,
        hint=hint if worktree.risks else "`mnemosyne doctor --fix` removes it; if you moved it, `git worktree repair` first",
    )


_LEFT: Final = {
    # Whether it was made to the end, and whether it is there.
    (True, True): (Severity.WARNING, "worktree-abandoned", "its instance is gone"),
    (True, False): (Severity.WARNING, "worktree-gone", "is gone, and git still lists it"),
    (False, True): (Severity.WARNING, "worktree-half-made", "was not made to the end"),
}


def _unknown(name: str) -> Finding:
    return Finding(
        code="worktree-unknown",
        severity=Severity.NOTICE,
        subject=f"{WORKTREES}/{name}",
        message="nothing says for whom it was made",
        hint="look at it; it is left alone",
    )


def _mend(worktrees: Worktrees, finding: Finding) -> Finding:
    if finding.code == "worktree-unknown":
        return finding
    try:
        worktrees.remove(finding.subject.rpartition("/")[2])
    except errors.CoordinationError as error:
        return replace(finding, hint=error.hint or error.message)
    return finding.mended()
