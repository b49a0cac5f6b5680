"""The doctor: conducts every room's check and owns none.

Without ``fix`` nothing is changed, not even made: the state directory is opened for reading. With it, the same checks mend what
they see, in an order in which the later ones rely on the earlier, under one lock, so that of two doctors one waits.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from mnemo_coord import errors
from mnemo_coord.disk import layout, locks, signing
from mnemo_coord.disk.clock import SystemClock
from mnemo_coord.disk.state_dir import BRANCHES, MEMORY, WORKTREES, StateDir, locate
from mnemo_coord.findings import Finding, Severity
from mnemo_coord.fleet import Fleet
from mnemo_coord.holdings import branch_view, claims, edits, ports
from mnemo_coord.members import heartbeat, reaper, registry, reports
from mnemo_coord.members.registration import Registration
from mnemo_coord.memory import place
from mnemo_coord.messages import leftovers
from mnemo_coord.settings import Settings, resolve

__all__ = ["Report", "Status", "examine"]


class Status(StrEnum):
    """The outcome in one word."""

    HEALTHY = "healthy"
    PROBLEMS = "problems"
    FIXED = "fixed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What the doctor found."""

    findings: tuple[Finding, ...]

    @property
    def status(self) -> Status:
        """Healthy when there is nothing but notices, fixed when all the rest was mended."""
        serious = [finding for finding in self.findings if finding.severity is not Severity.NOTICE]
        if any(not finding.fixed for finding in serious):
            return Status.PROBLEMS
        return Status.FIXED if serious else Status.HEALTHY


@errors.translated
def examine(
    path: str | os.PathLike[str] | None = None,
    *,
    fix: bool = False,
    only_stale: bool = False,
    thorough: bool = True,
    settings: Settings | None = None,
) -> Report:
    """Looks at everything; with ``fix`` mends what can be mended; ``only_stale`` looks at registrations alone, and mends them.

    Unless ``thorough``, the content of the database of memories is not read through, which takes long where it is large.

    Raises:
        errors.Untrusted: the state directory is not ours, or others may enter it and ``fix`` was not asked for.
        errors.TimedOut: another doctor is at work.
    """
    memories = partial(_memories, path, settings, fix=fix, thorough=thorough)
    mends = fix or only_stale
    try:
        state = StateDir.open(path, create=False, tighten=fix)
    except errors.NotFound:
        return Report(findings=() if only_stale else tuple(memories()))
    state.writable = mends
    with _closing(state), _alone(state) if mends else nullcontext():
        found = [] if only_stale else _ground(state, fix=fix)
        if not any(finding.code.startswith("secret") and not finding.fixed for finding in found):
            found += _fleet(state, settings, fix=fix, only_stale=only_stale)
        found += [] if only_stale else memories()
    return Report(findings=tuple(found))


@contextmanager
def _alone(state: StateDir) -> Iterator[None]:
    layout.make_way(state, stamp=SystemClock().wall_ns())
    with locks.hold(state, "doctor", 10.0):
        yield


@contextmanager
def _closing(state: StateDir) -> Iterator[None]:
    try:
        yield
    finally:
        state.close()


def _ground(state: StateDir, *, fix: bool) -> list[Finding]:
    stamp = SystemClock().wall_ns()
    return [*signing.check(state, stamp=stamp, fix=fix), *layout.check(state, stamp=stamp, fix=fix)]


def _fleet(state: StateDir, settings: Settings | None, *, fix: bool, only_stale: bool) -> list[Finding]:
    try:
        fleet = Fleet(state, settings or resolve(), SystemClock())
    except errors.NotFound:  # no key yet: nobody has ever registered
        return []
    return [finding for check in _checks(fleet, fix=fix, only_stale=only_stale) for finding in _run(check)]


def _memories(path: str | os.PathLike[str] | None, settings: Settings | None, *, fix: bool, thorough: bool) -> list[Finding]:
    """The shared database, which a fleet may have and one without a fleet, too. Most have none, and load nothing for it."""
    state_dir = locate(path)
    find = place.finder((settings or resolve()).db_path, state_dir)
    with suppress(errors.Config):
        if not any(os.path.lexists(each) for each in (find().path, state_dir / MEMORY)):
            return []
    from mnemo_coord.memory import checks

    return _run(partial(checks.check, find, state_dir, fix=fix, thorough=thorough))


def _checks(fleet: Fleet, *, fix: bool, only_stale: bool) -> list[Callable[[], list[Finding]]]:
    """The checks of the rooms. The dead go first: half of what the others would find is theirs."""
    members = partial(reaper.check, fleet.reaper, fleet.registry, fix=fix or only_stale)
    if only_stale:
        return [members]
    return [
        partial(registry.check, fleet.registry, fix=fix),
        members,
        lambda: ports.check(_judged(fleet), fleet.signer),
        lambda: heartbeat.check(fleet.state, fleet.registry.read(), fix=fix),
        partial(reports.check, fleet.state, fleet.lives, fix=fix),
        partial(edits.check, fleet.state, fleet.lives, fix=fix),
        partial(claims.check, fleet.claims, fix=fix),
        partial(leftovers.check, fleet.queue, fleet.state, fleet.lives, fix=fix),
        partial(_worktrees, fleet, fix=fix),
        partial(_branches, fleet, fix=fix),
    ]


def _worktrees(fleet: Fleet, *, fix: bool) -> list[Finding]:
    if not fleet.state.listing(WORKTREES):
        return []
    from mnemo_coord.holdings import worktrees

    return worktrees.check(fleet.worktrees, fix=fix)


def _branches(fleet: Fleet, *, fix: bool) -> list[Finding]:
    if not fleet.state.listing(BRANCHES) and branch_view.NAME not in os.listdir(fleet.state.fd):
        return []
    from mnemo_coord.holdings import branch_findings

    return branch_findings.check(fleet.branches, fix=fix)


def _judged(fleet: Fleet) -> list[tuple[Registration, bool]]:
    entries = fleet.registry.read().items()
    return [(entry.registration, fleet.lives(key)) for key, entry in entries if entry.registration is not None]


def _run(check: Callable[[], list[Finding]]) -> list[Finding]:
    try:
        return check()
    except FileNotFoundError:  # a folder that nobody has needed yet
        return []
    except errors.Command as error:  # git is missing, or refuses
        return [_unreadable("git", error.message, error.hint)]
    except errors.State as error:
        return [_unreadable(str(error.data.get("path", "")), error.message, error.hint)]
    except OSError as error:
        return [_unreadable(str(error.filename or ""), (error.strerror or str(error)).lower(), "look at it by hand")]


def _unreadable(subject: str, message: str, hint: str) -> Finding:
    return Finding(code="unreadable", severity=Severity.ERROR, subject=subject, message=message, hint=hint)
