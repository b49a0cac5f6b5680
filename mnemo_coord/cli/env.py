"""``mnemosyne env``: what a program has to know to keep out of the others' way, for a shell to evaluate."""

from __future__ import annotations

import os

import click

from mnemo_coord.cli.commands import Common, common
from mnemo_coord.cli.naming import with_name

__all__ = ["command"]


@click.command("env")
@click.option("--format", "form", type=click.Choice(["sh", "fish", "direnv", "dotenv", "json"]), default="sh", help="[sh]")
@common
@with_name(required=False)
def command(shared: Common, *, name: str | None, form: str) -> int:
    """Print the environment of the instance of this checkout, or of a named one: eval "$(mnemosyne env)".

    That of a named one has what its .env sets, too. A slot is allocated the first time and kept. Evaluating it twice, or that
    of another instance, is like once in a fresh shell.
    """
    import sys

    from mnemo_coord.cli.here import instance_here
    from mnemo_coord.instances import environment

    here = instance_here(name)
    here.remind()
    text = environment.FORMATS["json" if shared.as_json else form](here.variables(), os.environ)
    sys.stdout.write(text + "\n")  # as it is: it is quoted for whoever evaluates it
    sys.stdout.flush()
    return 0
