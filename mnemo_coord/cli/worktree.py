"""``mnemosyne worktree``: a git worktree for each instance."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import click

from mnemo_coord import errors
from mnemo_coord.cli.commands import Common, common
from mnemo_coord.cli.output import document, line, table, talk

if TYPE_CHECKING:
    from mnemo_coord.fleet import Fleet
    from mnemo_coord.holdings.worktrees import Worktree


@click.group("worktree")
def command() -> None:
    """Git worktrees of instances: made all or nothing, never removed with work in them."""


@command.command("add")
@click.argument("branch", required=False)
@click.option("--for", "who", metavar="INSTANCE", envvar="MNEMOSYNE_INSTANCE", help="Whose: the id or name of a live instance.")
@click.option("--base", metavar="REV", default="HEAD", help="Where a new branch begins. [HEAD]")
@common
def add(shared: Common, *, branch: str | None, who: str | None, base: str) -> int:
    """Make the worktree of a live instance and print its path.

    BRANCH is checked out there, and made where there is none; by default a new one, mnemosyne/<id>.
    """
    from mnemo_coord.fleet import Fleet

    if not who:
        raise errors.Config("whose worktree is it?", hint="--for INSTANCE, or the variable MNEMOSYNE_INSTANCE", key="for")
    with Fleet.open(shared.dir, create=False) as fleet:
        fleet.state.writable = True
        made = fleet.worktrees.add(fleet.find(who), branch=branch, base=base)
    if shared.as_json:
        document(made)
    else:
        line(made.path)
    return 0


@command.command("list")
@common
def list_(shared: Common) -> int:
    """Show the worktrees that were made for instances, with what keeps each from being removed."""
    from mnemo_coord.fleet import Fleet

    try:
        with Fleet.open(shared.dir, create=False) as fleet:
            found = fleet.worktrees.all()
    except errors.NotFound:
        found = []
    if shared.as_json:
        document(found)
    elif found:
        table(("INSTANCE", "BRANCH", "KEPT FOR", "PATH"), [_row(worktree) for worktree in found])
    else:
        talk("There is no worktree.")
    return 0


def _row(worktree: Worktree) -> tuple[str, ...]:
    kept = ", ".join(worktree.risks) or "nothing"
    if not worktree.complete:
        kept = "not made to the end"
    elif not worktree.exists:
        kept = "gone"
    return worktree.instance_id, worktree.branch or "-", kept, worktree.path


@command.command("remove")
@click.argument("who", metavar="INSTANCE")
@click.option(
    "--even-if",
    "accepted",
    metavar="RISK",
    multiple=True,
    type=click.Choice(["dirty", "untracked", "unpushed", "detached", "busy", "locked"]),
    help="Take this risk: dirty, untracked, unpushed, detached, busy or locked. May be given several times.",
)
@click.option("--yes", is_flag=True, help="Do it; otherwise only show what would be done.")
@common
def remove(shared: Common, *, who: str, accepted: tuple[str, ...], yes: bool) -> int:
    """Remove the worktree of an instance that is gone.

    What is not committed is saved as a patch first. That of a live instance is never removed.
    """
    from mnemo_coord.fleet import Fleet
    from mnemo_coord.holdings.risks import Risk

    with Fleet.open(shared.dir, create=False) as fleet:
        fleet.state.writable = True
        worktree = _find(fleet, who)
        if not yes:
            _tell_plan(worktree)
            return 1
        patch = fleet.worktrees.remove(worktree.instance_id, accept=[Risk(risk) for risk in accepted])
    if shared.as_json:
        document({"instance_id": worktree.instance_id, "path": worktree.path, "patch": None if patch is None else str(patch)})
    else:
        talk(f"removed {worktree.path}" + (f"; what was not committed is in {patch}" if patch else ""))
    return 0


def _find(fleet: Fleet, who: str) -> Worktree:
    for worktree in fleet.worktrees.all():
        if worktree.instance_id == who:
            return worktree
    raise errors.NotFound(f"{who} has no worktree", hint="`mnemosyne worktree list` shows them")


def _tell_plan(worktree: Worktree) -> None:
    kept = f", which is {' and '.join(worktree.risks)}" if worktree.risks else ""
    talk(f"would remove {worktree.path}{kept}")
    talk("Nothing was removed: --yes does it.")


@command.command("prune")
@click.option("--yes", is_flag=True, help="Do it; otherwise only show what would be done.")
@common
def prune(shared: Common, *, yes: bool) -> int:
    """Remove the worktrees of all instances that are gone, if nothing would be lost with them."""
    from mnemo_coord.fleet import Fleet

    outcomes: list[dict[str, str]] = []
    with suppress(errors.NotFound), Fleet.open(shared.dir, create=False) as fleet:  # where there is no fleet there is nothing
        fleet.state.writable = True
        for worktree in fleet.worktrees.all():
            if worktree.risks:
                outcomes.append({"instance_id": worktree.instance_id, "outcome": "kept", "reason": ", ".join(worktree.risks)})
                continue
            if yes:
                fleet.worktrees.remove(worktree.instance_id)
            outcomes.append({"instance_id": worktree.instance_id, "outcome": "removed" if yes else "would be removed"})
    if shared.as_json:
        document(outcomes)
        return 0
    for outcome in outcomes:
        line("  ".join(outcome.values()))
    if not yes and any("reason" not in outcome for outcome in outcomes):
        talk("Nothing was removed: --yes does it.")
    return 0
