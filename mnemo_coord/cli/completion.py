"""``mnemosyne completion``: the script that makes a shell complete our commands."""

from __future__ import annotations

import click

from mnemo_coord.cli.commands import Common, common, root


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@common
def command(shared: Common, *, shell: str) -> int:
    """Print the completion script of a shell, to be evaluated in its start-up file."""
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    if found is not None:
        click.echo(found(root, {}, "mnemosyne", "_MNEMOSYNE_COMPLETE").source())
    return 0
