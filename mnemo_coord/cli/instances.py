"""``mnemosyne list``: who is in the fleet."""

from __future__ import annotations

import gc
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from mnemo_coord import errors
from mnemo_coord.cli.commands import Common, common
from mnemo_coord.cli.output import document, table, talk

if TYPE_CHECKING:
    from mnemo_coord.members.instance import Instance
    from mnemo_coord.roster import Roster

_NAME_WIDTH = 20
_PAUSE = 0.5
"""Seconds between two looks."""


@click.command("list")
@click.option("--all", "everybody", is_flag=True, help="Also those that died lately and have been cleared away.")
@click.option("--watch", is_flag=True, help="Show it again whenever it changes, until interrupted.")
@common
def command(shared: Common, *, everybody: bool, watch: bool) -> int:
    """Show who is in this fleet.

    With --watch and --json, one array a line.
    """
    if not watch:
        gc.disable()  # nothing that a list makes is garbage before it ends, and looking costs a tenth of a thousand lines
    found = _look(shared, everybody=everybody)
    _show(found, shared, redraw=watch)
    while watch:
        time.sleep(_PAUSE)
        found, before = _look(shared, everybody=everybody), found
        on_screen = sys.stdout.isatty() and not shared.as_json
        if on_screen or _steady(found) != _steady(before):  # a file does not want to hear of every heartbeat
            _show(found, shared, redraw=True)
    return 0


def _look(shared: Common, *, everybody: bool) -> list[Instance]:
    from mnemo_coord.roster import Roster

    try:
        with Roster.open(shared.dir) as roster:
            found = roster.instances()
            return found + (_departed(roster, found) if everybody else [])
    except errors.NotFound as error:
        if not shared.as_json:
            talk(f"{error.message} ({error.hint})" if error.hint else error.message)
        return []


def _steady(found: list[Instance]) -> list[Instance]:
    """Without what changes at every heartbeat."""
    return [replace(instance, last_heartbeat=None, heartbeat_age=None) for instance in found]


def _show(found: list[Instance], shared: Common, *, redraw: bool) -> None:
    if shared.as_json:
        document(found)
        return
    if redraw and sys.stdout.isatty():
        sys.stdout.write("\x1b[H\x1b[J")  # home, and clear to the end of the screen
    columns = {
        "BRANCH": [_shortened(instance.branch or "") for instance in found],
        "SAYS": [_said(instance) for instance in found],
    }
    more = {label: cells for label, cells in columns.items() if any(cells)}
    header = ("INSTANCE", "NAME", "STATUS", "PID", "BEAT", "API", *more)
    if found:
        table(header, [(*_row(one), *(cells[place] or "-" for cells in more.values())) for place, one in enumerate(found)])
    else:
        talk("Nobody is here.")


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


def _said(instance: Instance) -> str:
    if instance.report is None:
        return ""
    return f"{instance.report.state}: {instance.report.text}" if instance.report.text else str(instance.report.state)


def _shortened(name: str) -> str:
    """Names may have 64 characters and a terminal 80."""
    return name if len(name) <= _NAME_WIDTH else f"{name[: _NAME_WIDTH - 1]}…"


def _departed(roster: Roster, found: list[Instance]) -> list[Instance]:
    """The dead that history remembers and the registry no longer holds."""
    from mnemo_coord.events import EventKind
    from mnemo_coord.members.instance import Instance
    from mnemo_coord.members.liveness import Verdict

    present = {instance.instance_id for instance in found}
    facts = roster.departed()
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
