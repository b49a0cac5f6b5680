"""``mnemosyne render``: the files that differ between instances."""

from __future__ import annotations

import click

from mnemo_coord.cli.commands import Common, common
from mnemo_coord.cli.naming import with_name
from mnemo_coord.cli.output import document, line

__all__ = ["command"]


@click.command("render")
@common
@with_name(required=False)
def command(shared: Common, *, name: str | None) -> int:
    """Write the files of this checkout's instance, or of a named one, from the project's templates, and print their paths.

    Only the variables that a template names are replaced. A file that would be the same is not touched.
    """
    from mnemo_coord.cli.here import instance_here
    from mnemo_coord.instances.templates import render

    here = instance_here(name)
    filled = {"slot": str(here.slot.slot), "name": here.slot.name, "project": here.project.name}
    written = [str(path) for path in render(here.project, here.variables(), filled)]
    if shared.as_json:
        document(written)
    for path in written if not shared.as_json else ():
        line(path)
    return 0
