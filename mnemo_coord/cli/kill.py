"""``mnemosyne kill``: ends one process, job or service of one's own instance."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from mnemo_coord import errors
from mnemo_coord.cli.commands import Common, common
from mnemo_coord.cli.output import document, talk
from mnemo_coord.cli.whose import own_instance

if TYPE_CHECKING:
    from mnemo_coord.instances.named import Instances, Named
    from mnemo_coord.instances.project import Project
    from mnemo_coord.supervise.inventory import Entry

__all__ = ["command"]


@click.command("kill")
@click.option("--name", metavar="NAME", help="The instance. [the one that the shell is in]")
@click.argument("process", metavar="PROCESS")
@common
def command(shared: Common, *, name: str | None, process: str) -> int:
    """End PROCESS with all that it has started: a process number, the id of a job, or the name of a service.

    It has to be one that `mnemosyne ps` shows, or one below it. What another instance has started is refused (exit 4), and what
    nobody here has started is never signalled (exit 3). A job is cancelled by it; a service has ended, and is started again if
    its `restart` says so.
    """
    from mnemo_coord.supervise.inventory import Kind, end, find, inventory

    instances, named = own_instance(name)
    target = find(process, inventory(named.name, named.workspace), _others(instances, named))
    entry = target.entry
    ended = end(target, named.workspace, _grace(instances.project, entry))
    if shared.as_json:
        document({"instance": named.name, "kind": entry.kind, "name": entry.name, "ended": ended})
    elif target.process is not None:
        talk(f"{named.name}/{entry.name}: process {process} is ended, the {entry.kind} goes on if it can")
    elif entry.kind is Kind.JOB:
        talk(f"{named.name}/{entry.name}: the job is cancelled")
    else:
        talk(f"{named.name}/{entry.name}: the service has ended; whether it is started again says its `restart`")
    return 0


def _others(instances: Instances, named: Named) -> Iterator[Entry]:
    from mnemo_coord.supervise.inventory import inventory

    for one in instances.all():
        if one.name != named.name:
            with suppress(errors.State):  # what cannot be read there is none of ours
                yield from inventory(one.name, one.workspace)


def _grace(project: Project, entry: Entry) -> float:
    from mnemo_coord.supervise.inventory import Kind

    if entry.kind is Kind.JOB:
        return project.jobs.grace
    return next((service.grace for service in project.services if service.name == entry.name), 10)
