"""The instance of the project around the current directory, as ``env`` and ``render`` need it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from mnemo_coord.cli.output import talk

if TYPE_CHECKING:
    from mnemo_coord.instances.project import Project
    from mnemo_coord.instances.slots import Slot

__all__ = ["instance_here"]


def instance_here() -> tuple[Project, Slot, dict[str, str]]:
    """The project, the slot of this checkout, allocated where it has none, and its variables. Says what was passed over.

    Raises:
        errors.CoordinationError: there is no project, its file is not valid, or no slot is free.
    """
    from mnemo_coord.instances import environment
    from mnemo_coord.instances.project import find
    from mnemo_coord.instances.slots import Slots, recognise

    project, surroundings = find(), environment.given(os.environ)
    checkout = recognise(project, surroundings, Path(os.path.realpath(os.getcwd())))
    allocation = Slots().allocate(project, checkout)
    for reason in allocation.passed_over:
        talk(f"mnemosyne: {reason}")
    if allocation.passed_over:
        talk(f"mnemosyne: {checkout.name} has slot {allocation.slot.slot} instead, and keeps it")
    slot = allocation.slot
    return project, slot, environment.variables(project, slot.slot, checkout.name, slot.ports, surroundings)
