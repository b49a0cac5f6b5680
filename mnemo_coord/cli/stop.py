"""``mnemosyne stop``: ends an instance, to its last process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mnemo_coord import errors
from mnemo_coord.cli.commands import Common, common
from mnemo_coord.cli.naming import with_name
from mnemo_coord.cli.output import document, talk
from mnemo_coord.cli.progress import Progress

if TYPE_CHECKING:
    from mnemo_coord.instances.named import Named
    from mnemo_coord.supervise.tenure import Tenure

__all__ = ["command", "named_instance", "stop"]


def named_instance(name: str) -> Named:
    """The instance of the project here that has this name.

    Raises:
        errors.NotFound: there is no project, or no such instance.
    """
    from mnemo_coord.cli.here import project_here
    from mnemo_coord.instances.named import Instances

    return Instances(project_here()).get(name)


@click.command("stop")
@with_name(required=True)
@common
def command(shared: Common, *, name: str) -> int:
    """End all services of an instance, to their last process: SIGTERM, then after their grace SIGKILL.

    It is done when nothing of them runs any more, also what a launcher that was killed has left. Nobody else is ever signalled,
    and its queue of jobs is not touched.
    """
    named = named_instance(name)
    before = stop(named, quiet=shared.as_json)
    if shared.as_json:
        document({"name": named.name, "was": before.status, "services": sorted(before.services)})
    else:
        talk(f"{named.name} {'is stopped' if before.start_id else 'was not running'}")
    return 0


def stop(named: Named, *, quiet: bool) -> Tenure:
    """Ends an instance and says what is waited for. Returns what it was before.

    Raises:
        errors.Conflict: somebody else uses one of its ports now.
    """
    from mnemo_coord.holdings.ports import owner_of
    from mnemo_coord.holdings.reservations import listening_ports
    from mnemo_coord.supervise import launch

    states: dict[str, str] = {}
    with Progress(quiet=quiet) as progress:

        def waiting(services: object) -> None:
            for service, record in dict(services).items():  # type: ignore[call-overload]
                if states.get(service) != record.state:
                    states[service] = record.state
                    progress.tell(service, record.state, waits=record.state.runs)

        before = launch.stop(named.name, named.workspace, waiting=waiting)
    heard = listening_ports()
    for service, record in before.services.items():
        if record.port in heard:
            what = f"{service}'s port {record.port} is used by {owner_of(record.port) or 'another process'}"
            raise errors.Conflict(what, hint="that is none of ours, and is left alone", holder=None)
    return before
