"""``mnemosyne rm``: removes a named instance."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from mnemo_coord import errors
from mnemo_coord.cli.commands import Common, common
from mnemo_coord.cli.naming import with_name
from mnemo_coord.cli.output import document, talk

if TYPE_CHECKING:
    from mnemo_coord.disk.trees import Tree
    from mnemo_coord.instances.named import Named

__all__ = ["command"]

_PATIENCE = 1.0
"""Seconds for which somebody who starts it is waited for."""


@click.command("rm")
@click.option("--workspace", "whole", is_flag=True, help="Also its workspace, with all that is in it.")
@click.option("--yes", is_flag=True, help="Do it; otherwise only show what would be done.")
@common
@with_name(required=True)
def command(shared: Common, *, name: str, whole: bool, yes: bool) -> int:
    """Remove a named instance: its entry in instances.yaml, and its slot. It must not run.

    Its workspace stays, unless --workspace is given; one that was there before the instance always does.
    """
    from mnemo_coord.cli.here import project_here
    from mnemo_coord.instances import removal
    from mnemo_coord.instances.named import DEFAULT, Instances
    from mnemo_coord.supervise.tenure import starting

    instances = Instances(project_here())
    if name == DEFAULT:
        raise errors.Config("the default instance has no entry to remove", hint="remove its folder by hand", key="instance")
    named = instances.get(name)
    _refuse_running(named)
    _refuse_worked(named)
    tree = removal.check(instances, named) if whole else None
    if yes:
        with ExitStack() as stack:
            if os.path.lexists(named.workspace):
                stack.enter_context(starting(named.name, named.workspace, _PATIENCE))  # nobody starts it meanwhile
                _refuse_running(named, locked=True)
                _refuse_worked(named)
            if whole:
                removal.remove(instances, named)
            instances.remove(name)
    _tell(shared, {"name": name, "file": str(instances.file), "slot": named.slot}, named, tree, done=yes)
    return 0 if yes else 1


def _refuse_running(named: Named, *, locked: bool = False) -> None:
    """``locked``: it is us who hold the start lock, so that this alone says nothing."""
    from mnemo_coord.supervise.tenure import Status, look

    tenure = look(named.workspace)
    if tenure.status is not Status.STOPPED and not (locked and not tenure.start_id):
        who = f", process {tenure.pid}" if tenure.pid else ""
        raise errors.Conflict(
            f"{named.name} is {tenure.status}{who}", hint=f"`mnemosyne stop {named.name}` first", holder=tenure.pid
        )


def _refuse_worked(named: Named) -> None:
    from mnemo_coord.supervise import orders
    from mnemo_coord.supervise.backlog import Backlog

    backlog = Backlog(named.name, named.workspace)
    runner = backlog.runner()
    if runner is not None:
        what = f"the queue of {named.name} is worked{f' by process {runner}' if runner else ''}"
        raise errors.Conflict(what, hint="end that first", holder=runner)
    running = [job.id for job in orders.view(backlog).jobs if job.status.counts]
    if running:
        hint = f"`mnemosyne jobs clean --name {named.name}` ends them"
        raise errors.Conflict(f"jobs of {named.name} still run: {', '.join(running)}", hint=hint, holder=None)


def _tell(shared: Common, known: dict[str, Any], named: Named, tree: Tree | None, *, done: bool) -> None:
    if shared.as_json:
        place = {"workspace": str(named.workspace), "files": tree.files, "bytes": tree.size} if tree else {"workspace": None}
        document({**known, **place, "removed": done})
        return
    would = "removed" if done else "would remove"
    talk(f"{would} {named.name} from {known['file']}, and slot {named.slot}")
    if tree:
        talk(f"{would} {named.workspace} with {tree.files} files, {tree.size} bytes")
    else:
        talk(f"{named.workspace} stays" + ("" if done else ": --workspace is for it"))
    if not done:
        talk("Nothing was removed: --yes does it.")
