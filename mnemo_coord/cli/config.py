"""``mnemosyne config show``: every setting, its value and where it came from."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from mnemo_coord.cli.commands import Common, common
from mnemo_coord.cli.output import document, table

if TYPE_CHECKING:
    from mnemo_coord.settings import SourcedSetting


@click.group("config")
@click.pass_context
def command(ctx: click.Context) -> None:
    """Settings."""


@command.command("show")
@common
def show(shared: Common) -> int:
    """Show every setting, its value and where it came from. Secrets are never shown."""
    from mnemo_coord.disk.state_dir import locate
    from mnemo_coord.settings import SECRET_VARIABLE, SourcedSetting, describe

    place = "flag" if shared.dir else "MNEMOSYNE_DIR" if os.environ.get("MNEMOSYNE_DIR") else "default"
    secret = SECRET_VARIABLE if os.environ.get(SECRET_VARIABLE) else "file"
    found = [
        SourcedSetting(name="dir", value=str(locate(shared.dir)), source=place, unit="path", help="The state directory."),
        SourcedSetting(name="secret", value="<redacted>", source=secret, unit="key", help="The fleet's key."),
        *describe(),
        _database(shared),
    ]
    if shared.as_json:
        document(found)
    else:
        table(("SETTING", "VALUE", "SOURCE"), [(item.name, str(item.value), item.source) for item in found])
    return 0


def _database(shared: Common) -> SourcedSetting:
    from mnemo_coord import errors
    from mnemo_coord.disk.state_dir import locate
    from mnemo_coord.memory.place import finder
    from mnemo_coord.settings import SourcedSetting

    text = "The file of the shared memories that applies."
    try:
        place = finder(None, locate(shared.dir))()
    except errors.Config as error:
        return SourcedSetting(name="database", value=error.message, source="none", unit="path", help=text)
    more = f" DATABASE_URL ({place.passed_over}:) is the application's and was passed over." if place.passed_over else ""
    return SourcedSetting(name="database", value=str(place.path), source=place.source, unit="path", help=text + more)
