"""``mnemosyne list``: who is in the fleet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mnemo_coord import errors
from mnemo_coord.cli.commands import Common, common
from mnemo_coord.cli.output import document, table, talk

if TYPE_CHECKING:
    from mnemo_coord.fleet import Fleet
    from mnemo_coord.members.instance import Instance

_NAME_WIDTH = 20


@click.command("list")
@click.option("--all", "everybody", is_flag=True, help="Also those that died lately and have been cleared away.")
@common
def command(shared: Common, *, everybody: bool) -> int:
    """Show who is in this fleet."""
    from mnemo_coord.fleet import Fleet

    try:
        with Fleet.open(shared.dir, create=False) as fleet:
            found = fleet.instances() + (_departed(fleet) if everybody else [])
    except errors.NotFound as error:
        if not shared.as_json:
            talk(f"{error.message} ({error.hint})" if error.hint else error.message)
        found = []
    if shared.as_json:
        document(found)
    elif found:
        table(("INSTANCE", "NAME", "STATUS", "PID", "BEAT", "API"), [_row(instance) for instance in found])
    else:
        talk("Nobody is here.")
    return 0


def _row(instance: Instance) -> tuple[str, ...]:
    age = instance.heartbeat_age
    return (
        instance.instance_id,
        _shortened(instance.name or "-"),
        instance.status,
        str(instance.pid or "-"),
        f"{age:.0f}s ago" if age is not None else "-",
        instance.api_url or "-",
    )


def _shortened(name: str) -> str:
    """Names may have 64 characters and a terminal 80."""
    return name if len(name) <= _NAME_WIDTH else f"{name[: _NAME_WIDTH - 1]}…"


def _departed(fleet: Fleet) -> list[Instance]:
    """The dead that history remembers and the registry no longer holds."""
    from mnemo_coord.events import EventKind
    from mnemo_coord.members.instance import Instance
    from mnemo_coord.members.liveness import Verdict

    present = {instance.instance_id for instance in fleet.instances()}
    facts = fleet.departed()
    came = {fact.instance_id: fact.at for fact in facts if fact.kind is EventKind.INSTANCE_REGISTERED}
    died = [fact for fact in facts if fact.kind is EventKind.INSTANCE_DIED and fact.instance_id not in present]
    return [
        Instance(
            instance_id=fact.instance_id,
            name=fact.name,
            roles=(),
            pid=fact.pid,
            status=Verdict.DEAD,
            api_url=None,
            registered_at=came.get(fact.instance_id),
            last_heartbeat=None,
            heartbeat_age=None,
            branch=None,
            worktree_path=None,
        )
        for fact in died
    ]
