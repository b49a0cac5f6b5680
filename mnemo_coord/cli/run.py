"""``mnemosyne run``: any program, in any language, as an instance."""

from __future__ import annotations

import click

from mnemo_coord.cli.commands import Common, common

__all__ = ["command"]


@click.command("run", context_settings={"ignore_unknown_options": False})
@click.option("--name", metavar="NAME", envvar="MNEMOSYNE_INSTANCE", help="Whose place it takes.")
@click.option("--role", "roles", metavar="ROLE", multiple=True, help="What it can do. May be given several times.")
@click.argument("argv", nargs=-1, required=True, metavar="-- COMMAND…")
@common
def command(shared: Common, *, name: str | None, roles: tuple[str, ...], argv: tuple[str, ...]) -> int:
    """Run COMMAND as an instance: registered and beating as long as it runs, with its project's environment.

    Signals are passed on, and its exit code becomes ours. In it, `mnemosyne report`, `branch` and `send` speak for it.
    """
    from mnemo_coord.coordinator import Coordinator
    from mnemo_coord.supervise.process import run_in_foreground

    surroundings = _environment()
    with Coordinator(shared.dir, name=name, roles=roles) as me:
        own = {"MNEMOSYNE_DIR": str(me.fleet.state.path), "MNEMOSYNE_INSTANCE": me.name or me.instance_id}
        return run_in_foreground(argv, {**surroundings, **own})


def _environment() -> dict[str, str]:
    """Ours, and that of the instance of the project here, where there is one."""
    import os

    from mnemo_coord import errors
    from mnemo_coord.cli.here import instance_here
    from mnemo_coord.instances import environment

    try:
        wanted = instance_here()[2]
    except errors.NotFound:
        return dict(os.environ)
    return environment.given(os.environ) | wanted
