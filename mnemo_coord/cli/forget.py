"""``mnemosyne forget``: removes memories."""

from __future__ import annotations

import click

from mnemo_coord.cli.commands import Common, common
from mnemo_coord.cli.output import document, talk
from mnemo_coord.cli.remembering import db_path, opened

__all__ = ["command"]


@click.command("forget")
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@db_path
@common
def command(shared: Common, *, ids: tuple[str, ...], db_path: str | None) -> int:
    """Remove memories by their ids, with their links: all of them, or none where one does not exist."""
    with opened(shared, db_path) as memories:
        removed = memories.forget(*ids)
    if shared.as_json:
        document({"forgotten": list(dict.fromkeys(ids))})
    else:
        talk(f"Forgotten: {removed}.")
    return 0
