"""``mnemosyne restart``: ends an instance and runs it again."""

from __future__ import annotations

from typing import Any

import click

from mnemo_coord.cli.commands import Common, common
from mnemo_coord.cli.here import Enabling
from mnemo_coord.cli.naming import with_name
from mnemo_coord.cli.start import start
from mnemo_coord.cli.stop import named_instance, stop

__all__ = ["command"]


@click.command("restart", cls=Enabling)
@with_name(required=True)
@click.option("--mode", metavar="GROUP", help="Run only the services of a group afterwards.")
@click.option("-d", "--detach", is_flag=True, help="Return when it is ready. That is so anyway where it ran in the background.")
@click.option("--enable", "wanted", metavar="SINGLETON", multiple=True, help="Ask for a singleton; also --enable-SINGLETON.")
@common
def command(shared: Common, *, name: str, mode: str | None, detach: bool, **options: Any) -> int:
    """End an instance, if it runs, and run it again."""
    named = named_instance(name)
    before = stop(named, quiet=shared.as_json)
    return start(shared, named.name, mode, {**options, "detach": detach or before.detached, "launched": False})
