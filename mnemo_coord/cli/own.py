"""``mnemosyne own``: a command that runs while it owns a file."""

from __future__ import annotations

import click

from mnemo_coord.cli.commands import Common, common


@click.command("own", context_settings={"ignore_unknown_options": False})
@click.option("--retry", type=click.FloatRange(min=0), default=0.0, metavar="S", help="Seconds to wait for its owner. [0]")
@click.argument("path")
@click.argument("argv", nargs=-1, required=True, metavar="-- COMMAND…")
@common
def command(shared: Common, *, retry: float, path: str, argv: tuple[str, ...]) -> int:
    """Run COMMAND while holding the owner lock of PATH. Exit 4 and who holds it when it is held, else COMMAND's own code."""
    from mnemo_coord.disk.clock import SystemClock
    from mnemo_coord.holdings.owner import own
    from mnemo_coord.supervise.process import run_in_foreground

    with own(path, SystemClock(), retry=retry):
        return run_in_foreground(argv)
