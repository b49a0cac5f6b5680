"""Edit collisions: files that two are changing at once. Decided by pure functions of what they say that they change.

Two checkouts of one repository, in both of which the same file differs from what is committed, will not merge by themselves: an
*error*. So is a file that another instance holds by its assignment to the branch that is checked out here. On critical files
both are a *block*. Two instances in one checkout see the same changes, and whose they are cannot be told: nothing is between
them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from mnemo_coord.holdings.assignments import Assignment, Mode
from mnemo_coord.holdings.edits import Edits, spelled
from mnemo_coord.holdings.globs import matches
from mnemo_coord.holdings.occupancy import BranchConflict, ConflictKind, ConflictSeverity

__all__ = ["all_collisions", "collisions", "narrowed", "shared", "shown", "trespasses"]

_MOST_SHOWN = 20
"""Files of one collision; "…" stands for the others."""


def collisions(
    own: Edits, others: Iterable[Edits], held: Iterable[Assignment], critical: Sequence[str]
) -> tuple[BranchConflict, ...]:
    """What is between one instance and the others, with all the files: `shown` makes it fit for people.

    ``held`` are the assignments to branches of the repository of ``own``, also its own.
    """
    beside = [other for other in others if other.instance_id != own.instance_id]
    both = shared(own, beside, critical)
    return (*both, *trespasses(own, beside, held, both, critical))


def all_collisions(
    said: Mapping[str, Edits], held: Mapping[str, Collection[Assignment]], critical: Sequence[str]
) -> tuple[BranchConflict, ...]:
    """What is between any two, each pair once. ``held`` are assignments by repository."""
    found: list[BranchConflict] = []
    for own in said.values():
        both = shared(own, said.values(), critical)
        found += [one for one in both if one.instance_id > one.other]
        found += trespasses(own, said.values(), held.get(own.repository, ()), both, critical)
    return tuple(found)


def shared(own: Edits, beside: Iterable[Edits], critical: Sequence[str]) -> list[BranchConflict]:
    """The files that another changes, too."""
    return [found for other in beside if (found := _both(own, other, critical))]


def trespasses(
    own: Edits,
    beside: Iterable[Edits],
    held: Iterable[Assignment],
    both: Iterable[BranchConflict],
    critical: Sequence[str],
) -> list[BranchConflict]:
    """The files that another holds, but for those which it changes, too."""
    together = {other.instance_id for other in beside if other.checkout == own.checkout} - {own.instance_id}
    taken = {(found.other, path) for found in both for path in found.files}
    here = [one for one in held if one.branch == own.branch and one.instance_id not in together]
    if any(one.bypassed for one in here if one.instance_id == own.instance_id):
        return []
    found = [
        (one, tuple(path for path in own.files if _holds(one, path) and (one.instance_id, path) not in taken))
        for one in here
        if one.instance_id != own.instance_id and own.instance_id not in one.admits
    ]
    return [_conflict(own, one.instance_id, _claim(one), paths, critical) for one, paths in found if paths]


def _claim(one: Assignment) -> str:
    how = "has this branch to itself" if one.mode is Mode.ISOLATED else "holds these files of this branch"
    return f"{one.instance_id} {how}"


def narrowed(found: BranchConflict, paths: Collection[str], critical: Sequence[str]) -> BranchConflict:
    """The same between the two, of some of the files only."""
    kept = tuple(path for path in found.files if path in paths)
    return replace(found, files=kept, severity=_severity(kept, critical))


def shown(found: BranchConflict) -> BranchConflict:
    """As people are shown it: twenty files at most, in printable text."""
    told = [spelled(path) for path in found.files[:_MOST_SHOWN]]
    return replace(found, files=(*told, *(["…"] if len(found.files) > _MOST_SHOWN else [])))


def _both(own: Edits, other: Edits, critical: Sequence[str]) -> BranchConflict | None:
    if other is own or other.repository != own.repository or other.checkout == own.checkout:
        return None
    paths = tuple(sorted(own.known & other.known))
    if not paths:
        return None
    where = "without a branch" if other.branch is None else f"on the branch {_named(other.branch)}"
    return _conflict(own, other.instance_id, f"{other.instance_id} is changing the same files, {where}", paths, critical)


def _holds(one: Assignment, path: str) -> bool:
    if one.mode is Mode.ISOLATED:
        return bool(one.writes)
    return any(matches(glob, path) for glob in one.writes)


def _conflict(own: Edits, other: str, reason: str, paths: tuple[str, ...], critical: Sequence[str]) -> BranchConflict:
    return BranchConflict(
        branch=_named(own.branch or ""),
        instance_id=own.instance_id,
        other=other,
        severity=_severity(paths, critical),
        reason=reason,
        files=paths,
        kind=ConflictKind.EDITS,
    )


def _severity(paths: Iterable[str], critical: Sequence[str]) -> ConflictSeverity:
    worst = any(matches(pattern, path) for path in paths for pattern in critical)
    return ConflictSeverity.BLOCK if worst else ConflictSeverity.ERROR


def _named(branch: str) -> str:
    return branch if branch.isprintable() else spelled(branch)
