"""``mnemosyne scope``: which name applies here, where it came from, and where each store lies."""

from __future__ import annotations

import os
from pathlib import Path

import click

from mnemo_coord.cli.commands import Common, common
from mnemo_coord.cli.output import document, line, talk

__all__ = ["command"]


@click.command("scope")
@common
def command(shared: Common) -> int:
    """Show under which name a program stores what it has here, and where each store lies."""
    from mnemo_coord.instances import environment, scope
    from mnemo_coord.instances.project import find

    project = find()
    found = scope.resolve(project, environment.given(os.environ), Path.cwd())
    loud = scope.warning(project, found)
    if loud:
        talk(f"WARNING: {loud}")
    if shared.as_json:
        document(found)
        return 0
    line(f"name: {found.name or '-'} ({found.source})")
    line(f"root: {found.root}")
    for store, path in found.stores.items():
        line(f"{store}: {path}")
    return 0
