"""``mnemosyne env``: what a program has to know to keep out of the others' way, for a shell to evaluate."""

from __future__ import annotations

import os

import click

from mnemo_coord.cli.commands import Common, common

__all__ = ["command"]


@click.command("env")
@click.option("--format", "form", type=click.Choice(["sh", "fish", "direnv", "dotenv", "json"]), default="sh", help="[sh]")
@common
def command(shared: Common, *, form: str) -> int:
    """Print the environment of the instance of this checkout: eval "$(mnemosyne env)".

    Its slot is allocated the first time and kept. Evaluating it twice, or in another checkout, is like once in a fresh shell.
    """
    import sys

    from mnemo_coord.cli.here import instance_here
    from mnemo_coord.instances import environment

    wanted = instance_here().variables()
    text = environment.FORMATS["json" if shared.as_json else form](wanted, os.environ)
    sys.stdout.write(text + "\n")  # as it is: it is quoted for whoever evaluates it
    sys.stdout.flush()
    return 0
