"""``mnemosyne report``: what an instance is doing, said by a program that speaks for it."""

from __future__ import annotations

from contextlib import suppress

import click

from mnemo_coord import errors
from mnemo_coord.cli.commands import Common, common
from mnemo_coord.cli.output import document, talk


@click.command("report")
@click.argument("state", metavar="{working|idle|waiting|stuck}")
@click.argument("text", required=False, default="")
@click.option("--as", "who", metavar="INSTANCE", envvar="MNEMOSYNE_INSTANCE", help="Whose: its id or its name.")
@common
def command(shared: Common, *, state: str, text: str, who: str | None) -> int:
    """Say what an instance is doing; dashboards show it, with the TEXT, until it says something else or ends.

    Made for hooks of coding agents: `mnemosyne report waiting "needs a permission"`.
    """
    from mnemo_coord.fleet import Fleet

    if not who:
        raise errors.Config("whose report is it?", hint="--as INSTANCE, or the variable MNEMOSYNE_INSTANCE", key="as")
    with suppress(errors.NotFound), Fleet.open(shared.dir, create=False) as fleet:
        fleet.state.writable = True
        said = fleet.report(who, state, text)
        if shared.as_json:
            document(said)
        else:
            talk(f"{who} is {said.state}" + (f": {said.text}" if said.text else ""))
        return 0
    raise errors.NotFound(f"no live instance is called {who!r}", hint="`mnemosyne list` shows who is alive")
