"""The onlooker: somebody who is no instance and sees a fleet through its files alone.

It learns what the files tell: who came, left and died (`members.history`), what instances say of themselves
(`members.reports`), what the doctor finds. What is said between two instances stays between them.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mnemo_coord.members import history
from mnemo_coord.members.reports import Hearing
from mnemo_coord.overview import EXAMINED_EVERY, Overview, Viewer

if TYPE_CHECKING:
    from mnemo_coord.events import Event
    from mnemo_coord.fleet import Fleet

__all__ = ["Onlooker"]


class Onlooker:
    """Looks at one fleet, opened for reading. Used by one thread."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._viewer = Viewer(fleet)
        self._hearing = Hearing(fleet.state, fleet.signer, fleet.events)
        self._hearing.hear_all()  # what was said before it came is no news
        fleet.branch_news.hear_all()
        fleet.edit_news.hear_all()
        self._told = fleet.events.last_id
        self._version = history.version(fleet.state)
        self.past = tuple(fleet.departed())
        """What had happened before it came."""
        self._known = set(self.past)
        self._examined = float("-inf")

    def look(self) -> Overview:
        """The fleet now, with what the doctor found some seconds ago at most.

        Raises:
            errors.State: it cannot be read.
        """
        if time.monotonic() - self._examined >= EXAMINED_EVERY:
            self._viewer.examine()
            self._examined = time.monotonic()
        return self._viewer.look()

    def news(self) -> tuple[Event, ...]:
        """What has happened since the last call. Cheap when nothing has."""
        events = self._fleet.events
        version = history.version(self._fleet.state)
        if version != self._version:
            facts = self._fleet.departed()
            for fact in facts:
                if fact not in self._known:
                    events.publish(fact.kind, fact.instance_id, name=fact.name, pid=fact.pid)
            self._version, self._known = version, set(facts)
        self._hearing.hear_all()
        self._fleet.branch_news.hear_all()
        self._fleet.edit_news.hear_all()
        news = events.since(self._told)
        self._told = events.last_id
        return news
