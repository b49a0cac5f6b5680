"""What is known and what is wanted of it: the state behind the screen, without a screen."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mnemo_coord.client import Frame
from mnemo_coord.dash import rows
from mnemo_coord.dash.filters import Filter, after
from mnemo_coord.dash.following import Connection, Phase
from mnemo_coord.dash.journal import Journal
from mnemo_coord.dash.reading import aged, items
from mnemo_coord.dash.sentences import Entry, missed, told
from mnemo_coord.dash.source import EVENT, GAP, SNAPSHOT
from mnemo_coord.dash.wording import names, time_of_day

__all__ = ["View"]


class View:
    """The last overview, the event log, how it stands with the source, and the filter."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._overview: dict[str, Any] = {}
        self._came = 0.0
        self._lost: float | None = None
        self.names: dict[str, str] = {}
        """The names of the instances, by id."""
        self.connection = Connection(Phase.CONNECTING)
        self.filter = Filter()
        self.journal = Journal()
        self.recalled = False
        """Whether the log has what happened before."""

    @property
    def known(self) -> bool:
        """Whether there has been an overview at all."""
        return bool(self._overview)

    @property
    def at(self) -> str:
        """The local time of the last overview."""
        return time_of_day(self._overview.get("at"))

    def overview(self) -> dict[str, Any]:
        """The last overview, as old as it is by now. It ages only while somebody would say that it has changed."""
        until = self._clock() if self._lost is None else self._lost
        return aged(self._overview, max(until - self._came, 0.0))

    def instances(self, overview: dict[str, Any]) -> rows.Rows:
        """The rows of the instances that pass the filter."""
        wanted = self.filter.instances(overview)
        return {key: cells for key, cells in rows.instances(overview).items() if key in wanted}

    def hear(self, said: Frame | Connection) -> Entry | None:
        """Takes in what the follower brought. Returns the line that it added to the event log."""
        if isinstance(said, Connection):
            self._lost = None if said.live else self._lost or self._clock()
            self.connection = said
            return None
        if said.kind == SNAPSHOT:
            self._overview, self._came, self.names = said.data, self._clock(), names(said.data)
            self._recall()
            return None
        entry = self._entry(said)
        if entry is not None:
            self.journal.add(entry)
        return entry

    def _recall(self) -> None:
        """Adds who came, left and died before anybody looked, once: an empty log would say that nothing has happened."""
        if self.recalled:
            return
        self.recalled = True
        for fact in items(self._overview, "past"):
            event = {**fact, "data": {"name": fact.get("name"), "pid": fact.get("pid")}}
            self.journal.add(told(event, self.names))

    def _entry(self, said: Frame) -> Entry | None:
        if said.kind == EVENT:
            return told(said.data, self.names)
        return missed(said.data, time.strftime("%H:%M:%S")) if said.kind == GAP else None

    def look_for(self, words: str) -> None:
        """Shows only what has these words."""
        self.filter = replace(self.filter, words=words)

    def next_instance(self) -> None:
        """Shows the events of the next instance; after the last one, everybody's."""
        self.filter = replace(self.filter, instance=after(self.filter.instance, list(self.instances(self.overview()))))

    def choose(self, instance: str) -> None:
        """Shows the events of this instance; of everybody when it was chosen already."""
        self.filter = replace(self.filter, instance="" if instance == self.filter.instance else instance)

    def next_kind(self) -> None:
        """Shows the next kind of event; after the last one, all."""
        self.filter = replace(self.filter, kind=after(self.filter.kind, self.journal.kinds()))

    def clear(self) -> None:
        """Drops the words; where there are none, the choice of instance and kind."""
        self.filter = replace(self.filter, words="") if self.filter.words else Filter()

    def log_title(self) -> str:
        """What the event log shows."""
        held = f" (paused, {self.journal.held} more)" if self.journal.paused else ""
        only = self.filter.title(self.names)
        return f"Events{held}{' ' + only if only else ''}"
