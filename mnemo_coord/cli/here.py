"""The instance that is meant around the current directory, as ``env``, ``render``, ``compose`` and ``run`` need it."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mnemo_coord import errors
from mnemo_coord.cli.output import talk

if TYPE_CHECKING:
    from mnemo_coord.instances.compose import Compose
    from mnemo_coord.instances.named import Named
    from mnemo_coord.instances.project import Project
    from mnemo_coord.instances.slots import Allocation, Checkout, Slot

__all__ = ["Enabling", "Here", "instance_here", "is_instance", "project_here", "take_singletons", "warn_unscoped"]

_ENABLE = "--enable-"


class Enabling(click.Command):
    """A command whose ``--enable-NAME`` is ``--enable NAME``: singletons have names that only a project knows."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Reads the words of a command line."""
        own = [f"--enable={word.removeprefix(_ENABLE)}" if word.startswith(_ENABLE) else word for word in args]
        return super().parse_args(ctx, own)


@dataclass(frozen=True, slots=True)
class Here:
    """The instance that is meant."""

    project: Project
    slot: Slot
    surroundings: dict[str, str]
    """Our environment without what was exported before, and what a person has set for the instance."""
    named: Named | None = None
    """None where it is that of a checkout, without a workspace."""
    own: dict[str, str] = field(default_factory=dict)
    """What its ``.env`` sets and our environment does not, and what it is told of itself."""

    def variables(self, held: Collection[str] | None = None) -> dict[str, str]:
        """Its variables; see `mnemo_coord.instances.environment.variables`."""
        from mnemo_coord.instances import environment

        slot = self.slot
        computed = environment.variables(self.project, slot.slot, slot.name, slot.ports, self.surroundings, held)
        return {**self.own, **computed}

    def compose(self) -> Compose:
        """Its compose files.

        Raises:
            errors.CoordinationError: one is not there, is not YAML, or cannot be read.
        """
        from mnemo_coord.instances import compose

        return compose.read(self.project, self.slot, self.variables(), self.surroundings)

    def remind(self) -> None:
        """Says that the override of compose files is not there. Docker Compose refuses then, but podman-compose goes on."""
        from mnemo_coord.instances.environment import compose_files

        for path in compose_files(self.project, self.slot.slot)[-1:]:
            if not path.exists():
                talk(f"mnemosyne: {path} is not there (`mnemosyne render` writes it)")


def project_here() -> Project:
    """The project around the current directory.

    Raises:
        errors.CoordinationError: there is none, or its file is not valid.
    """
    from mnemo_coord.instances import environment
    from mnemo_coord.instances.project import find

    return find(environ=environment.given(os.environ))


def is_instance(name: str) -> bool:
    """Whether there is a project here with an instance of this name.

    Raises:
        errors.CoordinationError: a file that says so is not valid.
    """
    from mnemo_coord.instances.named import Instances

    try:
        project = project_here()
    except errors.NotFound:
        return False
    return any(one.name == name for one in Instances(project).all())


def instance_here(name: str | None = None) -> Here:
    """A named instance, or the one of this checkout, which is the default one in a project with a ``home:``.

    Its slot is allocated where it has none. Says what was passed over.

    Raises:
        errors.NotFound: there is no project, or no such instance.
        errors.CoordinationError: a file is not valid or would have to be trusted, or no slot is free.
    """
    from mnemo_coord.instances import environment
    from mnemo_coord.instances.slots import recognise
    from mnemo_coord.instances.trust import Trust, powerful

    project, surroundings = project_here(), environment.given(os.environ)
    strong = powerful(project)
    if strong:
        Trust().require(project, f"it sets {', '.join(strong)}, by which other programs can be made to run something")
    checkout = recognise(project, surroundings, Path(os.path.realpath(os.getcwd())))
    name = name or _inherited(project, surroundings)
    if name is None and not (project.home and checkout.source == "default"):
        return _of_checkout(project, checkout, surroundings)
    return _named(project, name, surroundings)


def _inherited(project: Project, surroundings: dict[str, str]) -> str | None:
    """The instance that this process was started for: its slot is in our environment, and is not asked for anew."""
    from mnemo_coord.instances.named import Instances

    workspace = surroundings.get("MNEMOSYNE_WORKSPACE")
    found = Instances(project).all() if workspace else []
    return next((one.name for one in found if str(one.workspace) == workspace), None)


def _of_checkout(project: Project, checkout: Checkout, surroundings: dict[str, str]) -> Here:
    from mnemo_coord.instances.slots import Slots

    allocation = Slots().allocate(project, checkout)
    _say(allocation, allocation.passed_over)
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


def _named(project: Project, name: str | None, surroundings: dict[str, str]) -> Here:
    from mnemo_coord.instances.named import DEFAULT, Instances
    from mnemo_coord.instances.workspace import make, variables

    instances = Instances(project)
    named, allocation = instances.allocate(name or DEFAULT)
    _say(allocation, instances.notes)
    workspace = make(named, project)
    told, values = variables(named, project), workspace.values(surroundings)
    _require_trust(project, named, [variable for variable in values if variable not in told])
    fresh = {variable: value for variable, value in values.items() if variable not in surroundings}
    return Here(project, allocation.slot, {**values, **surroundings}, named, {**fresh, **told})


def _say(allocation: Allocation, notes: Collection[str]) -> None:
    for note in notes:
        talk(f"mnemosyne: {note}")
    if allocation.passed_over and notes:
        talk(f"mnemosyne: {allocation.slot.name} has slot {allocation.slot.slot} instead, and keeps it")


def _require_trust(project: Project, named: Named, variables: Collection[str]) -> None:
    """A workspace inside of a checkout may have come with it: what is set there is somebody else's text, as its file is."""
    from mnemo_coord.instances.trust import Trust, strong

    found = strong(variables) if named.workspace.is_relative_to(project.root) else ()
    if found:
        Trust().require(project, f"{named.workspace / '.env'} sets {', '.join(found)}")
