"""The instance of the project around the current directory, as ``env``, ``render`` and ``run`` need it."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mnemo_coord.cli.output import talk

if TYPE_CHECKING:
    from mnemo_coord.instances.project import Project
    from mnemo_coord.instances.slots import Slot

__all__ = ["Enabling", "Here", "instance_here", "take_singletons", "warn_unscoped"]

_ENABLE = "--enable-"


class Enabling(click.Command):
    """A command whose ``--enable-NAME`` is ``--enable NAME``: singletons have names that only a project knows."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Reads the words of a command line."""
        own = [f"--enable={word.removeprefix(_ENABLE)}" if word.startswith(_ENABLE) else word for word in args]
        return super().parse_args(ctx, own)


@dataclass(frozen=True, slots=True)
class Here:
    """The instance of this checkout."""

    project: Project
    slot: Slot
    surroundings: dict[str, str]
    """Our environment without what was exported before."""

    def variables(self, held: Collection[str] | None = None) -> dict[str, str]:
        """Its variables; see `mnemo_coord.instances.environment.variables`."""
        from mnemo_coord.instances import environment

        slot = self.slot
        return environment.variables(self.project, slot.slot, slot.name, slot.ports, self.surroundings, held)


def instance_here() -> Here:
    """The instance of this checkout; its slot is allocated where it has none. Says what was passed over.

    Raises:
        errors.CoordinationError: there is no project, its file is not valid or would have to be trusted, or no slot is free.
    """
    from mnemo_coord.instances import environment
    from mnemo_coord.instances.project import find
    from mnemo_coord.instances.slots import Slots, recognise
    from mnemo_coord.instances.trust import Trust, powerful

    project, surroundings = find(), environment.given(os.environ)
    strong = powerful(project)
    if strong:
        Trust().require(project, f"it sets {', '.join(strong)}, by which other programs can be made to run something")
    checkout = recognise(project, surroundings, Path(os.path.realpath(os.getcwd())))
    allocation = Slots().allocate(project, checkout)
    for reason in allocation.passed_over:
        talk(f"mnemosyne: {reason}")
    if allocation.passed_over:
        talk(f"mnemosyne: {checkout.name} has slot {allocation.slot.slot} instead, and keeps it")
    return Here(project, allocation.slot, surroundings)


def take_singletons(here: Here, wanted: Sequence[str], instance_id: str, stack: ExitStack) -> Collection[str]:
    """Takes those that are asked for, and those of this slot that nobody has, until the stack is closed. Returns their names.

    Raises:
        errors.Conflict: another instance has one that is asked for.
    """
    from mnemo_coord.instances.singletons import Singletons

    taken = Singletons.take(here.project, here.slot.slot, here.surroundings, wanted, instance_id)
    stack.callback(taken.release)
    for error in taken.passed_over:
        talk(f"mnemosyne: {error.message}: it is off here")
    return taken.held


def warn_unscoped(project: Project, environ: Mapping[str, str]) -> None:
    """Says loudly when what is started here would store without a name where something is stored already.

    ``environ`` is what it is started with: the project's environment may name it.

    Raises:
        errors.CoordinationError: the name is one that is refused, or the file with it is not valid.
    """
    from mnemo_coord.instances import scope

    loud = scope.warning(project, scope.resolve(project, environ, Path.cwd()))
    if loud:
        talk(f"WARNING: {loud}")
