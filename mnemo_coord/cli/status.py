"""``mnemosyne status``: an instance and its services."""

from __future__ import annotations

import click

from mnemo_coord.cli.commands import Common, common
from mnemo_coord.cli.naming import with_name
from mnemo_coord.cli.output import document, line, table
from mnemo_coord.cli.start import described
from mnemo_coord.cli.stop import named_instance

__all__ = ["command"]


@click.command("status")
@with_name(required=True)
@common
def command(shared: Common, *, name: str) -> int:
    """Show whether an instance runs, the state of its services, and who listens on its ports. Exit 1 when it does not run."""
    from mnemo_coord.holdings.ports import owner_of
    from mnemo_coord.supervise.tenure import Status, look

    named = named_instance(name)
    known = look(named.workspace)
    found = described(named, known)
    found["ports"] = {service: {"port": port, "held_by": owner_of(port) or None} for service, port in named.ports.items()}
    if shared.as_json:
        document(found)
        return 0 if known.status is Status.RUNNING else 1
    line(f"{named.name}: {known.status}" + (f" (PID {known.pid})" if known.pid else ""))
    line(f"workspace: {named.workspace}")
    rows = []
    for service, port in named.ports.items():
        record = known.services.get(service)
        state = str(record.state) if record else "-"
        pid = str(record.pid or "-") if record else "-"
        rows.append((service, state, pid, str(port), found["ports"][service]["held_by"] or "-", record.text if record else ""))
    table(("SERVICE", "STATE", "PID", "PORT", "LISTENER", ""), rows)
    for one in known.processes() if known.status is Status.ORPHANED else ():
        line(f"left by a launcher that was killed: {one.pid} ({one.command})")
    return 0 if known.status is Status.RUNNING else 1
