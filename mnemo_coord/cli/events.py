"""``mnemosyne events``: what happened in the fleet."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from mnemo_coord import errors
from mnemo_coord.cli.commands import Common, common
from mnemo_coord.cli.output import document, line, talk

if TYPE_CHECKING:
    from mnemo_coord.members.history import Fact

_PAUSE = 0.1


@click.command("events")
@click.option("--follow", is_flag=True, help="Go on with what happens from now, until interrupted.")
@common
def command(shared: Common, *, follow: bool) -> int:
    """Show who came, left and died, oldest first."""
    from mnemo_coord.fleet import Fleet

    try:
        with Fleet.open(shared.dir, create=False) as fleet:
            facts = fleet.departed()
            _show_all(facts, shared, stream=follow)
            while follow:
                time.sleep(_PAUSE)
                newer = fleet.departed()
                _show_all(_after(facts, newer), shared, stream=True)
                facts = newer or facts
    except errors.NotFound as error:
        if follow:
            raise
        if shared.as_json:
            document([])
        else:
            talk(error.message)
    return 0


def _after(seen: list[Fact], now: list[Fact]) -> list[Fact]:
    """What is new; the oldest may have been dropped meanwhile."""
    known = set(seen)
    return [fact for fact in now if fact not in known]


def _show_all(facts: list[Fact], shared: Common, *, stream: bool) -> None:
    if shared.as_json and not stream:
        document(facts)
        return
    for fact in facts:
        if shared.as_json:
            document(fact)
        else:
            name = f" ({fact.name})" if fact.name else ""
            line(f"{fact.at}  {fact.kind}  {fact.instance_id}{name}  pid {fact.pid}")
