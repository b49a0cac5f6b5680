"""``mnemosyne queue``: what waits where, and what to do with what was set aside."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from mnemo_coord import errors
from mnemo_coord.cli.commands import Common, common
from mnemo_coord.cli.fleets import looking
from mnemo_coord.cli.output import document, line, table, talk
from mnemo_coord.display import json_line

if TYPE_CHECKING:
    from mnemo_coord.fleet import Fleet
    from mnemo_coord.messages.fates import Depth, Known
    from mnemo_coord.messages.set_aside import SetAside

_ADDRESS_WIDTH = 32


@click.group("queue", invoke_without_command=True)
@common
@click.pass_context
def command(ctx: click.Context, shared: Common) -> int:
    """Show every mailbox: how many messages wait, are claimed, have expired, and how old the oldest is."""
    ctx.obj = shared
    if ctx.invoked_subcommand is not None:
        return 0
    with looking(shared) as fleet:
        depths = fleet.fates.depths() if fleet else []
        aside = fleet.fates.set_aside() if fleet else []
    if shared.as_json:
        counts = {fate: sum(known.fate == fate for known in aside) for fate in ("dead-lettered", "refused")}
        document({"mailboxes": depths, "dead_lettered": counts["dead-lettered"], "refused": counts["refused"]})
        return 0
    if depths:
        table(("MAILBOX", "WAITING", "CLAIMED", "EXPIRED", "OLDEST"), [_row(depth) for depth in depths])
    else:
        talk("There is no mailbox.")
    if aside:
        talk(f"{len(aside)} message(s) were set aside: `mnemosyne queue show` says which and why.")
    return 0


def _row(depth: Depth) -> tuple[str, ...]:
    name = depth.address if len(depth.address) <= _ADDRESS_WIDTH else f"{depth.address[: _ADDRESS_WIDTH - 1]}…"
    return name, str(depth.waiting), str(depth.claimed), str(depth.expired), _age(depth.oldest)


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 120:
        return f"{seconds:.0f}s"
    return f"{seconds / 60:.0f}min" if seconds < 7200 else f"{seconds / 3600:.0f}h"


@command.command("show")
@click.argument("what", required=False)
@common
def show(shared: Common, *, what: str | None) -> int:
    """Show single messages with their fate.

    Those that were set aside, or those at an ADDRESS, or one by its id or file name.
    """
    with looking(shared) as fleet:
        found = _find(fleet, what) if fleet else []
    if what is not None and not found:
        raise errors.NotFound(f"there is no message at or called {what!r}", hint="`mnemosyne queue` lists the mailboxes")
    if shared.as_json:
        document(found)
        return 0
    for known in found:
        _tell(known)
    if not found:
        talk("Nothing was set aside.")
    return 0


def _find(fleet: Fleet, what: str | None) -> list[Known]:
    if what is None:
        return fleet.fates.set_aside()
    return fleet.fates.of_address(what) or fleet.fates.of_message(what)


def _tell(known: Known) -> None:
    facts = [
        known.fate,
        known.id or known.file,
        f"for {known.address}" if known.address else "",
        f"by {known.claimed_by}" if known.claimed_by else "",
        f"delivery {known.delivery}" if known.delivery > 1 else "",
        f"{_age(known.age)} ago" if known.age is not None else "",
    ]
    line("  ".join(filter(None, facts)))
    if known.message:
        message = known.message
        line(f"    {message.message_type}  from {message.from_agent}  {json_line(message.payload)}")
    if known.reason:
        line(f"    because: {known.reason}")


_names = click.argument("names", metavar="[MESSAGE]...", nargs=-1)
_everything = click.option("--all", "everything", is_flag=True, help="Everything that was set aside.")


@command.command("requeue")
@_names
@_everything
@click.option("--to", "address", metavar="ADDRESS", help="Into this mailbox instead of the one that it was for.")
@common
def requeue(shared: Common, *, names: tuple[str, ...], everything: bool, address: str | None) -> int:
    """Put back what was set aside.

    Each MESSAGE, given by id or file name, goes into its mailbox again.
    """
    from mnemo_coord.messages import set_aside
    from mnemo_coord.messages.address import Address

    if address is not None:
        Address.parse(address)

    def put_back(fleet: Fleet, entry: SetAside) -> dict[str, str]:
        return {"address": set_aside.requeue(entry, fleet.state, fleet.sender, address)}

    return _each(shared, names, put_back, everything=everything, done="requeued")


@command.command("drop")
@_names
@_everything
@click.option("--yes", is_flag=True, help="Do it; otherwise only show what would be dropped.")
@common
def drop(shared: Common, *, names: tuple[str, ...], everything: bool, yes: bool) -> int:
    """Remove what was set aside, for good.

    Each MESSAGE is given by id or file name.
    """
    from mnemo_coord.messages import set_aside

    def remove(fleet: Fleet, entry: SetAside) -> dict[str, str]:
        if yes:
            set_aside.drop(entry, fleet.state)
        return {}

    outcome = _each(shared, names, remove, everything=everything, done="dropped" if yes else "would be dropped")
    if not yes:
        talk("Nothing was dropped: --yes does it.")
    return outcome if yes else 1


def _each(
    shared: Common, names: tuple[str, ...], act: Callable[[Fleet, SetAside], dict[str, str]], *, everything: bool, done: str
) -> int:
    """Does something to each of the entries that are meant, and tells what; 1 when some failed."""
    from mnemo_coord.fleet import Fleet
    from mnemo_coord.messages import set_aside

    if bool(names) is everything:
        raise click.UsageError("Give either messages or --all; `mnemosyne queue show` lists them.")
    outcomes, failures = [], 0
    with Fleet.open(shared.dir, create=False) as fleet:
        fleet.state.writable = True
        now = fleet.clock.wall_ns()
        if everything:
            entries = list(set_aside.entries(fleet.state, fleet.signer, now))
        else:
            entries = [set_aside.find(fleet.state, fleet.signer, name, now) for name in dict.fromkeys(names)]
        for entry in entries:
            what = entry.message.id if entry.message else entry.file
            try:
                more = act(fleet, entry)
            except errors.CoordinationError as error:
                failures += 1
                outcomes.append({"file": entry.file, "outcome": "failed", "reason": error.message})
                talk(f"mnemosyne: {what}: {error.message}")
            else:
                outcomes.append({"file": entry.file, "outcome": done, **more})
                if not shared.as_json:
                    line("  ".join([done, what, *more.values()]))
    if shared.as_json:
        document(outcomes)
    return 1 if failures else 0
