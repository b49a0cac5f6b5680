"""``mnemosyne render``: the files that differ between instances."""

from __future__ import annotations

import click

from mnemo_coord.cli.commands import Common, common
from mnemo_coord.cli.naming import with_name
from mnemo_coord.cli.output import document, line, talk

__all__ = ["command"]


@click.command("render")
@common
@with_name(required=False)
def command(shared: Common, *, name: str | None) -> int:
    """Write the files of this checkout's instance, or of a named one, and print their paths.

    They are made from the project's templates, in which only the variables are replaced that they name; and one is the override
    of the compose files. A file that would be the same is not touched. What instances would still share is said on stderr.
    """
    from mnemo_coord.cli.here import instance_here
    from mnemo_coord.instances import compose
    from mnemo_coord.instances.templates import render

    here = instance_here(name)
    filled = {"slot": str(here.slot.slot), "name": here.slot.name, "project": here.project.name}
    found = here.compose() if here.project.compose else None
    written = render(here.project, here.variables(), filled)
    if found:
        written.append(compose.write(here.project, here.slot.slot, found))
    if shared.as_json:
        document([str(path) for path in written])
    for path in written if not shared.as_json else ():
        line(str(path))
    for one in found.shared() if found else ():
        talk(f"mnemosyne: shared by all instances: {one.line}")
    return 0
