"""Edit news: which files two have begun to change, published once in each process that listens or changes some itself.

That a collision is over is not said; when it comes again, it is news again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from mnemo_coord import errors
from mnemo_coord.disk.bells import Versions
from mnemo_coord.disk.signing import Signer
from mnemo_coord.disk.state_dir import EDITS, StateDir
from mnemo_coord.events import Broadcaster, EventKind
from mnemo_coord.holdings import edits
from mnemo_coord.holdings.edit_collisions import narrowed, shared, shown, trespasses
from mnemo_coord.holdings.edits import Edits
from mnemo_coord.members.identity import is_id

if TYPE_CHECKING:
    from mnemo_coord.holdings.assignments import Assignment
    from mnemo_coord.holdings.branches import Branches
    from mnemo_coord.holdings.occupancy import BranchConflict

__all__ = ["EditNews"]

_SUFFIX = ".json"
_Key = tuple[str, str, str]


class EditNews:
    """Publishes what collides newly in a fleet. Thread-safe.

    What this process changes itself it tells (`tell`) before it writes it down, and never reads it from the files.
    """

    def __init__(self, state: StateDir, signer: Signer, events: Broadcaster, branches: Callable[[], Branches]) -> None:
        """``branches`` is called when there is something to judge: most never load what it needs."""
        self._state = state
        self._signer = signer
        self._events = events
        self._branches = branches
        self._versions = Versions(state, EDITS)
        self._said: dict[str, Edits] = {}
        self._own = ""
        self._known: dict[_Key, frozenset[str]] = {}
        """The files that have been told of: of two that change them, and of one that changes what another holds."""
        self._lock = threading.RLock()

    def tell(self, own: Edits) -> list[BranchConflict]:
        """Takes note of what this process changes, and publishes what collides newly. Returns that, with all the files."""
        with self._lock:
            self._own = own.instance_id
            self._said[own.instance_id] = own
            news = self._judge([])
        self._publish(news)
        return news

    def forget(self, instance_id: str) -> None:
        """Somebody no longer says what it changes."""
        with self._lock:
            self._said.pop(instance_id, None)
            self._known = {key: paths for key, paths in self._known.items() if instance_id not in key}

    def hear(self, names: Iterable[str]) -> set[str]:
        """Looks at some files of ``edits/``, by name. Returns those that could be read."""
        with self._lock:
            heard, news = self._take(names)
        self._publish(news)
        return heard

    def hear_all(self) -> None:
        """Looks at all of them that have changed, and forgets who is gone."""
        news: list[BranchConflict] = []

        def read(names: Iterable[str]) -> set[str]:
            heard, fresh = self._take(names)
            news.extend(fresh)
            return heard

        with self._lock:
            present = {name.removesuffix(_SUFFIX) for name in self._versions.look(read)} | {self._own}
            for gone in self._said.keys() - present:
                self.forget(gone)
        self._publish(news)

    def _take(self, names: Iterable[str]) -> tuple[set[str], list[BranchConflict]]:
        heard, changed = set(), []
        for name in names:
            owner = name.removesuffix(_SUFFIX)
            if owner in {name, self._own} or not is_id(owner):
                continue
            found = edits.read(self._state, self._signer, owner)
            if found is not None:
                heard.add(name)
                self._said[owner] = found
                changed.append(found)
            elif not edits.is_there(self._state, owner):
                self.forget(owner)
        return heard, self._judge(changed) if changed else []

    def _judge(self, changed: Sequence[Edits]) -> list[BranchConflict]:
        """What is new between this process, or others that have changed something, and all. Its own view comes first."""
        if not any(one.files for one in self._said.values()):
            self._known = {}
            return []
        held, own = self._held(), self._said.get(self._own)
        asked = ([own] if own else []) + [one for one in changed if one is not own]
        return [found for one in asked for found in self._news(one, held.get(one.repository, ()))]

    def _held(self) -> dict[str, Sequence[Assignment]]:
        with suppress(errors.CoordinationError, OSError):
            branches = self._branches()
            return branches.by_repository(branches.assignments())
        return {}

    def _news(self, own: Edits, held: Sequence[Assignment]) -> list[BranchConflict]:
        """What is between one and the others, and was not before."""
        critical, others = self._branches().critical, list(self._said.values())
        both = shared(own, others, critical)
        found = {_pair(one): one for one in both}
        found |= {(one.instance_id, one.other, "holds"): one for one in trespasses(own, others, held, both, critical)}
        before = self._known
        self._known = {key: paths for key, paths in before.items() if not _is_of(key, own.instance_id)}
        news = []
        for key, one in found.items():
            fresh = set(one.files) - before.get(key, frozenset())
            if fresh and not self._branches().lives(one.other):
                continue
            self._known[key] = frozenset(one.files)
            if fresh:
                news.append(narrowed(one, fresh, critical))
        return news

    def _publish(self, news: Iterable[BranchConflict]) -> None:
        for one in map(shown, news):
            about = {"other": one.other, "branch": one.branch, "severity": str(one.severity), "reason": one.reason}
            self._events.publish(EventKind.EDITS_COLLIDED, one.instance_id, **about, files=list(one.files))


def _pair(found: BranchConflict) -> _Key:
    """What is between two is the same whoever of them is asked."""
    first, second = sorted((found.instance_id, found.other))
    return first, second, "both"


def _is_of(key: _Key, instance_id: str) -> bool:
    """Whether asking one instance tells all that there is to a key."""
    return instance_id in key[:2] if key[2] == "both" else key[0] == instance_id
