"""``mnemosyne dashboard``: the address at which a browser gets in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mnemo_coord import errors
from mnemo_coord.cli.commands import Common, common
from mnemo_coord.cli.output import document, line, talk

if TYPE_CHECKING:
    from mnemo_coord.fleet import Fleet
    from mnemo_coord.members.registration import Registration


@click.command("dashboard")
@click.argument("who", metavar="[INSTANCE]", required=False)
@common
def command(shared: Common, *, who: str | None) -> int:
    """Print the address of an instance's web dashboard; by default of the first that has one.

    It is good once, for a minute. INSTANCE is an id or a name. For example: xdg-open "$(mnemosyne dashboard)".
    """
    from mnemo_coord.client import api_of
    from mnemo_coord.fleet import Fleet

    with Fleet.open(shared.dir, create=False) as fleet:
        registration = fleet.find(who) if who else _first(fleet)
        opened = api_of(fleet, registration).call("POST", "/session/codes")
    if shared.as_json:
        document({"instance_id": registration.instance_id, "url": opened["url"], "expires_in": opened["expires_in"]})
        return 0
    line(opened["url"])
    talk(f"Open it in a browser within {opened['expires_in']:.0f} s; it works once.")
    return 0


def _first(fleet: Fleet) -> Registration:
    found = (fleet.find(instance.instance_id) for instance in fleet.instances() if instance.api_url)
    registration = next(found, None)
    if registration is None:
        raise errors.NotFound("no instance serves its API", hint="`mnemosyne serve --with-api` does")
    return registration
