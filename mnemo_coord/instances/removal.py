"""Removing the workspace of an instance: what must hold before, decided without touching anything."""

from __future__ import annotations

import os
from pathlib import Path

from mnemo_coord import errors
from mnemo_coord.disk import trees
from mnemo_coord.instances.ledger import data_dir
from mnemo_coord.instances.named import Instances, Named
from mnemo_coord.instances.workspace import Workspace

__all__ = ["check", "remove"]


def check(instances: Instances, named: Named) -> trees.Tree:
    """What would be removed with a workspace.

    Raises:
        errors.Conflict: it must stay: we have not made it, or it holds something that is not this instance's alone.
        errors.State: it cannot be read.
    """
    path = named.workspace
    try:
        why = _why_not(instances, named) if os.path.lexists(path) else ""
        found = trees.measure(path) if not why else trees.Tree(files=0, size=0, mounted=())
    except OSError as error:
        raise errors.State.at(error.filename or path, (error.strerror or str(error)).lower()) from None
    if found.mounted:
        why = f"another file system is mounted at {found.mounted[0]}"
    if why:
        raise errors.Conflict(f"{path} stays: {why}", hint="leave out --workspace, and remove by hand what may go", holder=None)
    return found


def _why_not(instances: Instances, named: Named) -> str:
    path = named.workspace
    if path.is_symlink() or not path.is_dir():
        return "it is not a folder"
    if not Workspace(path).made:
        return "it was there before the instance was made"
    if os.path.lexists(path / ".git"):
        return "it is the root of a repository"
    others = {f"the workspace of {one.name}": one.workspace for one in instances.all() if one.name != named.name}
    fixed = {
        "your home folder": Path(os.path.expanduser("~")),
        "the project": instances.project.root,
        "instances.yaml": instances.file,
        "the current folder": Path(os.getcwd()),
        "the data folder": data_dir(),
    }
    for what, place in (fixed | others).items():
        if Path(os.path.realpath(place)).is_relative_to(path):
            return f"{what} is in it" if Path(os.path.realpath(place)) != path else f"it is {what}"
    return ""


def remove(instances: Instances, named: Named) -> None:
    """Removes a workspace with all that is in it, after `check`.

    Raises:
        errors.Conflict: see `check`.
        errors.State: something in it cannot be removed.
    """
    check(instances, named)
    try:
        if os.path.lexists(named.workspace):
            trees.remove(named.workspace)
    except OSError as error:
        raise errors.State.at(error.filename or named.workspace, (error.strerror or str(error)).lower()) from None
