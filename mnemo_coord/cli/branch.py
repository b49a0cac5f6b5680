"""``mnemosyne branch``: who works on which branch, and on which of its files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from mnemo_coord import errors
from mnemo_coord.cli.commands import Common, common
from mnemo_coord.cli.fleets import looking, speaker
from mnemo_coord.cli.output import complain, document, line, table, talk

if TYPE_CHECKING:
    from mnemo_coord.branch_work import BranchWork
    from mnemo_coord.holdings.assignments import Assignment
    from mnemo_coord.holdings.branch_view import BranchState

__all__ = ["command"]


@click.group("branch")
def command() -> None:
    """Who works on which branch: joined under a lock, held as long as its instance lives."""


def _for(function: Callable[..., Any]) -> Callable[..., Any]:
    help_text = "Whose: the id or name of a live instance. [that of the worktree one is in, or the only one there is]"
    return click.option("--for", "who", metavar="INSTANCE", envvar="MNEMOSYNE_INSTANCE", help=help_text)(function)


def _wish(function: Callable[..., Any]) -> Callable[..., Any]:
    for decorate in (
        click.option("--wait", metavar="S", type=float, default=0.0, help="Ask who is in the way, and wait so many seconds."),
        click.option(
            "--mode", type=click.Choice(["isolated", "coordinated"]), default="isolated", help="Beside whom. [isolated]"
        ),
        click.option("--files", metavar="GLOB", multiple=True, help="What is to be changed. May be given several times."),
        click.argument("intent", required=False, type=click.Choice(["read", "write", "full"])),
        click.argument("branch"),
        _for,
    ):
        function = decorate(function)
    return function


@command.command("join")
@_wish
@common
def join(shared: Common, *, who: str | None, **wish: Any) -> int:
    """Begin to work on a branch, or change how.

    By default alone and on everything. A refusal (exit 4) says who is in the way and what could be done instead.
    """
    return _take(shared, who, "join", **wish)


@command.command("switch")
@_wish
@common
def switch(shared: Common, *, who: str | None, **wish: Any) -> int:
    """Begin to work on a branch and end it on all others, in one step. What is refused changes nothing."""
    return _take(shared, who, "switch", **wish)


def _take(
    shared: Common,
    who: str | None,
    how: str,
    *,
    branch: str,
    intent: str | None,
    files: tuple[str, ...],
    mode: str,
    wait: float,
) -> int:
    with _speaking(shared, who) as work:
        try:
            taken = getattr(work, how)(branch, intent, files=files, mode=mode, timeout=wait)
        except errors.Conflict as refusal:
            return _refuse(shared, refusal)
    if shared.as_json:
        document(taken)
    else:
        line(f"{taken.instance_id} works on {taken.branch} ({_how(taken)})")
    return 0


def _refuse(shared: Common, refusal: errors.Conflict) -> int:
    if "conflicts" not in refusal.data:
        raise refusal
    if shared.as_json:
        more = {name: refusal.data[name] for name in ("severity", "conflicts", "suggestions")}
        return complain(refusal.code, refusal.message, refusal.hint, refusal.exit_code, as_json=True, **more)
    talk(f"mnemosyne: {refusal.message}")
    for suggestion in refusal.suggestions:
        talk(f"  {suggestion.text}")
    return refusal.exit_code


@command.command("release")
@click.argument("branch", required=False)
@_for
@common
def release(shared: Common, *, who: str | None, branch: str | None) -> int:
    """End the work on a branch, or on all."""
    with _speaking(shared, who) as work:
        given = work.release(branch)
    if shared.as_json:
        document(given)
    else:
        for one in given:
            line(f"{one.instance_id} no longer works on {one.branch}")
    return 0


@command.command("status")
@click.option("--all", "every", is_flag=True, help="Also the branches that are merely checked out somewhere.")
@common
def status(shared: Common, *, every: bool) -> int:
    """Show who works on which branch."""
    with looking(shared) as fleet:
        states = fleet.branches.states(every=every) if fleet else []
    if shared.as_json:
        document(states)
    elif states:
        table(("BRANCH", "INSTANCE", "WORKS", "SINCE", "FILES"), [row for state in states for row in _rows(state)])
    else:
        talk("Nobody works on a branch.")
    return 0


def _rows(state: BranchState) -> Iterator[tuple[str, ...]]:
    missing = " (not there)" if state.exists is False else ""
    for one in state.assignments:
        yield state.branch + missing, one.instance_id, f"{one.intent}, {one.mode}", one.since, " ".join(one.files) or "-"
    if not state.assignments:
        yield state.branch + missing, "-", "-", "-", state.worktree or "-"


def _how(one: Assignment) -> str:
    bypassed = ", past those in the way" if one.bypassed else ""
    return f"{one.intent}, {one.mode}{bypassed}, epoch {one.epoch}"


@command.command("conflicts")
@common
def conflicts(shared: Common) -> int:
    """Show what is between instances that work on one branch. Exit 1 when there is anything."""
    with looking(shared) as fleet:
        found = fleet.branches.conflicts() if fleet else []
    if shared.as_json:
        document(found)
    elif found:
        rows = [(one.severity, one.kind, one.branch, one.instance_id, one.other, " ".join(one.files) or "-") for one in found]
        table(("SEVERITY", "BETWEEN", "BRANCH", "INSTANCE", "AND", "FILES"), rows)
    else:
        talk("Nobody is in anybody's way.")
    return 1 if found else 0


@contextmanager
def _speaking(shared: Common, who: str | None) -> Iterator[BranchWork]:
    from mnemo_coord.branch_work import BranchWork
    from mnemo_coord.fleet import Fleet

    with Fleet.open(shared.dir, create=False) as fleet:
        fleet.state.writable = True
        registration = speaker(fleet, who)
        yield BranchWork(fleet, registration.instance_id, registration.roles)
