"""``mnemosyne init``: makes a named instance, or begins a project."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

import click

from mnemo_coord import errors
from mnemo_coord.cli.commands import Common, common
from mnemo_coord.cli.naming import with_name
from mnemo_coord.cli.output import document, line, talk

__all__ = ["command"]

_TEXT: Final = """\
# What an instance of this project consists of. Each checkout gets a slot of its own, and with it ports that nobody else has:
#   eval "$(mnemosyne env)"
project: {name}

#home: ~/.{name}            # the folder of the default instance; that of dev is ~/.{name}_dev: `mnemosyne init dev`

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

#compose: [docker-compose.yml]          # an override of it is written for each instance

#scope:                     # a name under which everything is stored
#  variable: {upper}_INSTANCE
#  root: ~/.{name}

#stores:
#  orders: orders.db
"""


@click.command("init")
@click.option("--project", is_flag=True, help="Write a mnemosyne.yaml with comments into this folder.")
@click.option(
    "--workspace", metavar="PATH", help="The folder of the instance; by default it is named after the project's home."
)
@click.option("--port", "ports", metavar="SERVICE=N", multiple=True, help="The port of a service. May be given several times.")
@common
@with_name(required=False)
def command(shared: Common, *, name: str | None, project: bool, workspace: str | None, ports: tuple[str, ...]) -> int:
    """Make a named instance of this project, with a workspace, a .env and ports of its own; or begin a project.

    What exists stays as it is: an instance that is there already is shown, a mnemosyne.yaml is left (exit 4).
    """
    if project:
        if name is not None or workspace is not None or ports:
            raise click.UsageError("--project begins a project: an instance of it is made afterwards.")
        return _begin(shared)
    if name is None:
        raise click.UsageError("`init NAME` makes an instance of this project, `init --project` begins a project.")
    return _make(shared, name, workspace, dict(_port(text) for text in ports))


def _port(text: str) -> tuple[str, int]:
    service, _, digits = text.partition("=")
    if not service or not (digits.isascii() and digits.isdecimal() and len(digits) <= 5 and 0 < int(digits) < 65536):
        raise click.UsageError(f"--port is SERVICE=N, with N from 1 to 65535, not {text!r}.")
    return service, int(digits)


def _make(shared: Common, name: str, workspace: str | None, ports: dict[str, int]) -> int:
    from mnemo_coord.cli.here import project_here
    from mnemo_coord.cli.named import ports_text
    from mnemo_coord.instances.home import tilde
    from mnemo_coord.instances.named import Instances
    from mnemo_coord.instances.workspace import make

    if workspace == "":
        raise click.UsageError("--workspace is empty.")
    project = project_here()
    instances = Instances(project)
    named, fresh = instances.add(name, workspace=None if workspace is None else Path(workspace), ports=ports)
    if not fresh:
        named, _ = instances.allocate(name)
    for note in instances.notes:
        talk(f"mnemosyne: {note}")
    make(named, project)
    if shared.as_json:
        known = {"name": named.name, "workspace": str(named.workspace), "ports": named.ports, "slot": named.slot}
        document({**known, "file": str(instances.file), "fresh": fresh})
        return 0
    line(f"{named.name}  {tilde(named.workspace)}  {ports_text(project, named.ports)}")
    if not fresh:
        talk(f"{named.name} was there already, and stays as it is.")
    return 0


def _begin(shared: Common) -> int:
    """Writes a mnemosyne.yaml with comments."""
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
