"""The roster: everybody who is registered, each with a verdict, as `list` and the dashboards show them.

It needs the registry, the heartbeats and the locks, and whatever has been said or held. Fleets are listed far more often than
anything else is done from outside, so it loads no more than that, and of what nobody has done here not even the code.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from mnemo_coord import errors
from mnemo_coord.disk import signing
from mnemo_coord.disk.clock import Clock, SystemClock
from mnemo_coord.disk.state_dir import BRANCHES, REPORTS, WORKTREES, StateDir
from mnemo_coord.members import heartbeat, liveness
from mnemo_coord.members.instance import Instance, api_url
from mnemo_coord.members.registry import Registry
from mnemo_coord.settings import Settings, resolve

if TYPE_CHECKING:
    from mnemo_coord.holdings.assignments import Assignment
    from mnemo_coord.holdings.made import Made
    from mnemo_coord.members.history import Fact
    from mnemo_coord.members.registration import Registration
    from mnemo_coord.members.reports import AgentReport

__all__ = ["Roster"]


class Roster:
    """Who is in one fleet. `Roster.open` is for who wants to know nothing else of it."""

    def __init__(self, registry: Registry, clock: Clock, settings: Settings) -> None:
        self._registry = registry
        self._state = registry.state
        self._clock = clock
        self._settings = settings

    @classmethod
    @errors.translated
    def open(cls, state_dir: str | os.PathLike[str] | None = None) -> Self:
        """Opens that of a state directory, for reading. Close it when done.

        Raises:
            errors.NotFound: there is no fleet.
            errors.State: the state directory cannot be used.
        """
        state = StateDir.open(state_dir, create=False)
        try:
            settings, clock = resolve(), SystemClock()
            return cls(Registry(state, signing.load(state), clock, settings.lock_timeout), clock, settings)
        except BaseException:
            state.close()
            raise

    @errors.translated
    def instances(self) -> list[Instance]:
        """Everybody who is registered, with a verdict, in order of registration."""
        entries = self._registry.read()
        said, made, work = self._reports(), self._made(), self._assignments()
        found = [
            self._judge(entry.registration, said.get(key), made.get(key), work.get(key))
            if entry.registration
            else Instance.untrusted(key)
            for key, entry in entries.items()
        ]
        return sorted(found, key=_place)

    @errors.translated
    def departed(self) -> list[Fact]:
        """What is remembered of who came, left and died, oldest first."""
        from mnemo_coord.members import history

        return history.read(self._state, self._registry.signer)

    def _judge(
        self,
        registration: Registration,
        said: AgentReport | None,
        made: Made | None,
        work: list[Assignment] | None,
    ) -> Instance:
        beat = heartbeat.read(self._state, self._registry.signer, registration.instance_id)
        if beat is not None and beat.record_seq > registration.seq:
            # An older copy of its record was put back; the newest is in its own file.
            registration = self._registry.original(registration.instance_id) or registration
        evidence = liveness.examine(self._state, registration, beat, self._clock, fresh=self._settings.heartbeat_interval)
        port, host = registration.api_port, registration.api_host
        if registration.worktree_path is None and made is not None:
            registration = registration._replace(worktree_path=made.path, branch=registration.branch or made.branch)
        if registration.branch is None and work:
            registration = registration._replace(branch=work[-1].branch)
        return Instance.judged(
            registration,
            liveness.decide(evidence, self._settings.stalled_after),
            api_url=None if port is None or host is None else api_url(host, port),
            at=beat.at if beat else None,
            age=evidence.beat_age,
            report=said,
        )

    def _reports(self) -> dict[str, AgentReport]:
        if not self._any(REPORTS):
            return {}
        from mnemo_coord.members import reports

        return reports.read_all(self._state, self._registry.signer)

    def _made(self) -> dict[str, Made]:
        if not self._any(WORKTREES):
            return {}
        from mnemo_coord.holdings.made import made_for_all

        return {made.instance_id: made for made in made_for_all(self._state, self._registry.signer)}

    def _assignments(self) -> dict[str, list[Assignment]]:
        if not self._any(BRANCHES):
            return {}
        from mnemo_coord.holdings import assignments

        return assignments.read_all(self._state, self._registry.signer)

    def _any(self, folder: str) -> bool:
        with suppress(OSError, errors.State):  # something else lies there: who is here is to be seen all the same
            return bool(self._state.listing(folder))
        return False

    def close(self) -> None:
        """Closes every file. Idempotent."""
        self._state.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(errors.CoordinationError):
            self.close()


def _place(instance: Instance) -> tuple[Any, ...]:
    return instance.registered_at or "~", instance.instance_id
