"""``mnemosyne slots``: which checkout has which ports, for every project of this user."""

from __future__ import annotations

from pathlib import Path

import click

from mnemo_coord import errors
from mnemo_coord.cli.commands import Common, common
from mnemo_coord.cli.output import document, line, table, talk

__all__ = ["command"]


@click.command("slots")
@click.option("--release", "released", metavar="PATH", help="Give back the slots of a checkout.")
@common
def command(shared: Common, *, released: str | None) -> int:
    """Show which checkout has which slot and ports, for every project of this user on this machine."""
    from mnemo_coord.instances.slots import Slots

    slots = Slots()
    if released is not None:
        given = slots.release(Path(released).resolve())
        if not given:
            raise errors.NotFound(f"{released} has no slot", hint="`mnemosyne slots` shows them", path=released)
        if shared.as_json:
            document(given)
        for slot in given if not shared.as_json else ():
            line(f"slot {slot.slot} of {slot.project} is free")
        return 0
    found = slots.all()
    if shared.as_json:
        document(found)
    elif found:
        rows = [
            (one.project, str(one.slot), one.name, ",".join(map(str, one.ports.values())) or "-", one.root) for one in found
        ]
        table(("PROJECT", "SLOT", "NAME", "PORTS", "CHECKOUT"), rows)
    else:
        talk("No checkout has a slot.")
    return 0
