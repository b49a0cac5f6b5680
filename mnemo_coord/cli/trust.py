"""``mnemosyne trust``: lets what a project's file says run."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from mnemo_coord.cli.commands import Common, common
from mnemo_coord.cli.output import document, line, talk

if TYPE_CHECKING:
    from mnemo_coord.instances.project import Project

__all__ = ["command"]


@click.command("trust")
@click.option("--yes", is_flag=True, help="Trust it without asking.")
@click.option("--revoke", is_flag=True, help="Trust it no more.")
@common
def command(shared: Common, *, yes: bool, revoke: bool) -> int:
    """Show what the mnemosyne.yaml here would run, and let it. Any later change of the file is asked for anew.

    Without --yes it asks; where there is no terminal to ask on it changes nothing (exit 1 when it is not trusted).
    """
    from mnemo_coord.instances.project import find
    from mnemo_coord.instances.trust import Trust, powerful

    project, trust = find(), Trust()
    if revoke:
        trust.take_back(project)
    elif not trust.holds(project):
        if not shared.as_json:
            _show(project, powerful(project))
        if yes or _agreed():
            trust.give(project)
    trusted = trust.holds(project)
    if shared.as_json:
        runs = {service.name: list(service.command) for service in project.services if service.command}
        found = {"project": project.name, "path": str(project.root), "digest": project.digest, "trusted": trusted}
        document({**found, "commands": runs, "variables": powerful(project)})
    else:
        talk(f"{project.name} is {'' if trusted else 'not '}trusted" + ("" if trusted or revoke else ": --yes trusts it"))
    return 0 if trusted or revoke else 1


def _show(project: Project, variables: tuple[str, ...]) -> None:
    for service in project.services:
        if service.command:
            line(f"{service.name}: {' '.join(map(_word, service.command))}")
    for variable in variables:
        line(f"{variable} is set by it")


def _word(word: str) -> str:
    """A word as one can see where it ends."""
    return word if word and not any(char.isspace() or char in "'\"" for char in word) else repr(word)


def _agreed() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty() and click.confirm("Let it run?", default=False, err=True)
