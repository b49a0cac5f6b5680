"""The instance of the project around the current directory, as ``env``, ``render`` and ``run`` need it."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mnemo_coord.cli.output import talk

if TYPE_CHECKING:
    from mnemo_coord.instances.project import Project
    from mnemo_coord.instances.slots import Slot

__all__ = ["Here", "instance_here"]


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
