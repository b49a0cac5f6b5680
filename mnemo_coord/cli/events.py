"""``mnemosyne events``: what happened in the fleet, and what happens."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from mnemo_coord import errors
from mnemo_coord.cli.commands import Common, common
from mnemo_coord.cli.output import document, line, talk

if TYPE_CHECKING:
    from mnemo_coord.fleet import Fleet
    from mnemo_coord.members.history import Fact

_PAUSE = 0.1


@click.command("events")
@click.option("--follow", is_flag=True, help="Go on with what happens from now, until interrupted.")
@click.option("--of", "who", metavar="INSTANCE", help="What one instance sees and does, its messages too, from its API.")
@common
def command(shared: Common, *, follow: bool, who: str | None) -> int:
    """Show who came, left and died, oldest first; with --follow also what instances say of themselves.

    With --of, the events of one instance (an id or a name) that has an API; that goes on until interrupted, too.
    """
    from mnemo_coord.fleet import Fleet

    try:
        with Fleet.open(shared.dir, create=False) as fleet:
            if who is not None:
                _show(_seen_by(fleet, who), shared)
            elif follow:
                _show(_as_they_happen(fleet), shared)
            else:
                _show_past(fleet.departed(), shared)
    except errors.NotFound as error:
        if follow or who is not None:
            raise
        if shared.as_json:
            document([])
        else:
            talk(error.message)
    return 0


def _seen_by(fleet: Fleet, who: str) -> Iterator[dict[str, Any]]:
    from mnemo_coord.client import api_of

    api = api_of(fleet, fleet.find(who))
    for kind, data in api.stream("/events"):
        if kind == "gap":
            talk("Some events were missed.")
        elif kind != "snapshot":
            yield data


def _as_they_happen(fleet: Fleet) -> Iterator[dict[str, Any]]:
    """What is remembered, in the form of events, then what happens."""
    from mnemo_coord.onlooker import Onlooker

    onlooker = Onlooker(fleet)
    for number, fact in enumerate(onlooker.past, 1):
        data = {"name": fact.name, "pid": fact.pid}
        yield {"id": number, "kind": fact.kind, "at": fact.at, "instance_id": fact.instance_id, "data": data}
    number = len(onlooker.past)
    while True:
        for event in onlooker.news():
            number += 1
            yield {"id": number, "kind": event.kind, "at": event.at, "instance_id": event.instance_id, "data": event.data}
        time.sleep(_PAUSE)


def _show(events: Iterable[dict[str, Any]], shared: Common) -> None:
    for event in events:
        if shared.as_json:
            document(event)
        else:
            details = "  ".join(f"{name} {value}" for name, value in event["data"].items() if value not in {None, ""})
            line(f"{event['at']}  {event['kind']}  {event['instance_id']}  {details}".rstrip())


def _show_past(facts: list[Fact], shared: Common) -> None:
    if shared.as_json:
        document(facts)
        return
    for fact in facts:
        name = f" ({fact.name})" if fact.name else ""
        line(f"{fact.at}  {fact.kind}  {fact.instance_id}{name}  pid {fact.pid}")
