"""``mnemosyne init``: begins a project."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

import click

from mnemo_coord import errors
from mnemo_coord.cli.commands import Common, common
from mnemo_coord.cli.output import document, line

__all__ = ["command"]

_TEXT: Final = """\
# What an instance of this project consists of. Each checkout gets a slot of its own, and with it ports that nobody else has:
#   eval "$(mnemosyne env)"
project: {name}

stride: 1000                # between the ports of two slots
slots: 10                   # 0 is that of the main checkout

#instance:
#  variable: MNEMOSYNE_SLOT             # asks for a slot
#  path: worktrees/{name}/              # what follows in the path of a checkout is its name
#  prefer: hash                         # or first

services:                   # each gets <NAME>_PORT; the first one also PORT
  web: {{port: 8000}}
#  postgres: {{port: 5432, short: pg, variable: PGPORT}}

environment:                # {{slot}} {{name}} {{project}} {{root}} {{ports.web}} {{env.OTHER}}
  DATA_DIR: .data/{{slot}}
#  DATABASE: {{numbered: {name}}}                                                     # {name}_3
#  DATABASE_URL: {{url: "postgresql://app@localhost/{{env.DATABASE}}", port: postgres}}
#  MAILER_ENABLED: {{singleton: mailer}}

#singletons:
#  mailer: {{slot: 0}}        # true in one slot only

#scope:                     # a name under which everything is stored
#  variable: {upper}_INSTANCE
#  root: ~/.{name}

#stores:
#  orders: orders.db
"""


@click.command("init")
@click.option("--project", is_flag=True, required=True, help="Write a mnemosyne.yaml with comments into this folder.")
@common
def command(shared: Common, *, project: bool) -> int:
    """Begin a project: write a mnemosyne.yaml. One that is there is left as it is (exit 4)."""
    from mnemo_coord.instances.project import FILE

    folder = Path(os.path.realpath(os.getcwd()))
    name = re.sub(r"[^A-Za-z0-9_-]", "-", folder.name).strip("-_") or "project"
    path = folder / FILE
    try:
        with path.open("x") as stream:
            stream.write(_TEXT.format(name=name[:64], upper=name.upper().replace("-", "_")))
    except FileExistsError:
        raise errors.Conflict(f"{path} is there already", hint="it is left as it is", path=str(path)) from None
    if shared.as_json:
        document({"path": str(path)})
    else:
        line(str(path))
    return 0
