"""The fleet that a command looks at, and the instance in it that a command speaks for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mnemo_coord import errors

if TYPE_CHECKING:
    from mnemo_coord.cli.commands import Common
    from mnemo_coord.fleet import Fleet
    from mnemo_coord.members.registration import Registration

__all__ = ["looking", "speaker", "worktree_owner"]


@contextmanager
def looking(shared: Common) -> Iterator[Fleet | None]:
    """The fleet, opened for reading; None where there is none."""
    from mnemo_coord.fleet import Fleet

    try:
        fleet = Fleet.open(shared.dir, create=False)
    except errors.NotFound:
        yield None
        return
    with fleet:
        yield fleet


def worktree_owner(fleet: Fleet) -> str | None:
    """The id of the instance whose worktree the current directory is in; None outside of all."""
    from mnemo_coord.disk.state_dir import WORKTREES

    place, here = fleet.state.path / WORKTREES, Path(os.path.realpath(os.getcwd()))
    return here.relative_to(place).parts[0] if here.is_relative_to(place) and here != place else None


def speaker(fleet: Fleet, who: str | None) -> Registration:
    """The instance that a command speaks for: the one named, that of the worktree it runs in, or the only one there is.

    Raises:
        errors.NotFound: nobody alive has that id or name.
        errors.Config: none is named, and there is not exactly one.
    """
    who = worktree_owner(fleet) if who is None else who
    if who is not None:
        return fleet.find(who)
    living = [instance.instance_id for instance in fleet.instances() if instance.status.lives]
    if len(living) != 1:
        what = "there is no live instance" if not living else f"{len(living)} instances live: whom is this for?"
        raise errors.Config(what, hint="--for INSTANCE, or the variable MNEMOSYNE_INSTANCE", key="for")
    return fleet.find(living[0])
