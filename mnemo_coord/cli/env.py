"""``mnemosyne env``: what a program has to know to keep out of the others' way, for a shell to evaluate."""

from __future__ import annotations

import os
from pathlib import Path

import click

from mnemo_coord.cli.commands import Common, common
from mnemo_coord.cli.output import talk

__all__ = ["command"]


@click.command("env")
@click.option("--format", "form", type=click.Choice(["sh", "fish", "direnv", "dotenv", "json"]), default="sh", help="[sh]")
@common
def command(shared: Common, *, form: str) -> int:
    """Print the environment of the instance of this checkout: eval "$(mnemosyne env)".

    Its slot is allocated the first time and kept. Evaluating it twice, or in another checkout, is like once in a fresh shell.
    """
    import sys

    from mnemo_coord.instances import environment
    from mnemo_coord.instances.project import find
    from mnemo_coord.instances.slots import Slots, recognise

    project, surroundings = find(), environment.given(os.environ)
    checkout = recognise(project, surroundings, Path(os.path.realpath(os.getcwd())))
    allocation = Slots().allocate(project, checkout)
    for reason in allocation.passed_over:
        talk(f"mnemosyne: {reason}")
    if allocation.passed_over:
        talk(f"mnemosyne: {checkout.name} has slot {allocation.slot.slot} instead, and keeps it")
    slot = allocation.slot
    wanted = environment.variables(project, slot.slot, checkout.name, slot.ports, surroundings)
    text = environment.FORMATS["json" if shared.as_json else form](wanted, os.environ)
    sys.stdout.write(text + "\n")  # as it is: it is quoted for whoever evaluates it
    sys.stdout.flush()
    return 0
