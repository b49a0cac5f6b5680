"""Usage: what the process of an instance takes of the machine, for people who look.

Measured from outside by whoever shows it; nothing is written down and nothing rests on it.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mnemo_coord.disk.clock import namespace

if TYPE_CHECKING:
    from mnemo_coord.members.registration import Registration

__all__ = ["Meter", "Usage"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What one process takes."""

    cpu_percent: float | None
    """Of one core, since the last look; None at the first."""
    rss: int
    """Resident memory in bytes."""


class Meter:
    """Measures processes again and again; a share of the processor is what was used between two looks."""

    def __init__(self) -> None:
        self._processes: dict[str, Any] = {}

    def measure(self, living: Iterable[Registration]) -> dict[str, Usage]:
        """The usage of those of them whose process can be seen from here, by id."""
        import psutil

        kept, found = {}, {}
        for registration in living:
            instance_id, process = registration.instance_id, registration.process
            if process.pid_namespace != namespace("pid"):
                continue
            with suppress(psutil.Error):
                seen = self._processes.get(instance_id)
                kept[instance_id] = seen or psutil.Process(process.pid)
                found[instance_id] = _usage(kept[instance_id], first=seen is None)
        self._processes = kept
        return found


def _usage(process: Any, *, first: bool) -> Usage:
    with process.oneshot():
        share = process.cpu_percent(None)
        return Usage(cpu_percent=None if first else share, rss=process.memory_info().rss)
