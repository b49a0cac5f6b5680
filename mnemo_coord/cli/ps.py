"""``mnemosyne ps``: what an instance has started and still runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mnemo_coord import errors
from mnemo_coord.cli.commands import Common, common
from mnemo_coord.cli.output import document, table, talk
from mnemo_coord.cli.whose import own_instance

if TYPE_CHECKING:
    from mnemo_coord.instances.named import Named

__all__ = ["command"]


@click.command("ps")
@click.option("--name", metavar="NAME", help="The instance. [the one that the shell is in]")
@click.option("--shared-processes", "every", is_flag=True, help="Also those of the project's other instances; only to look at.")
@common
def command(shared: Common, *, name: str | None, every: bool) -> int:
    """Show what an instance has started and still runs: its services and its jobs.

    `mnemosyne list` shows who is in the fleet, `mnemosyne instances` which instances there are, `mnemosyne kill` ends one of
    these.
    """
    instances, named = own_instance(name)
    meant = [named, *(one for one in instances.all() if one.name != named.name)] if every else [named]
    found = [entry for one in meant for entry in _of(one, own=one.name == named.name)]
    if shared.as_json:
        document(found)
    elif found:
        header = ("PID", "WHAT", "STATE", "SINCE", "COMMAND")
        table((*(("INSTANCE", "OWN") if every else ()), *header), [_row(entry, every=every) for entry in found])
    else:
        talk(f"{named.name} runs nothing.")
    return 0


def _of(one: Named, *, own: bool) -> list[dict[str, Any]]:
    from mnemo_coord.supervise.inventory import inventory

    try:
        entries = inventory(one.name, one.workspace)
    except errors.State as error:
        if own:
            raise
        talk(f"mnemosyne: {one.name}: {error.message}")  # one of them is no reason not to show the others
        return []
    return [
        {
            "instance": entry.instance,
            "own": own,
            "kind": entry.kind,
            "name": entry.name,
            "state": entry.state,
            "pid": entry.pid,
            "since": entry.since,
            "command": entry.command,
            "processes": entry.pids,
        }
        for entry in entries
    ]


def _row(entry: dict[str, Any], *, every: bool) -> tuple[str, ...]:
    whose = (entry["instance"], "yes" if entry["own"] else "no") if every else ()
    what = f"{entry['kind']} {entry['name']}"
    return (*whose, str(entry["pid"]), what, entry["state"], entry["since"], entry["command"])
