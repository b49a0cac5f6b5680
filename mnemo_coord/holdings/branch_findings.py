"""What the doctor finds of branches: assignments of the dead, records that are not ours, branches that are gone, reminders."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from mnemo_coord import errors
from mnemo_coord.disk import files
from mnemo_coord.disk.state_dir import BRANCHES
from mnemo_coord.findings import Finding, Severity
from mnemo_coord.holdings import branch_view
from mnemo_coord.holdings.assignments import read_strictly
from mnemo_coord.members.identity import is_id
from mnemo_coord.members.leftovers import is_being_written

if TYPE_CHECKING:
    from mnemo_coord.holdings.assignments import Assignment
    from mnemo_coord.holdings.branch_view import BranchState
    from mnemo_coord.holdings.branches import Branches

__all__ = ["check"]


def check(branches: Branches, *, fix: bool = False) -> list[Finding]:
    """Assignments of the dead, records that are not ours, branches that are gone, and whether the registry says what is."""
    names = [name for name in branches.state.listing(BRANCHES) if is_id(name.partition(".")[0])]
    found = [finding for name in names for finding in _judged(branches, name, fix=fix)]
    for state in branches.states():
        found += [_remark(branches, state, one) for one in state.assignments if _is_remarkable(branches, state, one)]
    if not branches.is_view_current():
        finding = Finding(
            code="branch-registry-outdated",
            severity=Severity.WARNING,
            subject=branch_view.NAME,
            message="does not say who works on which branch",
            hint="`mnemosyne doctor --fix` writes it anew; nothing is decided by it",
        )
        found.append(finding.mended_by(branches.rebuild) if fix else finding)
    return found


def _judged(branches: Branches, name: str, *, fix: bool) -> list[Finding]:
    owner, _, rest = name.partition(".")
    subject, folder = f"{BRANCHES}/{name}", branches.state.folder(BRANCHES)
    if rest != "json":
        if is_being_written(name):
            return []
        finding = _finding(_LEFTOVER, subject)
        return [finding.mended_by(partial(files.remove, name, dir_fd=folder)) if fix else finding]
    if not branches.lives(owner):
        finding = _finding(_ABANDONED, subject)
        return [finding.mended_by(partial(branches.release_of, owner)) if fix else finding]
    try:
        read_strictly(branches.state, branches.signer, owner)
    except FileNotFoundError:
        return []
    except (OSError, errors.State, ValueError):
        finding = _finding(_UNTRUSTED, subject)
        return [finding.mended_by(partial(branches.set_aside, name)) if fix else finding]
    return []


_Kind = tuple[Severity, str, str, str]
_LEFTOVER: Final[_Kind] = (Severity.WARNING, "leftover-branch", "a writer died while writing it", "removes it")
_ABANDONED: Final[_Kind] = (Severity.WARNING, "branch-abandoned", "its instance is gone; nobody heeds it", "removes it")
_UNTRUSTED: Final[_Kind] = (
    Severity.WARNING,
    "branch-untrusted",
    "is no record of this fleet; nobody heeds it",
    "sets it aside",
)


def _finding(kind: _Kind, subject: str) -> Finding:
    severity, code, message, what = kind
    hint = f"`mnemosyne doctor --fix` {what}"
    return Finding(code=code, severity=severity, subject=subject, message=message, hint=hint)


def _is_gone(state: BranchState, one: Assignment) -> bool:
    return one.commit is not None and state.exists is False


def _is_remarkable(branches: Branches, state: BranchState, one: Assignment) -> bool:
    return _is_gone(state, one) or branches.is_overdue(one)


def _remark(branches: Branches, state: BranchState, one: Assignment) -> Finding:
    if _is_gone(state, one):
        return Finding(
            code="branch-gone",
            severity=Severity.WARNING,
            subject=one.branch,
            message=f"was deleted or renamed while {one.instance_id} works on it",
            hint=f"make it again (`git branch {one.branch} {one.commit}`), or have {one.instance_id} release it",
        )
    return Finding(
        code="branch-overdue",
        severity=Severity.NOTICE,
        subject=one.branch,
        message=f"{one.instance_id} has worked on it since {one.since}",
        hint="ask it; it keeps the branch as long as it lives",
    )
