"""Occupancy: who may work on a branch beside whom. Decided by pure functions of what is wished for and what is held.

Two that change a branch are in conflict when one of them wants it to itself, or when they could mean the same file: an
*error*, and the second is refused. In the same folder they are too close to be comfortable: a *warning*, and both are told. On
critical files, such as migrations, both are a *block*, which not even the other's consent lifts. Who reads is never in the way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import product

from mnemo_coord.holdings.assignments import Assignment, Mode
from mnemo_coord.holdings.globs import is_critical, near, overlap

__all__ = [
    "BranchConflict",
    "ConflictKind",
    "ConflictSeverity",
    "Decision",
    "Suggestion",
    "SuggestionKind",
    "conflict",
    "decide",
    "severity",
]


class ConflictSeverity(StrEnum):
    """How bad it is that two change the same branch."""

    WARNING = "warning"
    """They are close to each other."""
    ERROR = "error"
    """They could change the same file, or one of them wants to be alone."""
    BLOCK = "block"
    """On critical files."""

    @property
    def rank(self) -> int:
        """Rises with the severity."""
        return list(ConflictSeverity).index(self)


class ConflictKind(StrEnum):
    """What is too close."""

    ASSIGNMENT = "assignment"
    """What they said that they would change."""
    EDITS = "edits"
    """What they are changing (holdings.edits)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BranchConflict:
    """What is between two instances on one branch."""

    branch: str
    instance_id: str
    """Who came, or wants to come."""
    other: str
    """Who was there."""
    severity: ConflictSeverity
    reason: str
    files: tuple[str, ...]
    """The globs, of both, that are too close; none where one of them wants to be alone. Of edits, the paths."""
    kind: ConflictKind = ConflictKind.ASSIGNMENT


class SuggestionKind(StrEnum):
    """What else could be done."""

    COORDINATED = "coordinated"
    READ = "read"
    WAIT = "wait"
    NEW_BRANCH = "new-branch"


@dataclass(frozen=True, kw_only=True, slots=True)
class Suggestion:
    """What who is refused could do instead."""

    kind: SuggestionKind
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """Whether somebody may work on a branch."""

    admitted: bool
    conflicts: tuple[BranchConflict, ...]
    """Those that are in the way, worst first; of who is admitted, those to be told of."""
    suggestions: tuple[Suggestion, ...] = ()


def severity(first: str, second: str, critical: Iterable[str]) -> ConflictSeverity | None:
    """How close two globs are; None where they are not."""
    found = ConflictSeverity.ERROR if overlap(first, second) else ConflictSeverity.WARNING if near(first, second) else None
    if found and (is_critical(first, critical) or is_critical(second, critical)):
        return ConflictSeverity.BLOCK
    return found


def conflict(wish: Assignment, held: Assignment, critical: Sequence[str]) -> BranchConflict | None:
    """What is between a wish, or an assignment, and an assignment of somebody else; None where nothing is."""
    if not wish.writes or not held.writes:
        return None
    found = [(severity(mine, theirs, critical), mine, theirs) for mine, theirs in product(wish.writes, held.writes)]
    close = [(how, mine, theirs) for how, mine, theirs in found if how is not None]
    alone = next((one for one in (held, wish) if one.mode is Mode.ISOLATED), None)
    worst = max((how for how, _, _ in close), key=lambda how: how.rank, default=None)
    if alone is not None and (worst is None or worst.rank < ConflictSeverity.ERROR.rank):
        worst, close = ConflictSeverity.ERROR, []
    if worst is None:
        return None
    globs = dict.fromkeys(glob for how, mine, theirs in close if how is worst for glob in (mine, theirs))
    return BranchConflict(
        branch=wish.branch,
        instance_id=wish.instance_id,
        other=held.instance_id,
        severity=worst,
        reason=_reason(worst, alone, wish, held),
        files=tuple(globs),
    )


def _reason(how: ConflictSeverity, alone: Assignment | None, wish: Assignment, held: Assignment) -> str:
    if how is ConflictSeverity.BLOCK:
        return f"{held.instance_id} is at critical files that are wanted"
    if alone is held:
        return f"{held.instance_id} has it to itself"
    if alone is wish:
        return f"{held.instance_id} works on it, and it is wanted alone"
    if how is ConflictSeverity.ERROR:
        return f"{held.instance_id} may change the same files"
    return f"{held.instance_id} works in the same folder"


def decide(wish: Assignment, held: Iterable[Assignment], critical: Sequence[str], *, bypass: bool = False) -> Decision:
    """Whether a wish is granted, given what others hold of the same branch.

    ``bypass`` grants it whatever is in the way, and tells. What the wisher itself holds of the branch is replaced, so it is
    not in its way.
    """
    others = [other for other in held if other.branch == wish.branch and other.instance_id != wish.instance_id]
    found = [(conflict(wish, other, critical), other) for other in others]
    ranked = sorted(((one, other) for one, other in found if one), key=lambda pair: -pair[0].severity.rank)
    in_the_way = [one for one, other in ranked if not _consents(other, one)]
    if bypass or not in_the_way:
        return Decision(admitted=True, conflicts=tuple(one for one, _ in ranked))
    return Decision(admitted=False, conflicts=tuple(in_the_way), suggestions=_suggestions(wish, in_the_way, others, critical))


def _consents(held: Assignment, found: BranchConflict) -> bool:
    """Whether it may be: it is only close, or the other has said so."""
    if found.severity is ConflictSeverity.ERROR:
        return found.instance_id in held.admits
    return found.severity is ConflictSeverity.WARNING


def _suggestions(
    wish: Assignment, in_the_way: list[BranchConflict], others: list[Assignment], critical: Sequence[str]
) -> tuple[Suggestion, ...]:
    holders = list(dict.fromkeys(one.other for one in in_the_way))
    found = []
    if wish.mode is Mode.ISOLATED:
        free = decide(replace(wish, mode=Mode.COORDINATED), others, critical).admitted if wish.writes else True
        how = "it would be granted now" if free else f"with the consent of {' and '.join(holders)}"
        found.append((SuggestionKind.COORDINATED, f"join in mode coordinated with the files that you need: {how}"))
    found.append((SuggestionKind.READ, "join to read: that is always granted"))
    found += [(SuggestionKind.WAIT, f"wait for {holder}") for holder in holders]
    found.append((SuggestionKind.NEW_BRANCH, f"make a branch of your own: git switch -c {wish.branch}-{wish.instance_id}"))
    return tuple(Suggestion(kind=kind, text=text) for kind, text in found)
