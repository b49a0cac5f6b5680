"""Which named instance is meant by a command that is about its own: the given one, else the one that this is run for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mnemo_coord import errors

if TYPE_CHECKING:
    from mnemo_coord.instances.named import Instances, Named
    from mnemo_coord.instances.project import Project
    from mnemo_coord.supervise.backlog import Backlog

__all__ = ["backlog_of", "own_instance", "own_name", "told_of_itself"]


def own_name(instances: Instances, name: str | None, environ: Mapping[str, str]) -> str:
    """What the instance is called.

    That is ``name``, else what the variable of the project says (``scope.variable``), else ``MNEMOSYNE_INSTANCE``, else the
    instance that this process was started for, else the default one.

    Raises:
        errors.NotFound: a variable says the name of one that there is not.
    """
    from mnemo_coord.instances.named import DEFAULT
    from mnemo_coord.members.identity import is_id

    if name is not None:
        return name
    known = instances.all()
    started_for = next((one.name for one in known if str(one.workspace) == environ.get("MNEMOSYNE_WORKSPACE")), None)
    for variable in dict.fromkeys((instances.project.scope.variable, "MNEMOSYNE_INSTANCE")):
        value = environ.get(variable)
        if value in {one.name for one in known}:
            return str(value)
        # What `run` starts is told its name in the fleet, or its id: that need not be the name of an instance with a workspace.
        if value and not (variable == "MNEMOSYNE_INSTANCE" and (started_for or is_id(value))):
            what = f"{variable} is {value!r}, and {instances.project.name} has no such instance"
            raise errors.NotFound(what, hint=f"`mnemosyne init {value}` makes it; --name says another", name=value)
    return started_for or DEFAULT


def own_instance(name: str | None) -> tuple[Instances, Named]:
    """The instances of the project here, and the one that is meant. Makes nothing.

    Raises:
        errors.NotFound: there is no project, or no such instance.
        errors.CoordinationError: a file that says so is not valid.
    """
    from mnemo_coord.cli.here import project_here
    from mnemo_coord.instances.environment import given
    from mnemo_coord.instances.named import Instances

    instances = Instances(project_here())
    return instances, instances.get(own_name(instances, name, given(os.environ)))


def backlog_of(named: Named) -> Backlog:
    """The queue of an instance."""
    from mnemo_coord.supervise.backlog import Backlog

    return Backlog(named.name, named.workspace)


def told_of_itself(project: Project, named: Named) -> dict[str, str]:
    """The variables by which what is started for an instance means the same one; an empty value stands for none."""
    return {project.scope.variable: "" if named.is_default else named.name}
