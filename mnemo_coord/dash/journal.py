"""The event log as a value: the newest 500 lines, and the picture that stays while it is paused."""

from __future__ import annotations

from collections import deque
from typing import Final

from mnemo_coord.dash.filters import Filter
from mnemo_coord.dash.sentences import Entry

__all__ = ["LIMIT", "Journal"]

LIMIT: Final = 500


class Journal:
    """Keeps the newest entries. Paused, it goes on keeping and shows what it showed."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._kept: deque[Entry] = deque(maxlen=limit)
        self._frozen: tuple[Entry, ...] | None = None
        self.held = 0
        """How many came since it was paused."""

    @property
    def paused(self) -> bool:
        """Whether it shows an old picture."""
        return self._frozen is not None

    def add(self, entry: Entry) -> None:
        """Adds the newest."""
        self._kept.append(entry)
        self.held += self.paused

    def toggle(self) -> None:
        """Pauses, or goes on with everything that came meanwhile."""
        self._frozen = None if self.paused else tuple(self._kept)
        self.held = 0

    def shown(self, wanted: Filter) -> list[Entry]:
        """What passes the filter, oldest first."""
        return [entry for entry in (self._kept if self._frozen is None else self._frozen) if wanted.passes(entry)]

    def kinds(self) -> list[str]:
        """The kinds that can be chosen: those that occur."""
        return sorted({entry.kind for entry in self._kept} - {"gap", ""})
