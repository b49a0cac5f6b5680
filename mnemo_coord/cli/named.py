"""``mnemosyne instances``: the named instances of a project on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from mnemo_coord import errors
from mnemo_coord.cli.commands import Common, common
from mnemo_coord.cli.output import document, table, talk

if TYPE_CHECKING:
    from mnemo_coord.instances.named import Named
    from mnemo_coord.instances.project import Project

__all__ = ["command", "ports_text"]


@click.command("instances")
@common
def command(shared: Common) -> int:
    """Show the instances of this project: the default one and those with a name, whether they run, and their ports.

    `mnemosyne list` shows who is in a fleet, `mnemosyne slots` the ports of every project.
    """
    from mnemo_coord.cli.here import project_here
    from mnemo_coord.instances.home import tilde
    from mnemo_coord.instances.named import Instances

    project = project_here()
    found = [_described(one) for one in Instances(project).all()]
    if shared.as_json:
        document([{**one, "workspace": str(one["workspace"])} for one in found])
        return 0
    for one in found:
        if one["problem"]:
            talk(f"mnemosyne: {one['name']}: {one['problem']}")
    rows = [
        (one["name"], one["status"], str(one["pid"] or "-"), tilde(one["workspace"]), ports_text(project, one["ports"]))
        for one in found
    ]
    table(("INSTANCE", "STATUS", "PID", "WORKSPACE", "PORTS"), rows, rule=True)
    return 0


def ports_text(project: Project, ports: Mapping[str, int]) -> str:
    """Ports with the short names of their services: ``as:18092,w:19000``."""
    return ",".join(f"{one.short or one.name}:{ports[one.name]}" for one in project.services if one.name in ports) or "-"


def _described(one: Named) -> dict[str, Any]:
    from mnemo_coord.supervise.tenure import look

    status, pid, problem = "unusable", None, None
    try:
        tenure = look(one.workspace)
        status, pid = str(tenure.status), tenure.pid
    except errors.State as error:  # one of them is no reason not to show the others
        problem = f"{error.message} ({error.hint})" if error.hint else error.message
    known = {"name": one.name, "status": status, "pid": pid, "workspace": one.workspace, "ports": one.ports}
    return {**known, "slot": one.slot, "problem": problem}
