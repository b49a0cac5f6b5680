"""Reports: what an instance says of itself, that it works, idles, waits or is stuck, and at what.

::

    reports/<id>.state    a sealed record, replaced whole by rename, then touched: who watches the folder is told

The instance writes it, or a program that speaks for it (`mnemosyne report`, from an agent's hook). It is no evidence of
anything: the verdict is what is proved, the report is what is said. It ends with the instance. By hand, anything in the
folder may be deleted.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import partial
from typing import Any, Final

from mnemo_coord import errors
from mnemo_coord.disk import files, records
from mnemo_coord.disk.bells import Versions
from mnemo_coord.disk.clock import Clock, rfc3339
from mnemo_coord.disk.signing import Purpose, Signer
from mnemo_coord.disk.state_dir import REPORTS, StateDir
from mnemo_coord.events import Broadcaster, EventKind
from mnemo_coord.findings import Finding, Severity
from mnemo_coord.members.identity import is_id
from mnemo_coord.members.leftovers import is_left_over

__all__ = ["AgentReport", "AgentState", "Hearing", "check", "check_report", "read", "read_all", "remove", "state_name", "write"]

TEXT_LIMIT: Final = 200
"""Characters of the text."""
_RECORD_LIMIT: Final = 2048
_SUFFIX: Final = ".state"


def state_name(instance_id: str) -> str:
    """The file of what an instance says of itself, inside ``reports/``."""
    return f"{instance_id}{_SUFFIX}"


class AgentState(StrEnum):
    """What an instance says that it is doing."""

    WORKING = "working"
    IDLE = "idle"
    WAITING = "waiting"
    """For a person or another instance."""
    STUCK = "stuck"
    """It cannot go on by itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentReport:
    """What an instance says of itself."""

    state: AgentState
    text: str
    """In its own words; may be empty."""
    at: str
    """When it said so: RFC 3339, UTC."""


def check_report(state: str, text: str = "") -> tuple[AgentState, str]:
    """Returns the two if they are valid.

    Raises:
        errors.Config: the state is none of the four, or the text is no text, too long or not Unicode.
    """
    try:
        checked = AgentState(state)
    except ValueError:
        raise errors.Config(f"{state!r} is not a state", hint=f"one of {', '.join(AgentState)}", key="state") from None
    if not isinstance(text, str) or len(text) > TEXT_LIMIT:
        raise errors.Config(f"a report's text has at most {TEXT_LIMIT} characters", hint="say it in fewer words", key="text")
    records.encodable(text)
    return checked, text


def write(fleet_dir: StateDir, signer: Signer, clock: Clock, instance_id: str, state: str, text: str) -> AgentReport:
    """Notes what an instance says of itself, in place of what it said before.

    Raises:
        errors.Config: see `check_report`.
        OSError: it cannot be written.
    """
    checked, said = check_report(state, text)
    report = AgentReport(state=checked, text=said, at=rfc3339(clock.wall_ns()))
    folder, name = fleet_dir.folder(REPORTS), state_name(instance_id)
    sealed = records.seal({"instance_id": instance_id, **asdict(report)}, signer, Purpose.REPORT)
    tmp_name = f"{name}.{os.getpid()}.tmp"
    files.publish(name, sealed, dir_fd=folder, tmp_name=tmp_name, tmp_fd=folder, durable=False)
    files.ring(name, dir_fd=folder)
    return report


def read(fleet_dir: StateDir, signer: Signer, instance_id: str) -> AgentReport | None:
    """What an instance says of itself; None where it says nothing that is its fleet's."""
    name = state_name(instance_id)
    with suppress(OSError, errors.State, ValueError, KeyError):
        data = files.read_bounded(name, _RECORD_LIMIT, dir_fd=fleet_dir.folder(REPORTS))
        return _from_body(records.unseal(data, signer, Purpose.REPORT, name), instance_id)
    return None


def read_all(fleet_dir: StateDir, signer: Signer) -> dict[str, AgentReport]:
    """What everybody says of themselves, by id. Who says nothing costs nothing."""
    with suppress(OSError, errors.State):  # something else lies there: who is here is to be seen all the same
        owners = (name.removesuffix(_SUFFIX) for name in fleet_dir.listing(REPORTS) if name.endswith(_SUFFIX))
        found = ((owner, read(fleet_dir, signer, owner)) for owner in owners if is_id(owner))
        return {owner: report for owner, report in found if report is not None}
    return {}


def _from_body(body: Mapping[str, Any], instance_id: str) -> AgentReport | None:
    if body["instance_id"] != instance_id or type(body["text"]) is not str or type(body["at"]) is not str:
        return None
    return AgentReport(state=AgentState(body["state"]), text=body["text"], at=body["at"])


def remove(fleet_dir: StateDir, instance_id: str) -> None:
    """Removes everything in the folder that is this instance's. Idempotent."""
    for name in fleet_dir.listing(REPORTS):
        if name.partition(".")[0] == instance_id:
            files.remove(name, dir_fd=fleet_dir.folder(REPORTS))


class Hearing:
    """Publishes what instances say of themselves, once. Thread-safe."""

    def __init__(self, fleet_dir: StateDir, signer: Signer, events: Broadcaster) -> None:
        self._state = fleet_dir
        self._signer = signer
        self._events = events
        self._known: dict[str, AgentReport] = {}
        self._versions = Versions(fleet_dir, REPORTS)
        self._lock = threading.Lock()

    def hear(self, names: Iterable[str]) -> set[str]:
        """Looks at some files of the folder, by name. Returns those in which there was a report."""
        heard = set()
        for name in names:
            instance_id = name.removesuffix(_SUFFIX)
            if instance_id == name or not is_id(instance_id):
                continue
            if self._hear(instance_id):
                heard.add(name)
        return heard

    def _hear(self, instance_id: str) -> bool:
        """Reads what one instance says and publishes it, unless it has been. Returns whether it says anything."""
        while True:
            before = self._known.get(instance_id)
            report = read(self._state, self._signer, instance_id)
            if report is None:
                return False
            with self._lock:
                # RACE: told by another thread since before it was read: what was read may be older, and told already.
                if self._known.get(instance_id) is not before:
                    continue
                self._known[instance_id] = report
            if report != before:
                self._publish(instance_id, report)
            return True

    def tell(self, instance_id: str, report: AgentReport) -> None:
        """Publishes a report, unless it has been."""
        with self._lock:
            if report == self._known.get(instance_id):
                return
            self._known[instance_id] = report
        self._publish(instance_id, report)

    def _publish(self, instance_id: str, report: AgentReport) -> None:
        self._events.publish(EventKind.AGENT_STATE, instance_id, state=str(report.state), text=report.text)

    def hear_all(self) -> None:
        """Looks at all of them that have changed, and forgets who is gone."""
        known = set(self._known)
        present = {name.removesuffix(_SUFFIX) for name in self._versions.look(self.hear)}
        with self._lock:
            for gone in known - present:
                self._known.pop(gone, None)


def check(fleet_dir: StateDir, lives: Callable[[str], bool], *, fix: bool = False) -> list[Finding]:
    """What was reported by, or half written for, instances that are gone."""
    found = []
    for name in fleet_dir.listing(REPORTS):
        if not is_left_over(name, lives):
            continue
        finding = Finding(
            code="leftover-report",
            severity=Severity.WARNING,
            subject=f"{REPORTS}/{name}",
            message="its instance, or whoever was writing it, is gone",
            hint="`mnemosyne doctor --fix` removes it",
        )
        found.append(finding.mended_by(partial(files.remove, name, dir_fd=fleet_dir.folder(REPORTS))) if fix else finding)
    return found
