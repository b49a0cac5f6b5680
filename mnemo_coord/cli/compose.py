"""``mnemosyne compose``: which ports compose services get in this instance, and what it would still share with others."""

from __future__ import annotations

import click

from mnemo_coord import errors
from mnemo_coord.cli.commands import Common, common
from mnemo_coord.cli.naming import with_name
from mnemo_coord.cli.output import document, line, table, talk

__all__ = ["command"]


@click.command("compose")
@common
@with_name(required=False)
def command(shared: Common, *, name: str | None) -> int:
    """Show which ports compose services get in an instance, and what it would still share with others (exit 1).

    Nothing is written: `mnemosyne render` writes the override that makes it so.
    """
    from mnemo_coord.cli.here import instance_here
    from mnemo_coord.instances import compose

    here = instance_here(name)
    if not here.project.compose:
        what = f"{here.project.root}: its mnemosyne.yaml names no compose files"
        raise errors.NotFound(what, hint="compose: [docker-compose.yml]", path=str(here.project.root))
    found = here.compose()
    ports, common_to_all = found.ports(), found.shared()
    override = compose.written_already(here.project, here.slot.slot, found)
    if shared.as_json:
        document({"override": str(override) if override else None, "ports": ports, "shared": common_to_all})
        return 1 if common_to_all else 0
    rows = [(one.service, one.at, f"{one.target}/{one.protocol}") for one in ports]
    table(("SERVICE", "HOST", "CONTAINER"), rows)
    for one in common_to_all:
        line(f"shared: {one.line}")
    if override is None:
        talk("mnemosyne: the override is not written, or says something else: mnemosyne render")
    return 1 if common_to_all else 0
