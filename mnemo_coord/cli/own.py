"""``mnemosyne own``: a command that runs while it owns a file."""

from __future__ import annotations

import shlex

import click

from mnemo_coord.cli.commands import Common, common
from mnemo_coord.cli.output import talk

__all__ = ["command"]

_LONGEST = 80
"""Characters of a command that are shown: a script of a whole page would hide what matters."""


@click.command("own", context_settings={"ignore_unknown_options": False})
@click.option("--retry", type=click.FloatRange(min=0), default=0.0, metavar="S", help="Seconds to wait for its owner. [0]")
@click.argument("path")
@click.argument("argv", nargs=-1, required=True, metavar="-- COMMAND…")
@common
def command(shared: Common, *, retry: float, path: str, argv: tuple[str, ...]) -> int:
    """Run COMMAND while holding the owner lock of PATH. Exit 4 and who holds it when it is held, else COMMAND's own code."""
    from mnemo_coord import errors
    from mnemo_coord.disk.clock import SystemClock
    from mnemo_coord.holdings.owner import own
    from mnemo_coord.supervise.process import run_in_foreground

    try:
        lock = own(path, SystemClock(), retry=retry, component=_shown(argv), variable=lambda: _variable(path))
    except errors.Conflict as error:
        if shared.as_json:
            raise
        talk(f"mnemosyne: ERROR: {error.message}. {error.hint}")
        return error.exit_code
    with lock:
        return run_in_foreground(argv)


def _shown(argv: tuple[str, ...]) -> str:
    text = shlex.join(argv)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _variable(path: str) -> str:
    from mnemo_coord.instances.scope import variable_near

    return variable_near(path)
