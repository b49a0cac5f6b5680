"""Singletons of a project: what only one of all its instances may do at a time, such as a session with one telephone number.

::

    <data>/singletons/<project>.<name>.lock    the owner lock of whoever has it

They hold across checkouts, so across fleets, and are the kernel's to free: at the death of the holder, however it dies.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

from mnemo_coord import errors
from mnemo_coord.disk.clock import SystemClock
from mnemo_coord.disk.state_dir import StateDir
from mnemo_coord.holdings import owner
from mnemo_coord.instances.ledger import data_dir
from mnemo_coord.instances.project import Project, ValueKind

__all__ = ["Singletons", "hold"]

_FOLDER = "singletons"
_ON = {"1", "true", "yes", "on"}


@dataclass(frozen=True, slots=True)
class Singletons:
    """Those that this instance has."""

    held: dict[str, owner.OwnerLock] = field(default_factory=dict)
    passed_over: list[errors.Conflict] = field(default_factory=list)
    """For those that are usual here, and that another one has at the moment: who that is."""

    @classmethod
    def take(
        cls, project: Project, slot: int, surroundings: Mapping[str, str], wanted: Collection[str], instance_id: str | None
    ) -> Self:
        """Takes what is wanted, by name or by its variable, and what is usual in this slot and not declined by its variable.

        Raises:
            errors.NotFound: the project has no such singleton.
            errors.Conflict: another instance has one that is wanted.
        """
        asked, declined = _said(project, surroundings)
        asked |= set(wanted)
        usual = {name for name, number in project.singletons.items() if number == slot}
        taken = cls()
        for name in sorted(asked | usual - declined):
            try:
                taken.held[name] = hold(project, name, instance_id)
            except errors.Conflict as error:
                if name in asked:
                    taken.release()
                    raise
                taken.passed_over.append(error)
        return taken

    def release(self) -> None:
        """Gives them up. Idempotent."""
        for lock in self.held.values():
            lock.release()


def _said(project: Project, surroundings: Mapping[str, str]) -> tuple[set[str], set[str]]:
    """The singletons that a person has asked for by their variables, and those that were declined."""
    said = {value.text: surroundings.get(value.variable) for value in project.environment if value.kind is ValueKind.SINGLETON}
    wanted = {name for name, text in said.items() if text and text.strip().lower() in _ON}
    return wanted, {name for name, text in said.items() if text} - wanted


def hold(project: Project, name: str, instance_id: str | None) -> owner.OwnerLock:
    """Takes a singleton, until it is released or this process ends.

    Raises:
        errors.NotFound: the project has no such singleton.
        errors.Conflict: another instance has it; the message says which process, where.
        errors.State: the lock cannot be made.
    """
    if name not in project.singletons:
        known = ", ".join(project.singletons) or "none"
        raise errors.NotFound(f"{project.name} has no singleton {name!r}", hint=f"known are {known}", singleton=name)
    folder = data_dir()
    folder.parent.mkdir(parents=True, exist_ok=True)
    state = StateDir.open(folder)
    try:
        state.folder(_FOLDER)
    finally:
        state.close()
    try:
        return owner.own(folder / _FOLDER / f"{project.name}.{name}", SystemClock(), instance_id=instance_id)
    except errors.Conflict as error:
        who = f"process {error.holder}" if error.holder else "another process"
        what = f"{name} of {project.name} is held by {who}{_where(error.holder)}"
        raise errors.Conflict(what, hint="stop it first", holder=error.holder, instance_id=error.instance_id) from None


def _where(pid: int | None) -> str:
    with suppress(OSError):
        return f" in {os.readlink(f'/proc/{pid}/cwd')}" if pid else ""
    return ""
