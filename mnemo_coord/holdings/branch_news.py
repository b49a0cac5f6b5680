"""Branch news: who joined which branch and who gave it back, published once in each process that listens."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import suppress

from mnemo_coord import errors
from mnemo_coord.disk.bells import Versions
from mnemo_coord.disk.signing import Signer
from mnemo_coord.disk.state_dir import BRANCHES, StateDir
from mnemo_coord.events import Broadcaster, EventKind
from mnemo_coord.holdings.assignments import Assignment, read_strictly
from mnemo_coord.members.identity import is_id

__all__ = ["BranchNews"]

_SUFFIX = ".json"
_Key = tuple[str, str]
_Fact = tuple[EventKind, Assignment]


class BranchNews:
    """Publishes what changes in the assignments of a fleet. Thread-safe.

    What this process does itself it tells at once (`tell`), and then reads from the files like everybody (`hear`): the epochs
    keep either from being said twice.
    """

    def __init__(self, state: StateDir, signer: Signer, events: Broadcaster) -> None:
        self._state = state
        self._signer = signer
        self._events = events
        self._versions = Versions(state, BRANCHES)
        self._joined: dict[_Key, Assignment] = {}
        self._over: dict[_Key, int] = {}
        self._lock = threading.Lock()

    def tell(self, kind: EventKind, one: Assignment) -> None:
        """Publishes what this process did, unless it has been."""
        with self._lock:
            facts = self._joins(one) if kind is EventKind.BRANCH_JOINED else self._ends(one)
        self._publish(facts)

    def hear(self, names: Iterable[str]) -> set[str]:
        """Looks at some files of ``branches/``, by name. Returns those that could be read."""
        heard = set()
        for name in names:
            owner = name.removesuffix(_SUFFIX)
            if owner == name or not is_id(owner):
                continue
            with suppress(OSError, errors.State, ValueError):
                # RACE: read under the lock: a join that is told meanwhile must not look as if it had ended.
                with self._lock:
                    facts = self._compared(owner, read_strictly(self._state, self._signer, owner))
                heard.add(name)
                self._publish(facts)
        return heard

    def hear_all(self) -> None:
        """Looks at all of them that have changed, and at who is gone."""
        present = {name.removesuffix(_SUFFIX) for name in self._versions.look(self.hear)}
        with self._lock:
            gone = {owner for owner, _ in self._joined if owner not in present}
            facts = [fact for owner in gone for fact in self._compared(owner, [])]
            # RACE: somebody may join between the listing and here: what is written after the listing is there at the next.
            self._over = {key: epoch for key, epoch in self._over.items() if key[0] not in gone}
        self._publish(facts)

    def _compared(self, owner: str, now: list[Assignment]) -> list[_Fact]:
        branches = {one.branch for one in now}
        before = [one for (who, branch), one in self._joined.items() if who == owner and branch not in branches]
        return [fact for one in before for fact in self._ends(one)] + [fact for one in now for fact in self._joins(one)]

    def _joins(self, one: Assignment) -> list[_Fact]:
        key = one.instance_id, one.branch
        known = self._joined.get(key)
        if one.epoch <= max(self._over.get(key, 0), known.epoch if known else 0):
            return []
        self._joined[key] = one
        return [(EventKind.BRANCH_JOINED, one)]

    def _ends(self, one: Assignment) -> list[_Fact]:
        key = one.instance_id, one.branch
        if one.epoch <= self._over.get(key, 0):
            return []
        self._over[key] = one.epoch
        self._joined.pop(key, None)
        return [(EventKind.BRANCH_RELEASED, one)]

    def _publish(self, facts: Iterable[_Fact]) -> None:
        for kind, one in facts:
            how = {"intent": str(one.intent), "mode": str(one.mode), "files": list(one.files)}
            more = how if kind is EventKind.BRANCH_JOINED else {}
            self._events.publish(kind, one.instance_id, branch=one.branch, **more, epoch=one.epoch)
